// record.h: what a finished step leaves in the store: every rollout of its groups with verdict,
// reward and advantage.
#ifndef LEARNER_RECORD_H
#define LEARNER_RECORD_H

#include "learner/batch.h"
#include "learner/rollouts.h"

// record_step writes the rollouts of `groups` [count] and what `batch`, that of step `step`, made
// of them, inside the store's open transaction.
int record_step(struct rollouts *rollouts, int64_t step, struct group *const *groups, int32_t count,
                const struct batch *batch, struct error *err);

#endif
