#include "common/base/run_check.h"

#include "common/base/limits.h"
#include "common/base/task.h"

#include <errno.h>
#include <string.h>

// struct rule is one contradiction: it holds when `broken`.
struct rule {
    bool broken;
    const char *sentence;
};

static int first_broken(const struct rule *rules, size_t count, struct error *err)
{
    for (size_t i = 0; i < count; i++) {
        if (rules[i].broken) {
            return error_set(err, -EINVAL, "%s", rules[i].sentence);
        }
    }
    return 0;
}

static int check_play(const struct run_config *config, struct error *err)
{
    const struct rule rules[] = {
        {config->azr.baseline == BASELINE_TASK && config->azr.solver_rollouts == ROLLOUTS_FRESH,
         "azr.baseline: task is the mean over a task's n rollouts, and azr.solver_rollouts: fresh "
         "has one; set azr.solver_rollouts=reuse or azr.baseline=block"},
        {!config->azr.propose && config->azr.solver_rollouts == ROLLOUTS_REUSE &&
             config->azr.warmup_solver_steps > 0,
         "azr.warmup_solver_steps delays a proposer that azr.propose: false never trains; remove "
         "one of them"},
        {config->azr.proposals == PROPOSALS_GENERATOR &&
             strcmp(config->azr.style, "compact") != 0 && strcmp(config->azr.style, "auto") != 0,
         "azr.proposals: generator makes tasks for the style compact; set azr.style=compact or "
         "azr.proposals=model"},
        {config->azr.proposals == PROPOSALS_GENERATOR && (config->azr.types >> KIND_ERROR & 1) != 0,
         "azr.proposals: generator makes no tasks of the type error; leave it out of azr.types"},
        {config->azr.old_tasks > 0 && config->azr.solver_rollouts == ROLLOUTS_FRESH,
         "azr.old_tasks come beside the tasks of azr.solver_rollouts: reuse; with fresh ones use "
         "azr.solver_data"},
        {config->azr.composite_min > config->azr.composite_max,
         "azr.composite_min is above azr.composite_max; swap them"},
        {config->azr.tasks_max < config->azr.batch,
         "azr.tasks_max is below azr.batch: a step could not find its tasks; raise azr.tasks_max"},
    };
    return first_broken(rules, sizeof(rules) / sizeof(*rules), err);
}

static int check_engine(const struct run_config *config, struct error *err)
{
    int64_t longest = config->rollout.prompt_tokens_max + config->rollout.response_tokens_max;
    double verify_s = (double)config->verifier.timeout_ms * (double)config->verifier.images / 1e3;
    bool same_socket =
        config->endpoint[0] != '\0' && strcmp(config->endpoint, config->weights_endpoint) == 0;
    const struct rule rules[] = {
        {config->rollout.top_p == 0.0,
         "rollout.top_p is 0: no token could be drawn; 1 turns it off"},
        {config->rollout.temperature == 0.0 && config->azr.samples > 1,
         "rollout.temperature is 0: all azr.samples of a task would be equal and nothing could be "
         "learned; use a positive temperature"},
        {config->loss.dual_clip > 0.0 && config->loss.dual_clip <= 1.0,
         "loss.dual_clip must be above 1 (3 in the literature), or 0 for off"},
        {same_socket, "endpoint and weights_endpoint are the same address; give each its own"},
        {(double)config->learner.lease_s < verify_s,
         "learner.lease_s is shorter than verifier.timeout_ms × verifier.images: leases would run "
         "out while programs run; raise learner.lease_s"},
    };
    int code = first_broken(rules, sizeof(rules) / sizeof(*rules), err);
    if (code == 0 && config->actor.kv_tokens < longest) {
        code = error_set(err, -EINVAL,
                         "actor.kv_tokens is %lld and one rollout may need %lld "
                         "(rollout.prompt_tokens_max + rollout.response_tokens_max); raise it",
                         (long long)config->actor.kv_tokens, (long long)longest);
    }
    return code;
}

int run_config_check(const struct run_config *config, struct error *err)
{
    int code = check_play(config, err);
    return code < 0 ? code : check_engine(config, err);
}
