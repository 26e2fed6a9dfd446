// dispatch.h: what is asked for next. It turns a step into groups, plays them (player.h), stores
// the tasks that come of them and hands out the batch of each step.
//
// Work for step t is admitted when version t - S is published (S = azr.staleness; version t is the
// one that step t trains, version 1 the starting model). With S = 0 a step's outcome is a function
// of the seed, the step and the weights alone: draws are keyed by slot, and tasks are stored in
// slot order after all proposals of the step have been validated.
//
// Loop thread.
#ifndef LEARNER_DISPATCH_H
#define LEARNER_DISPATCH_H

#include "common/base/run_config.h"
#include "learner/hub.h"
#include "learner/replay.h"
#include "learner/tasks.h"

struct dispatch;

struct dispatch_events {
    void *context;
    // batch: the groups [count] of a step are complete; the receiver owns them and the array.
    // No further batch comes before dispatch_published.
    void (*batch)(void *context, int64_t step, struct group **groups, int32_t count);
    // seeded: the stores hold their first tasks; comes once, before the first batch.
    void (*seeded)(void *context);
    // failed: the run cannot go on; called at most once.
    void (*failed)(void *context, const struct error *err);
};

// dispatch_create borrows hub, tasks and config for its life. `vocab`: ids of a sane rollout are
// below it.
int dispatch_create(struct dispatch **out, struct hub *hub, struct tasks *tasks,
                    const struct run_config *config, int32_t vocab,
                    const struct dispatch_events *events, struct error *err);
void dispatch_destroy(struct dispatch *dispatch); // after hub_close; NULL is allowed

// dispatch_start begins with `step`; the weights that train it are published as version `step`.
// Seeds are made first where the store has none.
void dispatch_start(struct dispatch *dispatch, int64_t step);

// dispatch_save packs the work that is on its way when the last batch is trained and the next
// version is not published yet (queue.h): what a run that goes on from there gives to
// dispatch_restore, before dispatch_start. *bytes is NULL when there is none, as with staleness 0;
// the caller frees it.
void dispatch_save(const struct dispatch *dispatch, uint8_t **bytes, size_t *size);
int dispatch_restore(struct dispatch *dispatch, const uint8_t *bytes, size_t size,
                     struct error *err);

// dispatch_published says that the last batch is trained and `version` is announced.
void dispatch_published(struct dispatch *dispatch, uint64_t version);

// dispatch_requests_max is the room that a hub needs for all that admission lets in.
int32_t dispatch_requests_max(const struct run_config *config);

// dispatch_plays says whether a kind of task is played.
bool dispatch_plays(const struct run_config *config, enum task_kind kind);

// dispatch_trains_proposer says whether step `step` trains on proposals.
bool dispatch_trains_proposer(const struct run_config *config, int64_t step);

struct dispatch_stats {
    int32_t running;     // groups under way
    uint64_t duplicates; // valid proposals that the store held
    uint64_t dropped;    // groups that could not be completed
    uint64_t stored;     // tasks stored since the start, seeds left out
};
struct dispatch_stats dispatch_stats(const struct dispatch *dispatch);

#endif
