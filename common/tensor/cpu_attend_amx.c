// Queries over blocks of keys on the tile unit: values are added up in tiles.
#include "common/tensor/amx.h"
#include "common/tensor/cpu.h"
#include "common/tensor/cpu_attend.h"
#include "common/tensor/cpu_pairs.h"

enum { COLUMN_TILES = 4 }; // of values at once

_Static_assert(WALK_ROWS >= ATTEND_ROWS + TILE, "a last tile stays within");

// score_pair computes the scores of a tile of rows and `two` blocks, or one.
VEC_INLINE void score_pair(const struct walk *w, const float *q, float *score, const float *left,
                           const float *right, const bool two)
{
    const int64_t q_row = w->queries.row;
    const int64_t half = packed_depth(COMPUTE_BF16_AMX, w->attend->D) * TILE;
    amx_zero(0);
    amx_zero(1);
    if (two) {
        amx_zero(2);
        amx_zero(3);
    }
    for (int64_t at = 0; at < half; at += TILE_WORDS, q += TILE) {
        amx_load(4, q, q_row * (int64_t)sizeof(float));
        amx_load(6, left + at, TILE * sizeof(float));
        amx_dot(0, 4, 6);
        amx_load(7, left + half + at, TILE * sizeof(float));
        amx_dot(1, 4, 7);
        if (two) {
            amx_load(6, right + at, TILE * sizeof(float));
            amx_dot(2, 4, 6);
            amx_load(7, right + half + at, TILE * sizeof(float));
            amx_dot(3, 4, 7);
        }
    }
    amx_store(0, score, SCORE_ROW * sizeof(float));
    amx_store(1, score + TILE, SCORE_ROW * sizeof(float));
    if (two) {
        amx_store(2, score + 2L * TILE, SCORE_ROW * sizeof(float));
        amx_store(3, score + 3L * TILE, SCORE_ROW * sizeof(float));
    }
}

static void fetch_block(const float *block, int64_t floats)
{
    for (int64_t i = 0; i < floats; i += TILE) {
        __builtin_prefetch(block + i, 0, 2); // into the second-level cache
    }
}

// fetch_values asks for what is added to `out` later.
static void fetch_values(const struct walk *w, const struct stretch *s, int64_t b)
{
    if (b < s->blocks_to) {
        fetch_block(s->blocks[b] + columns_floats(COMPUTE_BF16_AMX, w->attend->D),
                    rows_floats(COMPUTE_BF16_AMX, w->attend->D));
    }
}

// score_stretch fills the rows' scores. A last tile of rows also writes into those below: a part's
// rows are scored before those of the parts behind it.
static void score_stretch(struct walk *w, const struct stretch *s)
{
    for (int64_t r = s->from; r < s->from + s->rows; r += TILE) {
        const float *q = w->q + r * w->queries.row;
        float *score = w->score + r * SCORE_ROW;
        for (int64_t b = s->blocks_from; b < s->blocks_to; b += 2) {
            const bool two = b + 1 < s->blocks_to;
            if (r == s->from) {
                fetch_values(w, s, b);
                fetch_values(w, s, b + 1);
            }
            if (two) {
                score_pair(w, q, score + b * ATTENTION_BLOCK, s->blocks[b], s->blocks[b + 1], true);
            } else {
                score_pair(w, q, score + b * ATTENTION_BLOCK, s->blocks[b], NULL, false);
            }
        }
    }
}

// values_run adds what a tile of rows takes from up to four tiles of columns (`tiles`, a constant
// after inlining); `to` is where it is stored, rows to_row apart.
VEC_INLINE void values_run(const struct walk *w, const struct stretch *s, int64_t row,
                           int64_t column, float *to, int64_t to_row, const int tiles)
{
    const float *out = w->out + row * w->out_row + column * TILE;
    const int64_t first = columns_floats(COMPUTE_BF16_AMX, w->attend->D) + column * TILE_WORDS;
#define COLUMN(i, does)                                                                            \
    if (tiles > (i)) {                                                                             \
        does;                                                                                      \
    }
#define EACH_COLUMN(does)                                                                          \
    COLUMN(0, does(0, 6)) COLUMN(1, does(1, 7)) COLUMN(2, does(2, 6)) COLUMN(3, does(3, 7))
#define BEGIN(i, b) amx_load(i, out + (int64_t)(i)*TILE, w->out_row * (int64_t)sizeof(float))
#define ADD(i, b)                                                                                  \
    amx_load(b, values + (int64_t)(i)*TILE_WORDS, TILE * sizeof(float));                           \
    amx_dot(i, 4, b)
#define END(i, b) amx_store(i, to + (int64_t)(i)*TILE, to_row * (int64_t)sizeof(float))
    EACH_COLUMN(BEGIN)
    for (int64_t block = s->blocks_from; block < s->blocks_to; block++) {
        const float *values = s->blocks[block] + first;
        amx_load(4, w->score + row * SCORE_ROW + block * TILE, SCORE_ROW * sizeof(float));
        EACH_COLUMN(ADD)
        if (row == s->from) {
            fetch_block(stretch_later(s, block) + column * TILE_WORDS, tiles * (int64_t)TILE_WORDS);
        }
    }
    EACH_COLUMN(END)
#undef BEGIN
#undef ADD
#undef END
}

// values_columns does so for any number of tiles of columns.
static void values_columns(const struct walk *w, const struct stretch *s, int64_t row,
                           int64_t column, float *to, int64_t to_row, int64_t tiles)
{
    if (tiles == COLUMN_TILES) {
        values_run(w, s, row, column, to, to_row, COLUMN_TILES);
        return;
    }
    for (int64_t i = 0; i < tiles; i++) {
        values_run(w, s, row, column + i, to + i * TILE, to_row, 1);
    }
}

// values_tile adds the values to the sums of a tile of rows, of which `rows` are meant. Where not
// all are, it is stored beside first, for the rows below are of other parts.
static void values_tile(struct walk *w, const struct stretch *s, int64_t row, int64_t rows)
{
    const int64_t out_row = w->out_row, out_tiles = out_row / TILE;
    const int64_t beside_row = (int64_t)COLUMN_TILES * TILE;
    for (int64_t column = 0; column < out_tiles; column += COLUMN_TILES) {
        const int64_t left = out_tiles - column, tiles = left < COLUMN_TILES ? left : COLUMN_TILES;
        float *out = w->out + row * out_row + column * TILE;
        if (rows == TILE) {
            values_columns(w, s, row, column, out, out_row, tiles);
            continue;
        }
        _Alignas(CACHE_LINE) float beside[TILE * COLUMN_TILES * TILE];
        values_columns(w, s, row, column, beside, beside_row, tiles);
        for (int64_t i = 0; i < rows; i++) {
            memcpy(out + i * out_row, beside + i * beside_row,
                   (size_t)(tiles * TILE) * sizeof(float));
        }
    }
}

static void values_stretch(struct walk *w, const struct stretch *s)
{
    for (int64_t r = 0; r < s->rows; r += TILE) {
        values_tile(w, s, s->from + r, s->rows - r < TILE ? s->rows - r : TILE);
    }
}

void cpu_attend_amx(const struct attend *attend)
{
    struct walk walk;
    walk.attend = attend;
    walk.compute = COMPUTE_BF16_AMX;
    walk.round = cpu_round_rows_bf16;
    amx_begin();
    walk_run(&walk, score_stretch, values_stretch);
    amx_end();
}
