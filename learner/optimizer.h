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

// optimizer_reduce writes grads[0] = grads[0] + grads[1] + ... , in that order, over `elements`.
void optimizer_reduce(float *const *grads, int slices, size_t elements,
                      const struct kernels *kernels, int threads);

// optimizer_norm is the Euclidean norm of `grad`.
double optimizer_norm(const float *grad, size_t elements, const struct kernels *kernels,
                      int threads);

// optimizer_update applies AdamW with the gradient scaled to at most grad_norm_max
// (clip_grad_norm_: factor max / (norm + 1e-6)); `updates` counts from 0 before the first.
void optimizer_update(const struct trainer_state *state, const float *grad, size_t elements,
                      double norm, const struct optimizer *optimizer, const struct kernels *kernels,
                      int threads);

#endif
