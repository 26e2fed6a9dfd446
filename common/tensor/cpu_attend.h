// cpu_attend.h: queries over blocks of keys, but for the products: keys are taken in chunks of
// CHUNK positions, first all scores of a chunk, then their softmax, then the values. Parts go one
// after another; where they share blocks of a chunk they go together, and in each step these blocks
// are taken once for all their rows, then each part takes its own.
#ifndef COMMON_TENSOR_CPU_ATTEND_H
#define COMMON_TENSOR_CPU_ATTEND_H

#include "common/base/check.h"
#include "common/tensor/attend.h"
#include "common/tensor/vec.h"

#include <math.h>
#include <string.h>

enum {
    CHUNK_BLOCKS = 8, // the sums' order hangs on it
    CHUNK = CHUNK_BLOCKS * ATTENTION_BLOCK,
    SCORE_ROW = CHUNK + PANEL,       // floats; rows do not begin at one place of the cache
    WALK_ROWS = ATTEND_ROWS + PANEL, // a last tile of rows may reach beyond what exists
};

_Static_assert(ATTENTION_BLOCK == 2 * VEC, "a block of scores is two vectors");

typedef void product_fn(float *c, int64_t ldc, struct inputs a, struct operand b, int64_t M,
                        int64_t N, int64_t K, bool accumulate);
typedef void round_fn(float *to, const float *x, int64_t x_row, int64_t T, int64_t K);

// struct walk is what the rows of a call have come to.
struct walk {
    const struct attend *attend;
    enum compute compute;
    product_fn *product;                      // of this compute type, where tiles are not used
    round_fn *round;                          // of this compute type
    struct inputs queries;                    // scaled, in q
    int64_t out_row;                          // floats: whole panels
    float max[ATTEND_ROWS], sum[ATTEND_ROWS]; // running maximum and denominator
    _Alignas(CACHE_LINE) float q[WALK_ROWS * (HEAD_SIZE_MAX + PANEL)];
    _Alignas(CACHE_LINE) float out[WALK_ROWS * HEAD_SIZE_MAX];
    // Scores of a chunk; then weights in their place, e to the score less the maximum, as products
    // read them: floats, or pairs.
    _Alignas(CACHE_LINE) float score[WALK_ROWS * SCORE_ROW];
};

// struct stretch is some blocks of a chunk and the rows that look at all of them.
struct stretch {
    const float *const *blocks;     // of the chunk
    int64_t blocks_from, blocks_to; // [0, CHUNK_BLOCKS]
    int64_t keys;                   // of the chunk that the last row sees, up to blocks_to
    int64_t from, rows;
    const float *const *next; // [blocks_next] that are looked at after these
    int64_t blocks_next;
};

typedef void stretch_fn(struct walk *w, const struct stretch *s);

// stretch_later is the block whose keys are fetched while the values of block `b` are added.
static inline const float *stretch_later(const struct stretch *s, int64_t b)
{
    const int64_t later = b - s->blocks_from;
    return later < s->blocks_next ? s->next[later] : s->blocks[b];
}

// stretch_seen is how many keys of block `b` the last row sees. Beyond these weights are 0, and
// values may not be written yet.
static inline int64_t stretch_seen(const struct stretch *s, int64_t b)
{
    const int64_t seen = s->keys - b * ATTENTION_BLOCK;
    return seen < ATTENTION_BLOCK ? seen : ATTENTION_BLOCK;
}

// The position of row `r` of a part.
static inline int64_t attend_position(const struct attend *a, const struct attend_part *part,
                                      int64_t r)
{
    return part->position + r * a->position_step;
}

// attend_last is the last position that a part's rows see.
static inline int64_t attend_last(const struct attend *a, const struct attend_part *part)
{
    return attend_position(a, part, a->rows - 1);
}

// blocks_in is how many blocks of the chunk that begins with `block` a part looks at.
static int64_t blocks_in(const struct attend *a, int64_t part, int64_t block)
{
    const int64_t blocks = attend_last(a, &a->part[part]) / ATTENTION_BLOCK + 1 - block;
    return blocks < 0 ? 0 : blocks < CHUNK_BLOCKS ? blocks : CHUNK_BLOCKS;
}

// struct group is the parts [from, to) that go together through the chunk that begins with `block`,
// of whose blocks they share the first ones.
struct group {
    int64_t block, shared;
    int64_t from, to;
};

// shared_run calls `does` for the blocks that the parts of a group share.
static void shared_run(struct walk *w, const struct group *g, stretch_fn *does)
{
    const struct attend *a = w->attend;
    const float *const *blocks = a->part[g->from].blocks + g->block;
    does(w, &(struct stretch){.blocks = blocks,
                              .blocks_to = g->shared,
                              .keys = g->shared * ATTENTION_BLOCK,
                              .from = g->from * a->rows,
                              .rows = (g->to - g->from) * a->rows,
                              .next = blocks + g->shared,
                              .blocks_next = blocks_in(a, g->from, g->block) - g->shared});
}

// part_run calls `does` for the blocks that only part `i` of a group has.
static void part_run(struct walk *w, const struct group *g, int64_t i, stretch_fn *does)
{
    const struct attend *a = w->attend;
    const bool more = i + 1 < a->parts && blocks_in(a, i + 1, g->block) > g->shared;
    const int64_t after = more ? i + 1 : i;
    does(w, &(struct stretch){
                .blocks = a->part[i].blocks + g->block,
                .blocks_from = g->shared,
                .blocks_to = blocks_in(a, i, g->block),
                .keys = attend_seen(attend_last(a, &a->part[i]), g->block * ATTENTION_BLOCK, CHUNK),
                .from = i * a->rows,
                .rows = a->rows,
                .next = a->part[after].blocks + g->block + g->shared,
                .blocks_next = blocks_in(a, after, g->block) - g->shared});
}

static void each_stretch(struct walk *w, const struct group *g, stretch_fn *does)
{
    if (g->shared > 0) {
        shared_run(w, g, does);
    }
    for (int64_t i = g->from; i < g->to; i++) {
        if (blocks_in(w->attend, i, g->block) > g->shared) {
            part_run(w, g, i, does);
        }
    }
}

static v16 seen_scores(const float *score, int64_t at, int32_t seen)
{
    const v16 v = v_load(score + at);
    return at + VEC <= seen ? v : v_select(lanes_below((int)(seen - at)), v, v_set(-INFINITY));
}

// softmax_row makes weights of a row's scores: those of the first `seen` keys, and zeros up to
// `keys`, a multiple of ATTENTION_BLOCK. What the row has come to becomes relative to its new
// maximum.
static void softmax_row(struct walk *w, int64_t row, int32_t seen, int64_t keys)
{
    float *score = w->score + row * SCORE_ROW, *out = w->out + row * w->out_row;
    if (seen == 0) {
        memset(score, 0, (size_t)keys * sizeof(float));
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
        if (w->compute == COMPUTE_F32) {
            v_store(score + at, a);
            v_store(score + at + VEC, b);
        } else {
            v_store(score + at / 2, v_pairs_along(a, b));
        }
    }
    const float factor = exp_one(w->max[row] - top);
    w->sum[row] = fmaf(w->sum[row], factor, v_sum(sum));
    w->max[row] = top;
    for (int64_t d = 0; d < w->out_row; d += VEC) {
        v_store(out + d, v_mul(v_load(out + d), v_set(factor)));
    }
}

static void softmax_group(struct walk *w, const struct group *g)
{
    const struct attend *a = w->attend;
    for (int64_t i = g->from; i < g->to; i++) {
        const int64_t keys = blocks_in(a, i, g->block) * ATTENTION_BLOCK;
        for (int64_t r = 0; r < a->rows; r++) {
            const int64_t position = attend_position(a, &a->part[i], r);
            const int32_t seen = attend_seen(position, g->block * ATTENTION_BLOCK, CHUNK);
            softmax_row(w, i * a->rows + r, seen, keys);
        }
    }
}

// attend_query writes the scaled query of row `r` of a part to `to` [D].
static void attend_query(float *to, const struct attend *a, int64_t part, int64_t r)
{
    const float *q = a->part[part].q + r * a->q_stride;
    const v16 scale = v_set(1.0f / sqrtf((float)a->D));
    for (int64_t d = 0; d < a->D; d += VEC) {
        const int count = a->D - d < VEC ? (int)(a->D - d) : VEC;
        v_store_n(to + d, v_mul(v_load_n(q + d, count), scale), count);
    }
}

static void walk_begin(struct walk *w)
{
    const struct attend *a = w->attend;
    w->queries = inputs_own(w->compute, w->q, a->D);
    w->out_row = (a->D + PANEL - 1) / PANEL * PANEL;
    memset(w->out, 0, (size_t)(a->parts * a->rows * w->out_row) * sizeof(float));
    for (int64_t row = 0; row < ATTEND_ROWS; row++) {
        w->max[row] = -INFINITY;
        w->sum[row] = 0.0f;
    }
    for (int64_t i = 0, row = 0; i < a->parts; i++) {
        for (int64_t r = 0; r < a->rows; r++, row++) {
            float query[HEAD_SIZE_MAX];
            attend_query(query, a, i, r);
            w->round(w->q + row * w->queries.row, query, a->D, 1, a->D);
        }
    }
}

// attend_result writes what row `r` of a part has come to: `out` over the sum of its weights.
static void attend_result(const struct walk *w, int64_t part, int64_t r)
{
    const struct attend *a = w->attend;
    const int64_t row = part * a->rows + r;
    const float *out = w->out + row * w->out_row;
    float *to = a->part[part].out + r * a->out_stride;
    const v16 share = v_set(1.0f / w->sum[row]);
    for (int64_t d = 0; d < a->D; d += VEC) {
        const int count = a->D - d < VEC ? (int)(a->D - d) : VEC;
        v_store_n(to + d, v_mul(v_load(out + d), share), count);
    }
    if (a->lse != NULL) {
        a->lse[row] = w->max[row] + logf(w->sum[row]);
    }
}

static void walk_end(const struct walk *w)
{
    for (int64_t i = 0; i < w->attend->parts; i++) {
        for (int64_t r = 0; r < w->attend->rows; r++) {
            attend_result(w, i, r);
        }
    }
}

static void group_run(struct walk *w, const struct group *g, stretch_fn *scores, stretch_fn *values)
{
    each_stretch(w, g, scores);
    softmax_group(w, g);
    each_stretch(w, g, values);
}

static void chunk_run(struct walk *w, int64_t block, stretch_fn *scores, stretch_fn *values)
{
    const struct attend *a = w->attend;
    const int64_t left = a->shared - block;
    struct group g = {.block = block, .to = a->parts};
    if (left > 0) {
        g.shared = left < CHUNK_BLOCKS ? left : CHUNK_BLOCKS;
        group_run(w, &g, scores, values);
        return;
    }
    for (; g.from < a->parts; g.from++) {
        g.to = g.from + 1;
        group_run(w, &g, scores, values);
    }
}

// walk_run computes a call, of which `scores` and `values` do the products: `scores` fills the
// scores of a stretch's rows, `values` adds the weighted values to their `out`.
static void walk_run(struct walk *w, stretch_fn *scores, stretch_fn *values)
{
    const struct attend *a = w->attend;
    int64_t last = 0;
    CHECK(a->parts >= 1 && a->rows >= 1 && a->parts * a->rows <= ATTEND_ROWS);
    CHECK(a->D >= 1 && a->D <= HEAD_SIZE_MAX);
    walk_begin(w);
    for (int64_t i = 0; i < a->parts; i++) {
        const int64_t own = attend_last(a, &a->part[i]);
        last = own > last ? own : last;
    }
    for (int64_t block = 0; block <= last / ATTENTION_BLOCK; block += CHUNK_BLOCKS) {
        chunk_run(w, block, scores, values);
    }
    walk_end(w);
}

#endif
