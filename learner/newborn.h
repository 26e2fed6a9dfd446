// newborn.h: a new model: its shape from the options `pretrain.*`, random weights, and its folder
// with the compact tokenizer.
#ifndef LEARNER_NEWBORN_H
#define LEARNER_NEWBORN_H

#include "common/base/error.h"
#include "common/base/run_config.h"
#include "common/model/params.h"
#include "common/model/shape.h"
#include "common/tensor/tensor.h"

// newborn_shape is a Qwen2 shape with the compact vocabulary. -EINVAL names the option that does
// not fit another.
int newborn_shape(struct shape *out, const struct run_config *config, struct error *err);

// newborn_weights fills `weights` [params->elements]: matrices normal with deviation `std`, those
// that write into the residual stream divided by sqrt(2L); gains 1, biases 0. A function of `seed`.
void newborn_weights(float *weights, const struct params *params, const struct shape *shape,
                     double std, uint64_t seed);

// newborn_write makes the folder `dir` (config.json, tokenizer.json, tokenizer_config.json,
// model.safetensors as `type`), whole or not at all. -EEXIST when there is one already.
int newborn_write(const char *dir, const float *weights, const struct params *params,
                  const struct shape *shape, enum dtype type, struct error *err);

#endif
