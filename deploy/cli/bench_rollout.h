// bench_rollout.h: generations through the actor's engine, timed.
#ifndef DEPLOY_CLI_BENCH_ROLLOUT_H
#define DEPLOY_CLI_BENCH_ROLLOUT_H

#include "actor/engine.h"
#include "deploy/cli/bench_engine.h"

struct rollout_time {
    double seconds, cpu_seconds;
    double calls; // engine calls, all threads
};

// rollout_engine makes the model (bench_model), which belongs to the engine, and an engine with
// room for the whole batch.
int rollout_engine(struct engine **out, struct model **model, const struct bench_options *options,
                   struct error *err);

// rollout_run has `batch` random prompts continued by `tokens` tokens each, at temperature 1, and
// keeps the fastest of `repeats` runs in *best.
int rollout_run(struct rollout_time *best, struct engine *engine,
                const struct bench_options *options, int64_t tokens, struct error *err);

// rollout_operations counts the products of `rows` rows with a mean context of `context` keys, of
// which `logits` rows go through the head.
double rollout_operations(const struct model *model, double rows, double context, double logits);

// rollout_bytes is what `calls` engine calls read of the weights, and `rows` rows of the KV cache.
double rollout_bytes(const struct model *model, double calls, double rows, double context);

#endif
