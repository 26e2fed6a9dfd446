// gguf_model.h: a model out of a GGUF file: its shape, and its weights in the order of the
// parameter table.
//
// Kelvin's families are known by their GGUF architectures of the same names. Two things differ from
// the Hugging Face layout and are put back: Llama's query and key rows, which GGUF interleaves for
// its RoPE, and Llama 3's RoPE scaling, which GGUF stores as one divisor per frequency.
#ifndef COMMON_MODEL_GGUF_MODEL_H
#define COMMON_MODEL_GGUF_MODEL_H

#include "common/model/gguf.h"
#include "common/model/params.h"
#include "common/model/shape.h"

// gguf_shape reads the shape from the keys; a family, number or scaling that Kelvin does not run is
// an error that names the file and the key. On failure *shape is untouched.
int gguf_shape(struct shape *shape, const struct gguf *gguf, struct error *err);

// gguf_weights fills `weights` [params->elements] (f32, host; padding zeroed). A missing,
// superfluous, wrongly shaped or non-finite tensor is -EINVAL.
int gguf_weights(float *weights, const struct params *params, const struct shape *shape,
                 const struct gguf *gguf, struct error *err);

#endif
