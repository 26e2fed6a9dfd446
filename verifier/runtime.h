// runtime.h: what runs inside an image. A CPython interpreter is started once, prepared, and then
// runs one request: compile, check, call f, describe the result. Nothing here decides a verdict;
// the daemon does (judge.h).
//
// The image is a program of its own (runtime_main.c), linked statically with CPython in several
// layouts, so that addresses differ between images.
#ifndef VERIFIER_RUNTIME_H
#define VERIFIER_RUNTIME_H

#include "verifier/bytes.h"
#include "verifier/protocol.h"

#include <stdbool.h>
#include <stdint.h>

// How this image differs from its siblings in what a program must not depend on.
struct runtime_config {
    uint32_t hash_seed;
    uint32_t recursion_limit;
    int64_t clock_base_s;   // the virtual clock begins here
    uint32_t clock_tick_ns; // and moves by this at each look
    uint32_t perturbation;  // objects and heap blocks made in advance
    uint32_t heap_mb;       // malloc, and
    uint32_t arena_mb;      // small objects: all that a run can allocate
    const char *forbidden;  // modules, separated by spaces
};

// runtime_prepare starts the interpreter, imports what programs may use and runs one warm-up.
// Returns false after printing the reason on standard error.
bool runtime_prepare(const struct runtime_config *config);

// runtime_detach forgets what ties the interpreter to the host's files. Called last before the
// sandbox closes.
void runtime_detach(const struct runtime_config *config);

// runtime_serve reads one request, runs it and writes its frames. The process is of no further use
// afterwards: the caller restores it or lets it end.
void runtime_serve(void);

// --- between the runtime's files ---

// Memory (runtime_memory.c). reserve: malloc and Python's small objects get a region each, all that
// they can have later. enter: the rest of the program runs in `go_on`, which does not return, on a
// stack in the file `memory`. adopt: all writable memory moves there; afterwards nothing else can
// be written to. False after printing the reason on standard error.
bool runtime_memory_reserve(uint32_t heap_mb, uint32_t arena_mb);
void runtime_memory_limit(uint32_t memory_mb); // from now on, beyond what is in use; 0: none
void runtime_memory_settle(void);              // what is allocated from now on lies close together
bool runtime_memory_enter(int memory, void (*go_on)(void));
bool runtime_memory_adopt(int memory, struct image_region *out, size_t *count);

// Python value → typed form and back (runtime_value.c).
enum encode_status { ENCODE_DONE, ENCODE_UNSUPPORTED, ENCODE_TOO_LARGE };
struct _object; // NOLINT(bugprone-reserved-identifier): CPython's own name
enum encode_status runtime_encode(struct bytes *out, struct _object *value, size_t size_max);
// New references, or NULL with a Python error. *keywords may come back NULL.
bool runtime_decode_arguments(struct _object **arguments, struct _object **keywords,
                              const uint8_t *typed, size_t size);

// A program's source (runtime_source.c): compiled code, or an outcome and a sentence.
struct runtime_source {
    struct _object *code;       // new reference; NULL: refused
    struct _object *normalized; // new reference to bytes when the text was changed, else NULL
    uint32_t outcome;
    char detail[160];
};
bool runtime_source_prepare(const char *forbidden);
void runtime_source_compile(struct runtime_source *out, const char *text, size_t size,
                            uint32_t flags);

// Whether only a tree tells what the filter wants to know (runtime_words.c); `forbidden` is a set
// of module names.
bool runtime_needs_tree(const char *text, size_t size, struct _object *forbidden);

// Renames the one function f of a program where the syntax tree names it: new bytes, or NULL when
// that cannot be done safely. `name` is an identifier.
struct _object *runtime_rename(const char *text, size_t size, const char *name);

// Syntax trees: of a text (new reference, or NULL with a Python error), every node of one from the
// root down, and whether a node is of a kind (runtime_scan.c).
struct _object *runtime_tree(const char *text);
typedef void runtime_visit_fn(void *context, struct _object *node);
void runtime_walk(struct _object *node, runtime_visit_fn *visit, void *context);
bool runtime_is_node(struct _object *node, const char *kind);

// The program without comments, docstrings and module-level statements (runtime_strip.c): new
// bytes, or NULL with a Python error.
struct _object *runtime_strip(const char *text);

// Facts about a program (runtime_facts.c); false when it cannot be parsed.
bool runtime_describe(struct source_facts *facts, const char *text, const uint8_t *references,
                      size_t size);

// The virtual clock (runtime_clock.c), which replaces libc's for CPython's calls.
void runtime_clock_start(int64_t base_s, uint32_t tick_ns);
void runtime_clock_limit(uint32_t sleep_ms);

#endif
