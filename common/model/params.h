// params.h: the parameter table. Every parameter of a model lies in one flat float array; the table
// says where. Weights, gradients and both moments use the same offsets, so one loop serves all.
#ifndef COMMON_MODEL_PARAMS_H
#define COMMON_MODEL_PARAMS_H

#include "common/base/error.h"
#include "common/model/shape.h"

#include <stddef.h>
#include <stdint.h>

enum param_role {
    PARAM_EMBED,     // [V, C]
    PARAM_POSITIONS, // [T, C]
    PARAM_NORM1,     // [C], before attention
    PARAM_NORM1_BIAS,
    PARAM_Q, // [H*D, C]
    PARAM_Q_BIAS,
    PARAM_K, // [KV*D, C]
    PARAM_K_BIAS,
    PARAM_V, // [KV*D, C]
    PARAM_V_BIAS,
    PARAM_Q_NORM, // [D]
    PARAM_K_NORM, // [D]
    PARAM_O,      // [C, H*D]
    PARAM_O_BIAS,
    PARAM_NORM2, // [C], before the feed-forward part
    PARAM_NORM2_BIAS,
    PARAM_GATE, // [F, C]
    PARAM_UP,   // [F, C]
    PARAM_UP_BIAS,
    PARAM_DOWN, // [C, F]
    PARAM_DOWN_BIAS,
    PARAM_FINAL_NORM, // [C]
    PARAM_FINAL_NORM_BIAS,
    PARAM_HEAD, // [V, C]; absent when tied
    PARAM_ROLES,
};

enum { PARAM_NAME_MAX = 96 };

struct param {
    enum param_role role;
    int32_t layer;             // -1: not in a layer
    char name[PARAM_NAME_MAX]; // Hugging Face name; GPT-2's c_attn is one file tensor for q, k and
                               // v, which safetensors.c splits and joins
    int32_t rank;
    int64_t shape[2];
    size_t offset; // in elements, a multiple of 16
    size_t count;  // elements
};

struct params {
    struct param *items; // order: embedding, layers upwards, final norm, head
    int32_t count;
    size_t elements; // length of a flat array, padding included
    int32_t *index;  // [(L+1) * PARAM_ROLES] → item or -1
};

// params_init lists the parameters of `shape`; params_finish frees the list (a zeroed one is
// allowed).
int params_init(struct params *params, const struct shape *shape, struct error *err);
void params_finish(struct params *params);

// params_find is the parameter of `role` in `layer` (-1: outside the layers), or NULL.
const struct param *params_find(const struct params *params, int32_t layer, enum param_role role);

#endif
