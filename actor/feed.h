// feed.h: where prompts come from. The learner's feed (feed_learner.c) takes Prompt messages on
// credit, has the engine continue them, and sends a Rollout per sample, which the wire keeps until
// the learner has acknowledged it.
//
// Prompts that come before the engine has its first weights wait. What was leased under an earlier
// learner is dropped when the wire says so. Loop's thread.
#ifndef ACTOR_FEED_H
#define ACTOR_FEED_H

#include "actor/engine.h"
#include "actor/role.h"
#include "common/base/run_config.h"
#include "common/wire/worker.h"

struct feed;

struct feed_events {
    void *context;
    void (*on_manifest)(void *context, const Kelvin__WeightsManifest *manifest);
    // on_end: the last call; 0 after a goodbye, else why no learner took this actor.
    void (*on_end)(void *context, int code, const char *sentence);
};

// feed_open joins the learner at config->endpoint; `config` is borrowed for life.
int feed_open(struct feed **out, uv_loop_t *loop, void *zmq, const struct run_config *config,
              const struct feed_events *events, struct error *err);

// feed_start gives the feed what it renders and samples with, once; all are borrowed until
// feed_close.
void feed_start(struct feed *feed, struct engine *engine, const struct tokenizer *tokenizer);

// feed_poll sends what the engine has finished; call it when the engine notifies.
void feed_poll(struct feed *feed);

void feed_leave(struct feed *feed, const char *reason);

// feed_close ends at once and frees on a later turn of the loop. Destroy the engine first. NULL is
// allowed.
void feed_close(struct feed *feed);

#endif
