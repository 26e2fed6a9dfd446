// suite.h: held-out tasks, from the program generator or from a file.
//
// Generated programs are of the sixteenth that no training may see (generator_held_out), so that
// what is measured on them was not learnt by heart. Those of deduction and abduction have 1 .. 5
// assignments in equal shares, the same program for both; those of induction have 1 or 2, as in
// pretraining. Such a suite is a function of its seed. A file (seeds.h) is for any other tasks: a
// line with one input makes a task of deduction and one of abduction.
//
// Either way the verifiers run the programs once before anything is measured: generated ones to
// learn their outputs, those of a file to see that its outputs are right.
#ifndef LEARNER_SUITE_H
#define LEARNER_SUITE_H

#include "common/base/error.h"
#include "common/base/task.h"

#include "proto/task.pb-c.h"
#include "proto/verdict.pb-c.h"

enum { SUITE_KINDS = 3 }; // deduction, abduction, induction

struct suite;

// suite_generate draws the programs for `tasks` tasks of each kind; `inputs` is how many inputs an
// induction task has (at most GENERATED_INPUTS_MAX).
int suite_generate(struct suite **out, uint64_t seed, int32_t tasks, int32_t inputs,
                   struct error *err);

// suite_read takes all tasks of a file, at most EVAL_TASKS_MAX.
int suite_read(struct suite **out, const char *path, struct error *err);
void suite_destroy(struct suite *suite); // NULL is allowed

// The verifiers answer suite_requests requests; suite_request fills one in, whose pointers stay
// valid until the next call, and suite_answer takes its verdict. -EINVAL says what is wrong with
// the file. The tasks are there when all are answered.
int32_t suite_requests(const struct suite *suite);
void suite_request(struct suite *suite, int32_t index, Kelvin__VerifyRequest *request);
int suite_answer(struct suite *suite, int32_t index, const Kelvin__Verdict *verdict,
                 struct error *err);

// suite_count is how many tasks of a kind there are: of a generated suite `tasks`, or fewer where
// too few programs gave a result. suite_task is one of them, borrowed. suite_length is the number
// of its program's assignments, 0 when it is unknown.
int32_t suite_count(const struct suite *suite, enum task_kind kind);
const Kelvin__Task *suite_task(const struct suite *suite, enum task_kind kind, int32_t index);
int suite_length(const struct suite *suite, enum task_kind kind, int32_t index);

#endif
