// The product in bf16: the tiles of cpu_tile.h over pairs. Where they are not in pairs already, a
// block of A is rounded once in each pass of K, and so is a piece of a panel of B.
#define TILE_PAIRS 1
#include "common/tensor/cpu_pairs.h"
#include "common/tensor/cpu_tile.h"

enum {
    PASS = 2 * DEPTH,               // of K
    COPY_STRIDE = DEPTH + TILE_GAP, // from row to row of a copy of A that is not in tiles
};

// copy_down pairs the numbers of a block whose rows are side by side, `stride` floats from pair to
// pair.
VEC_INLINE void copy_down(float *copy, int64_t stride, struct inputs a, int64_t rows, int64_t depth)
{
    for (int64_t k = 0; k < depth; k += 2, copy += stride) {
        const float *later = a.data + (k + COPY_AHEAD) * a.col;
        for (int64_t m = 0; m < rows; m += VEC) {
            const int count = rows - m < VEC ? (int)(rows - m) : VEC;
            __builtin_prefetch(later + (a.pairs ? m / 2 : m));
            __builtin_prefetch(later + a.col + (a.pairs ? m / 2 : m));
            v_store(copy + m, pairs_down(a, m, k, depth, count));
        }
    }
}

// block_run computes a block of rows in one pass of K, of `depth`; `b` begins at the pass's first
// row.
static void block_run(struct tile t, struct inputs a, struct operand b, int64_t rows, int64_t N,
                      int64_t depth)
{
    _Alignas(CACHE_LINE) float a_copy[(size_t)(ROW_BLOCK + VEC) * COPY_STRIDE];
    _Alignas(CACHE_LINE) float b_copy[2][(size_t)DEPTH * PANEL];
    const struct split split = split_rows(rows);
    t.K = (depth + 1) / 2;
    t.a = a_copy;
    t.a_row = COPY_STRIDE;
    t.a_col = 1;
    if (a.col != 1) {
        t.a_row = 1;
        t.a_col = (rows + VEC - 1) / VEC * VEC | VEC;
        copy_down(a_copy, t.a_col, a, rows, depth);
    } else if (!a.pairs) {
        pairs_along(a_copy, COPY_STRIDE, a.data, a.row, rows, depth);
    } else {
        t.a = a.data;
        t.a_row = a.row;
    }
    t.b_row = PANEL;
    t.ahead_step = (PANEL + split.tiles - 1) / split.tiles;
    float *c = t.c;
    for (int64_t n = 0; n < N; n += 2L * PANEL) {
        const int width = panels_at(&t, &b, n, N);
        if (!b.pairs) {
            pairs_panel(b_copy[0], t.b, b.row_stride, depth, width < PANEL ? width : PANEL);
            pairs_panel(b_copy[1], t.b_right, b.row_stride, depth,
                        width > PANEL ? width - PANEL : 0);
            t.b = b_copy[0];
            t.b_right = b_copy[1];
        }
        t.c = c + n;
        panels_run(t, &split, width);
    }
}

void cpu_product_bf16(float *c, int64_t ldc, struct inputs a, struct operand b, int64_t M,
                      int64_t N, int64_t K, bool accumulate)
{
    const unsigned before = flush_begin();
    for (int64_t m = 0; m < M; m += ROW_BLOCK) {
        for (int64_t k = 0; k < K || k == 0; k += PASS) {
            const struct tile t = {.c = c + m * ldc, .ldc = ldc, .accumulate = accumulate || k > 0};
            block_run(t, inputs_at(a, m, k), operand_from(b, k),
                      M - m < ROW_BLOCK ? M - m : ROW_BLOCK, N, K - k < PASS ? K - k : PASS);
        }
    }
    flush_end(before);
}

void cpu_round_rows_bf16(float *to, const float *x, int64_t x_row, int64_t T, int64_t K)
{
    pairs_along(to, inputs_stride(COMPUTE_BF16, K), x, x_row, T, K);
}

void cpu_pack_bf16(float *packed, const float *W, int64_t N, int64_t K)
{
    const int64_t depth = packed_depth(COMPUTE_BF16, K);
    for (int64_t n = 0; n < N; n += PANEL) {
        panel_put(packed + n * depth, W + n * K, K, N - n < PANEL ? N - n : PANEL, K);
    }
}

// Rows are read two by two, a few panels' width of them at once.
void cpu_pack_rows_bf16(float *packed, struct inputs B, int64_t K, int64_t N)
{
    enum { AT_ONCE = 8 * PANEL, AHEAD = 8 }; // rows that are asked for ahead
    const int64_t depth = packed_depth(COMPUTE_BF16, K);
    const struct inputs columns = inputs_turned(B);
    for (int64_t begin = 0; begin < N; begin += AT_ONCE) {
        const int64_t end = N - begin < AT_ONCE ? N : begin + AT_ONCE;
        for (int64_t k = 0; k < depth; k++) {
            const float *later = B.data + (2 * k + AHEAD) * B.row;
            for (int64_t n = begin; n < end; n += PANEL) {
                const int count = N - n < PANEL ? (int)(N - n) : PANEL;
                v_store(packed + n * depth + k * PANEL,
                        2 * k < K ? pairs_down(columns, n, 2 * k, K, count) : v_set(0.0f));
                __builtin_prefetch(later + (B.pairs ? n / 2 : n));
                __builtin_prefetch(later + B.row + (B.pairs ? n / 2 : n));
            }
        }
    }
}
