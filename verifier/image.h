// image.h: one sandboxed interpreter, loaded once, that runs one request after another, each from
// the same fresh state. How the state comes back is the back-end's business: a zygote forks a child
// per run, rewind restores the process byte for byte.
//
// An image is started, becomes idle, takes a run, and reports its end exactly once; then it is idle
// again, after some runs only when it has been audited, or lost. Everything happens on the loop's
// thread.
#ifndef VERIFIER_IMAGE_H
#define VERIFIER_IMAGE_H

#include "common/base/error.h"
#include "common/base/task.h"
#include "verifier/bytes.h"
#include "verifier/sandbox.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

const char *backend_name(enum backend_choice backend);

struct image;

struct image_config {
    enum backend_choice backend; // not AUTO
    enum isolation isolation;
    int variant;           // hash seed, layout, clock, ... follow from it
    uint32_t memory_mb;    // that a run can allocate
    const char *forbidden; // more modules; borrowed for the call
    uint32_t audit_every;  // rewinds, on average, between two full comparisons
};

// What to run. Exactly one of source and code is given; all is borrowed until the run has ended.
struct image_job {
    uint32_t flags; // enum image_flag of protocol.h
    uint32_t timeout_ms;
    uint32_t cpu_ms;    // 0: as much as timeout_ms allows
    uint32_t memory_mb; // 0: all that the image has
    uint32_t output_max;
    const char *source;
    size_t source_size;
    const uint8_t *code;
    size_t code_size;
    const uint8_t *arguments; // typed, from literal_parse_arguments
    size_t arguments_size;
};

// What came of it; valid during the callback only. The strings are NUL-terminated.
struct image_result {
    enum outcome
        outcome;      // as the run claims it; the daemon's own: timeout, crashed, infrastructure
    bool image_lost;  // the image ended under the run, perhaps through no fault of it
    bool has_program; // the program compiled and passed the checks
    const char *normalized; // NULL when the text stayed as it was
    const uint8_t *code;
    size_t code_size;
    const char *exception;
    const char *detail;
    const uint8_t *value; // typed
    size_t value_size;
    const char *repr;
    uint64_t wall_us;
    uint64_t cpu_us;
};

struct image_events {
    void (*idle)(void *context, struct image *image); // may take a run now
    // Its run has ended, in an audit: image_audit leads to `idle` or `lost`.
    void (*resting)(void *context, struct image *image);
    void (*ended)(void *context, struct image *image, const struct image_result *result);
    void (*lost)(void *context, struct image *image); // destroy it; a run in it has ended before
};

// image_create begins to start one; `idle` or `lost` follows.
int image_create(struct image **out, uv_loop_t *loop, const struct image_config *config,
                 const struct image_events *events, void *context, struct error *err);

// image_run begins a run in an idle image, on `processor` (-1: on any); `ended` follows within
// timeout_ms, what the run had to wait for a processor (VERIFY_WAITED_MS_MAX), and a little.
void image_run(struct image *image, const struct image_job *job, int processor);

// image_audit goes on with the audit of a resting image, by a step of some microseconds or, `all`,
// to its end.
void image_audit(struct image *image, bool all);

// image_close kills the process and frees the image on a later turn of the loop; no event follows.
// NULL is allowed.
void image_close(struct image *image);

int image_variant(const struct image *image);
uint64_t image_memory_kb(const struct image *image);
uint64_t image_runs(const struct image *image); // since it was created

#endif
