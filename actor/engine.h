// engine.h: an actor's engine: prompts in, finished samples out, on `threads` threads.
//
// Each thread is a shard with its own scheduler, KV pages and workspace; a generation with all its
// samples runs in one shard, chosen late, when the least loaded one has room. Where no other is
// queued, its samples are spread over the shards that have nothing, each of which computes the
// prompt. Shards share nothing but the weights, so they never wait for each other. The weights live
// in at most two models: the current one, and the one before it while samples are still pinned to
// it.
//
// All functions are called on one thread, the loop's or a command's; the engine needs no loop and
// no wire. `kelvin bench`, `eval` and `solve` use it as the actor does.
#ifndef ACTOR_ENGINE_H
#define ACTOR_ENGINE_H

#include "actor/scheduler.h"

struct engine;

struct engine_config {
    int32_t threads;   // shards
    int32_t slots;     // samples that run at once in a shard
    int32_t call_rows; // rows of one engine call, prompt chunks included; at least `slots`
    int64_t kv_tokens; // KV cache of a shard
    bool pin;          // shard i stays on the i-th processor that the process may use
    enum swap_mode swap;
    struct vocabulary vocabulary; // borrowed for life
    // notify is called when engine_poll has something to do, or when a model falls free: on a
    // shard's thread, or on the caller's by engine_submit and engine_cancel. NULL: the caller uses
    // engine_wait.
    void (*notify)(void *context);
    void *notify_context;
};

// engine_create starts the shards with `model` as `version`; on success the model is the engine's.
int engine_create(struct engine **out, const struct engine_config *config, struct model *model,
                  uint64_t version, struct error *err);
// engine_destroy stops the shards after their current call; what they had is dropped.
void engine_destroy(struct engine *engine);

// engine_submit queues a generation, which stays the caller's memory and must not change until its
// last completion has been polled. `first`, `missing`, `whole` and `next` are the engine's. Where
// all shards are idle it begins at the next engine_poll, which knows what else there is.
void engine_submit(struct engine *engine, struct generation *generation);

// engine_poll hands finished samples to `on_complete`, which frees each completion, and gives
// queued generations to the shards. completion->generation->missing is 0 with the last one: its
// memory is the caller's again. Returns how many completions there were.
int32_t engine_poll(struct engine *engine, complete_fn *on_complete, void *context);

// engine_wait waits until engine_poll has something to do, at most `timeout_ms`. Only without
// notify.
void engine_wait(struct engine *engine, int32_t timeout_ms);

// engine_load takes `weights` [params.elements] (f32) as `version`, rounded as model_set says, and
// makes it what new samples begin with. -EAGAIN while two models are in use: try again after a
// notify. It packs the weights, which takes a while, and may be called on another thread as long as
// no other engine function but submit, poll and stats runs then.
int engine_load(struct engine *engine, const float *weights, enum dtype type, uint64_t version,
                struct error *err);

// engine_cancel completes everything that is queued or running as CANCELLED; completions come
// through engine_poll.
void engine_cancel(struct engine *engine);

struct engine_stats {
    uint64_t version;    // newest loaded
    int32_t outstanding; // samples submitted and not polled
    int32_t running;     // samples in slots
    uint64_t sampled;    // tokens drawn since the start
    uint64_t prefilled;  // prompt tokens computed
    uint64_t calls, rows;
    int64_t kv_tokens_used; // and promised, of all shards
    uint64_t busy_ns;       // time in engine calls, summed over shards
};
struct engine_stats engine_stats(const struct engine *engine);

const struct model *engine_model(const struct engine *engine); // current
int32_t engine_threads(const struct engine *engine);

static inline void engine_destroyp(struct engine **engine)
{
    engine_destroy(*engine);
}

#endif
