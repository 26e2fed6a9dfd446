// task_digest.h: when two tasks are the same.
#ifndef LEARNER_TASK_DIGEST_H
#define LEARNER_TASK_DIGEST_H

#include "proto/task.pb-c.h"

#include <stdint.h>

// task_digest is the key of a duplicate: kind, program without trailing blanks and blank lines,
// inputs without surrounding blanks.
uint64_t task_digest(const Kelvin__Task *task);

#endif
