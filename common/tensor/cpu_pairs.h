// cpu_pairs.h: blocks of floats rounded to pairs of bf16 (vec.h), for the products in bf16. A row
// of pairs holds depth/2 of them, an odd depth being made even by a zero.
#ifndef COMMON_TENSOR_CPU_PAIRS_H
#define COMMON_TENSOR_CPU_PAIRS_H

#include "common/tensor/kernels.h"
#include "common/tensor/vec.h"

// pairs_at rounds what there is of 32 numbers in a row, of which `left` are left, to sixteen pairs.
VEC_INLINE v16 pairs_at(const float *from, int64_t left)
{
    const int count = left < 0 ? 0 : left < 2L * VEC ? (int)left : 2 * VEC;
    return v_pairs_along(v_load_n(from, count < VEC ? count : VEC),
                         v_load_n(from + VEC, count > VEC ? count - VEC : 0));
}

// pairs_along rounds rows that are contiguous, one after another, `stride` pairs apart, and fills
// them up with zeros to a multiple of sixteen pairs.
static inline void pairs_along(float *copy, int64_t stride, const float *a, int64_t a_row,
                               int64_t rows, int64_t depth)
{
    for (int64_t r = 0; r < rows; r++, a += a_row, copy += stride) {
        for (int64_t k = 0; k < depth; k += 2L * VEC) {
            __builtin_prefetch(a + 2 * a_row + k);
            __builtin_prefetch(a + 2 * a_row + k + VEC);
            v_store(copy + k / 2, pairs_at(a + k, depth - k));
        }
    }
}

// pair_rows pairs `count` numbers of a row with those of the next one, if there is one.
VEC_INLINE v16 pair_rows(const float *row, int64_t stride, bool next, int count)
{
    return v_pairs(v_load_n(row, count), next ? v_load_n(row + stride, count) : v_set(0.0f));
}

// pairs_panel rounds a piece of a panel of floats.
static inline void pairs_panel(float *copy, const float *b, int64_t b_row, int64_t depth, int width)
{
    for (int64_t k = 0; k < depth; k += 2, b += 2 * b_row, copy += PANEL) {
        __builtin_prefetch(b + 2L * PANEL);
        __builtin_prefetch(b + b_row + 2L * PANEL);
        v_store(copy, pair_rows(b, b_row, k + 1 < depth, width));
    }
}

#endif
