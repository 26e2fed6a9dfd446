#include "learner/reward.h"

#include "common/base/check.h"

double reward_learnability(enum learnability form, double accuracy, double zero)
{
    if (!(accuracy > 0.0 && accuracy < 1.0)) {
        return zero;
    }
    double complement = 1.0 - accuracy;
    return form == LEARNABILITY_VARIANCE ? 4.0 * accuracy * complement : complement;
}

double reward_propose(const struct run_config *config, const struct proposal_result *result)
{
    CHECK(result->outcome != OUTCOME_INFRASTRUCTURE);
    if (result->outcome != OUTCOME_OK || (config->azr.format_reward && !result->formatted)) {
        return config->azr.invalid_reward;
    }
    if (result->duplicate && config->azr.duplicate_reward < 1.0) {
        return config->azr.duplicate_reward;
    }
    double learnability =
        reward_learnability((enum learnability)config->azr.learnability, result->accuracy, 0.0);
    return learnability > 0.0 ? intrinsic_reward(config, &result->intrinsic, learnability)
                              : config->azr.zero_learnability_reward;
}

double reward_solve(const struct run_config *config, const struct answer_result *result)
{
    CHECK(result->outcome != OUTCOME_INFRASTRUCTURE);
    if (config->azr.format_reward && !result->formatted) {
        return config->azr.invalid_reward;
    }
    return result->score > 0.0 ? result->score : config->azr.wrong_reward;
}
