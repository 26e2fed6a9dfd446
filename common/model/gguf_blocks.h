// gguf_blocks.h: what the numbers of a GGUF tensor mean: blocks of quantized values, widened to
// f32.
//
// The products and sums are those of ggml, in the same order and in f32, so a widened value equals
// the one that llama.cpp and the gguf package of Python compute, bit for bit.
#ifndef COMMON_MODEL_GGUF_BLOCKS_H
#define COMMON_MODEL_GGUF_BLOCKS_H

#include <stddef.h>
#include <stdint.h>

enum { GGUF_BLOCK_MAX = 256 };

struct gguf_format {
    const char *name;
    uint32_t number;  // in files
    int32_t elements; // of a block, at most GGUF_BLOCK_MAX; divides a tensor's last dimension
    int32_t bytes;    // of a block
    void (*widen)(float *out, const uint8_t *block); // out [elements]
};

// gguf_format_of is the format with this number, or NULL: Kelvin reads F32, F16, BF16, Q8_0, Q4_0,
// Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K.
const struct gguf_format *gguf_format_of(uint32_t number);

// gguf_format_name is the name of any format that ggml has, or "unknown".
const char *gguf_format_name(uint32_t number);

// gguf_widen writes out [count] from whole blocks; count is a multiple of format->elements.
void gguf_widen(float *out, const struct gguf_format *format, const void *blocks, int64_t count);

#endif
