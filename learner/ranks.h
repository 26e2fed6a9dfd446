// ranks.h: what rank 0 asks of the others: a step's sequences as one block of bytes.
#ifndef LEARNER_RANKS_H
#define LEARNER_RANKS_H

#include "learner/collective.h"
#include "learner/step.h"

#include <stdbool.h>

enum ranks_call {
    RANKS_STEP,    // block: a packed step
    RANKS_REFRESH, // block: int64_t, the updates done; weights and moments have changed
    RANKS_COLLECT, // no block; rank 0 wants all moments
    RANKS_QUIT,    // no block
};

// struct ranks_step is a step as it lies in a block; `sequences` and `logprobs` are this process's.
struct ranks_step {
    struct objective objective;
    struct optimizer optimizer;
    int32_t count;
    bool want_logprobs;
    const struct sequence *sequences; // [count]
    float *const *logprobs;           // [count], into the block; NULL when not wanted
};

// ranks_pack writes a step into a block of the collective; *out describes what lies there.
// ranks_unpack is the other side. ranks_step_finish frees the lists (a zeroed one is allowed).
int ranks_pack(struct ranks_step *out, struct collective *collective,
               const struct sequence *sequences, int32_t count, const struct objective *objective,
               const struct optimizer *optimizer, bool want_logprobs, struct error *err);
int ranks_unpack(struct ranks_step *out, const struct collective_call *call, struct error *err);
void ranks_step_finish(struct ranks_step *step);

#endif
