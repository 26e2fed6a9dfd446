// model.h: one version's weights in the form that the kernels use.
//
// The engine is one (DESIGN section 2): actor and learner both compute with a `struct model`, so
// equal weights give equal bits. Compute types (kernels.h): f32, and bf16, where both sides of
// every product are rounded to bf16 and added in f32. Either has the same bits on every host.
#ifndef COMMON_MODEL_MODEL_H
#define COMMON_MODEL_MODEL_H

#include "common/base/error.h"
#include "common/model/params.h"
#include "common/model/shape.h"
#include "common/tensor/kernels.h"
#include "common/tensor/tensor.h"

// struct matrix is one weight matrix W [N, K]: as it is, and packed as the right side of x·Wᵀ.
struct matrix {
    const float *rows;     // [N, K], row-major
    struct operand packed; // of Wᵀ
    struct operand back;   // of W: the right side of dy·W; only in a model for training
    int64_t N, K;
};

// struct layer is one decoder layer; absent parts are NULL or have N = 0.
struct layer {
    const float *norm1, *norm1_bias;
    struct matrix qkv; // [(H+2KV)*D, C]: q, k, v one after another
    const float *qkv_bias;
    const float *q_norm, *k_norm;
    struct matrix out; // [C, H*D]
    const float *out_bias;
    const float *norm2, *norm2_bias;
    struct matrix up; // gated: [2F, C], gate then up; else [F, C]
    const float *up_bias;
    struct matrix down; // [C, F]
    const float *down_bias;
};

struct model {
    struct shape shape;
    struct params params;
    enum compute compute; // never AUTO
    const struct kernels *kernels;
    float *weights; // [params.elements], as published, widened
    bool trains;
    float *packed; // storage of every operand
    size_t packed_floats;
    float *rope; // [T, D]: D/2 cosines, then D/2 sines, of each position; NULL without RoPE
    struct layer *layers; // [L]
    const float *embed, *positions, *final_norm, *final_norm_bias;
    struct matrix head;   // [V, C]; the embedding when tied
    const char *numerics; // numerics id: build, device, compute type. Equal ids compute equal bits
};

// model_create makes room for a model of `shape`; the weights are undefined until model_set.
// `compute` AUTO becomes what is fastest on this host. model_create_training's can also be run
// backwards.
int model_create(struct model **out, const struct shape *shape, enum compute compute,
                 struct error *err);
int model_create_training(struct model **out, const struct shape *shape, enum compute compute,
                          struct error *err);
void model_destroy(struct model *model);

// numerics_compute is the compute type that a numerics id names; AUTO when the id is another
// build's.
enum compute numerics_compute(const char *numerics);

// model_set takes `weights` [params.elements] (f32) and packs them. With `type` DTYPE_BF16 every
// weight is first rounded to bf16 (to nearest even), as it is published; DTYPE_F32 keeps it.
void model_set(struct model *model, const float *weights, enum dtype type);

// model_load reads a folder: shape, weights at the precision that the file stores, packed.
int model_load(struct model **out, const char *dir, enum compute compute, struct error *err);

static inline void model_destroyp(struct model **model)
{
    model_destroy(*model);
}

#endif
