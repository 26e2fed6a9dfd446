// rollouts.h: the rollouts of a run and their verdicts, in the tables beside the tasks (tasks.h):
// what `kelvin tasks` shows and `kelvin replay` regenerates.
#ifndef LEARNER_ROLLOUTS_H
#define LEARNER_ROLLOUTS_H

#include "common/base/error.h"
#include "common/base/task.h"
#include "learner/tasks.h"

#include "proto/rollout.pb-c.h"
#include "proto/verdict.pb-c.h"

#include <stdbool.h>
#include <stdint.h>

struct rollouts;

// rollouts_open prepares to write into the store, which must outlive it; rollouts_close accepts
// NULL.
int rollouts_open(struct rollouts **out, struct tasks *tasks, struct error *err);
void rollouts_close(struct rollouts *rollouts);

// struct rollout_record is one row of `rollouts` and, with a verdict, one of `verdicts`.
struct rollout_record {
    int64_t step;
    enum task_kind kind;
    enum role role;
    int32_t slot;
    uint64_t task; // that was solved, or stored from the proposal; 0: none
    uint64_t seed; // of the prompt
    bool trained;  // false: it only estimated an accuracy
    double reward;
    double advantage;
    const Kelvin__Rollout *rollout;
    const Kelvin__Verdict *verdict; // or NULL
};

// rollouts_add writes one record inside the open transaction of the store. Ids count up.
int rollouts_add(struct rollouts *rollouts, const struct rollout_record *record, struct error *err);

#endif
