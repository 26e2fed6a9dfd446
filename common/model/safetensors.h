// safetensors.h: weight files of the Hugging Face layout, read and written.
//
// A model folder is config.json + model.safetensors (or shards under model.safetensors.index.json)
// + tokenizer.json. Files are mapped, every offset, shape and type is checked against the parameter
// table before a byte is used, and an error names file and tensor.
#ifndef COMMON_MODEL_SAFETENSORS_H
#define COMMON_MODEL_SAFETENSORS_H

#include "common/base/error.h"
#include "common/model/params.h"
#include "common/tensor/tensor.h"

// safetensors_read fills `weights` [params->elements] (f32, host, written; the padding is zeroed)
// from the folder `dir`. BF16, F16 and F32 files are widened exactly. *stored is the widest type
// found. A missing, superfluous, overlapping, wrongly shaped or non-finite
// tensor is -EINVAL. `tied` models may
// carry a head equal in name; it is ignored.
int safetensors_read(float *weights, enum dtype *stored, const struct params *params,
                     const struct shape *shape, const char *dir, struct error *err);

// safetensors_check holds the folder's files against the table without reading a weight: what
// config.json claims is there, before memory is taken for it.
int safetensors_check(const struct params *params, const struct shape *shape, const char *dir,
                      struct error *err);

// safetensors_write writes `path` atomically with every parameter as `type` (DTYPE_F32, or
// DTYPE_BF16 rounded to nearest even).
int safetensors_write(const char *path, const float *weights, const struct params *params,
                      const struct shape *shape, enum dtype type, struct error *err);

#endif
