// asker.h: who waits for the results of a lease (broker.h), and what it is told when they do not
// come.
#ifndef LEARNER_ASKER_H
#define LEARNER_ASKER_H

#include "learner/broker.h"
#include "learner/hub.h"

// struct asker is the callback of a lease and what belongs to it: a copy, since the callback may
// end the lease.
struct asker {
    void (*answer)(void);
    void *context;
    uint64_t tag;
};

static inline struct asker asker_of(const struct lease *lease)
{
    return (struct asker){.answer = lease->answer, .context = lease->context, .tag = lease->tag};
}

// asker_rollout and asker_verdict hand a result over: of an actor's lease, and of a verifier's.
void asker_rollout(const struct asker *asker, const Kelvin__Rollout *rollout);
void asker_verdict(const struct asker *asker, const Kelvin__Verdict *verdict);

// asker_reject answers every sample of an actor's lease that has not come with REJECTED. `id` 0:
// the hub gave the prompt up.
void asker_reject(const struct lease *lease, uint64_t id, const char *note);

// asker_give_up ends the wait for a lease that failed everywhere: REJECTED, or INFRASTRUCTURE.
void asker_give_up(const struct lease *lease);

#endif
