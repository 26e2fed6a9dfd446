// Sequences are packed, in their order, into micro-batches; micro-batch j belongs to slice j mod S.
// A slice has a gradient of its own and runs its micro-batches in order, whoever runs it; slices
// are summed in order. So the result depends on the sequences and S only, and S only on the model's
// size. With several ranks each runs some of the slices, sums and updates some of the chunks of the
// flat arrays, and all read the results (collective.h); one rank is the same without the exchange.
#include "learner/step.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/parallel.h"
#include "common/tensor/memory.h"
#include "learner/collective.h"
#include "learner/micro.h"
#include "learner/optimizer.h"
#include "learner/ranks.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    SLICES_MAX = 8,
    SLICES_SMALL_MODEL = 16 << 20, // elements up to which a model gets all the slices
};

struct trainer {
    struct model *model;
    struct model *reference; // or NULL
    struct trainer_config config;
    struct collective *collective; // or NULL
    float *weights, *m, *v;
    double *squares; // [chunks] of the gradient
    int64_t updates;
    int slices;
    float *grads[SLICES_MAX];
    bool *written;          // [slices, params.count] of gradients
    float *grad;            // the one that holds the sum of all
    struct loss_sums *sums; // [slices]
    bool ready;             // trainer_create is through
    bool changed;           // weights or updates were written to: the other ranks do not know
    struct lane lanes[PARALLEL_THREADS_MAX];
};

// lanes_grow makes every lane hold packs of `rows_max` rows.
static int lanes_grow(struct trainer *trainer, int64_t rows_max, struct error *err)
{
    int code = 0;
    for (int i = 0; code == 0 && i < trainer->config.threads; i++) {
        code = lane_grow(&trainer->lanes[i], trainer->model, rows_max, err);
    }
    return code;
}

// Arrays that ranks exchange come from the collective.
static void *array_alloc(const struct trainer *trainer, size_t size)
{
    size = (size + 63) & ~(size_t)63;
    if (trainer->collective != NULL) {
        return trainer->collective->ops->alloc(trainer->collective, size);
    }
    return floats_alloc(size / sizeof(float));
}

static void array_free(const struct trainer *trainer, void *data, size_t size)
{
    if (trainer->collective != NULL) {
        trainer->collective->ops->release(trainer->collective, data, (size + 63) & ~(size_t)63);
    } else {
        floats_free(data);
    }
}

static int slice_count(const struct trainer *trainer)
{
    int ranks = trainer->collective == NULL ? 1 : trainer->collective->ranks;
    bool small = trainer->model->params.elements <= SLICES_SMALL_MODEL;
    int slices = small ? SLICES_MAX : SLICES_MAX / 2;
    if (trainer->config.any_order && trainer->config.threads * ranks < slices) {
        slices = trainer->config.threads * ranks;
    }
    return slices;
}

static int arrays_init(struct trainer *trainer, struct error *err)
{
    size_t size = trainer->model->params.elements * sizeof(float);
    size_t chunks = (size_t)chunks_of(trainer->model->params.elements);
    trainer->slices = slice_count(trainer);
    trainer->weights = array_alloc(trainer, size);
    trainer->m = array_alloc(trainer, size);
    trainer->v = array_alloc(trainer, size);
    trainer->squares = array_alloc(trainer, chunks * sizeof(double));
    trainer->sums = array_alloc(trainer, SLICES_MAX * sizeof(*trainer->sums));
    trainer->written =
        calloc((size_t)trainer->slices * (size_t)trainer->model->params.count, sizeof(bool));
    bool failed = trainer->weights == NULL || trainer->m == NULL || trainer->v == NULL ||
                  trainer->squares == NULL || trainer->sums == NULL || trainer->written == NULL;
    for (int s = 0; s < trainer->slices; s++) {
        trainer->grads[s] = array_alloc(trainer, size);
        failed = failed || trainer->grads[s] == NULL;
    }
    trainer->grad = trainer->grads[0];
    return failed ? error_set(err, -ENOMEM, "trainer: no memory for %zu parameters",
                              trainer->model->params.elements)
                  : 0;
}

static void arrays_finish(struct trainer *trainer)
{
    if (trainer->model == NULL) {
        return;
    }
    size_t size = trainer->model->params.elements * sizeof(float);
    for (int s = 0; s < trainer->slices; s++) {
        array_free(trainer, trainer->grads[s], size);
    }
    free(trainer->written);
    array_free(trainer, trainer->weights, size);
    array_free(trainer, trainer->m, size);
    array_free(trainer, trainer->v, size);
    array_free(trainer, trainer->squares,
               (size_t)chunks_of(trainer->model->params.elements) * sizeof(double));
    array_free(trainer, trainer->sums, SLICES_MAX * sizeof(*trainer->sums));
}

static size_t array_size(const struct trainer *trainer)
{
    return trainer->model->params.elements * sizeof(float);
}

// The first weights, from rank 0 to all.
static int weights_init(struct trainer *trainer, const float *weights, struct error *err)
{
    struct collective *collective = trainer->collective;
    if (collective == NULL || collective->rank == 0) {
        memcpy(trainer->weights, weights, trainer->model->params.elements * sizeof(*weights));
    }
    int code = 0;
    if (collective != NULL) {
        struct collective_call call = {0};
        code = collective->rank == 0 ? collective->ops->tell(collective, RANKS_REFRESH, err)
                                     : collective->ops->hear(collective, &call, err);
        code = code < 0 ? code
                        : collective->ops->spread(collective, trainer->weights, array_size(trainer),
                                                  err);
    }
    if (code == 0) {
        model_set(trainer->model, trainer->weights, trainer->config.published);
    }
    return code;
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
    trainer->collective = config->collective;
    if (config->threads <= 0) {
        int ranks = config->collective == NULL ? 1 : config->collective->ranks;
        int cores = parallel_cores() / ranks;
        trainer->config.threads = cores > 0 ? cores : 1;
    }
    CHECK(trainer->config.threads <= PARALLEL_THREADS_MAX && config->micro_tokens > 0);
    int code = model_create_training(&trainer->model, shape, config->compute, err);
    if (code == 0) {
        code = arrays_init(trainer, err);
    }
    if (code == 0) {
        code = reference_init(trainer, config, err);
    }
    if (code == 0) {
        code = lanes_grow(trainer, config->micro_tokens, err);
    }
    if (code == 0) {
        code = weights_init(trainer, weights, err);
    }
    if (code < 0) {
        return code;
    }
    trainer->ready = true;
    *out = TAKE(trainer);
    return 0;
}

void trainer_destroy(struct trainer *trainer)
{
    if (trainer != NULL) {
        struct collective *collective = trainer->collective;
        if (collective != NULL && collective->rank == 0 && trainer->ready) {
            (void)collective->ops->tell(collective, RANKS_QUIT, NULL); // those that are left
        }
        for (int i = 0; i < PARALLEL_THREADS_MAX; i++) {
            lane_finish(&trainer->lanes[i]);
        }
        arrays_finish(trainer);
        model_destroy(trainer->model);
        model_destroy(trainer->reference);
        free(trainer);
    }
}

struct step_run {
    struct trainer *trainer;
    const struct sequence *const *sequences;
    const struct objective *objective;
    float *const *logprobs;
    const struct micro *micros;
    int micro_count;
    int first_slice; // of this rank
};

static void run_slice(void *context, int index, int worker)
{
    const struct step_run *run = context;
    struct trainer *trainer = run->trainer;
    const int slice = run->first_slice + index;
    const struct params *params = &trainer->model->params;
    const struct gradients grads = {.params = params,
                                    .sums = trainer->grads[slice],
                                    .written =
                                        trainer->written + (size_t)slice * (size_t)params->count};
    const struct micro_pass pass = {.model = trainer->model,
                                    .reference = trainer->reference,
                                    .sequences = run->sequences,
                                    .objective = run->objective,
                                    .logprobs = run->logprobs,
                                    .grads = &grads,
                                    .sums = &trainer->sums[slice]};
    *pass.sums = (struct loss_sums){0};
    gradients_begin(&grads);
    for (int j = slice; j < run->micro_count; j += trainer->slices) {
        lane_run(&trainer->lanes[worker], &pass, &run->micros[j]);
    }
    gradients_end(&grads);
}

static void report_fill(struct step_report *report, const struct trainer *trainer,
                        const struct sequence *sequences, int32_t count)
{
    struct loss_sums sums = {0};
    for (int s = 0; s < trainer->slices; s++) {
        loss_sums_add(&sums, &trainer->sums[s]);
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

// Runs the slices of this rank.
static int run_slices(struct trainer *trainer, const struct ranks_step *step, struct error *err)
{
    size_t count = (size_t)step->count;
    CLEANUP(freep) struct micro *micros = calloc(count, sizeof(*micros));
    CLEANUP(freep)
    const struct sequence **list = calloc(count, sizeof(const struct sequence *));
    if (micros == NULL || list == NULL) {
        return error_set(err, -ENOMEM, "trainer: no memory for %zu sequences", count);
    }
    for (size_t k = 0; k < count; k++) {
        list[k] = &step->sequences[k];
    }
    struct step_run run = {.trainer = trainer,
                           .sequences = list,
                           .objective = &step->objective,
                           .logprobs = step->logprobs,
                           .micros = micros,
                           .first_slice = collective_from(trainer->collective, trainer->slices)};
    int64_t rows_max = 0;
    run.micro_count =
        micros_plan(micros, list, step->count, trainer->config.micro_tokens, &rows_max);
    int code = lanes_grow(trainer, rows_max, err);
    int own = collective_to(trainer->collective, trainer->slices) - run.first_slice;
    if (code == 0 && own > 0) {
        parallel_run(trainer->config.threads, own, run_slice, &run);
    }
    return code;
}

static int gather(const struct trainer *trainer, void *data, size_t size, size_t item,
                  int32_t items, struct error *err)
{
    struct collective *collective = trainer->collective;
    return collective == NULL ? 0
                              : collective->ops->gather(collective, data, size, item, items, err);
}

// Sums the slices: each rank its chunks.
static int sum_slices(struct trainer *trainer, const struct chunks *own, struct error *err)
{
    struct collective *collective = trainer->collective;
    const size_t size = array_size(trainer);
    const size_t chunk = OPTIMIZER_CHUNK * sizeof(float);
    const int32_t chunks = chunks_of(own->elements);
    trainer->grad = trainer->grads[0];
    if (collective == NULL || collective->ops->reduce == NULL || !trainer->config.any_order) {
        void *slices[SLICES_MAX];
        for (int s = 0; s < trainer->slices; s++) {
            slices[s] = trainer->grads[s];
        }
        int code = collective == NULL
                       ? 0
                       : collective->ops->scatter(collective, slices, trainer->slices, size, chunk,
                                                  chunks, err);
        if (code == 0) {
            optimizer_reduce(trainer->grads, trainer->slices, own);
        }
        return code;
    }
    struct chunks all = *own;
    all.from = 0;
    all.to = chunks;
    int first = collective_from(collective, trainer->slices);
    int last = collective_to(collective, trainer->slices);
    if (first < last) {
        trainer->grad = trainer->grads[first];
        optimizer_reduce(trainer->grads + first, last - first, &all);
    } else { // more ranks than slices
        memset(trainer->grad, 0, size);
    }
    return collective->ops->reduce(collective, trainer->grad, size, chunk, chunks, err);
}

// Sums the slices, clips, updates the weights: each rank its chunks, and all read all.
static int update(struct trainer *trainer, const struct ranks_step *step,
                  struct step_report *report, struct error *err)
{
    const size_t elements = trainer->model->params.elements;
    const int count = chunks_of(elements);
    const struct chunks own = {.elements = elements,
                               .from = collective_from(trainer->collective, count),
                               .to = collective_to(trainer->collective, count),
                               .kernels = trainer->model->kernels,
                               .threads = trainer->config.threads};
    int code = gather(trainer, trainer->sums, (size_t)trainer->slices * sizeof(*trainer->sums),
                      sizeof(*trainer->sums), trainer->slices, err);
    code = code < 0 ? code : sum_slices(trainer, &own, err);
    if (code < 0) {
        return code;
    }
    optimizer_squares(trainer->squares, trainer->grad, &own);
    code = gather(trainer, trainer->squares, (size_t)count * sizeof(double), sizeof(double), count,
                  err);
    report_fill(report, trainer, step->sequences, step->count);
    report->grad_norm = optimizer_norm(trainer->squares, elements);
    report->skipped = !isfinite(report->grad_norm);
    report->updates = trainer->updates + !report->skipped;
    if (code < 0 || report->skipped) {
        return code;
    }
    trainer->updates++;
    const struct trainer_state state = trainer_state(trainer);
    optimizer_update(&state, trainer->grad, report->grad_norm, &step->optimizer, &own);
    code = gather(trainer, trainer->weights, elements * sizeof(float),
                  OPTIMIZER_CHUNK * sizeof(float), count, err);
    if (code == 0) {
        model_set(trainer->model, trainer->weights, trainer->config.published);
    }
    return code;
}

static int run_step(struct trainer *trainer, const struct ranks_step *step,
                    struct step_report *report, struct error *err)
{
    int code = run_slices(trainer, step, err);
    return code < 0 ? code : update(trainer, step, report, err);
}

static int spread_state(struct trainer *trainer, struct error *err)
{
    struct collective *collective = trainer->collective;
    float *const arrays[] = {trainer->weights, trainer->m, trainer->v};
    int code = 0;
    for (int i = 0; code == 0 && i < 3; i++) {
        code = collective->ops->spread(collective, arrays[i], array_size(trainer), err);
    }
    return code;
}

static int gather_moments(const struct trainer *trainer, struct error *err)
{
    const size_t chunk = OPTIMIZER_CHUNK * sizeof(float);
    const int32_t chunks = chunks_of(trainer->model->params.elements);
    int code = gather(trainer, trainer->m, array_size(trainer), chunk, chunks, err);
    return code < 0 ? code : gather(trainer, trainer->v, array_size(trainer), chunk, chunks, err);
}

static int tell_refresh(struct trainer *trainer, struct error *err)
{
    struct collective *collective = trainer->collective;
    int64_t *updates = collective->ops->block(collective, sizeof(*updates));
    if (updates == NULL) {
        return error_set(err, -ENOMEM, "trainer: no shared memory");
    }
    *updates = trainer->updates;
    int code = collective->ops->tell(collective, RANKS_REFRESH, err);
    code = code < 0 ? code : spread_state(trainer, err);
    trainer->changed = code < 0;
    return code < 0 ? code : collective->ops->end(collective, err);
}

// The step of rank 0 where there are others.
static int lead_step(struct trainer *trainer, struct ranks_step *step, float *const *logprobs,
                     struct step_report *report, struct error *err)
{
    struct collective *collective = trainer->collective;
    int code = trainer->changed ? tell_refresh(trainer, err) : 0;
    struct ranks_step packed = {0};
    if (code == 0) {
        code = ranks_pack(&packed, collective, step->sequences, step->count, &step->objective,
                          &step->optimizer, logprobs != NULL, err);
    }
    code = code < 0 ? code : collective->ops->tell(collective, RANKS_STEP, err);
    code = code < 0 ? code : run_step(trainer, &packed, report, err);
    code = code < 0 ? code : collective->ops->end(collective, err);
    for (int32_t k = 0; code == 0 && logprobs != NULL && packed.logprobs != NULL && k < step->count;
         k++) {
        memcpy(logprobs[k], packed.logprobs[k], (size_t)step->sequences[k].count * sizeof(float));
    }
    if (code < 0 && err != NULL) {
        collective->ops->give_up(collective, err->text);
    }
    ranks_step_finish(&packed);
    return code;
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
    struct ranks_step step = {.objective = *objective,
                              .optimizer = *optimizer,
                              .count = count,
                              .sequences = sequences,
                              .logprobs = logprobs};
    return trainer->collective == NULL ? run_step(trainer, &step, report, err)
                                       : lead_step(trainer, &step, logprobs, report, err);
}

// What rank 0 asks for, once. *quit: that was all.
static int serve_call(struct trainer *trainer, bool *quit, struct error *err)
{
    struct collective *collective = trainer->collective;
    struct collective_call call = {0};
    struct ranks_step step = {0};
    struct step_report report = {0};
    int code = collective->ops->hear(collective, &call, err);
    if (code < 0) {
        return code;
    }
    switch ((enum ranks_call)call.kind) {
    case RANKS_QUIT:
        *quit = true;
        return 0;
    case RANKS_REFRESH:
        CHECK(call.size == sizeof(int64_t));
        memcpy(&trainer->updates, call.block, sizeof(int64_t));
        code = spread_state(trainer, err);
        model_set(trainer->model, trainer->weights, trainer->config.published);
        break;
    case RANKS_COLLECT:
        code = gather_moments(trainer, err);
        break;
    case RANKS_STEP:
        code = ranks_unpack(&step, &call, err);
        code = code < 0 ? code : run_step(trainer, &step, &report, err);
        ranks_step_finish(&step);
        break;
    }
    return code < 0 ? code : collective->ops->end(collective, err);
}

int trainer_serve(struct trainer *trainer, struct error *err)
{
    CHECK(trainer->collective != NULL && trainer->collective->rank > 0);
    bool quit = false;
    struct error reason = {0};
    int code = 0;
    while (code == 0 && !quit) {
        code = serve_call(trainer, &quit, &reason);
    }
    if (code < 0) {
        trainer->collective->ops->give_up(trainer->collective, reason.text);
        return error_set(err, code, "%s", reason.text);
    }
    return 0;
}

const float *trainer_gradients(const struct trainer *trainer)
{
    return trainer->grad;
}

struct trainer_state trainer_state(struct trainer *trainer)
{
    return (struct trainer_state){.weights = trainer->weights,
                                  .m = trainer->m,
                                  .v = trainer->v,
                                  .updates = &trainer->updates};
}

int trainer_collect(struct trainer *trainer, struct error *err)
{
    struct collective *collective = trainer->collective;
    if (collective == NULL || trainer->changed) { // changed: rank 0 alone knows the newest
        return 0;
    }
    int code = collective->ops->tell(collective, RANKS_COLLECT, err);
    code = code < 0 ? code : gather_moments(trainer, err);
    return code < 0 ? code : collective->ops->end(collective, err);
}

void trainer_refresh(struct trainer *trainer)
{
    trainer->changed = true;
    model_set(trainer->model, trainer->weights, trainer->config.published);
}

const struct model *trainer_model(const struct trainer *trainer)
{
    return trainer->model;
}
