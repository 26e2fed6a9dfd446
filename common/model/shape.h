// shape.h: what a decoder looks like: layers, heads, widths, read from config.json and checked.
//
// Four families share one table (DESIGN): Qwen2/2.5, Qwen3, Llama 3.x and GPT-2 differ in the flags
// below, never in an #ifdef or a second forward pass.
#ifndef COMMON_MODEL_SHAPE_H
#define COMMON_MODEL_SHAPE_H

#include "common/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum family { FAMILY_QWEN2, FAMILY_QWEN3, FAMILY_LLAMA, FAMILY_GPT2 };

enum rope_scaling { ROPE_PLAIN, ROPE_LINEAR, ROPE_LLAMA3 };

struct shape {
    enum family family;
    int32_t L;  // layers
    int32_t C;  // width of the residual stream
    int32_t H;  // query heads
    int32_t KV; // key/value heads; divides H
    int32_t D;  // head size; H*D need not be C
    int32_t F;  // hidden width of the feed-forward part
    int32_t V;  // rows of the embedding (>= the tokenizer's ids)
    int32_t T;  // positions at most
    float norm_eps;
    bool tied;       // head is the embedding
    bool layer_norm; // LayerNorm with bias (GPT-2), else RMSNorm
    bool gated;      // SwiGLU (gate, up, down), else GELU (up, down) with the tanh form
    bool qkv_bias;   // bias on q, k, v
    bool out_bias;   // bias on o, up, down (GPT-2)
    bool qk_norm;    // RMSNorm of every q and k head (Qwen3)
    bool positions;  // learned positions added to the embedding (GPT-2); else RoPE, rotate-half
    bool transposed; // Conv1D: files store [in, out] (GPT-2); in memory it is [out, in] always
    double rope_theta;
    enum rope_scaling rope_scaling;
    double rope_factor, rope_low_freq, rope_high_freq; // Llama 3's three numbers
    int32_t rope_original_T;
    int32_t bos_token, eos_token; // -1: none
};

// shape_read reads `dir`/config.json. Both spellings of RoPE are known: rope_theta + rope_scaling,
// and rope_parameters. A family, activation, scaling or number that Kelvin does not run is an error
// that names the file and the key. On failure *shape is untouched.
int shape_read(struct shape *shape, const char *dir, struct error *err);

// shape_of_family sets *shape to what all models of a family share (flags; no sizes, no tokens);
// false, with *shape untouched, for a name that is none of qwen2, qwen3, llama, gpt2.
bool shape_of_family(struct shape *shape, const char *name, size_t size);

// shape_check refuses sizes that do not go together or that Kelvin does not run; all are at least
// 1. `what` names the source in errors.
int shape_check(const struct shape *shape, const char *what, struct error *err);

// shape_write_json returns config.json text for `transformers`, which the caller frees; `dtype` is
// "bfloat16" or "float32".
char *shape_write_json(const struct shape *shape, const char *dtype);

// shape_rope_frequency is the angle per position of rotary pair `i` (0 .. D/2-1), in double, after
// scaling.
double shape_rope_frequency(const struct shape *shape, int32_t i);

#endif
