// kelvin bench prefill: prompt tokens a second through the actor's scheduler.
#include "common/base/cleanup.h"
#include "deploy/cli/bench.h"
#include "deploy/cli/bench_rollout.h"

static const char what[] =
    "Has the actor's engine compute --batch prompts and draw one token after each. tokens_per_s\n"
    "counts prompt tokens.";

static int measure(const struct bench_options *options, struct error *err)
{
    CLEANUP(engine_destroyp) struct engine *engine = NULL;
    struct model *model = NULL;
    struct rollout_time time;
    int code = rollout_engine(&engine, &model, options, err);
    code = code < 0 ? code : rollout_run(&time, engine, options, 1, err);
    if (code < 0) {
        return code;
    }
    const double groups = (double)options->batch / (double)options->samples;
    const double rows = groups * (double)options->prompt, context = (double)options->prompt / 2.0;
    const struct bench_result result = {.name = "prefill",
                                        .seconds = time.seconds,
                                        .cpu_seconds = time.cpu_seconds,
                                        .tokens = rows,
                                        .operations =
                                            rollout_operations(model, rows, context, groups),
                                        .bytes = rollout_bytes(model, time.calls, 0.0, 0.0)};
    return bench_print(options, model, &result, NULL, err);
}

int bench_prefill(int argc, char **argv)
{
    static const struct engine_bench bench = {
        .what = what,
        .measure = measure,
        .defaults = {
            .batch = 16, .prompt = 512, .tokens = 1, .samples = 1, .rows = 256, .repeats = 3}};
    return bench_engine_run(argc, argv, &bench);
}
