#include "learner/backward.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/tensor/attend.h"
#include "common/tensor/memory.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct backward {
    int64_t rows_max;
    float *memory;
    float *dx;      // [T, C] gradient of the residual stream
    float *dnorm;   // [BLOCK_ROWS, C]
    float *dact;    // [BLOCK_ROWS, F]
    float *dup;     // [BLOCK_ROWS, 2F], as inputs_own describes, or [BLOCK_ROWS, F]
    float *rounded; // [BLOCK_ROWS, widest gradient] as inputs_own describes
    float *datt;    // [T, H*D]
    float *dqkv;    // [T, (H+2KV)*D]
    float *row;     // [D] scratch of the q/k norm
    float *packed;  // the inputs of one matrix as the right side of a product
    // Rows of one look at attention, as inputs_own describes where nothing else is said:
    float *queries;                      // [ATTEND_ROWS, D] scaled
    float *dout;                         // [ATTEND_ROWS, D] gradients of what they gave
    float *queries_packed, *dout_packed; // as the right side of a product
    float *dqueries;                     // [ATTEND_ROWS, D] in floats
    float *turned; // blocks of a sequence and key head with values as columns and keys as rows
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

// Of those that are rounded apart.
static int64_t widest_gradient(const struct shape *s)
{
    const int64_t width = (s->H + 2L * s->KV) * s->D, widest = s->C > s->F ? s->C : s->F;
    return width > widest ? width : widest;
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
    const int64_t up = s->gated ? inputs_stride(model->compute, 2L * s->F) : s->F;
    const int64_t blocks = (rows_max + ATTENTION_BLOCK - 1) / ATTENTION_BLOCK;
    const int64_t sizes[] = {rows_max * s->C,
                             (int64_t)BLOCK_ROWS * s->C,
                             (int64_t)BLOCK_ROWS * s->F,
                             (int64_t)BLOCK_ROWS * up,
                             BLOCK_ROWS * inputs_stride(model->compute, widest_gradient(s)),
                             rows_max * HD,
                             rows_max * width,
                             s->D,
                             inputs_count(model->kernels, BLOCK_ROWS, widest_input(s)),
                             ATTEND_ROWS * inputs_stride(model->compute, s->D),
                             ATTEND_ROWS * inputs_stride(model->compute, s->D),
                             inputs_count(model->kernels, ATTEND_ROWS, s->D),
                             inputs_count(model->kernels, ATTEND_ROWS, s->D),
                             (int64_t)ATTEND_ROWS * s->D,
                             blocks * kv_block_floats(model->compute, s->D)};
    float **const arrays[] = {&b->dx,          &b->dnorm,    &b->dact,  &b->dup,
                              &b->rounded,     &b->datt,     &b->dqkv,  &b->row,
                              &b->packed,      &b->queries,  &b->dout,  &b->queries_packed,
                              &b->dout_packed, &b->dqueries, &b->turned};
    int64_t floats = 0;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        floats += floats_whole(sizes[i]);
    }
    b->rows_max = rows_max;
    b->memory = floats_alloc((size_t)floats);
    if (b->memory == NULL) {
        return error_set(err, -ENOMEM, "backward: no memory for %lld rows", (long long)rows_max);
    }
    float *next = b->memory;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        *arrays[i] = next;
        next += floats_whole(sizes[i]);
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
    struct inputs x;
    float *dW, *dbias;
};

// y = x·Wᵀ + b. linear_inputs: dx [T, K] = dy·W.
static void linear_inputs(const struct model *model, float *dx, const struct linear *linear,
                          struct inputs dy, int64_t T)
{
    const struct matrix *w = linear->w;
    model->kernels->product(dx, w->K, dy, w->back, T, w->K, w->N, false);
}

// linear_weights: dW += dyᵀ·x.
static void linear_weights(const struct backward *b, const struct model *model,
                           const struct linear *linear, struct inputs dy, int64_t T)
{
    const struct kernels *k = model->kernels;
    const struct matrix *w = linear->w;
    inputs_pack(k, b->packed, linear->x, T, w->K);
    k->product(linear->dW, w->K, inputs_turned(dy), operand_inputs(k, b->packed, linear->x, T),
               w->N, w->K, T, true);
}

// linear_bias: db += column sums of dy, where there is a bias.
static void linear_bias(const struct model *model, const struct linear *linear, const float *dy,
                        int64_t T)
{
    if (linear->dbias != NULL) {
        model->kernels->bias_backward(linear->dbias, dy, linear->w->N, T, linear->w->N);
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

// struct look_pass is the backward pass of attention over the own rows of one sequence, by the
// query heads of one key head.
struct look_pass {
    const struct backward *b;
    const struct model *model;
    const struct block_state *state;
    const float *const *blocks; // keys transposed, then values
    const struct pack *pack;
    int32_t sequence;
    int64_t kv;
    float scale;
};

// struct look is some rows of it: all positions with its first head, then with the next one.
struct look {
    int64_t row, positions; // consecutive
    int64_t position;       // of the first
    int64_t head, heads;
    int64_t rows; // positions * heads
    struct inputs queries, dout;
    float lse[ATTEND_ROWS], delta[ATTEND_ROWS];
};

// keys_backward adds the gradients of `count` keys and values that are consecutive rows from `row`
// on and columns from `column` on of p and ds.
static void keys_backward(const struct look_pass *pass, const struct look *look, const float *p,
                          const float *ds, int64_t row, int64_t column, int64_t count)
{
    const struct shape *s = &pass->model->shape;
    const struct kernels *k = pass->model->kernels;
    const struct backward *b = pass->b;
    const int64_t D = s->D, HD = (int64_t)s->H * D, width = HD + 2L * s->KV * D;
    float *dkeys = b->dqkv + row * width + HD + pass->kv * D;
    k->product(dkeys, width, inputs_columns(ds + column, ATTENTION_BLOCK),
               operand_inputs(k, b->queries_packed, look->queries, look->rows), count, D,
               look->rows, true);
    k->product(dkeys + (int64_t)s->KV * D, width, inputs_columns(p + column, ATTENTION_BLOCK),
               operand_inputs(k, b->dout_packed, look->dout, look->rows), count, D, look->rows,
               true);
}

static void block_backward(const struct look_pass *pass, const struct look *look, int64_t b)
{
    const struct kernels *k = pass->model->kernels;
    const int64_t D = pass->model->shape.D, first = b * ATTENTION_BLOCK;
    const float *turned = pass->b->turned + b * kv_block_floats(k->compute, D);
    _Alignas(CACHE_LINE) float p[ATTEND_ROWS * ATTENTION_BLOCK];
    _Alignas(CACHE_LINE) float ds[ATTEND_ROWS * ATTENTION_BLOCK];
    int32_t valid[ATTEND_ROWS];
    for (int64_t r = 0; r < look->rows; r++) {
        valid[r] = attend_seen(look->position + r % look->positions, first, ATTENTION_BLOCK);
    }
    k->product(p, ATTENTION_BLOCK, look->queries, kv_block_keys(k->compute, pass->blocks[b], D),
               look->rows, ATTENTION_BLOCK, D, false);
    k->product(ds, ATTENTION_BLOCK, look->dout, kv_block_keys(k->compute, turned, D), look->rows,
               ATTENTION_BLOCK, D, false);
    k->softmax_backward(p, ds, look->lse, look->delta, valid, look->rows);
    // The block's keys up to what the last row sees; of these the first ones may be shared rows.
    const int32_t n = pass->sequence;
    const int64_t keys = valid[look->rows - 1];
    k->product(pass->b->dqueries, D, inputs_rows(ds, ATTENTION_BLOCK),
               kv_block_values(k->compute, turned, D), look->rows, D, keys, b > 0);
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

// look_begin gathers the rows of a look.
static void look_begin(const struct look_pass *pass, struct look *look)
{
    const struct shape *s = &pass->model->shape;
    const struct kernels *k = pass->model->kernels;
    const struct backward *b = pass->b;
    const int64_t D = s->D, HD = (int64_t)s->H * D, width = HD + 2L * s->KV * D;
    look->queries = inputs_own(k->compute, b->queries, D);
    look->dout = inputs_own(k->compute, b->dout, D);
    for (int64_t h = 0; h < look->heads; h++) {
        const int64_t head = look->head + h, first = h * look->positions;
        const int64_t at = look->row * HD + head * D;
        k->scale(b->dqueries + first * D, D, pass->state->qkv + look->row * width + head * D, width,
                 pass->scale, look->positions, D); // a place that is overwritten later
        k->dots(look->delta + first, b->datt + at, pass->state->att + at, HD, look->positions, D);
        k->round_rows(b->dout + first * look->dout.row, b->datt + at, HD, look->positions, D);
        for (int64_t r = 0; r < look->positions; r++) {
            look->lse[first + r] = pass->state->lse[(look->row + r) * s->H + head];
        }
    }
    k->round_rows(b->queries, b->dqueries, D, look->rows, D);
    inputs_pack(k, b->queries_packed, look->queries, look->rows, D);
    inputs_pack(k, b->dout_packed, look->dout, look->rows, D);
}

// look_end writes the gradients of its queries.
static void look_end(const struct look_pass *pass, const struct look *look)
{
    const struct shape *s = &pass->model->shape;
    const struct backward *b = pass->b;
    const int64_t D = s->D, width = ((int64_t)s->H + 2L * s->KV) * D;
    for (int64_t h = 0; h < look->heads; h++) {
        pass->model->kernels->scale(b->dqkv + look->row * width + (look->head + h) * D, width,
                                    b->dqueries + h * look->positions * D, D, pass->scale,
                                    look->positions, D);
    }
}

// heads_backward goes through all positions with `heads` heads.
static void heads_backward(const struct look_pass *pass, int64_t head, int64_t heads)
{
    const int64_t from = pass->pack->start[pass->sequence];
    const int64_t to = pass->pack->start[pass->sequence + 1];
    for (int64_t t = from; t < to; t += ATTEND_POSITIONS) {
        struct look look = {.row = t,
                            .positions = to - t < ATTEND_POSITIONS ? to - t : ATTEND_POSITIONS,
                            .position = pack_shared(pass->pack, pass->sequence) + t - from,
                            .head = head,
                            .heads = heads};
        look.rows = look.positions * heads;
        look_begin(pass, &look);
        for (int64_t b = 0; b <= (look.position + look.positions - 1) / ATTENTION_BLOCK; b++) {
            block_backward(pass, &look, b);
        }
        look_end(pass, &look);
    }
}

// turn_blocks lays out what forward_blocks does, keys and values exchanged.
static void turn_blocks(const struct backward *b, const struct model *model, const float *qkv,
                        const struct pack *pack, int32_t sequence, int64_t kv)
{
    const struct shape *s = &model->shape;
    const int64_t D = s->D, width = ((int64_t)s->H + 2L * s->KV) * D;
    const float *key = qkv + pack->start[sequence] * width + ((int64_t)s->H + kv) * D;
    const int64_t shared = pack_shared(pack, sequence);
    const struct kv_rows rows = {.key = key + (int64_t)s->KV * D,
                                 .value = key,
                                 .stride = width,
                                 .count = pack_count(pack, sequence) - shared};
    kv_blocks_put(model->kernels, b->turned, shared, rows, D);
}

static void attention_backward(struct backward *b, struct forward *forward,
                               const struct model *model, const struct block_state *state,
                               const struct pack *pack)
{
    const struct shape *s = &model->shape;
    const int64_t group = s->H / s->KV, HD = (int64_t)s->H * s->D, width = HD + 2L * s->KV * s->D;
    for (int64_t t = 0; t < pack->T; t++) { // those of queries are written, not added to
        memset(b->dqkv + t * width + HD, 0, (size_t)(width - HD) * sizeof(float));
    }
    for (int64_t kv = 0; kv < s->KV; kv++) {
        for (int32_t i = 0; i < pack->count; i++) {
            const float *const *blocks = forward_blocks(forward, model, state->qkv, pack, i, kv);
            turn_blocks(b, model, state->qkv, pack, i, kv);
            const struct look_pass pass = {.b = b,
                                           .model = model,
                                           .state = state,
                                           .blocks = blocks,
                                           .pack = pack,
                                           .sequence = i,
                                           .kv = kv,
                                           .scale = 1.0f / sqrtf((float)s->D)};
            for (int64_t g = 0; g < group; g += ATTEND_HEADS) {
                heads_backward(&pass, kv * group + g,
                               group - g < ATTEND_HEADS ? group - g : ATTEND_HEADS);
            }
        }
    }
}

// struct part is the backward pass of one layer over some rows, for all that concerns one row only.
struct part {
    const struct backward *b;
    const struct model *model;
    int32_t layer;
    struct block_state state; // of these rows
    const int32_t *position;
    float *dx;   // gradient of the residual stream: of the layer's exit at first, then of its entry
    float *datt; // of attention's output
    float *dqkv; // of what attention reads
    float *grads; // of all parameters
    int64_t rows;
};

static struct part part_from(const struct backward *b, const struct forward *forward,
                             const struct model *model, int32_t layer, const struct pack *pack,
                             float *grads, int64_t t)
{
    const struct shape *s = &model->shape;
    const int64_t HD = (int64_t)s->H * s->D;
    return (struct part){.b = b,
                         .model = model,
                         .layer = layer,
                         .state = block_state_from(&forward->layers[layer], s, t),
                         .position = pack->position + t,
                         .dx = b->dx + t * s->C,
                         .datt = b->datt + t * HD,
                         .dqkv = b->dqkv + t * (HD + 2L * s->KV * s->D),
                         .grads = grads,
                         .rows = block_rows(pack->T, t)};
}

static float *part_grad(const struct part *part, enum param_role role)
{
    return grad_of(part->model, part->grads, part->layer, role);
}

// part_rounded is gradients dy [rows, N] as products read them, until the next ones are.
static struct inputs part_rounded(const struct part *part, const float *dy, int64_t N)
{
    return inputs_rounded(part->model->kernels, part->b->rounded, dy, part->rows, N);
}

// qk_norm_backward replaces the gradients of normalized q and k heads by those of the plain ones.
static void qk_norm_backward(const struct part *part)
{
    const struct shape *s = &part->model->shape;
    const struct layer *layer = &part->model->layers[part->layer];
    const int64_t D = s->D, heads = s->H + s->KV, width = (heads + s->KV) * D;
    float *dq_gain = part_grad(part, PARAM_Q_NORM), *dk_gain = part_grad(part, PARAM_K_NORM);
    float *row = part->b->row;
    for (int64_t t = 0; t < part->rows; t++) {
        for (int64_t h = 0; h < heads; h++) {
            bool query = h < s->H;
            float *dhead = part->dqkv + t * width + h * D;
            memset(row, 0, (size_t)D * sizeof(float));
            part->model->kernels->rmsnorm_backward(
                row, query ? dq_gain : dk_gain, dhead, part->state.qkv_plain + (t * heads + h) * D,
                part->state.qk_rstd + t * heads + h, query ? layer->q_norm : layer->k_norm, 1, D);
            memcpy(dhead, row, (size_t)D * sizeof(float));
        }
    }
}

// feed_backward goes from the layer's exit to the residual stream between its halves.
static void feed_backward(const struct part *part)
{
    const struct backward *b = part->b;
    const struct model *model = part->model;
    const struct kernels *k = model->kernels;
    const struct shape *s = &model->shape;
    const struct layer *layer = &model->layers[part->layer];
    const struct block_state *state = &part->state;
    const struct linear down = {.w = &layer->down,
                                .x = inputs_own(model->compute, state->act, s->F),
                                .dW = part_grad(part, PARAM_DOWN),
                                .dbias = part_grad(part, PARAM_DOWN_BIAS)};
    const struct inputs dexit = part_rounded(part, part->dx, s->C);
    linear_inputs(model, b->dact, &down, dexit, part->rows);
    if (s->gated) {
        k->swiglu_backward(b->dup, state->act, b->dact, state->up, part->rows, s->F);
    } else {
        k->gelu_backward(b->dup, state->act, b->dact, state->up, part->rows, s->F);
    }
    linear_weights(b, model, &down, dexit, part->rows);
    linear_bias(model, &down, part->dx, part->rows);
    block_norm2(model, part->layer, state, part->rows);
    const struct linear up = {.w = &layer->up,
                              .x = inputs_own(model->compute, state->norm, s->C),
                              .dW = part_grad(part, s->gated ? PARAM_GATE : PARAM_UP),
                              .dbias = part_grad(part, PARAM_UP_BIAS)};
    const struct inputs dup =
        s->gated ? inputs_own(model->compute, b->dup, 2L * s->F) : part_rounded(part, b->dup, s->F);
    linear_inputs(model, b->dnorm, &up, dup, part->rows);
    linear_weights(b, model, &up, dup, part->rows);
    linear_bias(model, &up, b->dup, part->rows);
    const struct norm norm = {.x = state->mid,
                              .mean = state->mean2,
                              .rstd = state->rstd2,
                              .gain = layer->norm2,
                              .dgain = part_grad(part, PARAM_NORM2),
                              .dbias = part_grad(part, PARAM_NORM2_BIAS)};
    norm_backward(model, part->dx, &norm, b->dnorm, part->rows);
}

// out_backward goes on to attention's output.
static void out_backward(const struct part *part)
{
    const struct matrix *w = &part->model->layers[part->layer].out;
    const struct linear out = {.w = w,
                               .x = inputs_rows(part->state.att, w->K),
                               .dW = part_grad(part, PARAM_O),
                               .dbias = part_grad(part, PARAM_O_BIAS)};
    const struct inputs dmid = part_rounded(part, part->dx, part->model->shape.C);
    linear_inputs(part->model, part->datt, &out, dmid, part->rows);
    linear_weights(part->b, part->model, &out, dmid, part->rows);
    linear_bias(part->model, &out, part->dx, part->rows);
}

// qkv_backward goes from what attention reads to the layer's entry.
static void qkv_backward(const struct part *part)
{
    const struct model *model = part->model;
    const struct shape *s = &model->shape;
    const struct layer *layer = &model->layers[part->layer];
    if (model->rope != NULL) {
        model->kernels->rope(part->dqkv, layer->qkv.N, model->rope, part->position, part->rows,
                             s->H + s->KV, s->D, -1.0f);
    }
    if (s->qk_norm) {
        qk_norm_backward(part);
    }
    block_norm1(model, part->layer, &part->state, part->rows);
    const struct linear qkv = {.w = &layer->qkv,
                               .x = inputs_own(model->compute, part->state.norm, s->C),
                               .dW = part_grad(part, PARAM_Q),
                               .dbias = part_grad(part, PARAM_Q_BIAS)};
    const struct inputs dqkv = part_rounded(part, part->dqkv, layer->qkv.N);
    linear_inputs(model, part->b->dnorm, &qkv, dqkv, part->rows);
    linear_weights(part->b, model, &qkv, dqkv, part->rows);
    linear_bias(model, &qkv, part->dqkv, part->rows);
    const struct norm norm = {.x = part->state.x,
                              .mean = part->state.mean1,
                              .rstd = part->state.rstd1,
                              .gain = layer->norm1,
                              .dgain = part_grad(part, PARAM_NORM1),
                              .dbias = part_grad(part, PARAM_NORM1_BIAS)};
    norm_backward(model, part->dx, &norm, part->b->dnorm, part->rows);
}

static void layer_backward(struct backward *b, struct forward *forward, const struct model *model,
                           int32_t layer, const struct pack *pack, float *grads)
{
    for (int64_t t = 0; t < pack->T; t += BLOCK_ROWS) {
        const struct part part = part_from(b, forward, model, layer, pack, grads, t);
        feed_backward(&part);
        out_backward(&part);
    }
    attention_backward(b, forward, model, &forward->layers[layer], pack);
    for (int64_t t = 0; t < pack->T; t += BLOCK_ROWS) {
        const struct part part = part_from(b, forward, model, layer, pack, grads, t);
        qkv_backward(&part);
    }
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
        layer_backward(b, forward, model, l, pack, grads);
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
