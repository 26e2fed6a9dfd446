// intrinsic.h: what a valid proposal is worth beside its learnability (AZR.md section 4): how
// complex its program is, how far from the references, how surprising its values. Measured and
// reported always, rewarded where a coefficient is set.
#ifndef LEARNER_INTRINSIC_H
#define LEARNER_INTRINSIC_H

#include "common/base/run_config.h"
#include "learner/tasks.h"

#include "proto/verdict.pb-c.h"

// struct intrinsic is one measurement per term, in [0, 1]; NAN where a term does not apply (an
// induction proposal writes no program) or is not known.
struct intrinsic {
    double value[INTRINSIC_TERMS];
};

// intrinsic_measure looks at a valid proposal. `facts` come from the verifier; NULL: none. The
// store's counts are those of now, so call it before the task is stored.
//   cyclomatic  largest cyclomatic complexity of a function / 10, at most 1
//   halstead    0.5·min(effort/10000, 1) + 0.3·cyclomatic + 0.2·min(volume/500, 1)
//   distance    mean tree distance to the references
//   input       abduction, induction: mean surprise of the inputs, 1 - count/total in the store
//   output      deduction, error, induction: the same of the outputs
//   statements  all but induction: how rare the program's statements are in the store
//               (statements.h)
// Source: the original's complexity, Halstead, edit distance and answer diversity rewards; the last
// is Kelvin's, against proposers that narrow to few operations.
void intrinsic_measure(struct intrinsic *out, const struct tasks *tasks, const Kelvin__Task *task,
                       const Kelvin__SourceFacts *facts);

// intrinsic_reward combines `learnability` > 0 with the terms c = min(coefficient × value, cap)
// whose coefficient is not 0: sum L + Σc, product L·Πc, sum_product L + Πc, product_sum L·Σc.
// Without such terms it is `learnability`.
double intrinsic_reward(const struct run_config *config, const struct intrinsic *measured,
                        double learnability);

// The name of a term in metrics: "cyclomatic", ...
const char *intrinsic_name(int term);

#endif
