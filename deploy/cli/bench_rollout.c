#include "deploy/cli/bench_rollout.h"

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/limits.h"

#include <errno.h>
#include <stdlib.h>

enum { WAIT_MS = 1000 };

int rollout_engine(struct engine **out, struct model **model, const struct bench_options *options,
                   struct error *err)
{
    const int64_t groups = options->batch / options->samples;
    const int64_t shard_groups = (groups + options->threads - 1) / options->threads;
    const int64_t slots = shard_groups * options->samples;
    const int64_t pages = (options->prompt + options->tokens) / KV_PAGE_TOKENS + 2;
    const struct engine_config config = {
        .threads = (int32_t)options->threads,
        .slots = (int32_t)slots,
        .call_rows = (int32_t)(options->rows > slots ? options->rows : slots),
        .kv_tokens = (slots + shard_groups) * pages * KV_PAGE_TOKENS,
        .pin = true,
        .swap = SWAP_PINNED};
    CLEANUP(model_destroyp) struct model *made = NULL;
    int code = bench_model(&made, options, err);
    code = code < 0 ? code : engine_create(out, &config, made, 1, err);
    if (code == 0) {
        *model = TAKE(made);
    }
    return code;
}

static void drop(void *context, struct completion *completion)
{
    int64_t *count = context;
    *count += completion->count;
    free(completion);
}

static void run_once(struct rollout_time *time, struct engine *engine,
                     struct generation *generations, int64_t groups)
{
    const struct engine_stats before = engine_stats(engine);
    const double cpu = bench_cpu_seconds();
    const uint64_t start = clock_ns();
    int64_t tokens = 0;
    for (int64_t i = 0; i < groups; i++) {
        engine_submit(engine, &generations[i]);
    }
    int64_t samples = groups * generations[0].samples;
    while (samples > 0) {
        samples -= engine_poll(engine, drop, &tokens);
        if (samples > 0) {
            engine_wait(engine, WAIT_MS);
        }
    }
    time->seconds = (double)(clock_ns() - start) / 1e9;
    time->cpu_seconds = bench_cpu_seconds() - cpu;
    time->calls = (double)(engine_stats(engine).calls - before.calls);
}

int rollout_run(struct rollout_time *best, struct engine *engine,
                const struct bench_options *options, int64_t tokens, struct error *err)
{
    const int64_t groups = options->batch / options->samples;
    CLEANUP(freep) struct generation *generations = calloc((size_t)groups, sizeof(*generations));
    CLEANUP(freep) int32_t *ids = calloc((size_t)(groups * options->prompt), sizeof(*ids));
    if (generations == NULL || ids == NULL) {
        return error_set(err, -ENOMEM, "no memory for %lld prompts", (long long)groups);
    }
    bench_ids(ids, groups * options->prompt, engine_model(engine)->shape.V, 1);
    for (int64_t r = 0; r < options->repeats; r++) {
        for (int64_t i = 0; i < groups; i++) {
            generations[i] = (struct generation){.prompt = ids + i * options->prompt,
                                                 .prompt_count = (int32_t)options->prompt,
                                                 .samples = (int32_t)options->samples,
                                                 .tokens_max = (int32_t)tokens,
                                                 .sampling = {.temperature = 1.0f, .top_p = 1.0f},
                                                 .seed = (uint64_t)i};
        }
        struct rollout_time time;
        run_once(&time, engine, generations, groups);
        if (r == 0 || time.seconds < best->seconds) {
            *best = time;
        }
    }
    return 0;
}

double rollout_operations(const struct model *model, double rows, double context, double logits)
{
    const struct shape *s = &model->shape;
    const double head = (double)s->V * s->C;
    const double layers = bench_parameters(model) - head * (s->tied ? 1.0 : 2.0);
    const double attention = 2.0 * s->L * s->H * s->D * context;
    return 2.0 * (rows * (layers + attention) + logits * head);
}

double rollout_bytes(const struct model *model, double calls, double rows, double context)
{
    const struct shape *s = &model->shape;
    const double page = (double)kv_page_bytes(s, model->compute) / KV_PAGE_TOKENS;
    return calls * (double)model->packed_floats * sizeof(float) + rows * context * page;
}
