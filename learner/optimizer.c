#include "learner/optimizer.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/parallel.h"

#include <math.h>
#include <stdlib.h>

struct sweep {
    const struct kernels *kernels;
    float *const *grads;
    int slices;
    const float *grad;
    double *sums; // [chunks]
    const struct trainer_state *state;
    struct adamw step;
    size_t elements;
};

static int chunks_of(size_t elements)
{
    return (int)((elements + OPTIMIZER_CHUNK - 1) / OPTIMIZER_CHUNK);
}

static int64_t chunk_size(const struct sweep *sweep, int chunk)
{
    size_t from = (size_t)chunk * OPTIMIZER_CHUNK;
    size_t left = sweep->elements - from;
    return (int64_t)(left < OPTIMIZER_CHUNK ? left : OPTIMIZER_CHUNK);
}

static void reduce_chunk(void *context, int chunk, int worker)
{
    (void)worker;
    const struct sweep *sweep = context;
    size_t from = (size_t)chunk * OPTIMIZER_CHUNK;
    for (int s = 1; s < sweep->slices; s++) {
        sweep->kernels->add(sweep->grads[0] + from, sweep->grads[s] + from,
                            chunk_size(sweep, chunk));
    }
}

void optimizer_reduce(float *const *grads, int slices, size_t elements,
                      const struct kernels *kernels, int threads)
{
    struct sweep sweep = {
        .kernels = kernels, .grads = grads, .slices = slices, .elements = elements};
    parallel_run(threads, chunks_of(elements), reduce_chunk, &sweep);
}

static void norm_chunk(void *context, int chunk, int worker)
{
    (void)worker;
    const struct sweep *sweep = context;
    sweep->sums[chunk] = sweep->kernels->square_sum(sweep->grad + (size_t)chunk * OPTIMIZER_CHUNK,
                                                    chunk_size(sweep, chunk));
}

double optimizer_norm(const float *grad, size_t elements, const struct kernels *kernels,
                      int threads)
{
    int chunks = chunks_of(elements);
    CLEANUP(freep) double *sums = calloc((size_t)chunks, sizeof(*sums));
    CHECK(sums != NULL);
    struct sweep sweep = {.kernels = kernels, .grad = grad, .sums = sums, .elements = elements};
    parallel_run(threads, chunks, norm_chunk, &sweep);
    double total = 0.0;
    for (int i = 0; i < chunks; i++) {
        total += sums[i];
    }
    return sqrt(total);
}

static void update_chunk(void *context, int chunk, int worker)
{
    (void)worker;
    const struct sweep *sweep = context;
    size_t from = (size_t)chunk * OPTIMIZER_CHUNK;
    const struct trainer_state *state = sweep->state;
    sweep->kernels->adamw(state->weights + from, state->m + from, state->v + from,
                          sweep->grad + from, &sweep->step, chunk_size(sweep, chunk));
}

void optimizer_update(const struct trainer_state *state, const float *grad, size_t elements,
                      double norm, const struct optimizer *optimizer, const struct kernels *kernels,
                      int threads)
{
    double t = (double)++*state->updates;
    double factor = (double)optimizer->grad_norm_max / (norm + 1e-6);
    struct sweep sweep = {.kernels = kernels, .grad = grad, .state = state, .elements = elements};
    sweep.step = (struct adamw){
        .lr = optimizer->lr,
        .beta1 = optimizer->beta1,
        .beta2 = optimizer->beta2,
        .epsilon = optimizer->epsilon,
        .weight_decay = optimizer->weight_decay,
        .grad_scale = (float)fmin(1.0, factor),
        .correction1 = (float)(1.0 - pow((double)optimizer->beta1, t)),
        .correction2 = (float)(1.0 - pow((double)optimizer->beta2, t)),
    };
    parallel_run(threads, chunks_of(elements), update_chunk, &sweep);
}
