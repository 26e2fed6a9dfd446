// protocol.h: what daemon and image say to each other over two pipes. Both are built together, so
// the structs travel as they are. The daemon trusts nothing it reads: frames are bounded, at most
// one FRAME_PROGRAM and then one FRAME_RESULT are taken, and both are only claims about the run.
#ifndef VERIFIER_PROTOCOL_H
#define VERIFIER_PROTOCOL_H

#include <stdint.h>

// Descriptors inside an image.
enum {
    IMAGE_FD_REQUEST = 3, // read
    IMAGE_FD_REPLY = 4,   // write
    IMAGE_FD_CONTROL = 5, // zygote: children end here, kills come from here
    IMAGE_FD_MEMORY = 6,  // rewind: memory, snapshot and orders, see below
};

// The first bytes on the request pipe: how the image starts.
struct image_start {
    uint32_t zygote;    // 1: fork per request; 0: serve one and be rewound
    uint32_t isolation; // enum isolation of sandbox.h
    uint32_t hash_seed;
    uint32_t recursion_limit;
    uint32_t clock_tick_ns;
    uint32_t perturbation;
    int64_t clock_base_s;
    uint32_t heap_mb;
    uint32_t arena_mb;
    uint64_t memory_bytes; // rewind: size of the memory in IMAGE_FD_MEMORY
    char forbidden[512];
};

enum image_flag {
    IMAGE_ENTRY = 1,        // find f, or rename the one function to f; it takes an argument
    IMAGE_FILTER = 32,      // refuse the imports and names that AZR.md section 3 refuses
    IMAGE_ONE_FUNCTION = 2, // with ENTRY: helpers and classes beside f are refused
    IMAGE_COMPILE_ONLY = 4, // stop after the program frame
    IMAGE_WANT_CODE = 8,    // send FRAME_PROGRAM before anything is executed
    IMAGE_NO_VALUE = 16,    // the typed value is not wanted, only its repr
    IMAGE_STRIP = 64,       // with ENTRY: comments, docstrings and globals are taken out first

    // Nothing of the program runs; the arguments are not typed ones.
    IMAGE_DESCRIBE = 128, // arguments: references, each u32 size, text, NUL. Value: source_facts
    IMAGE_RENAME = 256,   // arguments: a name, NUL. Repr: the text with f renamed to it

    // With ENTRY: so many functions g_0, g_1, ... stand in front, which f must call and nothing
    // else may bind.
    IMAGE_HELPERS = 1 << 16, // times their number, at most 255
};

// What a program's syntax tree says (runtime_facts.c).
struct source_facts {
    uint32_t cyclomatic;          // largest complexity of a function, or of a module statement
    uint32_t operators, operands; // Halstead's counts
    uint32_t distinct_operators, distinct_operands;
    uint32_t distance_ppm; // mean tree distance to the references, in millionths
    uint32_t references;   // that could be parsed
};

// Followed by source (or marshalled code: exactly one of them is not empty) and the typed arguments
// of literal_parse_arguments.
struct image_request {
    uint32_t flags;
    uint32_t sleep_ms;   // a program that sleeps longer than this in all never wakes
    uint32_t output_max; // bytes of repr
    uint32_t memory_mb;  // that the run can allocate; 0: all there is
    uint32_t source_size;
    uint32_t code_size;
    uint32_t arguments_size;
};

enum image_frame_kind {
    FRAME_READY = 1,   // once, when the image is prepared; rewind: every struct image_region
    FRAME_PROGRAM = 2, // u32 size, normalized source (size 0: as it came), then marshalled code
    FRAME_RESULT =
        3, // u32 outcome, then exception, detail, typed value, repr: each u32 size, bytes
};

// What the name of an exception is made of; the daemon refuses any other.
#define EXCEPTION_NAME_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789"

struct image_frame {
    uint32_t size; // of the payload that follows
    uint32_t kind;
};

// Under rewind: a stretch of the image's memory, shared with the daemon through IMAGE_FD_MEMORY. A
// tracked one is brought back page by page; the others are room to grow, empty between runs.
struct image_region {
    uint64_t start; // address in the image
    uint64_t size;
    uint64_t offset; // in the file
    uint64_t tracked;
};

enum { IMAGE_REGIONS_MAX = 64 };

// The file behind IMAGE_FD_MEMORY holds the memory, a snapshot of it, which is as large, and orders
// what to copy back. The image maps the last two for reading only.
struct image_order {
    uint64_t address; // in the image; of the last one: whether to stop again when all is done
    uint64_t offset;  // in the snapshot
    uint64_t size;    // 0: the last one
};

enum { IMAGE_ORDERS_MAX = 8192 };

struct image_orders {
    struct image_order order[IMAGE_ORDERS_MAX];
};

// After FRAME_READY a rewound image waits for one byte, sent when the daemon traces it, and stops
// itself. It goes on from there in every run, first of all with its orders. On the control socket
// it has sent its userfaultfd.

// Zygote control messages, one packet each.
struct control_kill { // daemon → zygote: end the child of this run, if it is still there
    uint64_t run;     // counted from 1; the zygote's n-th child serves the n-th run
};

struct control_ended { // zygote → daemon: the child of this run is gone
    uint32_t cpu_us;
};

#endif
