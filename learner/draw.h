// draw.h: the random draws that one run makes, and the stream of each.
//
// A draw is keyed by (run seed, what it is for, step, and where it is for one group: kind, role,
// slot), so it does not depend on what else was drawn before it or when.
#ifndef LEARNER_DRAW_H
#define LEARNER_DRAW_H

#include "common/base/rng.h"
#include "learner/advantage.h"

#include <stdint.h>

enum draw {
    DRAW_REFERENCES = 1,
    DRAW_PROPOSAL,
    DRAW_ANSWERS,
    DRAW_SOLVER_TASKS,
    DRAW_COMPOSITES,
    DRAW_GENERATED,
    DRAW_SHUFFLE
};

// draw_stream is the stream of a draw that is made once a step.
static inline uint64_t draw_stream(int64_t step, enum draw purpose)
{
    return rng_mix((uint64_t)step, (uint64_t)purpose);
}

// draw_group_stream is the stream of a draw that is made for each group.
static inline uint64_t draw_group_stream(int64_t step, enum task_kind kind, enum role role,
                                         int32_t slot, enum draw purpose)
{
    const uint64_t key = rng_mix(draw_stream(step, purpose), (uint64_t)block_of(kind, role));
    return rng_mix(key, (uint64_t)slot);
}

#endif
