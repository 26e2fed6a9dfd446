// cpu_few.h: products of a few rows with panels that lie in blocks of keys and values. The sums of
// so few rows with one panel or two would wait for each other: those with several panels run side
// by side.
#ifndef COMMON_TENSOR_CPU_FEW_H
#define COMMON_TENSOR_CPU_FEW_H

#include "common/tensor/cpu_attend.h"
#include "common/tensor/vec.h"

enum {
    FEW_ROWS = 8,   // so many are few
    FEW_PANELS = 4, // that run side by side, at most
};

// How many rows run side by side, and how many panels: their sums stay in registers.
#if defined(__AVX512F__)
enum { FEW_AT_ONCE = 4 };
#else
enum { FEW_AT_ONCE = 2 };
#endif

static inline int few_panels(int64_t rows)
{
    return FEW_AT_ONCE == 4 || rows == 1 ? FEW_PANELS : FEW_PANELS / 2;
}

// struct few is one call: c[p] [rows, PANEL] (stride ldc) = a [rows, depth] · panel p, plus what
// was there when `accumulate`. Elements are floats, or pairs of bf16. The depth goes through blocks
// [from, to) of a stretch: `depth` in each, `last_depth` in the last one.
struct few {
    const struct stretch *s;
    float *c[FEW_PANELS];
    int64_t ldc;
    const float *a;
    int64_t a_row;
    int64_t from, to, depth, last_depth;
    int64_t block[FEW_PANELS], at[FEW_PANELS]; // a panel lies so many blocks behind, from `at` on
    int64_t ahead;                             // how far from there lies what is fetched meanwhile,
    bool later;                                // in the block itself or in a later one
    bool accumulate, pairs;
};

// few_block adds what a block gives to the sums.
VEC_INLINE void few_block(v16 acc[FEW_AT_ONCE][FEW_PANELS], const struct few *f, int64_t block,
                          const float *a, int64_t depth, const int rows, const int panels,
                          const bool pairs)
{
    const float *panel[FEW_PANELS], *ahead[FEW_PANELS];
#pragma GCC unroll 4
    for (int p = 0; p < panels; p++) {
        const int64_t b = block + f->block[p];
        panel[p] = f->s->blocks[b] + f->at[p];
        ahead[p] = (f->later ? stretch_later(f->s, b) : f->s->blocks[b]) + f->at[p] + f->ahead;
    }
    for (int64_t k = 0; k < depth; k++) {
        v16 b[FEW_PANELS];
#pragma GCC unroll 4
        for (int p = 0; p < panels; p++) {
            b[p] = v_load(panel[p] + k * PANEL);
            __builtin_prefetch(ahead[p] + k * PANEL, 0, 2); // into the second-level cache
        }
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            const v16 x = v_spread(a + r * f->a_row + k);
#pragma GCC unroll 4
            for (int p = 0; p < panels; p++) {
                acc[r][p] = pairs ? v_dot_pairs(x, b[p], acc[r][p]) : v_fma(x, b[p], acc[r][p]);
            }
        }
    }
}

// few_run computes a call of `rows` rows and `panels` panels (constants after inlining).
VEC_INLINE void few_run(const struct few *f, const int rows, const int panels, const bool pairs)
{
    v16 acc[FEW_AT_ONCE][FEW_PANELS];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 4
        for (int p = 0; p < panels; p++) {
            acc[r][p] = f->accumulate ? v_load(f->c[p] + r * f->ldc) : v_set(0.0f);
        }
    }
    const float *a = f->a;
    for (int64_t block = f->from; block < f->to; block++, a += f->depth) {
        const int64_t depth = block + 1 < f->to ? f->depth : f->last_depth;
        few_block(acc, f, block, a, depth, rows, panels, pairs);
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 4
        for (int p = 0; p < panels; p++) {
            v_store(f->c[p] + r * f->ldc, acc[r][p]);
        }
    }
}

#define FEW_CASE(rows_, panels_)                                                                   \
    case (rows_)*8 + (panels_):                                                                    \
        if (f->pairs) {                                                                            \
            few_run(f, rows_, panels_, true);                                                      \
        } else {                                                                                   \
            few_run(f, rows_, panels_, false);                                                     \
        }                                                                                          \
        break

static inline void few_rows(const struct few *f, int rows, int panels)
{
    switch (rows * 8 + panels) {
        FEW_CASE(1, 1);
        FEW_CASE(1, 2);
        FEW_CASE(1, 3);
        FEW_CASE(1, 4);
        FEW_CASE(2, 1);
        FEW_CASE(2, 2);
#if defined(__AVX512F__)
        FEW_CASE(2, 3);
        FEW_CASE(2, 4);
        FEW_CASE(3, 1);
        FEW_CASE(3, 2);
        FEW_CASE(3, 3);
        FEW_CASE(3, 4);
        FEW_CASE(4, 1);
        FEW_CASE(4, 2);
        FEW_CASE(4, 3);
        FEW_CASE(4, 4);
#endif
    default:
        break;
    }
}

// few_product computes a call of `rows` rows and up to few_panels(rows) panels, and uses *f up.
static inline void few_product(struct few *f, int64_t rows, int panels)
{
    const unsigned before = f->pairs ? flush_begin() : 0;
    for (int64_t r = 0; r < rows; r += FEW_AT_ONCE) {
        few_rows(f, rows - r < FEW_AT_ONCE ? (int)(rows - r) : FEW_AT_ONCE, panels);
        f->a += FEW_AT_ONCE * f->a_row;
        for (int p = 0; p < panels; p++) {
            f->c[p] += FEW_AT_ONCE * f->ldc;
        }
    }
    if (f->pairs) {
        flush_end(before);
    }
}

#endif
