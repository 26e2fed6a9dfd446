// suite.h: held-out tasks from the program generator: programs of the sixteenth that no training
// may see (generator_held_out), so that what is measured on them was not learnt by heart.
//
// Programs of deduction and abduction have 1 .. 5 assignments in equal shares, the same program for
// both; those of induction have 1 or 2, as in pretraining. A suite is a function of its seed.
#ifndef LEARNER_SUITE_H
#define LEARNER_SUITE_H

#include "common/base/error.h"
#include "common/base/task.h"
#include "learner/generator.h"

#include "proto/task.pb-c.h"

enum { SUITE_CHUNK = 128 }; // programs that run as one source

struct suite;

// suite_create draws the programs for `tasks` tasks of each kind; `inputs` is how many inputs an
// induction task has (at most GENERATED_INPUTS_MAX).
int suite_create(struct suite **out, uint64_t seed, int32_t tasks, int32_t inputs,
                 struct error *err);
void suite_destroy(struct suite *suite); // NULL is allowed

// The programs run in suite_chunks sources; suite_source is one of them (generator.h; the caller
// frees it) and suite_results takes the repr of its result.
int32_t suite_chunks(const struct suite *suite);
char *suite_source(const struct suite *suite, int32_t chunk);
int suite_results(struct suite *suite, int32_t chunk, const char *repr, struct error *err);

// suite_count is how many tasks of a kind there are, all results being in: `tasks`, or fewer where
// too few programs gave a result. suite_task is one of them, fresh; the caller frees it
// (kelvin__task__free_unpacked). suite_length is the number of its program's assignments.
int32_t suite_count(const struct suite *suite, enum task_kind kind);
Kelvin__Task *suite_task(const struct suite *suite, enum task_kind kind, int32_t index);
int suite_length(const struct suite *suite, enum task_kind kind, int32_t index);

#endif
