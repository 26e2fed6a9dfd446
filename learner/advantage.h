// advantage.h: TRR++, rewards → advantages with one baseline per block (AZR.md section 5).
#ifndef LEARNER_ADVANTAGE_H
#define LEARNER_ADVANTAGE_H

#include "common/base/run_config.h"
#include "common/base/task.h"

#include <stdint.h>

enum { BLOCKS = KINDS * ROLES }; // a block is one (task kind, role) pair

static inline int block_of(enum task_kind kind, enum role role)
{
    return (int)kind * ROLES + (int)role;
}

// struct response is one response as the advantage sees it.
struct response {
    double reward;
    int32_t tokens;   // length m of the response, at least 1
    int32_t block;    // 0 .. BLOCKS-1
    int32_t baseline; // same number: same baseline; 0 .. count-1
};

// trr_advantage turns rewards into advantages.
//   advantage  [count]  written
//   responses  [count]
// A response is centred on the mean over those with its baseline number, one alone there on its
// block's mean,
// and scaled by the block's unbiased standard deviation, sqrt(variance + 1e-8). WHITEN_TOKEN
// weighs a response by its tokens in mean and variance, WHITEN_SEQUENCE by one. A block with fewer
// than two responses or no spread gets zeros: it carries no signal. Sums run in the order given.
// Source: Absolute Zero (arXiv 2505.03335), Task-Relative REINFORCE++; token weights as its authors
// trained.
void trr_advantage(float *advantage, const struct response *responses, int32_t count,
                   enum whitening whitening);

#endif
