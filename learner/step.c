// Sequences are packed, in their order, into micro-batches; micro-batch j belongs to slice j mod S.
// A slice has a gradient of its own and runs its micro-batches in order, whoever runs it; slices
// are summed in order. So the result depends on the sequences and S only, and S only on the model's
// size.
#include "learner/step.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/parallel.h"
#include "common/model/forward.h"
#include "learner/backward.h"
#include "learner/loss.h"
#include "learner/optimizer.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    SLICES_MAX = 8,
    SLICES_SMALL_MODEL = 16 << 20, // elements up to which a model gets all the slices
};

// struct lane is what one thread works with, for packs of up to `rows_max` rows.
struct lane {
    int64_t rows_max;
    struct forward *forward;
    struct backward *backward;
    struct loss *loss;
    float *dfinal;
    float *reference; // [rows_max] log-probabilities under the reference model
    int32_t *ids, *position;
    int32_t *start;
};

struct trainer {
    struct model *model;
    struct model *reference; // or NULL
    struct trainer_config config;
    float *weights, *m, *v;
    int64_t updates;
    int slices;
    float *grads[SLICES_MAX];
    struct lane lanes[PARALLEL_THREADS_MAX];
};

static void lane_finish(struct lane *lane)
{
    forward_destroy(lane->forward);
    backward_destroy(lane->backward);
    loss_destroy(lane->loss);
    free(lane->dfinal);
    free(lane->reference);
    free(lane->ids);
    free(lane->position);
    free(lane->start);
    *lane = (struct lane){0};
}

static int lane_init(struct lane *lane, const struct model *model, int64_t rows_max,
                     struct error *err)
{
    CHECK(rows_max > 0);
    size_t rows = (size_t)rows_max;
    lane->dfinal = malloc(rows * (size_t)model->shape.C * sizeof(float));
    lane->reference = malloc(rows * sizeof(float));
    lane->ids = malloc(rows * sizeof(*lane->ids));
    lane->position = malloc(rows * sizeof(*lane->position));
    lane->start = malloc((rows + 1) * sizeof(*lane->start));
    if (lane->dfinal == NULL || lane->reference == NULL || lane->ids == NULL ||
        lane->position == NULL || lane->start == NULL) {
        return error_set(err, -ENOMEM, "trainer: no memory for %zu rows", rows);
    }
    int code = forward_create(&lane->forward, model, rows_max, err);
    if (code == 0) {
        code = backward_create(&lane->backward, model, rows_max, err);
    }
    if (code == 0) {
        code = loss_create(&lane->loss, model, rows_max, err);
    }
    lane->rows_max = rows_max;
    return code;
}

// lanes_grow makes every lane hold packs of `rows_max` rows.
static int lanes_grow(struct trainer *trainer, int64_t rows_max, struct error *err)
{
    for (int i = 0; i < trainer->config.threads; i++) {
        struct lane *lane = &trainer->lanes[i];
        if (lane->rows_max >= rows_max) {
            continue;
        }
        lane_finish(lane);
        int code = lane_init(lane, trainer->model, rows_max, err);
        if (code < 0) {
            lane_finish(lane); // so that the next step tries again
            return code;
        }
    }
    return 0;
}

static float *elements_alloc(const struct trainer *trainer)
{
    size_t size = trainer->model->params.elements * sizeof(float);
    float *data = aligned_alloc(64, size); // elements are a multiple of 16
    if (data != NULL) {
        memset(data, 0, size);
    }
    return data;
}

static int arrays_init(struct trainer *trainer, struct error *err)
{
    bool small = trainer->model->params.elements <= SLICES_SMALL_MODEL;
    trainer->slices = small ? SLICES_MAX : SLICES_MAX / 2;
    trainer->weights = elements_alloc(trainer);
    trainer->m = elements_alloc(trainer);
    trainer->v = elements_alloc(trainer);
    bool failed = trainer->weights == NULL || trainer->m == NULL || trainer->v == NULL;
    for (int s = 0; s < trainer->slices; s++) {
        trainer->grads[s] = elements_alloc(trainer);
        failed = failed || trainer->grads[s] == NULL;
    }
    return failed ? error_set(err, -ENOMEM, "trainer: no memory for %zu parameters",
                              trainer->model->params.elements)
                  : 0;
}

// The reference model computes as the policy does, so equal weights give a KL of exactly 0.
static int reference_init(struct trainer *trainer, const struct trainer_config *config,
                          struct error *err)
{
    if (config->reference == NULL) {
        return 0;
    }
    int code = model_create(&trainer->reference, &trainer->model->shape, config->compute, err);
    if (code == 0) {
        model_set(trainer->reference, config->reference, config->published);
    }
    trainer->config.reference = NULL;
    return code;
}

int trainer_create(struct trainer **out, const struct shape *shape, const float *weights,
                   const struct trainer_config *config, struct error *err)
{
    CLEANUP(trainer_destroyp) struct trainer *trainer = calloc(1, sizeof(*trainer));
    if (trainer == NULL) {
        return error_set(err, -ENOMEM, "trainer: out of memory");
    }
    trainer->config = *config;
    if (config->threads <= 0) {
        trainer->config.threads = parallel_cores();
    }
    CHECK(trainer->config.threads <= PARALLEL_THREADS_MAX && config->micro_tokens > 0);
    int code = model_create(&trainer->model, shape, config->compute, err);
    if (code == 0) {
        code = arrays_init(trainer, err);
    }
    if (code == 0) {
        code = reference_init(trainer, config, err);
    }
    if (code == 0) {
        code = lanes_grow(trainer, config->micro_tokens, err);
    }
    if (code < 0) {
        return code;
    }
    memcpy(trainer->weights, weights, trainer->model->params.elements * sizeof(*weights));
    trainer_refresh(trainer);
    *out = TAKE(trainer);
    return 0;
}

void trainer_destroy(struct trainer *trainer)
{
    if (trainer != NULL) {
        for (int i = 0; i < PARALLEL_THREADS_MAX; i++) {
            lane_finish(&trainer->lanes[i]);
        }
        for (int s = 0; s < trainer->slices; s++) {
            free(trainer->grads[s]);
        }
        free(trainer->weights);
        free(trainer->m);
        free(trainer->v);
        model_destroy(trainer->model);
        model_destroy(trainer->reference);
        free(trainer);
    }
}

// struct micro is one micro-batch: sequences [from, to).
struct micro {
    int32_t from, to;
};

struct step_run {
    struct trainer *trainer;
    const struct sequence *const *sequences;
    const struct objective *objective;
    float *const *logprobs;
    const struct micro *micros;
    int micro_count;
    struct loss_sums sums[SLICES_MAX];
};

static void run_micro(struct step_run *run, const struct micro *micro, struct lane *lane, int slice)
{
    const struct model *model = run->trainer->model;
    float *grads = run->trainer->grads[slice];
    int32_t T = 0;
    for (int32_t k = micro->from; k < micro->to; k++) {
        const struct sequence *sequence = run->sequences[k];
        lane->start[k - micro->from] = T;
        memcpy(lane->ids + T, sequence->ids, (size_t)sequence->count * sizeof(*lane->ids));
        for (int32_t i = 0; i < sequence->count; i++) {
            lane->position[T + i] = i;
        }
        T += sequence->count;
    }
    lane->start[micro->to - micro->from] = T;
    const struct pack pack = {.T = T,
                              .count = micro->to - micro->from,
                              .start = lane->start,
                              .ids = lane->ids,
                              .position = lane->position};
    struct loss_pass pass = {
        .forward = lane->forward,
        .model = model,
        .pack = &pack,
        .sequences = run->sequences + micro->from,
        .objective = run->objective,
        .dfinal = lane->dfinal,
        .grads = grads,
        .logprobs = run->logprobs == NULL ? NULL : run->logprobs + micro->from,
        .sums = &run->sums[slice],
    };
    if (run->objective->kl_coef > 0.0f) {
        struct loss_pass score = pass;
        score.model = run->trainer->reference;
        score.logprobs = NULL;
        forward_run(lane->forward, score.model, &pack);
        loss_score(lane->loss, &score, lane->reference);
        pass.reference = lane->reference;
    }
    forward_run(lane->forward, model, &pack);
    loss_run(lane->loss, &pass);
    backward_run(lane->backward, lane->forward, model, &pack, grads, lane->dfinal);
}

static void run_slice(void *context, int slice, int worker)
{
    struct step_run *run = context;
    memset(run->trainer->grads[slice], 0, run->trainer->model->params.elements * sizeof(float));
    for (int j = slice; j < run->micro_count; j += run->trainer->slices) {
        run_micro(run, &run->micros[j], &run->trainer->lanes[worker], slice);
    }
}

// plan_micros packs the sequences in order under the token budget; a longer one runs alone.
static int plan_micros(struct micro *micros, const struct sequence *const *sequences, int32_t count,
                       int64_t budget, int64_t *rows_max)
{
    int micro_count = 0;
    int64_t rows = 0;
    for (int32_t k = 0; k < count; k++) {
        CHECK(sequences[k]->count >= 1);
        if (micro_count == 0 || rows + sequences[k]->count > budget) {
            micros[micro_count++] = (struct micro){.from = k, .to = k};
            rows = 0;
        }
        micros[micro_count - 1].to = k + 1;
        rows += sequences[k]->count;
        *rows_max = rows > *rows_max ? rows : *rows_max;
    }
    return micro_count;
}

static void report_fill(struct step_report *report, const struct step_run *run,
                        const struct sequence *sequences, int32_t count)
{
    struct loss_sums sums = {0};
    for (int s = 0; s < run->trainer->slices; s++) {
        loss_sums_add(&sums, &run->sums[s]);
    }
    *report = (struct step_report){.loss = sums.loss,
                                   .tokens_trained = sums.trained,
                                   .ratio_max = sums.ratio_max,
                                   .mismatch_max = sums.mismatch_max};
    for (int32_t k = 0; k < count; k++) {
        report->tokens += sequences[k].count;
    }
    if (sums.trained > 0) {
        report->entropy = sums.entropy / (double)sums.trained;
    }
    if (sums.compared > 0) {
        report->kl = sums.kl / (double)sums.compared;
        report->ratio_mean = sums.ratio / (double)sums.compared;
        report->clipped = (double)sums.clipped / (double)sums.compared;
    }
}

static int check_sequences(const struct trainer *trainer, const struct sequence *sequences,
                           int32_t count, struct error *err)
{
    const struct shape *s = &trainer->model->shape;
    for (int32_t k = 0; k < count; k++) {
        if (sequences[k].count < 1 || sequences[k].count > s->T) {
            return error_set(err, -EINVAL, "sequence %d has %d tokens; the model takes 1 to %d", k,
                             sequences[k].count, s->T);
        }
        for (int32_t i = 0; i < sequences[k].count; i++) {
            if (sequences[k].ids[i] < 0 || sequences[k].ids[i] >= s->V) {
                return error_set(err, -EINVAL, "sequence %d: id %d is outside the vocabulary", k,
                                 sequences[k].ids[i]);
            }
        }
    }
    return count > 0 ? 0 : error_set(err, -EINVAL, "there is no sequence to train on");
}

int trainer_step(struct trainer *trainer, const struct sequence *sequences, int32_t count,
                 const struct objective *objective, const struct optimizer *optimizer,
                 float *const *logprobs, struct step_report *report, struct error *err)
{
    int code = check_sequences(trainer, sequences, count, err);
    if (code == 0 && objective->kl_coef > 0.0f && trainer->reference == NULL) {
        code = error_set(err, -EINVAL, "kl_coef needs a reference model");
    }
    if (code < 0) {
        return code;
    }
    CLEANUP(freep) struct micro *micros = calloc((size_t)count, sizeof(*micros));
    CLEANUP(freep)
    const struct sequence **list = calloc((size_t)count, sizeof(const struct sequence *));
    CHECK(micros != NULL && list != NULL);
    for (int32_t k = 0; k < count; k++) {
        list[k] = &sequences[k];
    }
    struct step_run run = {.trainer = trainer,
                           .sequences = list,
                           .objective = objective,
                           .logprobs = logprobs,
                           .micros = micros};
    int64_t rows_max = 0;
    run.micro_count = plan_micros(micros, list, count, trainer->config.micro_tokens, &rows_max);
    code = lanes_grow(trainer, rows_max, err);
    if (code < 0) {
        return code;
    }
    const int threads = trainer->config.threads;
    const size_t elements = trainer->model->params.elements;
    const struct kernels *kernels = trainer->model->kernels;
    parallel_run(threads, trainer->slices, run_slice, &run);
    optimizer_reduce(trainer->grads, trainer->slices, elements, kernels, threads);
    report_fill(report, &run, sequences, count);
    report->grad_norm = optimizer_norm(trainer->grads[0], elements, kernels, threads);
    report->skipped = !isfinite(report->grad_norm);
    if (!report->skipped) {
        struct trainer_state state = trainer_state(trainer);
        optimizer_update(&state, trainer->grads[0], elements, report->grad_norm, optimizer, kernels,
                         threads);
        trainer_refresh(trainer);
    }
    return 0;
}

const float *trainer_gradients(const struct trainer *trainer)
{
    return trainer->grads[0];
}

struct trainer_state trainer_state(struct trainer *trainer)
{
    return (struct trainer_state){.weights = trainer->weights,
                                  .m = trainer->m,
                                  .v = trainer->v,
                                  .updates = &trainer->updates};
}

void trainer_refresh(struct trainer *trainer)
{
    model_set(trainer->model, trainer->weights, trainer->config.published);
}

const struct model *trainer_model(const struct trainer *trainer)
{
    return trainer->model;
}
