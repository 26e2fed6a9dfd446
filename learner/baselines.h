// baselines.h: which responses of a batch are held against each other.
#ifndef LEARNER_BASELINES_H
#define LEARNER_BASELINES_H

#include "learner/batch.h"

// baselines_number gives every row a number; rows with the same number share the baseline of their
// rewards, a row alone with its number has its block's (advantage.h). With azr.baseline: task the
// answers to a task share one; with azr.proposer_baseline: input_type the valid proposals of a kind
// whose first input has the same type do, so that a proposer gains nothing by changing the type.
//   numbers  [count]  written, 0 .. count-1
void baselines_number(int32_t *numbers, const struct batch_row *rows, int32_t count,
                      const struct run_config *config);

#endif
