// model.h: one version's weights in the form that the kernels use.
//
// The engine is one (DESIGN section 2): actor and learner both compute with a `struct model`, so
// equal weights give equal bits. Compute types: f32 (weights widened, f32 fused multiply-adds in K
// order) and bf16 (weights and the left side of every product rounded to bf16, accumulated in f32).
#ifndef COMMON_MODEL_MODEL_H
#define COMMON_MODEL_MODEL_H

#include "common/base/error.h"
#include "common/model/params.h"
#include "common/model/shape.h"
#include "common/tensor/tensor.h"

enum compute { COMPUTE_AUTO, COMPUTE_F32, COMPUTE_BF16 };

struct model; // shape, parameter table, weights as published, packed matrices, RoPE table

// model_create makes room for a model of `shape`; the weights are undefined until model_set.
// `compute` AUTO becomes what is fastest on this host.
int model_create(struct model **out, const struct shape *shape, enum compute compute,
                 struct error *err);
void model_destroy(struct model *model);

// model_set takes `weights` [params->elements] (f32) and packs them. With `type` DTYPE_BF16 every
// weight is first rounded to bf16 (to nearest even), as it is published; DTYPE_F32 keeps it.
void model_set(struct model *model, const float *weights, enum dtype type);

// model_load reads a folder: shape, weights at the precision that the file stores, packed.
int model_load(struct model **out, const char *dir, enum compute compute, struct error *err);

const struct shape *model_shape(const struct model *model);
const struct params *model_params(const struct model *model);
enum compute model_compute(const struct model *model); // never AUTO

// model_numerics is the numerics id: build, instruction set, compute type. Equal ids compute equal
// bits.
const char *model_numerics(const struct model *model);

#endif
