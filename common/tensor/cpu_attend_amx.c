// Queries over blocks of keys on the tile unit. Keys are taken in chunks of CHUNK positions: all
// scores of a chunk, their softmax, then the values, which are added up in tiles. In each step,
// blocks that several parts share are taken once for all their rows, then each part takes its own.
#include "common/tensor/amx.h"
#include "common/tensor/cpu.h"
#include "common/tensor/cpu_attend.h"
#include "common/tensor/cpu_pairs.h"

enum {
    COLUMN_TILES = 4,                       // of values at once
    CHUNK_BLOCKS = 8,                       // the sums' order hangs on it
    CHUNK = CHUNK_BLOCKS * ATTENTION_BLOCK, // keys
    ROWS = ATTEND_ROWS + TILE,              // a last tile may reach beyond what exists
    SCORE_ROW = CHUNK + TILE,               // floats; rows do not begin at one place of the cache
    WEIGHT_ROW = CHUNK / 2 + TILE,          // pairs
};

// struct walk is what the rows of a call have come to.
struct walk {
    const struct attend *attend;
    int64_t q_tiles;                                        // of the depth
    int64_t out_tiles;                                      // of the columns
    _Alignas(CACHE_LINE) float q[ROWS * HEAD_SIZE_MAX / 2]; // pairs, scaled, [rows, 16 * q_tiles]
    _Alignas(CACHE_LINE) float out[ROWS * HEAD_SIZE_MAX];   // [rows, 16 * out_tiles]
    float max[ATTEND_ROWS], sum[ATTEND_ROWS];               // running maximum and denominator
    _Alignas(CACHE_LINE) float score[ROWS * SCORE_ROW];     // of a chunk
    _Alignas(CACHE_LINE) float weight[ROWS * WEIGHT_ROW]; // pairs: e to the score less the maximum
};

// struct stretch is some blocks of a chunk and the rows that look at all of them.
struct stretch {
    const float *const *blocks;
    int64_t blocks_from, blocks_to; // from the chunk's first one on
    int64_t from, rows;
    const float *next; // the block that is looked at after these
};

// score_pair computes the scores of a tile of rows and `two` blocks, or one.
VEC_INLINE void score_pair(const struct walk *w, const float *q, float *score, const float *left,
                           const float *right, const bool two)
{
    const int64_t q_row = w->q_tiles * TILE, half = w->q_tiles * TILE_WORDS;
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

// score_stretch fills the rows' scores. A last tile of rows also writes into those below: a part's
// rows are scored before those of the parts behind it.
static void score_stretch(struct walk *w, const struct stretch *s)
{
    const int64_t q_row = w->q_tiles * TILE, keys = columns_floats(COMPUTE_BF16_AMX, w->attend->D);
    for (int64_t r = s->from; r < s->from + s->rows; r += TILE) {
        const float *q = w->q + r * q_row;
        float *score = w->score + r * SCORE_ROW;
        for (int64_t b = s->blocks_from; b < s->blocks_to; b += 2) {
            const bool two = b + 1 < s->blocks_to;
            fetch_block(b + 2 < s->blocks_to ? s->blocks[b + 2] : s->next, keys);
            if (b + 3 < s->blocks_to) {
                fetch_block(s->blocks[b + 3], keys);
            }
            if (two) {
                score_pair(w, q, score + b * ATTENTION_BLOCK, s->blocks[b], s->blocks[b + 1], true);
            } else {
                score_pair(w, q, score + b * ATTENTION_BLOCK, s->blocks[b], NULL, false);
            }
        }
    }
}

static v16 seen_scores(const float *score, int64_t at, int32_t seen)
{
    const v16 v = v_load(score + at);
    return at + VEC <= seen ? v : v_select(lanes_below((int)(seen - at)), v, v_set(-INFINITY));
}

// softmax_row makes weights of a row's scores: those of the first `seen` keys, and zeros up to
// `keys`, a multiple of ATTENTION_BLOCK.
static void softmax_row(struct walk *w, int64_t row, int32_t seen, int64_t keys)
{
    const float *score = w->score + row * SCORE_ROW;
    float *weight = w->weight + row * WEIGHT_ROW, *out = w->out + row * w->out_tiles * TILE;
    if (seen == 0) {
        memset(weight, 0, (size_t)(keys / 2) * sizeof(float));
        return;
    }
    v16 most = v_set(w->max[row]);
    for (int64_t at = 0; at < seen; at += VEC) {
        most = v_max(most, seen_scores(score, at, seen));
    }
    const float top = v_max_lane(most);
    v16 sum = v_set(0.0f);
    for (int64_t at = 0; at < keys; at += ATTENTION_BLOCK) {
        // e^-inf is 0: the hidden keys
        const v16 a = v_exp(v_sub(seen_scores(score, at, seen), v_set(top)));
        const v16 b = v_exp(v_sub(seen_scores(score, at + VEC, seen), v_set(top)));
        sum = v_add(v_add(sum, a), b);
        v_store(weight + at / 2, v_pairs_along(a, b));
    }
    const float factor = exp_one(w->max[row] - top);
    w->sum[row] = fmaf(w->sum[row], factor, v_sum(sum));
    w->max[row] = top;
    for (int64_t d = 0; d < w->out_tiles * TILE; d += VEC) {
        v_store(out + d, v_mul(v_load(out + d), v_set(factor)));
    }
}

// values_run adds what a tile of rows takes from up to four tiles of columns (`tiles`, a constant
// after inlining); `to` is where it is stored, rows to_row apart.
VEC_INLINE void values_run(const struct walk *w, const struct stretch *s, int64_t row,
                           int64_t column, float *to, int64_t to_row, const int tiles)
{
    const int64_t out_row = w->out_tiles * TILE;
    const float *out = w->out + row * out_row + column * TILE;
    const int64_t first = columns_floats(COMPUTE_BF16_AMX, w->attend->D) + column * TILE_WORDS;
#define COLUMN(i, does)                                                                            \
    if (tiles > (i)) {                                                                             \
        does;                                                                                      \
    }
#define EACH_COLUMN(does)                                                                          \
    COLUMN(0, does(0, 6)) COLUMN(1, does(1, 7)) COLUMN(2, does(2, 6)) COLUMN(3, does(3, 7))
#define BEGIN(i, b) amx_load(i, out + (int64_t)(i)*TILE, out_row * (int64_t)sizeof(float))
#define ADD(i, b)                                                                                  \
    amx_load(b, values + (int64_t)(i)*TILE_WORDS, TILE * sizeof(float));                           \
    amx_dot(i, 4, b)
#define END(i, b) amx_store(i, to + (int64_t)(i)*TILE, to_row * (int64_t)sizeof(float))
    EACH_COLUMN(BEGIN)
    for (int64_t block = s->blocks_from; block < s->blocks_to; block++) {
        const float *values = s->blocks[block] + first;
        amx_load(4, w->weight + row * WEIGHT_ROW + block * ATTENTION_BLOCK / 2,
                 WEIGHT_ROW * sizeof(float));
        EACH_COLUMN(ADD)
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
    const int64_t out_row = w->out_tiles * TILE, beside_row = (int64_t)COLUMN_TILES * TILE;
    for (int64_t column = 0; column < w->out_tiles; column += COLUMN_TILES) {
        const int64_t left = w->out_tiles - column,
                      tiles = left < COLUMN_TILES ? left : COLUMN_TILES;
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

// blocks_in is how many blocks of the chunk that begins with `block` a part looks at.
static int64_t blocks_in(const struct attend *a, int64_t part, int64_t block)
{
    const int64_t blocks = attend_last(a, &a->part[part]) / ATTENTION_BLOCK + 1 - block;
    return blocks < 0 ? 0 : blocks < CHUNK_BLOCKS ? blocks : CHUNK_BLOCKS;
}

// each_stretch calls `does` for the blocks of a chunk, those that all parts share first. `block` is
// the chunk's first one.
static void each_stretch(struct walk *w, int64_t block,
                         void (*does)(struct walk *w, const struct stretch *s))
{
    const struct attend *a = w->attend;
    int64_t shared = a->shared - block;
    shared = shared < 0 ? 0 : shared < CHUNK_BLOCKS ? shared : CHUNK_BLOCKS;
    if (shared > 0) {
        const float *const *blocks = a->part[0].blocks + block;
        does(w, &(struct stretch){.blocks = blocks,
                                  .blocks_to = shared,
                                  .rows = a->parts * a->rows,
                                  .next = blocks[shared]}); // of the queries themselves at least
    }
    for (int64_t i = 0; i < a->parts; i++) {
        const int64_t blocks = blocks_in(a, i, block);
        if (blocks <= shared) {
            continue;
        }
        const bool more = i + 1 < a->parts && blocks_in(a, i + 1, block) > shared;
        does(w, &(struct stretch){.blocks = a->part[i].blocks + block,
                                  .blocks_from = shared,
                                  .blocks_to = blocks,
                                  .from = i * a->rows,
                                  .rows = a->rows,
                                  .next = a->part[more ? i + 1 : i].blocks[block + shared]});
    }
}

static void chunk_run(struct walk *w, int64_t block)
{
    const struct attend *a = w->attend;
    const int64_t first = block * ATTENTION_BLOCK;
    each_stretch(w, block, score_stretch);
    for (int64_t i = 0; i < a->parts; i++) {
        const struct attend_part *part = &a->part[i];
        const int64_t keys = blocks_in(a, i, block) * ATTENTION_BLOCK;
        for (int64_t r = 0; r < a->rows; r++) {
            const int32_t seen = attend_seen(attend_position(a, part, r), first, CHUNK);
            softmax_row(w, i * a->rows + r, seen, keys);
        }
    }
    each_stretch(w, block, values_stretch);
}

// last_seen is the last position that a row sees.
static int64_t last_seen(const struct attend *a)
{
    int64_t last = 0;
    for (int64_t i = 0; i < a->parts; i++) {
        const int64_t own = attend_last(a, &a->part[i]);
        last = own > last ? own : last;
    }
    return last;
}

void cpu_attend_amx(const struct attend *attend)
{
    struct walk walk;
    struct walk *w = &walk;
    attend_check(attend);
    w->attend = attend;
    w->q_tiles = (attend->D + 2L * TILE - 1) / (2L * TILE);
    w->out_tiles = (attend->D + TILE - 1) / TILE;
    const int64_t out_row = w->out_tiles * TILE, last = last_seen(attend) / ATTENTION_BLOCK;
    amx_begin();
    attend_begin(attend, w->q, w->q_tiles * TILE, cpu_round_rows_bf16, w->max, w->sum);
    memset(w->out, 0, (size_t)(attend->parts * attend->rows * out_row) * sizeof(float));
    for (int64_t block = 0; block <= last; block += CHUNK_BLOCKS) {
        chunk_run(w, block);
    }
    attend_end(attend, w->out, out_row, w->max, w->sum);
    amx_end();
}
