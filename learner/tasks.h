// tasks.h: the memory of a run: an SQLite file (WAL) with tables `tasks`, `rollouts` and
// `verdicts`, and in memory the indexes that draws are made from.
//
// Every row carries the step in which it was written (a task also the step that proposed it, which
// may be later when old data is admitted), and a task that left the store keeps its row with the
// step at which it left. So the store can be taken back to the end of any step (tasks_forget),
// which is how a run is resumed. Between tasks_begin and tasks_commit everything is one
// transaction: a killed run has whole steps only. Readers (`kelvin tasks`) may look at any time.
//
// Loop thread.
#ifndef LEARNER_TASKS_H
#define LEARNER_TASKS_H

#include "common/base/error.h"
#include "common/base/task.h"
#include "learner/counts.h"
#include "learner/task_index.h"

#include "proto/task.pb-c.h"

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

struct tasks;

// tasks_open opens or makes the store at `path`, with room for `tasks_max` living tasks of a kind.
// A file that is not a store, or one of a newer Kelvin, is -EINVAL and stays untouched.
// tasks_close rolls an open transaction back; NULL is allowed.
int tasks_open(struct tasks **out, const char *path, int32_t tasks_max, struct error *err);
void tasks_close(struct tasks *tasks);

// tasks_open_reader opens the store for reading, also while a run writes it. The caller ends it
// with sqlite3_close.
int tasks_open_reader(sqlite3 **out, const char *path, struct error *err);

int tasks_begin(struct tasks *tasks, struct error *err);
int tasks_commit(struct tasks *tasks, struct error *err);

// tasks_forget removes what came after `step` and brings back what left after it.
int tasks_forget(struct tasks *tasks, int64_t step, struct error *err);

// tasks_position is the largest id of a task and of a rollout that the steps up to `step` made; 0
// when there is none.
int tasks_position(struct tasks *tasks, int64_t step, int64_t *task, int64_t *rollout,
                   struct error *err);

// tasks_copy copies the store at `from`, which may be in use, to the new file `to`.
int tasks_copy(const char *to, const char *from, struct error *err);

// tasks_add stores a task and gives it the next id (task->id is set). `accuracy` is a, or NaN when
// it was not estimated. `now` is the running step (0 while seeding). *duplicate: the store holds
// the same normalized program and inputs; nothing was stored and task->id is 0.
int tasks_add(struct tasks *tasks, Kelvin__Task *task, double accuracy, int64_t now,
              bool *duplicate, struct error *err);

// tasks_set_accuracy notes the accuracy of a stored task once it is known.
int tasks_set_accuracy(struct tasks *tasks, uint64_t id, double accuracy, struct error *err);

// tasks_has says whether tasks_add would find a duplicate.
bool tasks_has(const struct tasks *tasks, const Kelvin__Task *task);

// tasks_get reads one task, living or not; the caller frees it with
// kelvin__task__free_unpacked(task, NULL). -ENOENT names the id.
int tasks_get(struct tasks *tasks, uint64_t id, Kelvin__Task **out, struct error *err);

// tasks_index is what the draws of one kind are made from; valid until the next change.
const struct task_index *tasks_index(const struct tasks *tasks, enum task_kind kind);

// tasks_inputs and tasks_outputs count the values of the living tasks of one kind,
// tasks_statements the statements of their programs (statements.h).
const struct counts *tasks_inputs(const struct tasks *tasks, enum task_kind kind);
const struct counts *tasks_outputs(const struct tasks *tasks, enum task_kind kind);
const struct counts *tasks_statements(const struct tasks *tasks, enum task_kind kind);

// tasks_draw_program draws `candidates` tasks, each among those of deduction and abduction, and
// gives the one with the shortest program, the first of equals: an induction proposal shows it. 0
// when there is none.
uint64_t tasks_draw_program(const struct tasks *tasks, enum reference_sampling mode,
                            int64_t candidates, struct rng *rng);

// The open database and its path, for the module that keeps the rollouts beside the tasks.
sqlite3 *tasks_db(struct tasks *tasks);
const char *tasks_path(const struct tasks *tasks);

#endif
