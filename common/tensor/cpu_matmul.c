// The product: panels of 32 columns, blocks of ROWS rows whose accumulators stay in registers.
#include "common/tensor/cpu.h"
#include "common/tensor/vec.h"

// Rows of a register block: as many as leave room for two vectors of B and one broadcast.
#if defined(__AVX512F__)
enum { ROWS = 12 };
#else
enum { ROWS = 3 };
#endif

enum { ROW_BLOCK = 240 }; // rows of A that stay in the second-level cache while the panels pass by

struct tile {
    float *c;
    int64_t ldc;
    const float *a;
    int64_t a_row, a_col;
    const float *b;
    int64_t b_row;
    int64_t K;
    int width; // columns of the panel that exist, 1 .. 32
    bool accumulate;
};

// One block of `rows` rows (a constant after inlining) by 32 columns; `full` says that all 32
// exist.
VEC_INLINE void tile_run(const struct tile *t, const int rows, const bool full)
{
    const int left = t->width < VEC ? t->width : VEC;
    const int right = t->width - left;
    v16 acc[ROWS][2];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        float *c = t->c + r * t->ldc;
        acc[r][0] = t->accumulate ? v_load_n(c, left) : v_set(0.0f);
        acc[r][1] = t->accumulate ? v_load_n(c + VEC, right) : v_set(0.0f);
    }
    const float *a = t->a;
    const float *b = t->b;
    for (int64_t k = 0; k < t->K; k++) {
        v16 b0 = full ? v_load(b) : v_load_n(b, left);
        v16 b1 = full ? v_load(b + VEC) : v_load_n(b + VEC, right);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            v16 x = v_set(a[r * t->a_row]);
            acc[r][0] = v_fma(x, b0, acc[r][0]);
            acc[r][1] = v_fma(x, b1, acc[r][1]);
        }
        a += t->a_col;
        b += t->b_row;
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        float *c = t->c + r * t->ldc;
        v_store_n(c, acc[r][0], left);
        v_store_n(c + VEC, acc[r][1], right);
    }
}

#define TILE_CASE(rows)                                                                            \
    case rows:                                                                                     \
        if (t->width == PANEL) {                                                                   \
            tile_run(t, rows, true);                                                               \
        } else {                                                                                   \
            tile_run(t, rows, false);                                                              \
        }                                                                                          \
        break

static void tile_rows(const struct tile *t, int rows)
{
    switch (rows) {
        TILE_CASE(1);
        TILE_CASE(2);
        TILE_CASE(3);
#if defined(__AVX512F__)
        TILE_CASE(4);
        TILE_CASE(5);
        TILE_CASE(6);
        TILE_CASE(7);
        TILE_CASE(8);
        TILE_CASE(9);
        TILE_CASE(10);
        TILE_CASE(11);
        TILE_CASE(12);
#endif
    default:
        break;
    }
}

static void panel_run(struct tile *t, float *c, const float *a, int64_t rows)
{
    for (int64_t m = 0; m < rows; m += ROWS) {
        t->c = c + m * t->ldc;
        t->a = a + m * t->a_row;
        tile_rows(t, rows - m < ROWS ? (int)(rows - m) : ROWS);
    }
}

void cpu_product(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_col,
                 struct operand b, int64_t M, int64_t N, int64_t K, bool accumulate)
{
    struct tile t = {.ldc = ldc,
                     .a_row = a_row,
                     .a_col = a_col,
                     .b_row = b.row_stride,
                     .K = K,
                     .accumulate = accumulate};
    for (int64_t m = 0; m < M; m += ROW_BLOCK) {
        int64_t rows = M - m < ROW_BLOCK ? M - m : ROW_BLOCK;
        for (int64_t n = 0; n < N; n += PANEL) {
            t.b = b.data + n / PANEL * b.panel_stride;
            t.width = N - n < PANEL ? (int)(N - n) : PANEL;
            panel_run(&t, c + m * ldc + n, a + m * a_row, rows);
        }
    }
}
