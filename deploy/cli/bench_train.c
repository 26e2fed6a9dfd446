// kelvin bench train: one optimizer step of the learner, timed.
#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "deploy/cli/bench.h"
#include "deploy/cli/bench_engine.h"
#include "learner/step.h"

#include <errno.h>
#include <stdlib.h>

static const char what[] =
    "Runs whole training steps (forward, policy loss, backward, AdamW) on --batch sequences of\n"
    "random tokens, of which the --tokens response tokens are trained on. tokens_per_s counts all\n"
    "of them, shared prompts once for each response.";

struct workload {
    struct sequence *sequences;
    int32_t *ids;
    float *weights, *behaviour;
};

static void workload_finish(struct workload *workload)
{
    free(workload->sequences);
    free(workload->ids);
    free(workload->weights);
    free(workload->behaviour);
}

static int workload_make(struct workload *workload, const struct bench_options *options, int32_t V,
                         struct error *err)
{
    const int64_t count = options->prompt + options->tokens, all = count * options->batch;
    workload->sequences = calloc((size_t)options->batch, sizeof(*workload->sequences));
    workload->ids = calloc((size_t)all, sizeof(*workload->ids));
    workload->weights = calloc((size_t)count, sizeof(*workload->weights));
    workload->behaviour = calloc((size_t)count, sizeof(*workload->behaviour));
    if (workload->sequences == NULL || workload->ids == NULL || workload->weights == NULL ||
        workload->behaviour == NULL) {
        return error_set(err, -ENOMEM, "no memory for %lld tokens", (long long)all);
    }
    for (int64_t i = options->prompt; i < count; i++) {
        workload->weights[i] = 1.0f / (float)(options->tokens * options->batch);
        workload->behaviour[i] = -8.0f;
    }
    for (int64_t k = 0; k < options->batch; k++) {
        int32_t *ids = workload->ids + k * count;
        bench_ids(ids, count, V, (uint64_t)k);
        bench_ids(ids, options->prompt, V, 1000000 + (uint64_t)(k / options->samples));
        workload->sequences[k] = (struct sequence){.count = (int32_t)count,
                                                   .ids = ids,
                                                   .weight = workload->weights,
                                                   .behaviour = workload->behaviour,
                                                   .advantage = k % 2 == 0 ? 1.0f : -1.0f};
    }
    return 0;
}

static int time_steps(struct bench_result *result, struct trainer *trainer,
                      const struct workload *workload, const struct bench_options *options,
                      struct error *err)
{
    const struct objective objective = {.clip_low = 0.2f, .clip_high = 0.2f};
    const struct optimizer optimizer = {.lr = 1e-5f,
                                        .beta1 = 0.9f,
                                        .beta2 = 0.999f,
                                        .epsilon = 1e-8f,
                                        .weight_decay = 0.01f,
                                        .grad_norm_max = 1.0f};
    for (int64_t r = 0; r <= options->repeats; r++) { // the first step only warms up
        struct step_report report;
        const double cpu = bench_cpu_seconds();
        const uint64_t start = clock_ns();
        int code = trainer_step(trainer, workload->sequences, (int32_t)options->batch, &objective,
                                &optimizer, NULL, &report, err);
        if (code < 0) {
            return code;
        }
        const double seconds = (double)(clock_ns() - start) / 1e9;
        if (r == 1 || (r > 1 && seconds < result->seconds)) {
            result->seconds = seconds;
            result->cpu_seconds = bench_cpu_seconds() - cpu;
        }
    }
    return 0;
}

// The learner's own model and weights are made from `model`.
static int measure(const struct bench_options *options, struct error *err)
{
    CLEANUP(model_destroyp) struct model *model = NULL;
    CLEANUP(trainer_destroyp) struct trainer *trainer = NULL;
    CLEANUP(workload_finish) struct workload workload = {0};
    int code = bench_model(&model, options, err);
    if (code < 0) {
        return code;
    }
    CHECK(model != NULL);
    const struct trainer_config config = {.compute = model->compute,
                                          .published = DTYPE_BF16,
                                          .threads = (int32_t)options->threads,
                                          .micro_tokens = (int32_t)options->rows,
                                          .any_order = options->deterministic == 0};
    const struct shape *s = &model->shape;
    const double length = (double)(options->prompt + options->tokens);
    struct bench_result result = {.name = "train", .tokens = (double)options->batch * length};
    result.operations = result.tokens * (6.0 * bench_parameters(model) +
                                         6.0 * (double)s->L * (double)s->H * s->D * length);
    code = trainer_create(&trainer, s, model->weights, &config, err);
    code = code < 0 ? code : workload_make(&workload, options, s->V, err);
    code = code < 0 ? code : time_steps(&result, trainer, &workload, options, err);
    return code < 0 ? code : bench_print(options, model, &result, NULL, err);
}

int bench_train(int argc, char **argv)
{
    static const struct engine_bench bench = {.what = what,
                                              .measure = measure,
                                              .trains = true,
                                              .defaults = {.batch = 16,
                                                           .prompt = 1,
                                                           .tokens = 255,
                                                           .samples = 1,
                                                           .rows = 512,
                                                           .repeats = 3,
                                                           .deterministic = 1}};
    return bench_engine_run(argc, argv, &bench);
}
