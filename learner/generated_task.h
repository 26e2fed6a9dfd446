// generated_task.h: a random program with inputs as a task, in place of a proposal
// (azr.proposals: generator). Programs have the lengths that pretraining shows; none is one that is
// kept for tests.
#ifndef LEARNER_GENERATED_TASK_H
#define LEARNER_GENERATED_TASK_H

#include "common/base/rng.h"
#include "common/base/task.h"

#include "proto/task.pb-c.h"

// generated_task draws a task without outputs; it has `inputs` inputs (at most
// GENERATED_INPUTS_MAX) when its kind is induction, else one. The caller frees it with
// kelvin__task__free_unpacked(task, NULL). Its program may fail on an input.
Kelvin__Task *generated_task(enum task_kind kind, int inputs, struct rng *rng);

#endif
