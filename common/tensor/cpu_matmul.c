// The product: a block of rows of A stays in the second-level cache, a piece of a panel of B in the
// first, and a tile of C in registers. Cutting K only stores and loads C in between, which changes
// no bit.
#include "common/tensor/cpu.h"
#include "common/tensor/vec.h"

// A tile of C is ROWS rows by WIDTH vectors, or a few rows by two vectors: as many as leave
// registers for B and one broadcast. NARROW_ROWS is up to where two vectors a row are better.
#if defined(__AVX512F__)
enum { ROWS = 12, NARROW_ROWS = 12 };
#elif defined(__AVX2__)
enum { ROWS = 6, NARROW_ROWS = 3 };
#else
enum { ROWS = 3, NARROW_ROWS = 1 };
#endif

enum {
    ROW_BLOCK = 20 * ROWS, // rows of A in one block
    DEPTH = 256,           // of K in one pass
    COPY_ROWS = 4 * ROWS,  // rows that make it worth to copy a piece of B or A that is not packed
};

struct tile {
    float *c;
    int64_t ldc;
    const float *a;
    int64_t a_row, a_col;
    const float *b;
    int64_t b_row;
    int64_t K;
    bool accumulate;
};

// tile_run computes `rows` rows by `vecs` vectors (constants after inlining), of which the last
// columns exist up to `width`; `full` says that all do.
VEC_INLINE void tile_run(const struct tile *t, const int rows, const int vecs, const bool full,
                         int width)
{
    const int left = full || width > VEC ? VEC : width;
    const int right = full ? VEC : width - left;
    v16 acc[ROWS][2];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        const float *c = t->c + r * t->ldc;
        acc[r][0] = t->accumulate ? v_load_n(c, left) : v_set(0.0f);
        if (vecs == 2) {
            acc[r][1] = t->accumulate ? v_load_n(c + VEC, right) : v_set(0.0f);
        }
    }
    const float *a = t->a;
    const float *b = t->b;
    for (int64_t k = 0; k < t->K; k++) {
        v16 b0 = full ? v_load(b) : v_load_n(b, left);
        v16 b1 = vecs == 1 ? b0 : full ? v_load(b + VEC) : v_load_n(b + VEC, right);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            v16 x = v_set(a[r * t->a_row]);
            acc[r][0] = v_fma(x, b0, acc[r][0]);
            if (vecs == 2) {
                acc[r][1] = v_fma(x, b1, acc[r][1]);
            }
        }
        a += t->a_col;
        b += t->b_row;
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        float *c = t->c + r * t->ldc;
        v_store_n(c, acc[r][0], left);
        if (vecs == 2) {
            v_store_n(c + VEC, acc[r][1], right);
        }
    }
}

#define TILE_CASE(case_, rows, vecs, columns)                                                      \
    case case_:                                                                                    \
        if (width >= (columns)) {                                                                  \
            tile_run(t, rows, vecs, true, columns);                                                \
        } else {                                                                                   \
            tile_run(t, rows, vecs, false, width);                                                 \
        }                                                                                          \
        break
#define WIDE_CASE(rows) TILE_CASE(rows, rows, 2, PANEL)
#define HALF_CASE(rows) TILE_CASE(-(rows), rows, 1, VEC)

// tile_rows runs a tile of both halves of a panel (`wide`) or of one.
static void tile_rows(const struct tile *t, int rows, int width, bool wide)
{
    switch (wide ? rows : -rows) {
        WIDE_CASE(1);
#if defined(__AVX512F__)
        WIDE_CASE(2);
        WIDE_CASE(3);
        WIDE_CASE(4);
        WIDE_CASE(5);
        WIDE_CASE(6);
        WIDE_CASE(7);
        WIDE_CASE(8);
        WIDE_CASE(9);
        WIDE_CASE(10);
        WIDE_CASE(11);
        WIDE_CASE(12);
#elif defined(__AVX2__)
        WIDE_CASE(2);
        WIDE_CASE(3);
        HALF_CASE(3);
        HALF_CASE(4);
        HALF_CASE(5);
        HALF_CASE(6);
#else
        HALF_CASE(2);
        HALF_CASE(3);
#endif
    default:
        break;
    }
}

// columns_run sweeps the rows over `width` columns. Rows are dealt out evenly, so that no tile is
// left with too few to keep the multiply-add units busy.
static void columns_run(struct tile t, int64_t rows, int width, bool wide)
{
    const int64_t tiles = (rows + ROWS - 1) / ROWS;
    for (int64_t i = 0; i < tiles; i++) {
        const int64_t count = (rows + i) / tiles;
        tile_rows(&t, (int)count, width, wide);
        t.c += count * t.ldc;
        t.a += count * t.a_row;
    }
}

static void panel_run(struct tile t, int64_t rows, int width)
{
    if (rows <= NARROW_ROWS || ROWS <= NARROW_ROWS) {
        columns_run(t, rows, width, true);
        return;
    }
    columns_run(t, rows, width < VEC ? width : VEC, false);
    if (width > VEC) {
        t.c += VEC;
        t.b += VEC;
        columns_run(t, rows, width - VEC, false);
    }
}

enum { COPY_STRIDE = DEPTH + 16 }; // of a row of A's copy: no power of two

// copy_a turns a block whose columns are contiguous into one whose rows are.
static void copy_a(float *copy, const float *a, int64_t a_row, int64_t a_col, int64_t rows,
                   int64_t depth)
{
    for (int64_t r0 = 0; r0 < rows; r0 += VEC) {
        const int64_t r1 = rows - r0 < VEC ? rows : r0 + VEC;
        for (int64_t k = 0; k < depth; k++) {
            for (int64_t r = r0; r < r1; r++) {
                copy[r * COPY_STRIDE + k] = a[r * a_row + k * a_col];
            }
        }
    }
}

static void copy_b(float *copy, const float *b, int64_t b_row, int64_t depth, int width)
{
    for (int64_t k = 0; k < depth; k++) {
        v_store(copy + k * PANEL, v_load_n(b + k * b_row, width < VEC ? width : VEC));
        v_store(copy + k * PANEL + VEC,
                width > VEC ? v_load_n(b + k * b_row + VEC, width - VEC) : v_set(0.0f));
    }
}

// block_run computes a block of rows in one pass of K, whose first row of B is `b`.
static void block_run(struct tile t, struct operand b, int64_t rows, int64_t N)
{
    float a_copy[ROW_BLOCK * COPY_STRIDE], b_copy[DEPTH * PANEL];
    if (t.a_col != 1 && N > PANEL) {
        copy_a(a_copy, t.a, t.a_row, t.a_col, rows, t.K);
        t.a = a_copy;
        t.a_row = COPY_STRIDE;
        t.a_col = 1;
    }
    const bool copied = b.row_stride != PANEL && rows >= COPY_ROWS;
    float *c = t.c;
    t.b_row = copied ? PANEL : b.row_stride;
    for (int64_t n = 0; n < N; n += PANEL) {
        const float *panel = b.data + n / PANEL * b.panel_stride;
        const int width = N - n < PANEL ? (int)(N - n) : PANEL;
        if (copied) {
            copy_b(b_copy, panel, b.row_stride, t.K, width);
        }
        t.b = copied ? b_copy : panel;
        t.c = c + n;
        panel_run(t, rows, width);
    }
}

void cpu_product(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_col,
                 struct operand b, int64_t M, int64_t N, int64_t K, bool accumulate)
{
    for (int64_t m = 0; m < M; m += ROW_BLOCK) {
        for (int64_t k = 0; k < K || k == 0; k += DEPTH) {
            const struct tile t = {.c = c + m * ldc,
                                   .ldc = ldc,
                                   .a = a + m * a_row + k * a_col,
                                   .a_row = a_row,
                                   .a_col = a_col,
                                   .K = K - k < DEPTH ? K - k : DEPTH,
                                   .accumulate = accumulate || k > 0};
            struct operand rest = b;
            rest.data += k * b.row_stride;
            block_run(t, rest, M - m < ROW_BLOCK ? M - m : ROW_BLOCK, N);
        }
    }
}
