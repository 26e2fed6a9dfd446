// The product in f32: a block of rows of A stays in the second-level cache, a piece of a panel of B
// in the first, and a tile of C in registers. Cutting K only stores and loads C in between, which
// changes no bit.
#define TILE_PAIRS 0
#include "common/tensor/cpu_tile.h"

enum {
    COPY_ROWS = 4 * ROWS,     // rows that make it worth to copy a piece of B that is not packed
    COPY_COLUMNS = 4 * PANEL, // likewise, more columns than these and A
};

// copy_a packs a block whose columns are contiguous: tile after tile, in each k after k. Whole
// vectors are stored, since masked stores are slow on some hosts: what is too much goes where the
// next k is written, or into the gap.
static void copy_a(float *copy, const float *a, int64_t a_col, const struct split *split,
                   int64_t depth)
{
    for (int64_t k = 0; k < depth; k++, a += a_col) {
        const float *from = a;
        float *tile = copy;
        for (int64_t i = 0; i < split->tiles; i++) {
            const int64_t count = rows_of_tile(split, i);
            __builtin_prefetch(from + COPY_AHEAD * a_col);
            v_store(tile + k * count, v_load_n(from, (int)count));
            tile += tile_floats(count, depth);
            from += count;
        }
    }
}

// copy_b packs a piece of a panel.
static void copy_b(float *copy, const float *b, int64_t b_row, int64_t depth, int width)
{
    for (int64_t k = 0; k < depth; k++) {
        __builtin_prefetch(b + k * b_row + 2L * PANEL);
        v_store(copy + k * PANEL, v_load_n(b + k * b_row, width));
    }
}

// block_run computes a block of rows in one pass of K; `b` begins at the pass's first row.
static void block_run(struct tile t, struct operand b, int64_t rows, int64_t N)
{
    _Alignas(
        CACHE_LINE) float a_copy[(size_t)ROW_BLOCK * DEPTH + (size_t)ROW_BLOCK / ROWS * TILE_GAP];
    _Alignas(CACHE_LINE) float b_copy[2][(size_t)DEPTH * PANEL];
    const struct split split = split_rows(rows);
    t.a_packed = t.a_row == 1 && t.a_col != 1 && N > COPY_COLUMNS;
    if (t.a_packed) {
        copy_a(a_copy, t.a, t.a_col, &split, t.K);
        t.a = a_copy;
    }
    const bool copied = b.row_stride != PANEL && rows >= COPY_ROWS;
    float *c = t.c;
    t.b_row = copied ? PANEL : b.row_stride;
    t.ahead_step = (PANEL + split.tiles - 1) / split.tiles;
    for (int64_t n = 0; n < N; n += 2L * PANEL) {
        const int width = panels_at(&t, &b, n, N);
        if (copied) {
            copy_b(b_copy[0], t.b, b.row_stride, t.K, width < PANEL ? width : PANEL);
            copy_b(b_copy[1], t.b_right, b.row_stride, t.K, width > PANEL ? width - PANEL : 0);
            t.b = b_copy[0];
            t.b_right = b_copy[1];
        }
        t.c = c + n;
        panels_run(t, &split, width);
    }
}

void cpu_product(float *c, int64_t ldc, struct inputs a, struct operand b, int64_t M, int64_t N,
                 int64_t K, bool accumulate)
{
    for (int64_t m = 0; m < M; m += ROW_BLOCK) {
        for (int64_t k = 0; k < K || k == 0; k += DEPTH) {
            const struct tile t = {.c = c + m * ldc,
                                   .ldc = ldc,
                                   .a = a.data + m * a.row + k * a.col,
                                   .a_row = a.row,
                                   .a_col = a.col,
                                   .K = K - k < DEPTH ? K - k : DEPTH,
                                   .accumulate = accumulate || k > 0};
            block_run(t, operand_from(b, k), M - m < ROW_BLOCK ? M - m : ROW_BLOCK, N);
        }
    }
}

void cpu_round_rows(float *to, const float *x, int64_t x_row, int64_t T, int64_t K)
{
    for (int64_t t = 0; t < T; t++) {
        memcpy(to + t * K, x + t * x_row, (size_t)K * sizeof(float));
    }
}

void cpu_pack(float *packed, const float *W, int64_t N, int64_t K)
{
    for (int64_t n0 = 0; n0 < N; n0 += PANEL) {
        const int64_t width = N - n0 < PANEL ? N - n0 : PANEL;
        float *panel = packed + n0 * K;
        const float *rows = W + n0 * K;
        for (int64_t k = 0; k < K; k++, panel += PANEL) {
            for (int64_t j = 0; j < PANEL; j++) {
                panel[j] = j < width ? rows[j * K + k] : 0.0f;
            }
        }
    }
}
