// batch.h: from the groups of a step to sequences with weights and advantages (AZR.md sections 4 to
// 6).
#ifndef LEARNER_BATCH_H
#define LEARNER_BATCH_H

#include "common/base/error.h"
#include "common/base/run_config.h"
#include "learner/advantage.h"
#include "learner/replay.h"
#include "learner/step.h"

// struct batch_row is one trained response, before identical ones are merged.
struct batch_row {
    const struct group *group; // borrowed
    const struct play *play;   // borrowed
    enum role role;
    double reward;
    float advantage;
};

// What a step says about one kind of task.
struct batch_kind {
    int32_t proposals, valid, formatted, duplicates, dropped, withheld;
    int32_t answers_withheld;               // induction answers that are programs kept for tests
    int32_t answers;                        // judged, estimates included
    double accuracy;                        // mean score of those
    double proposer_reward, solver_reward;  // means over the trained rows
    int32_t proposer_rows, solver_rows;     // trained
    double learnability;                    // mean of 1 - a over valid ones with 0 < a < 1, else 0
    int64_t proposer_tokens, solver_tokens; // of the trained rows
    int32_t scratchpads;                    // answers with a thinking part
    double intrinsic[INTRINSIC_TERMS];      // means over the valid proposals that have the term
    int32_t intrinsic_counts[INTRINSIC_TERMS];
};

struct batch {
    struct sequence *sequences; // [count]
    int32_t count;
    struct batch_row *rows; // [row_count], in the order of the groups and samples
    int32_t row_count;
    int64_t tokens_sampled; // of all responses in the groups
    int64_t tokens_trained; // of the rows' responses
    double staleness;       // mean age in versions of the rows' tokens
    struct batch_kind kinds[KINDS];
    float *floats; // what the sequences point into
    int32_t *ids;
};

// batch_create turns `groups` [count] (closed; borrowed, and they must outlive the batch) into a
// batch for a trainer that holds `version` under the numerics id `numerics`. `propose`: proposals
// are trained on. Identical rollouts are merged by adding their weights, and responses that can
// move nothing (advantage 0, no entropy bonus) are left out; both leave the step as it was.
int batch_create(struct batch **out, struct group *const *groups, int32_t count,
                 const struct run_config *config, bool propose, uint64_t version,
                 const char *numerics, struct error *err);
void batch_destroy(struct batch *batch); // NULL is allowed

#endif
