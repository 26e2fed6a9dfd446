// cpu_tile.h: a tile of C in registers, and the sweep of tiles over a block of rows: what the
// products of all compute types share.
//
// The file that includes it says in TILE_PAIRS what an element is: a float, or the four bytes of a
// pair of bf16 (vec.h), which are moved as they are; K then counts pairs.
#ifndef COMMON_TENSOR_CPU_TILE_H
#define COMMON_TENSOR_CPU_TILE_H

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
    ROW_BLOCK = 40 * ROWS, // rows of A in one block
    DEPTH = 256,           // of K in one pass
    COPY_AHEAD = 4,        // rows that are asked for ahead of a copy
    TILE_GAP = 32,         // elements; a vector written at the end of a tile fits in
};

struct tile {
    float *c;
    int64_t ldc;
    const float *a;
    int64_t a_row, a_col;
    bool a_packed;            // tile after tile, in each k after k; a_row is 1
    const float *b, *b_right; // two panels side by side
    int64_t b_row;
    const float *ahead, *ahead_right; // fetched meanwhile, ahead_step floats at each k
    int64_t ahead_step;
    int64_t K;
    bool accumulate;
};

// struct columns is how many columns of a row of the tile exist: those of its left vector, and of
// its right one.
struct columns {
    int left, right;
};

VEC_INLINE void row_load(v16 acc[2], const float *c, struct columns columns, const int vecs)
{
    acc[0] = v_load_n(c, columns.left);
    if (vecs == 2) {
        acc[1] = v_load_n(c + VEC, columns.right);
    }
}

VEC_INLINE void row_store(float *c, const v16 acc[2], struct columns columns, const int vecs)
{
    v_store_n(c, acc[0], columns.left);
    if (vecs == 2) {
        v_store_n(c + VEC, acc[1], columns.right);
    }
}

// A row's element lies at a base plus 0, 1, 2, 4 or 8 strides, which one instruction addresses:
// four bases serve twelve rows.
enum { BASES = 4 };
static const struct {
    int base, strides;
} place_of[] = {{0, 0}, {0, 1}, {0, 2}, {1, 0}, {0, 4}, {1, 2},
                {2, 0}, {1, 4}, {0, 8}, {3, 0}, {2, 4}, {1, 8}};
_Static_assert(ROWS <= (int)(sizeof(place_of) / sizeof(*place_of)), "every row has a place");

// How a tile's operands lie. In the first two forms b_row is PANEL and all columns exist, so that
// STEPS of k need constant offsets only.
enum form {
    FORM_ALONG,  // a_col is 1
    FORM_PACKED, // a_packed
    FORM_DOWN,   // a_row is 1
    FORM_ANY,
};

enum { STEPS = 2 };

// struct cursor is where a tile's operands are read next.
struct cursor {
    const float *a[BASES];
    int64_t stride; // from row to row of A
    const float *b, *b_right, *ahead, *ahead_right;
};

// The compiler shall take a number as it is: what it can derive one pointer from another with, it
// keeps in memory for want of registers.
#define OPAQUE(number) __asm__("" : "+r"(number))

VEC_INLINE const float *row_at(const struct cursor *at, const int row, const enum form form)
{
    return form == FORM_PACKED || form == FORM_DOWN
               ? at->a[0] + row
               : at->a[place_of[row].base] + place_of[row].strides * at->stride;
}

VEC_INLINE v16 multiply(v16 x, v16 b, v16 acc)
{
    return TILE_PAIRS ? v_dot_pairs(x, b, acc) : v_fma(x, b, acc);
}

// tile_step adds the products of the k that lies `step` behind the cursor.
VEC_INLINE void tile_step(v16 acc[ROWS][2], const struct cursor *at, const int rows, const int vecs,
                          const enum form form, const int step, const bool full,
                          struct columns columns)
{
    const float *b = at->b + (size_t)step * PANEL, *right = at->b_right + (size_t)step * PANEL;
    const v16 b0 = full ? v_load(b) : v_load_n(b, columns.left);
    const v16 b1 = vecs == 1 ? b0 : full ? v_load(right) : v_load_n(right, columns.right);
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        const v16 x = v_spread(row_at(at, r, form) + (form == FORM_PACKED ? step * rows : step));
        acc[r][0] = multiply(x, b0, acc[r][0]);
        if (vecs == 2) {
            acc[r][1] = multiply(x, b1, acc[r][1]);
        }
    }
}

VEC_INLINE void advance(struct cursor *at, const struct tile *t, const int rows,
                        const enum form form, const int steps)
{
    const int64_t a_step = form == FORM_ALONG ? 1 : form == FORM_PACKED ? rows : t->a_col;
    const int64_t b_step = form == FORM_ALONG || form == FORM_PACKED ? PANEL : t->b_row;
#pragma GCC unroll 4
    for (int i = 0; i < BASES; i++) {
        at->a[i] += steps * a_step;
    }
    at->b += steps * b_step;
    at->b_right += steps * b_step;
    at->ahead += steps * t->ahead_step;
    at->ahead_right += steps * t->ahead_step;
}

// fetch asks for what is read after this tile, the part that belongs to the k that lies `step`
// behind the cursor.
VEC_INLINE void fetch(const struct cursor *at, int64_t ahead_step, const int vecs, const int step)
{
    __builtin_prefetch(at->ahead + step * ahead_step);
    if (vecs == 2) {
        __builtin_prefetch(at->ahead_right + step * ahead_step);
    }
}

// fetch_row asks for a row of C, which lies far off, and returns the next one, up to `last`. All at
// once they would take the places of those that A and B wait for.
VEC_INLINE const float *fetch_row(const float *row, const float *last, int64_t ldc, const int vecs)
{
    __builtin_prefetch(row, 1);
    if (vecs == 2) {
        __builtin_prefetch(row + VEC, 1);
    }
    return row < last ? row + ldc : last;
}

// tile_run computes `rows` rows by `vecs` vectors (constants after inlining), of which the last
// columns exist up to `width`; `full` says that all do.
VEC_INLINE void tile_run(const struct tile *t, const int rows, const int vecs, const enum form form,
                         const bool full, int width)
{
    const struct columns columns = {.left = full || width > VEC ? VEC : width,
                                    .right = full          ? VEC
                                             : width > VEC ? width - VEC
                                                           : 0};
    v16 acc[ROWS][2];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        acc[r][0] = v_set(0.0f);
        acc[r][1] = v_set(0.0f);
        if (t->accumulate) {
            row_load(acc[r], t->c + r * t->ldc, columns, vecs);
        }
    }
    struct cursor at = {.stride = t->a_row,
                        .b = t->b,
                        .b_right = t->b_right,
                        .ahead = t->ahead,
                        .ahead_right = t->ahead_right};
#pragma GCC unroll 4
    for (int i = 0; i < BASES; i++) {
        at.a[i] = t->a + 3L * i * t->a_row;
        OPAQUE(at.a[i]);
    }
    const float *next = t->c + rows * t->ldc; // the next tile
    const float *const last = next + (rows - 1) * t->ldc;
    int64_t k = 0;
    const bool in_steps = form == FORM_ALONG || form == FORM_PACKED;
    for (; in_steps && k + STEPS <= t->K; k += STEPS) {
        OPAQUE(at.stride);
        next = fetch_row(next, last, t->ldc, vecs);
#pragma GCC unroll 4
        for (int step = 0; step < STEPS; step++) {
            tile_step(acc, &at, rows, vecs, form, step, full, columns);
            fetch(&at, t->ahead_step, vecs, step);
        }
        advance(&at, t, rows, form, STEPS);
    }
    for (; k < t->K; k++) {
        OPAQUE(at.stride);
        next = fetch_row(next, last, t->ldc, vecs);
        tile_step(acc, &at, rows, vecs, form, 0, full, columns);
        fetch(&at, t->ahead_step, vecs, 0);
        advance(&at, t, rows, form, 1);
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        row_store(t->c + r * t->ldc, acc[r], columns, vecs);
    }
}

#define TILE_CASE(case_, rows, vecs, columns)                                                      \
    case case_:                                                                                    \
        if (width < (columns)) {                                                                   \
            tile_run(t, rows, vecs, FORM_ANY, false, width);                                       \
        } else if (!TILE_PAIRS && t->a_packed && t->b_row == PANEL) {                              \
            tile_run(t, rows, vecs, FORM_PACKED, true, columns);                                   \
        } else if (t->a_row == 1) {                                                                \
            tile_run(t, rows, vecs, FORM_DOWN, true, columns);                                     \
        } else if (TILE_PAIRS || (t->a_col == 1 && t->b_row == PANEL)) {                           \
            tile_run(t, rows, vecs, FORM_ALONG, true, columns);                                    \
        } else {                                                                                   \
            tile_run(t, rows, vecs, FORM_ANY, true, columns);                                      \
        }                                                                                          \
        break
#define WIDE_CASE(rows) TILE_CASE(rows, rows, 2, 2 * PANEL)
#define HALF_CASE(rows) TILE_CASE(-(rows), rows, 1, PANEL)

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

// Rows are dealt out to tiles evenly, so that no tile is left with too few to keep the multiply-add
// units busy: `size` to each, and one more to those from `larger` on.
struct split {
    int64_t tiles, size, larger;
};

static struct split split_rows(int64_t rows)
{
    const int64_t tiles = (rows + ROWS - 1) / ROWS;
    return (struct split){.tiles = tiles, .size = rows / tiles, .larger = tiles - rows % tiles};
}

static int64_t rows_of_tile(const struct split *split, int64_t tile)
{
    return split->size + (tile >= split->larger);
}

// tile_floats is what a packed tile takes: tiles do not begin at one place of the cache.
static int64_t tile_floats(int64_t count, int64_t depth)
{
    return count * depth + TILE_GAP;
}

// columns_run sweeps the rows over `width` columns.
static void columns_run(struct tile t, const struct split *split, int width, bool wide)
{
    for (int64_t i = 0; i < split->tiles; i++) {
        const int64_t count = rows_of_tile(split, i);
        t.a_col = t.a_packed ? count : t.a_col;
        tile_rows(&t, (int)count, width, wide);
        t.c += count * t.ldc;
        t.a += t.a_packed ? tile_floats(count, t.K) : count * t.a_row;
        t.ahead += t.K * t.ahead_step;
        t.ahead_right += t.K * t.ahead_step;
    }
}

// panels_at points a tile at the two panels of B [K, N] that begin at column n, and at what is
// fetched meanwhile. Returns how many of their columns exist.
static int panels_at(struct tile *t, const struct operand *b, int64_t n, int64_t N)
{
    t->b = b->data + n / PANEL * b->panel_stride;
    t->b_right = t->b + b->panel_stride;
    t->ahead = b->next != NULL ? b->next + n * t->K : t->b + 2 * b->panel_stride;
    t->ahead_right = t->ahead + (b->next != NULL ? PANEL * t->K : b->panel_stride);
    return N - n < 2L * PANEL ? (int)(N - n) : 2 * PANEL;
}

// panels_run computes two panels, or what exists of them.
static void panels_run(struct tile t, const struct split *split, int width)
{
    if (ROWS <= NARROW_ROWS || (split->tiles == 1 && rows_of_tile(split, 0) <= NARROW_ROWS)) {
        columns_run(t, split, width, true);
        return;
    }
    columns_run(t, split, width < PANEL ? width : PANEL, false);
    if (width > PANEL) {
        t.c += PANEL;
        t.b = t.b_right;
        t.ahead = t.ahead_right;
        columns_run(t, split, width - PANEL, false);
    }
}

#endif
