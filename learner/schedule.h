// schedule.h: the step size over a run.
#ifndef LEARNER_SCHEDULE_H
#define LEARNER_SCHEDULE_H

#include "common/base/run_config.h"

// schedule_lr is the AdamW step size of `step` (1 .. config->steps): it rises linearly over
// optimizer.warmup_steps, then stays (constant) or falls to lr × lr_final at the last step (linear,
// cosine).
double schedule_lr(const struct run_config *config, int64_t step);

#endif
