#include "learner/attend_backward.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/tensor/attend.h"
#include "common/tensor/memory.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    POSITIONS = 128, // of queries in a square
    ROWS = POSITIONS * ATTEND_HEADS,
    KEYS = 256,             // of a chunk
    STEP = ATTENTION_BLOCK, // positions that go together where some rows see nothing
};

struct attend_backward {
    float *memory;
    // Of one sequence and key head, all its positions, those before the sequence's own rows too:
    float *keys, *values;               // [T, D]
    float *dkeys, *dvalues;             // [T, D]
    float *key_rows;                    // as the rows of an operand
    float *key_columns, *value_columns; // as the columns of one
    // Of the rows of a square; a position's heads lie side by side.
    float *queries, *dout;         // [ROWS, D] as inputs_own describes; queries are scaled
    float *query_rows, *dout_rows; // as the rows of an operand
    float *dqueries;               // [ROWS, D]
    float *score, *dscore;         // [ROWS, ATTENTION_BLOCK] of one block
    float *p, *ds;                 // [ROWS, KEYS] as products read them
};

// keys_row is how many floats the rows of p and ds lie apart: they meet in no place of the cache.
static int64_t keys_row(enum compute compute)
{
    return (compute == COMPUTE_F32 ? KEYS : KEYS / 2) + PANEL;
}

// place_of is where row `r` of a square and key `k` of its chunk, a multiple of ATTENTION_BLOCK,
// lie in them; weights_from is what lies there, to the right and down.
static int64_t place_of(enum compute compute, int64_t r, int64_t k)
{
    return r * keys_row(compute) + (compute == COMPUTE_F32 ? k : k / 2);
}

static struct inputs weights_from(enum compute compute, const float *p, int64_t r, int64_t k)
{
    return (struct inputs){.data = p + place_of(compute, r, k),
                           .row = keys_row(compute),
                           .col = 1,
                           .pairs = compute != COMPUTE_F32};
}

static void attend_backward_destroyp(struct attend_backward **attend)
{
    attend_backward_destroy(*attend);
}

int attend_backward_create(struct attend_backward **out, const struct model *model,
                           int64_t rows_max, struct error *err)
{
    const int64_t D = model->shape.D, own = ROWS * inputs_stride(model->compute, D);
    const int64_t columns = (rows_max + ATTENTION_BLOCK - 1) / ATTENTION_BLOCK * ATTENTION_BLOCK;
    CLEANUP(attend_backward_destroyp) struct attend_backward *a = calloc(1, sizeof(*a));
    if (a == NULL) {
        return error_set(err, -ENOMEM, "attention: out of memory");
    }
    const int64_t sizes[] = {rows_max * D,
                             rows_max * D,
                             rows_max * D,
                             rows_max * D,
                             inputs_count(model->kernels, rows_max, D),
                             packed_count(model->compute, columns, D),
                             packed_count(model->compute, columns, D),
                             own,
                             own,
                             inputs_count(model->kernels, ROWS, D),
                             inputs_count(model->kernels, ROWS, D),
                             ROWS * D,
                             (int64_t)ROWS * ATTENTION_BLOCK,
                             (int64_t)ROWS * ATTENTION_BLOCK,
                             ROWS * keys_row(model->compute),
                             ROWS * keys_row(model->compute)};
    float **const arrays[] = {
        &a->keys,          &a->values,  &a->dkeys, &a->dvalues,    &a->key_rows,  &a->key_columns,
        &a->value_columns, &a->queries, &a->dout,  &a->query_rows, &a->dout_rows, &a->dqueries,
        &a->score,         &a->dscore,  &a->p,     &a->ds};
    a->memory = floats_carve(arrays, sizes, sizeof(sizes) / sizeof(*sizes));
    if (a->memory == NULL) {
        return error_set(err, -ENOMEM, "attention: no memory for %lld rows", (long long)rows_max);
    }
    *out = TAKE(a);
    return 0;
}

void attend_backward_destroy(struct attend_backward *attend)
{
    if (attend != NULL) {
        floats_free(attend->memory);
        free(attend);
    }
}

// struct pass is one call: what it reads and writes, and the sequence in work.
struct pass {
    const struct attend_backward *a;
    const struct model *model;
    const struct block_state *state;
    const struct pack *pack;
    const float *datt;
    float *dqkv;
    int32_t sequence;
};

// struct square is some rows of it and a chunk of keys.
struct square {
    int64_t row, positions; // consecutive
    int64_t position;       // of the first
    int64_t head, heads;
    int64_t rows;        // positions * heads
    int64_t first, keys; // of the chunk; what the last row sees of it
    struct inputs queries, dout;
    float lse[ROWS], delta[ROWS];
};

static int64_t width_of(const struct shape *s)
{
    return ((int64_t)s->H + 2L * s->KV) * s->D;
}

// gather copies one key head, which begins at `column` of qkv, of all positions of a sequence.
static void gather(const struct pass *pass, float *to, int64_t column)
{
    const int64_t D = pass->model->shape.D, width = width_of(&pass->model->shape);
    const int32_t count = pack_count(pass->pack, pass->sequence);
    for (int32_t t = 0; t < count; t++, to += D) {
        const int64_t row = pack_row(pass->pack, pass->sequence, t);
        memcpy(to, pass->state->qkv + row * width + column, (size_t)D * sizeof(float));
    }
}

// scatter writes the gradients of the sequence's own positions and adds those that it shares to
// what the sequences before it have left.
static void scatter(const struct pass *pass, const float *from, int64_t column)
{
    const int64_t D = pass->model->shape.D, width = width_of(&pass->model->shape);
    const int32_t count = pack_count(pass->pack, pass->sequence);
    for (int32_t t = 0; t < count; t++, from += D) {
        float *to = pass->dqkv + pack_row(pass->pack, pass->sequence, t) * width + column;
        if (t < pack_shared(pass->pack, pass->sequence)) {
            pass->model->kernels->add(to, from, D);
        } else {
            memcpy(to, from, (size_t)D * sizeof(float));
        }
    }
}

// positions_begin lays the keys and values of all positions of a sequence out.
static void positions_begin(const struct pass *pass, int64_t key, int64_t value)
{
    const struct kernels *k = pass->model->kernels;
    const struct attend_backward *a = pass->a;
    const int64_t D = pass->model->shape.D, count = pack_count(pass->pack, pass->sequence);
    gather(pass, a->keys, key);
    gather(pass, a->values, value);
    inputs_pack(k, a->key_rows, inputs_rows(a->keys, D), count, D);
    k->pack(a->key_columns, a->keys, count, D);
    k->pack(a->value_columns, a->values, count, D);
    memset(a->dkeys, 0, (size_t)(count * D) * sizeof(float));
    memset(a->dvalues, 0, (size_t)(count * D) * sizeof(float));
}

// block_weights writes p and ds of rows from `r` on for the keys from `key` on.
static void block_weights(const struct pass *pass, const struct square *q, int64_t r, int64_t key)
{
    const struct kernels *k = pass->model->kernels;
    const struct attend_backward *a = pass->a;
    const int64_t D = pass->model->shape.D, rows = q->rows - r;
    const int64_t columns = key * packed_depth(k->compute, D); // of those before
    const struct operand keys = operand_packed(k->compute, a->key_columns + columns, D);
    const struct operand values = operand_packed(k->compute, a->value_columns + columns, D);
    int32_t valid[ROWS];
    for (int64_t i = 0; i < rows; i++) {
        valid[i] = attend_seen(q->position + (r + i) / q->heads, key, ATTENTION_BLOCK);
    }
    k->product(a->score, ATTENTION_BLOCK, inputs_from(q->queries, r), keys, rows, ATTENTION_BLOCK,
               D, false);
    k->product(a->dscore, ATTENTION_BLOCK, inputs_from(q->dout, r), values, rows, ATTENTION_BLOCK,
               D, false);
    const struct softmax_rows softmax = {.score = a->score,
                                         .dp = a->dscore,
                                         .lse = q->lse + r,
                                         .delta = q->delta + r,
                                         .valid = valid,
                                         .rows = rows};
    const int64_t at = place_of(k->compute, r, key - q->first);
    k->softmax_backward(a->p + at, a->ds + at, keys_row(k->compute), &softmax);
}

// block_keys adds what rows from `r` on give to the gradients of the keys and values from `key` on.
static void block_keys(const struct pass *pass, const struct square *q, int64_t r, int64_t key)
{
    const struct kernels *k = pass->model->kernels;
    const struct attend_backward *a = pass->a;
    const int64_t D = pass->model->shape.D, rows = q->rows - r, at = key - q->first;
    const int64_t left = q->keys - at, keys = left < ATTENTION_BLOCK ? left : ATTENTION_BLOCK;
    float *dkeys = a->dkeys + key * D, *dvalues = a->dvalues + key * D;
    k->product(dkeys, D, inputs_turned(weights_from(k->compute, a->ds, r, at)),
               operand_from(operand_inputs(k, a->query_rows, q->queries, q->rows), r), keys, D,
               rows, true);
    k->product(dvalues, D, inputs_turned(weights_from(k->compute, a->p, r, at)),
               operand_from(operand_inputs(k, a->dout_rows, q->dout, q->rows), r), keys, D, rows,
               true);
}

// queries_backward adds what the chunk's keys give to the gradients of the queries, some positions
// at a time: they see no key beyond their own block.
static void queries_backward(const struct pass *pass, const struct square *q)
{
    const struct kernels *k = pass->model->kernels;
    const struct attend_backward *a = pass->a;
    const int64_t D = pass->model->shape.D, all = pack_count(pass->pack, pass->sequence);
    const struct operand keys =
        operand_from(operand_inputs(k, a->key_rows, inputs_rows(a->keys, D), all), q->first);
    for (int64_t t = 0; t < q->positions; t += STEP) {
        const int64_t positions = q->positions - t < STEP ? q->positions - t : STEP;
        const int64_t seen = attend_seen(q->position + t + positions - 1, q->first, KEYS);
        float *dq = a->dqueries + t * q->heads * D;
        if (seen > 0) {
            k->product(dq, D, weights_from(k->compute, a->ds, t * q->heads, 0), keys,
                       positions * q->heads, D, seen, q->first > 0);
        }
    }
}

// chunk_backward goes through the keys of a chunk, block by block with the rows that see any of it,
// and those of their STEP.
static void chunk_backward(const struct pass *pass, struct square *q, int64_t first)
{
    q->first = first;
    q->keys = attend_seen(q->position + q->positions - 1, first, KEYS);
    for (int64_t key = first; key < first + q->keys; key += ATTENTION_BLOCK) {
        const int64_t blind = key > q->position ? (key - q->position) / STEP * STEP : 0;
        block_weights(pass, q, blind * q->heads, key);
        block_keys(pass, q, blind * q->heads, key);
    }
    queries_backward(pass, q);
}

// square_begin gathers the rows of a square.
static void square_begin(const struct pass *pass, struct square *q)
{
    const struct shape *s = &pass->model->shape;
    const struct kernels *k = pass->model->kernels;
    const struct attend_backward *a = pass->a;
    const int64_t D = s->D, HD = (int64_t)s->H * D, N = q->heads;
    q->queries = inputs_own(k->compute, a->queries, D);
    q->dout = inputs_own(k->compute, a->dout, D);
    for (int64_t h = 0; h < N; h++) {
        const int64_t at = q->row * HD + (q->head + h) * D;
        float delta[POSITIONS];
        k->scale(a->dqueries + h * D, N * D,
                 pass->state->qkv + q->row * width_of(s) + (q->head + h) * D, width_of(s),
                 1.0f / sqrtf((float)D), q->positions, D); // a place that is overwritten later
        k->dots(delta, pass->datt + at, pass->state->att + at, HD, q->positions, D);
        for (int64_t t = 0; t < q->positions; t++) {
            q->delta[t * N + h] = delta[t];
            q->lse[t * N + h] = pass->state->lse[(q->row + t) * s->H + q->head + h];
        }
    }
    k->round_rows(a->queries, a->dqueries, D, q->rows, D);
    for (int64_t t = 0; t < q->positions; t++) {
        k->round_rows(a->dout + t * N * q->dout.row, pass->datt + (q->row + t) * HD + q->head * D,
                      D, N, D);
    }
    inputs_pack(k, a->query_rows, q->queries, q->rows, D);
    inputs_pack(k, a->dout_rows, q->dout, q->rows, D);
}

// square_end writes the gradients of its queries.
static void square_end(const struct pass *pass, const struct square *q)
{
    const struct shape *s = &pass->model->shape;
    const int64_t D = s->D;
    for (int64_t h = 0; h < q->heads; h++) {
        pass->model->kernels->scale(pass->dqkv + q->row * width_of(s) + (q->head + h) * D,
                                    width_of(s), pass->a->dqueries + h * D, q->heads * D,
                                    1.0f / sqrtf((float)D), q->positions, D);
    }
}

// heads_backward goes through all positions of a sequence's own rows with `heads` heads.
static void heads_backward(const struct pass *pass, int64_t head, int64_t heads)
{
    const int64_t from = pass->pack->start[pass->sequence];
    const int64_t to = pass->pack->start[pass->sequence + 1];
    for (int64_t t = from; t < to; t += POSITIONS) {
        struct square q = {.row = t,
                           .positions = to - t < POSITIONS ? to - t : POSITIONS,
                           .position = pack_shared(pass->pack, pass->sequence) + t - from,
                           .head = head,
                           .heads = heads};
        q.rows = q.positions * heads;
        square_begin(pass, &q);
        for (int64_t key = 0; key < q.position + q.positions; key += KEYS) {
            chunk_backward(pass, &q, key);
        }
        square_end(pass, &q);
    }
}

void attend_backward_run(struct attend_backward *attend, const struct model *model,
                         const struct block_state *state, const struct pack *pack,
                         const float *datt, float *dqkv)
{
    const struct shape *s = &model->shape;
    const int64_t group = s->H / s->KV;
    struct pass pass = {
        .a = attend, .model = model, .state = state, .pack = pack, .datt = datt, .dqkv = dqkv};
    for (int64_t kv = 0; kv < s->KV; kv++) {
        const int64_t key = (s->H + kv) * s->D; // columns of qkv
        const int64_t value = key + (int64_t)s->KV * s->D;
        for (pass.sequence = 0; pass.sequence < pack->count; pass.sequence++) {
            positions_begin(&pass, key, value);
            for (int64_t g = 0; g < group; g += ATTEND_HEADS) {
                heads_backward(&pass, kv * group + g,
                               group - g < ATTEND_HEADS ? group - g : ATTEND_HEADS);
            }
            scatter(&pass, attend->dkeys, key);
            scatter(&pass, attend->dvalues, value);
        }
    }
}
