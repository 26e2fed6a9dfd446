// kelvin bench decode: tokens a second through the actor's scheduler, sampling and log-probs
// included.
#include "common/base/cleanup.h"
#include "deploy/cli/bench.h"
#include "deploy/cli/bench_rollout.h"

#include <errno.h>

static const char what[] =
    "Has --batch sequences of random tokens continued by the actor's engine, with sampling and\n"
    "log-probabilities. tokens_per_s counts the tokens after each sequence's first one and the "
    "time\n"
    "that they took; the prompts are timed in runs of their own.";

static int measure(const struct bench_options *options, struct error *err)
{
    CLEANUP(engine_destroyp) struct engine *engine = NULL;
    struct model *model = NULL;
    struct rollout_time prompts, whole;
    if (options->tokens < 2) {
        return error_set(err, -EINVAL, "--tokens must be 2 or more: the first one is prefill's");
    }
    int code = rollout_engine(&engine, &model, options, err);
    code = code < 0 ? code : rollout_run(&prompts, engine, options, 1, err);
    code = code < 0 ? code : rollout_run(&whole, engine, options, options->tokens, err);
    if (code < 0) {
        return code;
    }
    const double batch = (double)options->batch, tokens = (double)options->tokens;
    const double rows = batch * (tokens - 1.0), context = (double)options->prompt + tokens / 2.0;
    const double seconds = whole.seconds - prompts.seconds;
    const struct bench_result result = {
        .name = "decode",
        .seconds = seconds,
        .cpu_seconds = whole.cpu_seconds - prompts.cpu_seconds,
        .tokens = rows,
        .operations = rollout_operations(model, rows, context, rows),
        .bytes = rollout_bytes(model, whole.calls - prompts.calls, rows, context)};
    const double prompt_tokens = (double)options->prompt * batch / (double)options->samples;
    json_t *extra = json_pack("{s:f, s:f, s:f}", "prompt_tokens_per_s",
                              prompt_tokens / prompts.seconds, "whole_seconds", whole.seconds,
                              "whole_tokens_per_s", batch * tokens / whole.seconds);
    return bench_print(options, model, &result, extra, err);
}

int bench_decode(int argc, char **argv)
{
    static const struct engine_bench bench = {
        .what = what,
        .measure = measure,
        .defaults = {
            .batch = 64, .prompt = 128, .tokens = 128, .samples = 1, .rows = 256, .repeats = 3}};
    return bench_engine_run(argc, argv, &bench);
}
