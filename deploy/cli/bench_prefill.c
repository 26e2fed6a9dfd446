// kelvin bench prefill: prompt tokens a second through the actor's scheduler.
#include "common/base/cleanup.h"
#include "deploy/cli/bench.h"
#include "deploy/cli/bench_rollout.h"
#include "deploy/cli/cli.h"

static const char what[] =
    "Has the actor's engine compute --batch prompts and draw one token after each. tokens_per_s\n"
    "counts prompt tokens.";

static int measure(const struct bench_options *options, struct error *err)
{
    CLEANUP(engine_destroyp) struct engine *engine = NULL;
    struct model *model = NULL;
    struct rollout_time time;
    int code = bench_model(&model, options, err);
    if (code < 0) {
        return code;
    }
    code = rollout_engine(&engine, options, model, err);
    if (code < 0) {
        model_destroy(model);
        return code;
    }
    code = rollout_run(&time, engine, options, 1, err);
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
    struct bench_options options = {
        .batch = 16, .prompt = 512, .tokens = 1, .samples = 1, .rows = 256, .repeats = 3};
    if (cli_wants_help(argc, argv)) {
        bench_options_help(argv[0], what, &options);
        return 0;
    }
    struct error err = {0};
    int code = bench_options_read(&options, argc, argv, &err);
    code = code < 0 ? code : measure(&options, &err);
    return code < 0 ? cli_fail(argv[0], "%s", err.text) : 0;
}
