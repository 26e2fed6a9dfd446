// scheduler.h: which rows the next engine call computes: one thread's continuous batching.
//
// A group is one prompt with its n samples. Its prompt is computed once, in chunks that share calls
// with the running samples; its last row gives every sample its first token; each sample then runs
// in a slot of its own over the prompt's shared pages, and a finished slot is refilled at once.
// A sample begins only when all pages that it may ever need are promised, and every admitted group
// always has the pages of one sample, so nothing is evicted and nothing can wait for ever.
//
// Every token is drawn from its own sequence alone (decode.h, sampler.h), so results do not depend
// on how the scheduler mixes, chunks or orders.
#ifndef ACTOR_SCHEDULER_H
#define ACTOR_SCHEDULER_H

#include "actor/generation.h"
#include "common/model/decode.h"

#include <stdbool.h>
#include <stdint.h>

// What happens to running samples when weights are swapped (DESIGN section 3).
enum swap_mode {
    SWAP_PINNED,    // they finish on the version that they began with
    SWAP_REPREFILL, // the new version computes their tokens again and goes on
    SWAP_STALE,     // the new version goes on over the old version's keys and values
};

typedef void complete_fn(void *context, struct completion *completion);

struct scheduler_config {
    int32_t slots;      // samples that run at once
    int32_t call_rows;  // rows of one engine call at most; at least `slots`
    int32_t page_count; // KV pages
    enum swap_mode swap;
    struct vocabulary vocabulary; // borrowed for life
    complete_fn *on_complete;     // gets every completion, with the duty to free it
    void *context;
};

struct scheduler;

// scheduler_create makes slots, pages and workspace for models of this shape and begins with
// `model` as `version`.
int scheduler_create(struct scheduler **out, const struct scheduler_config *config,
                     const struct model *model, uint64_t version, struct error *err);
// scheduler_destroy drops what is still in it without completing it.
void scheduler_destroy(struct scheduler *scheduler);

// scheduler_submit queues a generation. One that can never run is completed as REJECTED.
void scheduler_submit(struct scheduler *scheduler, struct generation *generation);

// scheduler_set_model makes `model` what new groups begin with. No third model may still be in use.
void scheduler_set_model(struct scheduler *scheduler, const struct model *model, uint64_t version);
// scheduler_uses is whether new or running samples need `model`.
bool scheduler_uses(const struct scheduler *scheduler, const struct model *model);

// scheduler_step admits, starts and computes what one engine call (one a model in use) has room
// for. False: there is nothing to do until the next submit or set_model.
bool scheduler_step(struct scheduler *scheduler);

// scheduler_cancel completes everything, running or queued, as CANCELLED.
void scheduler_cancel(struct scheduler *scheduler);

struct scheduler_stats {
    int32_t running;    // samples in slots
    int32_t waiting;    // samples that are not yet in a slot
    int32_t pages_used; // and promised
    uint64_t sampled;   // tokens drawn
    uint64_t prefilled; // prompt rows computed
    uint64_t calls;     // engine calls
    uint64_t rows;      // computed in them
};
struct scheduler_stats scheduler_stats(const struct scheduler *scheduler);

#endif
