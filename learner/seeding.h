// seeding.h: the first tasks of a run, before step 1 (AZR.md section 2).
//
// From the zero triplet the untrained model proposes in rounds of B prompts until there are B ×
// seed_factor valid tasks: deduction and abduction share one set, then error deduction, then
// induction. A round is a barrier and its tasks are stored in slot order, so the seeds do not
// depend on timing. With azr.seed_file the seeds come from JSON lines, each checked by the
// verifiers.
#ifndef LEARNER_SEEDING_H
#define LEARNER_SEEDING_H

#include "learner/player.h"

struct seeding;

struct seeding_events {
    void *context;
    void (*done)(void *context);
    void (*failed)(void *context, const struct error *err);
};

// seeding_create begins; `done` or `failed` comes on a later turn of the loop, or, when the store
// holds enough already, from seeding_start itself.
int seeding_create(struct seeding **out, struct hub *hub, struct tasks *tasks,
                   const struct run_config *config, int32_t vocab,
                   const struct seeding_events *events, struct error *err);
void seeding_start(struct seeding *seeding);
void seeding_destroy(struct seeding *seeding); // NULL is allowed

#endif
