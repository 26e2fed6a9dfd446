#include "learner/asker.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/log.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

void asker_rollout(const struct asker *asker, const Kelvin__Rollout *rollout)
{
    ((hub_rollout_fn *)asker->answer)(asker->context, asker->tag, rollout);
}

void asker_verdict(const struct asker *asker, const Kelvin__Verdict *verdict)
{
    ((hub_verdict_fn *)asker->answer)(asker->context, asker->tag, verdict);
}

static bool is_missing(const struct lease *lease, int32_t sample)
{
    return (lease->seen[sample / 64] >> (sample % 64) & 1) == 0;
}

void asker_reject(const struct lease *lease, uint64_t id, const char *note)
{
    struct asker asker = asker_of(lease);
    int32_t samples = lease->samples;
    CLEANUP(freep) bool *missing = calloc((size_t)samples, sizeof(*missing));
    CLEANUP(freep) char *text = strdup(note);
    CHECK(missing != NULL && text != NULL);
    for (int32_t i = 0; i < samples; i++) {
        missing[i] = is_missing(lease, i);
    }
    Kelvin__Rollout rollout = KELVIN__ROLLOUT__INIT;
    rollout.lease = id;
    rollout.finish = KELVIN__FINISH__REJECTED;
    rollout.note = text;
    for (int32_t i = 0; i < samples; i++) {
        rollout.sample = (uint32_t)i;
        if (missing[i]) {
            asker_rollout(&asker, &rollout);
        }
    }
}

void asker_give_up(const struct lease *lease)
{
    if (lease->role == KELVIN__WORKER_KIND__ACTOR) {
        log_warn("hub", "a prompt failed at every actor and is given up lease=%llu",
                 (unsigned long long)lease->id);
        asker_reject(lease, 0, "given up by the learner");
        return;
    }
    log_warn("hub", "a check failed at every verifier and is given up lease=%llu",
             (unsigned long long)lease->id);
    char detail[] = "given up by the learner";
    Kelvin__Verdict verdict = KELVIN__VERDICT__INIT;
    verdict.id = lease->id;
    verdict.outcome = KELVIN__OUTCOME__INFRASTRUCTURE;
    verdict.detail = detail;
    struct asker asker = asker_of(lease);
    asker_verdict(&asker, &verdict);
}
