#include "learner/optimizer.h"

#include "common/base/parallel.h"

#include <math.h>

struct sweep {
    const struct chunks *chunks;
    float *const *grads;
    int slices;
    const float *grad;
    double *squares; // [chunks of all]
    const struct trainer_state *state;
    struct adamw step;
};

int chunks_of(size_t elements)
{
    return (int)((elements + OPTIMIZER_CHUNK - 1) / OPTIMIZER_CHUNK);
}

// struct piece is one chunk: where it begins and how long it is.
struct piece {
    size_t from;
    int64_t size;
};

static struct piece piece_of(const struct sweep *sweep, int index)
{
    size_t from = (size_t)(sweep->chunks->from + index) * OPTIMIZER_CHUNK;
    size_t left = sweep->chunks->elements - from;
    return (struct piece){.from = from,
                          .size = (int64_t)(left < OPTIMIZER_CHUNK ? left : OPTIMIZER_CHUNK)};
}

static void run(struct sweep *sweep, parallel_fn *fn)
{
    const struct chunks *chunks = sweep->chunks;
    if (chunks->to > chunks->from) {
        parallel_run(chunks->threads, chunks->to - chunks->from, fn, sweep);
    }
}

static void reduce_chunk(void *context, int index, int worker)
{
    (void)worker;
    const struct sweep *sweep = context;
    struct piece piece = piece_of(sweep, index);
    for (int s = 1; s < sweep->slices; s++) {
        sweep->chunks->kernels->add(sweep->grads[0] + piece.from, sweep->grads[s] + piece.from,
                                    piece.size);
    }
}

void optimizer_reduce(float *const *grads, int slices, const struct chunks *chunks)
{
    struct sweep sweep = {.chunks = chunks, .grads = grads, .slices = slices};
    run(&sweep, reduce_chunk);
}

static void square_chunk(void *context, int index, int worker)
{
    (void)worker;
    const struct sweep *sweep = context;
    struct piece piece = piece_of(sweep, index);
    sweep->squares[sweep->chunks->from + index] =
        sweep->chunks->kernels->square_sum(sweep->grad + piece.from, piece.size);
}

void optimizer_squares(double *squares, const float *grad, const struct chunks *chunks)
{
    struct sweep sweep = {.chunks = chunks, .grad = grad, .squares = squares};
    run(&sweep, square_chunk);
}

double optimizer_norm(const double *squares, size_t elements)
{
    double total = 0.0;
    for (int i = 0; i < chunks_of(elements); i++) {
        total += squares[i];
    }
    return sqrt(total);
}

static void update_chunk(void *context, int index, int worker)
{
    (void)worker;
    const struct sweep *sweep = context;
    struct piece piece = piece_of(sweep, index);
    const struct trainer_state *state = sweep->state;
    sweep->chunks->kernels->adamw(state->weights + piece.from, state->m + piece.from,
                                  state->v + piece.from, sweep->grad + piece.from, &sweep->step,
                                  piece.size);
}

void optimizer_update(const struct trainer_state *state, const float *grad, double norm,
                      const struct optimizer *optimizer, const struct chunks *chunks)
{
    double t = (double)*state->updates;
    double factor = (double)optimizer->grad_norm_max / (norm + 1e-6);
    struct sweep sweep = {.chunks = chunks, .grad = grad, .state = state};
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
    run(&sweep, update_chunk);
}
