// tensor.h: a view of numbers in memory. 48 bytes, passed by value; arenas own the memory.
#ifndef COMMON_TENSOR_TENSOR_H
#define COMMON_TENSOR_TENSOR_H

#include <stddef.h>
#include <stdint.h>

enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_I32 };

struct tensor {
    void *data;
    enum dtype type;
    int32_t rank;
    int64_t shape[4]; // row-major, the last dimension is contiguous
};

static inline size_t dtype_size(enum dtype type)
{
    return type == DTYPE_F32 || type == DTYPE_I32 ? 4 : 2;
}

// bf16 is the upper half of an f32; bf16_from rounds to nearest even and keeps NaN a NaN.
static inline float bf16_to_float(uint16_t bits)
{
    union {
        uint32_t u;
        float f;
    } word = {.u = (uint32_t)bits << 16};
    return word.f;
}

static inline uint16_t bf16_from_float(float value)
{
    union {
        float f;
        uint32_t u;
    } word = {.f = value};
    if ((word.u & 0x7FFFFFFFu) > 0x7F800000u) {
        return (uint16_t)(word.u >> 16 | 0x40);
    }
    return (uint16_t)((word.u + 0x7FFFu + (word.u >> 16 & 1)) >> 16);
}

// half_to_float widens an IEEE half-precision number, exactly.
static inline float half_to_float(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    uint32_t exponent = bits >> 10 & 31;
    uint32_t mantissa = bits & 0x3FFu;
    union {
        uint32_t u;
        float f;
    } word;
    if (exponent == 0) {
        word.f = (float)mantissa * 0x1.0p-24f;
        word.u |= sign;
    } else {
        word.u = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | mantissa << 13;
    }
    return word.f;
}

#endif
