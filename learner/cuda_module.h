// cuda_module.h: the table that kelvin_cuda.so gives: one rank's link to the others over NCCL, with
// staging buffers in the memory of its CUDA device. The module is loaded at run time, so that one
// build serves hosts with and without a GPU; it depends on nothing of Kelvin but this header.
//
// A link does one operation at a time: put what is sent into the device's send buffer, start the
// operation, poll until it is done, get what came from the receive buffer. Nothing here waits for
// another rank, so every wait and its limit are the caller's; put and get may only be called while
// no operation is under way, and then wait for the copy itself.
//
// Functions that can fail return 0, or -1 with a sentence in `text` [CUDA_TEXT_BYTES].
#ifndef LEARNER_CUDA_MODULE_H
#define LEARNER_CUDA_MODULE_H

#include <stddef.h>
#include <stdint.h>

enum {
    CUDA_MODULE_VERSION = 1, // of this table
    CUDA_ID_BYTES = 128,     // of what the ranks of one communicator have in common
    CUDA_TEXT_BYTES = 200,
};

enum cuda_progress { CUDA_DONE = 0, CUDA_UNDER_WAY = 1, CUDA_FAILED = -1 };

struct cuda_link;

// struct cuda_piece is one message of an exchange: `size` bytes at `at` of the send buffer to
// `peer`, or from `peer` to `at` of the receive buffer.
struct cuda_piece {
    int peer;
    int is_send;
    size_t at, size;
};

struct cuda_join {
    int device, rank, ranks;
    uint8_t id[CUDA_ID_BYTES];
    size_t staging; // bytes of the send buffer, and of the receive buffer
};

struct cuda_module {
    uint32_t version;       // CUDA_MODULE_VERSION
    const char *built_with; // of which CUDA and NCCL

    // devices: how many this process can use, at least 1.
    int (*devices)(int *count, char *text);
    // draw_id makes the id that all ranks join with; on one of them.
    int (*draw_id)(uint8_t *id, char *text);

    // join begins to join; poll says when all ranks have. leave ends the link at once, whatever is
    // under way: its other ends must not wait for this one any more. NULL is allowed.
    int (*join)(struct cuda_link **out, const struct cuda_join *join, char *text);
    void (*leave)(struct cuda_link *link);
    enum cuda_progress (*poll)(struct cuda_link *link, char *text);

    int (*put)(struct cuda_link *link, size_t at, const void *data, size_t size, char *text);
    int (*get)(struct cuda_link *link, void *data, size_t at, size_t size, char *text);

    // reduce_scatter: rank r receives the sum over all ranks of floats [r·count, (r+1)·count) of
    // the send buffers, added in an order that NCCL chooses.
    int (*reduce_scatter)(struct cuda_link *link, size_t count, char *text);
    // all_gather: all receive the first `size` bytes of each rank's send buffer, in rank order.
    int (*all_gather)(struct cuda_link *link, size_t size, char *text);
    // broadcast: all receive the first `size` bytes of rank 0's send buffer.
    int (*broadcast)(struct cuda_link *link, size_t size, char *text);
    // exchange: all messages at once; those between two ranks come in the order they are sent in.
    int (*exchange)(struct cuda_link *link, const struct cuda_piece *pieces, int count, char *text);
};

// What the module exports.
#define CUDA_MODULE_SYMBOL "kelvin_cuda_module"
const struct cuda_module *kelvin_cuda_module(void);

#endif
