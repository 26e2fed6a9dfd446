// pretrain.h: next-token training of a small model from random weights on generated programs
// (examples.h), so that self-play begins with proposals that run.
//
// Verifiers connect as in self-play and run the programs; batches are asked for a few steps ahead
// and trained in order, so the result is a function of the seed and the options alone. The run
// folder holds config.yaml, metrics.jsonl, model/ (the newborn model) and checkpoints; the last
// step is written to `pretrain.out` as a model folder.
#ifndef LEARNER_PRETRAIN_H
#define LEARNER_PRETRAIN_H

#include "common/base/run_config.h"

#include <stdbool.h>

// pretrain_run runs to the end and returns the exit code of kelvin-learner: 0 all steps done, 2 bad
// input, 75 stopped by a signal after a checkpoint, 1 otherwise. Errors are logged.
int pretrain_run(struct run_config *config, bool resume);

#endif
