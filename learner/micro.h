// micro.h: micro-batches: sequences packed, in their order and without padding, under a budget of
// tokens; and the lane of one thread that runs one forward, through the loss, and backward.
//
// A prompt that several sequences in a row begin with is computed once for those in one
// micro-batch, which changes no log-probability.
#ifndef LEARNER_MICRO_H
#define LEARNER_MICRO_H

#include "learner/loss.h"
#include "learner/step.h"

// struct micro is one micro-batch: sequences [from, to) of a step.
struct micro {
    int32_t from, to;
};

// micros_plan packs `count` sequences under `budget` rows each; a longer sequence runs alone.
// `micros` has room for `count`. Returns how many there are; *rows_max: rows of the largest.
int micros_plan(struct micro *micros, const struct sequence *const *sequences, int32_t count,
                int64_t budget, int64_t *rows_max);

// struct lane is what one thread works with; zeroed: of no rows.
struct lane {
    int64_t rows_max;
    struct forward *forward;
    struct backward *backward;
    struct loss *loss;
    float *dfinal;
    float *reference; // [rows_max] log-probabilities under the reference model
    int32_t *ids, *position;
    int32_t *start, *shared, *base; // of each sequence
};

// lane_grow makes a lane hold micro-batches of `rows_max` rows; on an error it is of no rows.
int lane_grow(struct lane *lane, const struct model *model, int64_t rows_max, struct error *err);
void lane_finish(struct lane *lane);

// struct micro_pass is what all micro-batches of a slice share, borrowed.
struct micro_pass {
    const struct model *model;
    const struct model *reference; // read when kl_coef is not 0
    const struct sequence *const *sequences;
    const struct objective *objective;
    float *const *logprobs;        // of the step's sequences, or NULL
    const struct gradients *grads; // added to
    struct loss_sums *sums;        // added to
};

// lane_run runs one micro-batch.
void lane_run(struct lane *lane, const struct micro_pass *pass, const struct micro *micro);

#endif
