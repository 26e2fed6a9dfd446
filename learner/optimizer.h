// optimizer.h: master weights, moments, the gradient norm and AdamW, over the flat parameter
// arrays.
//
// The arrays are cut into OPTIMIZER_CHUNK pieces; pieces are the unit of threads, and sums over
// pieces run in their order, so nothing depends on how many threads there are.
#ifndef LEARNER_OPTIMIZER_H
#define LEARNER_OPTIMIZER_H

#include "common/tensor/kernels.h"
#include "learner/step.h"

enum { OPTIMIZER_CHUNK = 1 << 16 };

// struct chunks is the part [from, to) of a flat array of `elements` that a call works on.
struct chunks {
    size_t elements;
    int from, to;
    const struct kernels *kernels;
    int threads;
};

// chunks_of is how many chunks `elements` are.
int chunks_of(size_t elements);

// optimizer_reduce writes grads[0] = grads[0] + grads[1] + ... , in that order.
void optimizer_reduce(float *const *grads, int slices, const struct chunks *chunks);

// optimizer_squares writes the square sum of each chunk of `grad` into squares [chunks of all];
// optimizer_norm adds all up, in their order, and takes the root.
void optimizer_squares(double *squares, const float *grad, const struct chunks *chunks);
double optimizer_norm(const double *squares, size_t elements);

// optimizer_update applies AdamW with the gradient scaled to at most grad_norm_max
// (clip_grad_norm_: factor max / (norm + 1e-6)). state->updates counts this update already.
void optimizer_update(const struct trainer_state *state, const float *grad, double norm,
                      const struct optimizer *optimizer, const struct chunks *chunks);

#endif
