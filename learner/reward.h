// reward.h: what a response is worth (AZR.md section 4). The reward stands on the last token of the
// response; with discount 1 that is a number per response.
#ifndef LEARNER_REWARD_H
#define LEARNER_REWARD_H

#include "common/base/run_config.h"
#include "common/base/task.h"
#include "learner/intrinsic.h"

#include <stdbool.h>

// struct proposal_result is what became of one proposal.
struct proposal_result {
    enum outcome outcome; // of its validation; never OUTCOME_INFRASTRUCTURE
    bool formatted;
    bool duplicate;             // the store held it already
    double accuracy;            // a: mean score of the solver on it; read when outcome is OK
    struct intrinsic intrinsic; // likewise
};

// struct answer_result is what became of one answer.
struct answer_result {
    enum outcome outcome; // of its judgement; never OUTCOME_INFRASTRUCTURE
    bool formatted;
    double score; // 1 right, 0 wrong, the share of an induction task
};

// reward_learnability is, for 0 < a < 1, 1 - a (the paper's) or 4a(1 - a), and `zero` for a task
// that is always or never solved.
double reward_learnability(enum learnability form, double accuracy, double zero);

// reward_propose and reward_solve are the rewards under the section azr.* of `config`. A failure of
// the infrastructure has no reward: the caller drops such a response (CHECKed).
double reward_propose(const struct run_config *config, const struct proposal_result *result);
double reward_solve(const struct run_config *config, const struct answer_result *result);

#endif
