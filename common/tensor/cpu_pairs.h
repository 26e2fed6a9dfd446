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

// panel_put writes `columns` rows x [columns, D], `x_row` floats apart, as the columns of a panel
// of packed_depth(D) rows; those that are missing are zeros.
static inline void panel_put(float *to, const float *x, int64_t x_row, int64_t columns, int64_t D)
{
    for (int64_t d = 0; d < D; d += 2L * VEC) {
        v16 pairs[VEC];
        for (int64_t i = 0; i < PANEL; i++) {
            pairs[i] = i < columns ? pairs_at(x + i * x_row + d, D - d) : v_set(0.0f);
        }
        v_transpose(pairs);
        for (int64_t i = 0; i < VEC; i++, to += PANEL) {
            v_store(to, pairs[i]);
        }
    }
}

// pair_rows pairs `count` numbers of a row with those of the next one, if there is one.
VEC_INLINE v16 pair_rows(const float *row, int64_t stride, bool next, int count)
{
    return v_pairs(v_load_n(row, count), next ? v_load_n(row + stride, count) : v_set(0.0f));
}

// inputs_at is the inputs from row m and number k on; where these lie in pairs, an even one.
static inline struct inputs inputs_at(struct inputs a, int64_t m, int64_t k)
{
    const int64_t along = a.col == 1 ? k : m, across = a.col == 1 ? m * a.row : k * a.col;
    a.data += across + (a.pairs ? along / 2 : along);
    return a;
}

// pairs_down pairs the numbers k and k + 1, of the K there are, of `count` rows from m on of inputs
// whose rows are side by side.
VEC_INLINE v16 pairs_down(struct inputs a, int64_t m, int64_t k, int64_t K, int count)
{
    const float *row = a.data + k * a.col;
    if (!a.pairs) {
        return pair_rows(row + m, a.col, k + 1 < K, count);
    }
    static const uint16_t zeros[VEC];
    const char *even = (const char *)row + m * 2, *odd = (const char *)(row + a.col) + m * 2;
    return v_join(even, k + 1 < K ? odd : (const char *)zeros, count);
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
