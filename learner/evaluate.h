// evaluate.h: what a model can do, on held-out tasks (suite.h), by the actors, verifiers and wire
// of a run.
//
// Three passes: answers sampled at rollout.temperature (eval.samples a task), the greedy answer,
// and sampled answers of deduction and abduction that are made to begin with the thinking part.
// Beside them stand two guessers that know no program: the commonest gold answer, and an echo of
// what is given. The result goes to RUN/eval.json.
#ifndef LEARNER_EVALUATE_H
#define LEARNER_EVALUATE_H

#include "common/base/run_config.h"

// evaluate_run runs to the end and returns the exit code of kelvin-learner: 0 done, 2 bad input,
// 1 otherwise; a signal ends it with 1. Errors are logged; a line of JSON on standard output says
// how far it is ("step": tasks judged, counted in every pass).
int evaluate_run(const struct run_config *config);

#endif
