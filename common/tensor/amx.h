// amx.h: the tile unit: eight registers of sixteen rows of sixteen words. A tile is named by a
// literal number.
//
// Without the unit the same is computed in vectors, to the bit, as Intel's manual defines it: so a
// product on tiles has its bits on every host. A thread uses tiles between amx_begin and amx_end
// only.
#ifndef COMMON_TENSOR_AMX_H
#define COMMON_TENSOR_AMX_H

#include "common/tensor/vec.h"

enum {
    TILE = 16,                // rows of a tile, and words of a row: floats, or pairs of bf16
    TILE_WORDS = TILE * TILE, // of a whole one
};

#if defined(__AMX_BF16__) || defined(__AMXBF16__) // as gcc and as clang 14 call it
#define AMX_UNIT 1

// The instructions as they are: gcc 12's _tile_loadconfig and _tile_loadd do not tell the compiler
// that they read memory, so it may write what they read later.

// amx_begin gives the calling thread its tiles. It keeps them: to set them up takes as long as ten
// small products.
static inline void amx_begin(void)
{
    static const struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1,
               .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
               .rows = {TILE, TILE, TILE, TILE, TILE, TILE, TILE, TILE}};
    _Static_assert(sizeof(shape) == 64, "as LDTILECFG reads it");
    enum { IN_USE = 1, TILE_CONFIG = 1 << 17 };
    if ((_xgetbv(IN_USE) & TILE_CONFIG) == 0) { // another library may have taken them back
        __asm__ volatile("ldtilecfg %0" : : "m"(shape));
    }
}

static inline void amx_end(void)
{
}

#define amx_zero(tile) __asm__ volatile("tilezero %tmm" #tile)
// Rows lie `stride` bytes apart.
#define amx_load(tile, from, stride)                                                               \
    __asm__ volatile("tileloadd (%0, %1), %%tmm" #tile                                             \
                     :                                                                             \
                     : "r"(from), "r"((int64_t)(stride))                                           \
                     : "memory")
#define amx_store(tile, to, stride)                                                                \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0, %1)"                                         \
                     :                                                                             \
                     : "r"(to), "r"((int64_t)(stride))                                             \
                     : "memory")
// c, floats, += a · b: a word of `a` is a pair of k; row k of `b` has the pairs of rows 2k and
// 2k+1. For each result the products of the even k are a chain of fused multiply-adds from zero,
// those of the odd k another; their sum is added to c. Subnormal numbers count as zeros throughout.
#define amx_dot(c, a, b) __asm__ volatile("tdpbf16ps %tmm" #b ", %tmm" #a ", %tmm" #c)

#else

#if defined(__AVX512BF16__)
#error "the instructions of this build flush of themselves: vectors are not told to (flush_begin)"
#endif

static _Thread_local struct {
    v16 row[8][TILE];
    unsigned before; // of flush_begin
} amx;

static inline void amx_begin(void)
{
    amx.before = flush_begin();
}

static inline void amx_end(void)
{
    flush_end(amx.before);
}

static inline void amx_zero(int tile)
{
    memset(amx.row[tile], 0, sizeof(amx.row[tile]));
}

static inline void amx_load(int tile, const float *from, int64_t stride)
{
    for (int r = 0; r < TILE; r++) {
        amx.row[tile][r] = v_load(from + r * stride / (int64_t)sizeof(float));
    }
}

static inline void amx_store(int tile, float *to, int64_t stride)
{
    for (int r = 0; r < TILE; r++) {
        v_store(to + r * stride / (int64_t)sizeof(float), amx.row[tile][r]);
    }
}

static inline void amx_dot(int c, int a, int b)
{
    const v16 one = v_set(1.0f);
    for (int r = 0; r < TILE; r++) {
        float words[TILE];
        v16 even = v_set(0.0f), odd = v_set(0.0f);
        v_store(words, amx.row[a][r]);
        for (int k = 0; k < TILE; k++) {
            const v16 x = v_spread(&words[k]), y = amx.row[b][k];
            even = v_fma_flushed(v_even(x), v_even(y), even);
            odd = v_fma_flushed(v_odd(x), v_odd(y), odd);
        }
        amx.row[c][r] = v_fma_flushed(v_fma_flushed(even, one, odd), one, amx.row[c][r]);
    }
}

#endif

#endif
