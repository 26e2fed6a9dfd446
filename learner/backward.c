#include "learner/backward.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/tensor/attend.h"
#include "common/tensor/memory.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LOOK_ROWS = 24 }; // consecutive rows of a sequence that go together

struct backward {
    int64_t rows_max;
    float *memory;
    float *dx;      // [T, C] gradient of the residual stream
    float *dnorm;   // [T, C]
    float *dact;    // [T, F]
    float *dup;     // [T, 2F or F]
    float *datt;    // [T, H*D]
    float *dqkv;    // [T, (H+2KV)*D]
    float *delta;   // [T]
    float *row;     // [D] scratch of the q/k norm
    float *queries; // [LOOK_ROWS, D] scaled
    float *query_rows,
        *dout_rows; // these, and the gradients of what they gave, as rows (kernels.h)
    float *packed;  // the inputs of one matrix as the right side of a product
    float *turned;  // blocks of a sequence and key head with values as columns and keys as rows
};

static void backward_destroyp(struct backward **backward)
{
    backward_destroy(*backward);
}

static int64_t widest_input(const struct shape *s)
{
    const int64_t HD = (int64_t)s->H * s->D, widest = s->C > s->F ? s->C : s->F;
    return HD > widest ? HD : widest;
}

int backward_create(struct backward **out, const struct model *model, int64_t rows_max,
                    struct error *err)
{
    const struct shape *s = &model->shape;
    CLEANUP(backward_destroyp) struct backward *b = calloc(1, sizeof(*b));
    if (b == NULL) {
        return error_set(err, -ENOMEM, "backward: out of memory");
    }
    const int64_t HD = (int64_t)s->H * s->D, width = HD + 2L * s->KV * s->D;
    const int64_t up = (s->gated ? 2L : 1L) * s->F;
    const int64_t blocks = (rows_max + ATTENTION_BLOCK - 1) / ATTENTION_BLOCK;
    const int64_t sizes[] = {rows_max * s->C,
                             rows_max * s->C,
                             rows_max * s->F,
                             rows_max * up,
                             rows_max * HD,
                             rows_max * width,
                             rows_max,
                             s->D,
                             (int64_t)LOOK_ROWS * s->D,
                             rows_floats(model->compute, s->D),
                             rows_floats(model->compute, s->D),
                             inputs_count(model->kernels, rows_max, widest_input(s)),
                             blocks * kv_block_floats(model->compute, s->D)};
    float **const arrays[] = {&b->dx,        &b->dnorm,  &b->dact,  &b->dup,     &b->datt,
                              &b->dqkv,      &b->delta,  &b->row,   &b->queries, &b->query_rows,
                              &b->dout_rows, &b->packed, &b->turned};
    int64_t floats = 0;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        floats += (sizes[i] + 15) / 16 * 16;
    }
    b->rows_max = rows_max;
    b->memory = floats_alloc((size_t)floats);
    if (b->memory == NULL) {
        return error_set(err, -ENOMEM, "backward: no memory for %lld rows", (long long)rows_max);
    }
    float *next = b->memory;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        *arrays[i] = next;
        next += (sizes[i] + 15) / 16 * 16;
    }
    *out = TAKE(b);
    return 0;
}

void backward_destroy(struct backward *backward)
{
    if (backward != NULL) {
        floats_free(backward->memory);
        free(backward);
    }
}

static float *grad_of(const struct model *model, float *grads, int32_t layer, enum param_role role)
{
    const struct param *param = params_find(&model->params, layer, role);
    return param == NULL ? NULL : grads + param->offset;
}

// struct linear is one matrix of the forward pass, its input, and where its gradients go.
struct linear {
    const struct matrix *w;
    const float *x;
    float *dW, *dbias;
};

// linear_backward: y = x·Wᵀ + b. dx [T, K] = dy·W; dW += dyᵀ·x; db += column sums of dy.
static void linear_backward(const struct backward *b, const struct model *model, float *dx,
                            const struct linear *linear, const float *dy, int64_t T)
{
    const struct kernels *k = model->kernels;
    const struct matrix *w = linear->w;
    k->product(dx, w->K, dy, w->N, 1, w->back, T, w->K, w->N, false);
    inputs_pack(k, b->packed, linear->x, T, w->K);
    k->product(linear->dW, w->K, dy, 1, w->N, operand_inputs(k, b->packed, linear->x, T, w->K),
               w->N, w->K, T, true);
    if (linear->dbias != NULL) {
        k->bias_backward(linear->dbias, dy, w->N, T, w->N);
    }
}

// struct norm is one norm of the forward pass and where its gradients go.
struct norm {
    const float *x, *mean, *rstd, *gain;
    float *dgain, *dbias;
};

// norm_backward adds the gradient through a norm to dx.
static void norm_backward(const struct model *model, float *dx, const struct norm *norm,
                          const float *dy, int64_t T)
{
    const struct shape *s = &model->shape;
    if (s->layer_norm) {
        model->kernels->layernorm_backward(dx, norm->dgain, norm->dbias, dy, norm->x, norm->mean,
                                           norm->rstd, norm->gain, T, s->C);
    } else {
        model->kernels->rmsnorm_backward(dx, norm->dgain, dy, norm->x, norm->rstd, norm->gain, T,
                                         s->C);
    }
}

// struct head_pass is the backward pass of one query head over the own rows of one sequence.
struct head_pass {
    const struct backward *b;
    const struct model *model;
    const struct block_state *state;
    const float *const *blocks; // keys transposed, then values
    const struct pack *pack;
    int32_t sequence;
    int64_t head, kv;
    float scale;
};

// struct look is some rows of it.
struct look {
    int64_t row, rows; // consecutive
    int64_t position;  // of the first
    const float *q;    // [rows, D] scaled
    const float *lse;  // [rows]
};

// keys_backward adds the gradients of `count` keys and values that are consecutive rows from `row`
// on and columns from `column` on of p and ds.
static void keys_backward(const struct head_pass *pass, const struct look *look, const float *p,
                          const float *ds, int64_t row, int64_t column, int64_t count)
{
    const struct shape *s = &pass->model->shape;
    const struct kernels *k = pass->model->kernels;
    const int64_t D = s->D, HD = (int64_t)s->H * D, width = HD + 2L * s->KV * D;
    float *dkeys = pass->b->dqkv + row * width + HD + pass->kv * D;
    k->product(dkeys, width, ds + column, 1, ATTENTION_BLOCK,
               operand_rows(k->compute, pass->b->query_rows), count, D, look->rows, true);
    k->product(dkeys + (int64_t)s->KV * D, width, p + column, 1, ATTENTION_BLOCK,
               operand_rows(k->compute, pass->b->dout_rows), count, D, look->rows, true);
}

static void block_backward(const struct head_pass *pass, const struct look *look, int64_t b)
{
    const struct kernels *k = pass->model->kernels;
    const struct shape *s = &pass->model->shape;
    const int64_t D = s->D, HD = (int64_t)s->H * D, width = HD + 2L * s->KV * D;
    const int64_t first = b * ATTENTION_BLOCK;
    const float *turned = pass->b->turned + b * kv_block_floats(k->compute, D);
    float p[LOOK_ROWS * ATTENTION_BLOCK], ds[LOOK_ROWS * ATTENTION_BLOCK];
    int32_t valid[LOOK_ROWS];
    for (int64_t r = 0; r < look->rows; r++) {
        valid[r] = attend_seen(look->position + r, first, ATTENTION_BLOCK);
    }
    const float *dout = pass->b->datt + look->row * HD + pass->head * D;
    k->product(p, ATTENTION_BLOCK, look->q, D, 1, kv_block_keys(k->compute, pass->blocks[b], D),
               look->rows, ATTENTION_BLOCK, D, false);
    k->product(ds, ATTENTION_BLOCK, dout, HD, 1, kv_block_keys(k->compute, turned, D), look->rows,
               ATTENTION_BLOCK, D, false);
    k->softmax_backward(p, ds, look->lse, pass->b->delta + look->row, valid, look->rows);
    // The block's keys up to what the last row sees; of these the first ones may be shared rows.
    const int32_t n = pass->sequence;
    const int64_t keys = valid[look->rows - 1];
    k->product(pass->b->dqkv + look->row * width + pass->head * D, width, ds, ATTENTION_BLOCK, 1,
               kv_block_values(k->compute, turned, D), look->rows, D, keys, true);
    int64_t shared = pack_shared(pass->pack, n) - first;
    shared = shared < 0 ? 0 : shared < keys ? shared : keys;
    if (shared > 0) {
        keys_backward(pass, look, p, ds, pack_row(pass->pack, n, (int32_t)first), 0, shared);
    }
    if (shared < keys) {
        const int32_t row = pack_row(pass->pack, n, (int32_t)(first + shared));
        keys_backward(pass, look, p, ds, row, shared, keys - shared);
    }
}

static void head_backward(const struct head_pass *pass)
{
    const struct shape *s = &pass->model->shape;
    const struct kernels *k = pass->model->kernels;
    const int64_t D = s->D, HD = (int64_t)s->H * D, width = HD + 2L * s->KV * D;
    const int64_t from = pass->pack->start[pass->sequence];
    const int64_t to = pass->pack->start[pass->sequence + 1];
    float *q = pass->b->queries;
    for (int64_t t = from; t < to; t += LOOK_ROWS) {
        float lse[LOOK_ROWS];
        const struct look look = {.row = t,
                                  .rows = to - t < LOOK_ROWS ? to - t : LOOK_ROWS,
                                  .position = pack_shared(pass->pack, pass->sequence) + t - from,
                                  .q = q,
                                  .lse = lse};
        for (int64_t r = 0; r < look.rows; r++) {
            int64_t at = (t + r) * HD + pass->head * D;
            memcpy(q + r * D, pass->state->qkv + (t + r) * width + pass->head * D,
                   (size_t)D * sizeof(*q));
            pass->b->delta[t + r] = k->dot(pass->b->datt + at, pass->state->att + at, D);
            lse[r] = pass->state->lse[(t + r) * s->H + pass->head];
        }
        k->scale(q, pass->scale, look.rows * D);
        for (int64_t r = 0; r < look.rows; r++) {
            k->put_row(pass->b->query_rows, r, q + r * D, D);
            k->put_row(pass->b->dout_rows, r, pass->b->datt + (t + r) * HD + pass->head * D, D);
        }
        for (int64_t b = 0; b <= (look.position + look.rows - 1) / ATTENTION_BLOCK; b++) {
            block_backward(pass, &look, b);
        }
        for (int64_t r = 0; r < look.rows; r++) {
            k->scale(pass->b->dqkv + (t + r) * width + pass->head * D, pass->scale, D);
        }
    }
}

// turn_blocks lays out what forward_blocks does, keys and values exchanged.
static void turn_blocks(const struct backward *b, const struct model *model, const float *qkv,
                        const struct pack *pack, int32_t sequence, int64_t kv)
{
    const struct shape *s = &model->shape;
    const int64_t D = s->D, width = ((int64_t)s->H + 2L * s->KV) * D;
    const float *key = qkv + pack->start[sequence] * width + ((int64_t)s->H + kv) * D;
    for (int64_t t = pack_shared(pack, sequence); t < pack_count(pack, sequence); t++) {
        float *block = b->turned + t / ATTENTION_BLOCK * kv_block_floats(model->compute, D);
        kv_block_put(model->kernels, block, t, key + (int64_t)s->KV * D, key, D);
        key += width;
    }
}

static void attention_backward(struct backward *b, struct forward *forward,
                               const struct model *model, const struct block_state *state,
                               const struct pack *pack)
{
    const struct shape *s = &model->shape;
    const int64_t group = s->H / s->KV, width = ((int64_t)s->H + 2L * s->KV) * s->D;
    memset(b->dqkv, 0, (size_t)(pack->T * width) * sizeof(float));
    for (int64_t kv = 0; kv < s->KV; kv++) {
        for (int32_t i = 0; i < pack->count; i++) {
            const float *const *blocks = forward_blocks(forward, model, state->qkv, pack, i, kv);
            turn_blocks(b, model, state->qkv, pack, i, kv);
            for (int64_t g = 0; g < group; g++) {
                const struct head_pass pass = {.b = b,
                                               .model = model,
                                               .state = state,
                                               .blocks = blocks,
                                               .pack = pack,
                                               .sequence = i,
                                               .head = kv * group + g,
                                               .kv = kv,
                                               .scale = 1.0f / sqrtf((float)s->D)};
                head_backward(&pass);
            }
        }
    }
}

// qk_norm_backward replaces the gradients of normalized q and k heads by those of the plain ones.
static void qk_norm_backward(struct backward *b, const struct model *model, int32_t l,
                             const struct block_state *state, float *grads, int64_t T)
{
    const struct shape *s = &model->shape;
    const struct layer *layer = &model->layers[l];
    const int64_t D = s->D, heads = s->H + s->KV, width = (heads + s->KV) * D;
    float *dq_gain = grad_of(model, grads, l, PARAM_Q_NORM);
    float *dk_gain = grad_of(model, grads, l, PARAM_K_NORM);
    for (int64_t t = 0; t < T; t++) {
        for (int64_t h = 0; h < heads; h++) {
            bool query = h < s->H;
            float *dhead = b->dqkv + t * width + h * D;
            memset(b->row, 0, (size_t)D * sizeof(float));
            model->kernels->rmsnorm_backward(
                b->row, query ? dq_gain : dk_gain, dhead, state->qkv_plain + (t * heads + h) * D,
                state->qk_rstd + t * heads + h, query ? layer->q_norm : layer->k_norm, 1, D);
            memcpy(dhead, b->row, (size_t)D * sizeof(float));
        }
    }
}

// feed_backward goes from the layer's exit to the residual stream between its halves.
static void feed_backward(struct backward *b, const struct model *model, int32_t l,
                          const struct block_state *state, float *grads, int64_t T)
{
    const struct shape *s = &model->shape;
    const struct layer *layer = &model->layers[l];
    const struct linear down = {.w = &layer->down,
                                .x = state->act,
                                .dW = grad_of(model, grads, l, PARAM_DOWN),
                                .dbias = grad_of(model, grads, l, PARAM_DOWN_BIAS)};
    linear_backward(b, model, b->dact, &down, b->dx, T);
    if (s->gated) {
        model->kernels->swiglu_backward(b->dup, b->dact, state->up, T, s->F);
    } else {
        model->kernels->gelu_backward(b->dup, b->dact, state->up, T * s->F);
    }
    const struct linear up = {.w = &layer->up,
                              .x = state->norm2,
                              .dW = grad_of(model, grads, l, s->gated ? PARAM_GATE : PARAM_UP),
                              .dbias = grad_of(model, grads, l, PARAM_UP_BIAS)};
    linear_backward(b, model, b->dnorm, &up, b->dup, T);
    const struct norm norm = {.x = state->mid,
                              .mean = state->mean2,
                              .rstd = state->rstd2,
                              .gain = layer->norm2,
                              .dgain = grad_of(model, grads, l, PARAM_NORM2),
                              .dbias = grad_of(model, grads, l, PARAM_NORM2_BIAS)};
    norm_backward(model, b->dx, &norm, b->dnorm, T);
}

// look_backward goes on through attention to the layer's entry.
static void look_backward(struct backward *b, struct forward *forward, const struct model *model,
                          int32_t l, const struct pack *pack, float *grads)
{
    const struct shape *s = &model->shape;
    const struct layer *layer = &model->layers[l];
    const struct block_state *state = &forward->layers[l];
    const struct linear out = {.w = &layer->out,
                               .x = state->att,
                               .dW = grad_of(model, grads, l, PARAM_O),
                               .dbias = grad_of(model, grads, l, PARAM_O_BIAS)};
    linear_backward(b, model, b->datt, &out, b->dx, pack->T);
    attention_backward(b, forward, model, state, pack);
    if (model->rope != NULL) {
        model->kernels->rope(b->dqkv, layer->qkv.N, model->rope, pack->position, pack->T,
                             s->H + s->KV, s->D, -1.0f);
    }
    if (s->qk_norm) {
        qk_norm_backward(b, model, l, state, grads, pack->T);
    }
    const struct linear qkv = {.w = &layer->qkv,
                               .x = state->norm1,
                               .dW = grad_of(model, grads, l, PARAM_Q),
                               .dbias = grad_of(model, grads, l, PARAM_Q_BIAS)};
    linear_backward(b, model, b->dnorm, &qkv, b->dqkv, pack->T);
    const struct norm norm = {.x = state->x,
                              .mean = state->mean1,
                              .rstd = state->rstd1,
                              .gain = layer->norm1,
                              .dgain = grad_of(model, grads, l, PARAM_NORM1),
                              .dbias = grad_of(model, grads, l, PARAM_NORM1_BIAS)};
    norm_backward(model, b->dx, &norm, b->dnorm, pack->T);
}

void backward_run(struct backward *backward, struct forward *forward, const struct model *model,
                  const struct pack *pack, float *grads, float *dfinal)
{
    struct backward *b = backward;
    const int64_t C = model->shape.C, T = pack->T;
    CHECK(T <= b->rows_max);
    memset(b->dx, 0, (size_t)(T * C) * sizeof(float));
    const struct norm norm = {.x = forward->last,
                              .mean = forward->final_mean,
                              .rstd = forward->final_rstd,
                              .gain = model->final_norm,
                              .dgain = grad_of(model, grads, -1, PARAM_FINAL_NORM),
                              .dbias = grad_of(model, grads, -1, PARAM_FINAL_NORM_BIAS)};
    norm_backward(model, b->dx, &norm, dfinal, T);
    for (int32_t l = model->shape.L - 1; l >= 0; l--) {
        feed_backward(b, model, l, &forward->layers[l], grads, T);
        look_backward(b, forward, model, l, pack, grads);
    }
    float *dembed = grad_of(model, grads, -1, PARAM_EMBED);
    float *dpositions = grad_of(model, grads, -1, PARAM_POSITIONS);
    for (int64_t t = 0; t < T; t++) {
        model->kernels->add(dembed + pack->ids[t] * C, b->dx + t * C, C);
        if (dpositions != NULL) {
            model->kernels->add(dpositions + pack->position[t] * C, b->dx + t * C, C);
        }
    }
}
