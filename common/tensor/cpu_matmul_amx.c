// The product in bf16 on the tile unit: two by two tiles of C stay there while K runs. Tiles of A
// are loaded from rows of pairs as they lie; a block of anything else is laid out in tiles, once in
// each pass of K, and a piece of a panel of B is rounded where it is not in pairs already.
#include "common/tensor/amx.h"
#include "common/tensor/cpu.h"
#include "common/tensor/cpu_pairs.h"

enum {
    TILE_DEPTH = 2 * TILE,            // of K
    ROW_BYTES = TILE * sizeof(float), // of these
    ROW_BLOCK = 16 * TILE,            // rows of A in one block
    PASS = 32 * TILE_DEPTH,           // of K
    A_TILES = PASS / 2 * TILE,        // pairs of a row of tiles of A in the copy
    COPY_FLOATS = ROW_BLOCK / TILE * A_TILES,
    FEW_ROWS = 4 * TILE, // of C: B is read too seldom to stay in a cache
    AHEAD = 8,           // steps by which it is fetched then
};

// struct left is where a row of tiles of A lies.
struct left {
    const float *at;
    int64_t row, step; // floats from row to row, and from tile to tile
};

// struct span is what a sweep computes: up to two by two tiles of C.
struct span {
    float *c;
    int64_t ldc;
    struct left a[2];
    const float *b[2];     // tile after tile of pairs: panels
    const float *next[2];  // the panels after these
    int64_t steps;         // of TILE_DEPTH
    int64_t rows, columns; // of c that exist
    bool accumulate;
};

// struct corner is where a tile of C lies: in C, or, where only a part of it exists, in a place
// beside.
struct corner {
    float *at;
    int64_t stride; // bytes
    _Alignas(CACHE_LINE) float beside[TILE * TILE];
};

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

// copy_part copies what exists of a tile of C.
static void copy_part(float *to, int64_t to_row, const float *from, int64_t from_row, int64_t rows,
                      int64_t columns)
{
    for (int64_t r = 0; r < rows; r++) {
        memcpy(to + r * to_row, from + r * from_row, (size_t)columns * sizeof(float));
    }
}

// The rows and columns that exist of tile (down, across).
static int64_t rows_of(const struct span *s, int down)
{
    return least(s->rows - (int64_t)down * TILE, TILE);
}

static int64_t columns_of(const struct span *s, int across)
{
    return least(s->columns - (int64_t)across * TILE, TILE);
}

static bool is_whole(const struct span *s, int down, int across)
{
    return rows_of(s, down) == TILE && columns_of(s, across) == TILE;
}

static float *place_of(const struct span *s, int down, int across)
{
    return s->c + (int64_t)down * TILE * s->ldc + (int64_t)across * TILE;
}

static void corner_begin(struct corner *corner, const struct span *s, int down, int across)
{
    if (is_whole(s, down, across)) {
        corner->at = place_of(s, down, across);
        corner->stride = s->ldc * (int64_t)sizeof(float);
        return;
    }
    corner->at = corner->beside;
    corner->stride = TILE * sizeof(float);
    memset(corner->beside, 0, sizeof(corner->beside));
    if (s->accumulate) {
        copy_part(corner->beside, TILE, place_of(s, down, across), s->ldc, rows_of(s, down),
                  columns_of(s, across));
    }
}

static void corner_end(const struct corner *corner, const struct span *s, int down, int across)
{
    if (corner->at == corner->beside) {
        copy_part(place_of(s, down, across), s->ldc, corner->beside, TILE, rows_of(s, down),
                  columns_of(s, across));
    }
}

#define BEGIN(tile, down, across)                                                                  \
    do {                                                                                           \
        corner_begin(&corner[tile], s, down, across);                                              \
        if (s->accumulate) {                                                                       \
            amx_load(tile, corner[tile].at, corner[tile].stride);                                  \
        } else {                                                                                   \
            amx_zero(tile);                                                                        \
        }                                                                                          \
    } while (0)
#define END(tile, down, across)                                                                    \
    do {                                                                                           \
        amx_store(tile, corner[tile].at, corner[tile].stride);                                     \
        corner_end(&corner[tile], s, down, across);                                                \
    } while (0)

// fetch asks for the tiles of B that come AHEAD steps, or all of them, after step `step`.
VEC_INLINE void fetch(const struct span *s, int64_t step)
{
    const int64_t later = step + (s->steps < AHEAD ? s->steps : AHEAD);
    const float *const *panel = later < s->steps ? s->b : s->next;
    const int64_t at = (later < s->steps ? later : later - s->steps) * TILE_WORDS;
#pragma GCC unroll 16
    for (int64_t r = 0; r < TILE; r++) {
        __builtin_prefetch(panel[0] + at + r * PANEL);
        __builtin_prefetch(panel[1] + at + r * PANEL);
    }
}

// sweep computes a span; `down` and `across` say whether it has a second tile there, `ahead`
// whether B is to be fetched (constants after inlining). Tiles 0 to 3 are C's, 4 and 5 A's, 6 and 7
// B's.
VEC_INLINE void sweep(const struct span *s, const bool down, const bool across, const bool ahead)
{
    struct corner corner[4];
    BEGIN(0, 0, 0);
    if (across) {
        BEGIN(1, 0, 1);
    }
    if (down) {
        BEGIN(2, 1, 0);
    }
    if (down && across) {
        BEGIN(3, 1, 1);
    }
    const struct left upper = s->a[0], lower = s->a[down];
    const float *a = upper.at, *below = lower.at, *b = s->b[0], *right = s->b[across];
    for (int64_t step = 0, steps = s->steps; step < steps; step++) {
        if (ahead) {
            fetch(s, step);
        }
        amx_load(6, b, ROW_BYTES);
        amx_load(4, a, upper.row * (int64_t)sizeof(float));
        amx_dot(0, 4, 6);
        if (across) {
            amx_load(7, right, ROW_BYTES);
            amx_dot(1, 4, 7);
        }
        if (down) {
            amx_load(5, below, lower.row * (int64_t)sizeof(float));
            amx_dot(2, 5, 6);
        }
        if (down && across) {
            amx_dot(3, 5, 7);
        }
        a += upper.step;
        below += lower.step;
        b += TILE_WORDS;
        right += TILE_WORDS;
    }
    END(0, 0, 0);
    if (across) {
        END(1, 0, 1);
    }
    if (down) {
        END(2, 1, 0);
    }
    if (down && across) {
        END(3, 1, 1);
    }
}

static void sweep_span(const struct span *s, bool ahead)
{
    const bool down = s->rows > TILE, across = s->columns > TILE;
    if (down && across && ahead) {
        sweep(s, true, true, true);
    } else if (down && across) {
        sweep(s, true, true, false);
    } else if (down) {
        sweep(s, true, false, false);
    } else if (across) {
        sweep(s, false, true, false);
    } else {
        sweep(s, false, false, false);
    }
}

// panel_of is where the pairs of a panel of B lie, as many as the steps of `s` read: in B itself,
// or in `copy`.
static const float *panel_of(struct operand b, float *copy, const float *panel,
                             const struct span *s, int64_t depth, int64_t columns)
{
    const int64_t pairs = (depth + 1) / 2;
    if (b.pairs && pairs == s->steps * TILE) {
        return panel;
    }
    if (b.pairs) {
        memcpy(copy, panel, (size_t)(pairs * PANEL) * sizeof(float));
    } else {
        pairs_panel(copy, panel, b.row_stride, depth, (int)columns);
    }
    memset(copy + pairs * PANEL, 0, (size_t)((s->steps * TILE - pairs) * PANEL) * sizeof(float));
    return copy;
}

// copy_along rounds rows that are contiguous.
static void copy_along(float *copy, const float *a, int64_t a_row, int64_t rows, int64_t depth)
{
    for (int64_t r = 0; r < rows; r++, a += a_row) {
        float *row = copy + r / TILE * A_TILES + r % TILE * TILE;
        for (int64_t k = 0; k < depth; k += TILE_DEPTH, row += TILE_WORDS) {
            v_store(row, pairs_at(a + k, depth - k));
        }
    }
}

// copy_tile_down makes a tile of `count` rows from m on that are side by side, from number k of
// `depth` on, and asks for what comes next in them.
VEC_INLINE void copy_tile_down(float *tile, struct inputs a, int64_t m, int64_t k, int count,
                               int64_t depth)
{
    const float *later = a.data + (a.pairs ? m / 2 : m) + (k + TILE_DEPTH) * a.col;
    v16 row[TILE];
    for (int64_t i = 0; i < TILE; i++, k += 2, later += 2 * a.col) {
        row[i] = k < depth ? pairs_down(a, m, k, depth, count) : v_set(0.0f);
        __builtin_prefetch(later);
        __builtin_prefetch(later + a.col);
    }
    v_transpose(row);
    for (size_t i = 0; i < TILE; i++) {
        v_store(tile + i * TILE, row[i]);
    }
}

// copy_down makes tiles of rows that are side by side.
static void copy_down(float *copy, struct inputs a, int64_t rows, int64_t depth)
{
    for (int64_t k = 0; k < depth; k += TILE_DEPTH, copy += TILE_WORDS) {
        for (int64_t m = 0; m < rows; m += TILE) {
            copy_tile_down(copy + m / TILE * A_TILES, a, m, k, (int)least(rows - m, TILE), depth);
        }
    }
}

// copy_pairs lays rows of pairs out in tiles.
static void copy_pairs(float *copy, const float *a, int64_t a_row, int64_t rows, int64_t depth)
{
    for (int64_t r = 0; r < rows; r++, a += a_row) {
        float *row = copy + r / TILE * A_TILES + r % TILE * TILE;
        for (int64_t k = 0; k < depth; k += TILE_DEPTH, row += TILE_WORDS) {
            v_store(row, v_load(a + k / 2));
        }
    }
}

// struct block is a block of A in one pass of K: its first `whole` rows are loaded as they lie, the
// others from a copy in tiles.
struct block {
    struct inputs rows;
    int64_t whole;
    _Alignas(CACHE_LINE) float copy[COPY_FLOATS]; // rows of tiles are A_TILES apart
};

// block_begin makes the tiles. What is missing of the last tile's rows stays as it is: nothing of
// it gets into the rows that exist.
static void block_begin(struct block *block, struct inputs a, int64_t rows, int64_t depth)
{
    block->rows = a;
    block->whole = 0;
    if (a.col != 1) {
        copy_down(block->copy, a, rows, depth);
    } else if (!a.pairs) {
        copy_along(block->copy, a.data, a.row, rows, depth);
    } else {
        block->whole = rows - rows % TILE; // a tile would reach beyond the last rows
        copy_pairs(block->copy, a.data + block->whole * a.row, a.row, rows % TILE, depth);
    }
}

static struct left left_of(const struct block *block, int64_t m)
{
    if (m < block->whole) {
        return (struct left){
            .at = block->rows.data + m * block->rows.row, .row = block->rows.row, .step = TILE};
    }
    return (struct left){
        .at = block->copy + (m - block->whole) / TILE * A_TILES, .row = TILE, .step = TILE_WORDS};
}

// block_run computes a block of rows in one pass of K.
static void block_run(struct span s, const struct block *block, struct operand b, int64_t rows,
                      int64_t N, int64_t depth)
{
    _Alignas(CACHE_LINE) float copy[2][(size_t)PASS / 2 * PANEL];
    float *const c = s.c;
    const bool ahead = rows <= FEW_ROWS && b.pairs;
    for (int64_t n = 0; n < N; n += 2L * TILE) {
        const float *panel = b.data + n / PANEL * b.panel_stride;
        s.columns = least(N - n, 2L * TILE);
        s.b[0] = panel_of(b, copy[0], panel, &s, depth, least(s.columns, TILE));
        if (s.columns > TILE) {
            s.b[1] = panel_of(b, copy[1], panel + b.panel_stride, &s, depth, s.columns - TILE);
        }
        s.next[0] = panel + 2 * b.panel_stride;
        s.next[1] = panel + 3 * b.panel_stride;
        for (int64_t m = 0; m < rows; m += 2L * TILE) {
            s.c = c + m * s.ldc + n;
            s.rows = least(rows - m, 2L * TILE);
            s.a[0] = left_of(block, m);
            s.a[1] = left_of(block, s.rows > TILE ? m + TILE : m);
            sweep_span(&s, ahead);
        }
    }
}

void cpu_product_amx(float *c, int64_t ldc, struct inputs a, struct operand b, int64_t M, int64_t N,
                     int64_t K, bool accumulate)
{
    struct block block;
    amx_begin();
    for (int64_t m = 0; m < M; m += ROW_BLOCK) {
        const int64_t rows = least(M - m, ROW_BLOCK);
        for (int64_t k = 0; k < K || k == 0; k += PASS) {
            const int64_t depth = least(K - k, PASS);
            const struct span span = {.c = c + m * ldc,
                                      .ldc = ldc,
                                      .steps = (depth + TILE_DEPTH - 1) / TILE_DEPTH,
                                      .accumulate = accumulate || k > 0};
            block_begin(&block, inputs_at(a, m, k), rows, depth);
            block_run(span, &block, operand_from(b, k), rows, N, depth);
        }
    }
    amx_end();
}
