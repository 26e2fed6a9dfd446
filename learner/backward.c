#include "learner/backward.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/tensor/memory.h"
#include "learner/attend_backward.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct backward {
    int64_t rows_max;
    float *memory;
    float *dx;    // [T, C] gradient of the residual stream
    float *dnorm; // [BLOCK_ROWS, C]
    float *dact;  // [BLOCK_ROWS, F]
    float *dup;   // [BLOCK_ROWS, F] before the activation, without gates
    float *datt;  // [T, H*D]
    float *dqkv;  // [T, (H+2KV)*D]
    float *row;   // [D] scratch of the q/k norm
    // What matrices were given, and the gradients of what they gave, as inputs_own describes:
    float *norm;   // [T, C] after a norm
    float *act;    // [T, F] after the activation
    float *gates;  // [T, 2F] gradient before the activation, or [T, F]
    float *dy;     // [T, widest of the others]
    float *packed; // the inputs of one matrix as the right side of a product
    struct attend_backward *attend;
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

static int64_t widest_dy(const struct shape *s)
{
    const int64_t width = (s->H + 2L * s->KV) * s->D;
    return width > s->C ? width : s->C;
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
    const int64_t sizes[] = {rows_max * s->C,
                             (int64_t)BLOCK_ROWS * s->C,
                             (int64_t)BLOCK_ROWS * s->F,
                             s->gated ? 0 : (int64_t)BLOCK_ROWS * s->F,
                             rows_max * HD,
                             rows_max * width,
                             s->D,
                             rows_max * inputs_stride(model->compute, s->C),
                             rows_max * inputs_stride(model->compute, s->F),
                             rows_max * inputs_stride(model->compute, s->gated ? 2L * s->F : s->F),
                             rows_max * inputs_stride(model->compute, widest_dy(s)),
                             inputs_count(model->kernels, rows_max, widest_input(s))};
    float **const arrays[] = {&b->dx,  &b->dnorm, &b->dact, &b->dup,   &b->datt, &b->dqkv,
                              &b->row, &b->norm,  &b->act,  &b->gates, &b->dy,   &b->packed};
    b->rows_max = rows_max;
    b->memory = floats_carve(arrays, sizes, sizeof(sizes) / sizeof(*sizes));
    if (b->memory == NULL) {
        return error_set(err, -ENOMEM, "backward: no memory for %lld rows", (long long)rows_max);
    }
    int code = attend_backward_create(&b->attend, model, rows_max, err);
    if (code < 0) {
        return code;
    }
    *out = TAKE(b);
    return 0;
}

void backward_destroy(struct backward *backward)
{
    if (backward != NULL) {
        floats_free(backward->memory);
        attend_backward_destroy(backward->attend);
        free(backward);
    }
}

// struct pass is the backward pass of one layer; -1: of what lies outside of them.
struct pass {
    const struct backward *b;
    const struct model *model;
    int32_t layer;
    const struct block_state *state;
    const struct pack *pack;
    const struct gradients *grads;
};

// struct linear is one matrix of the forward pass, y = x·Wᵀ + b: its inputs and the gradients of
// its outputs, both of all rows, and which parameters W and b are.
struct linear {
    const struct matrix *w;
    struct inputs x, dy;
    enum param_role weight, bias;
};

// linear_inputs: dx [rows, K] = dy·W, for rows from t on.
static void linear_inputs(const struct pass *pass, float *dx, const struct linear *linear,
                          int64_t t, int64_t rows)
{
    const struct matrix *w = linear->w;
    pass->model->kernels->product(dx, w->K, inputs_from(linear->dy, t), w->back, rows, w->K, w->N,
                                  false);
}

// linear_weights: dW += dyᵀ·x, of all rows at once: it lies far off.
static void linear_weights(const struct pass *pass, const struct linear *linear)
{
    const struct kernels *k = pass->model->kernels;
    const struct matrix *w = linear->w;
    const int64_t T = pass->pack->T;
    float *const packed = pass->b->packed;
    const struct gradient grad = gradients_product(pass->grads, pass->layer, linear->weight, w->N);
    inputs_pack(k, packed, linear->x, T, w->K);
    k->product(grad.sums, w->K, inputs_turned(linear->dy), operand_inputs(k, packed, linear->x, T),
               w->N, w->K, T, grad.accumulate);
}

// linear_bias: db += column sums of dy [rows, N] in floats, where there is a bias.
static void linear_bias(const struct pass *pass, const struct linear *linear, const float *dy,
                        int64_t rows)
{
    const int64_t N = linear->w->N;
    float *db = gradients_sum(pass->grads, pass->layer, linear->bias, N);
    if (db != NULL) {
        pass->model->kernels->bias_backward(db, dy, N, rows, N);
    }
}

// struct norm is one norm of the forward pass, and which parameter its gain is; its bias, where
// there is one, is the next.
struct norm {
    const float *x, *mean, *rstd, *gain;
    enum param_role role;
};

// norm_backward adds the gradient through a norm to dx.
static void norm_backward(const struct pass *pass, float *dx, const struct norm *norm,
                          const float *dy, int64_t T)
{
    const struct shape *s = &pass->model->shape;
    const struct kernels *k = pass->model->kernels;
    float *dgain = gradients_sum(pass->grads, pass->layer, norm->role, s->C);
    if (s->layer_norm) {
        float *dbias = gradients_sum(pass->grads, pass->layer, norm->role + 1, s->C);
        k->layernorm_backward(dx, dgain, dbias, dy, norm->x, norm->mean, norm->rstd, norm->gain, T,
                              s->C);
    } else {
        k->rmsnorm_backward(dx, dgain, dy, norm->x, norm->rstd, norm->gain, T, s->C);
    }
}

// struct part is some rows of a pass, for all that concerns one row only.
struct part {
    int64_t t, rows; // [t, t + rows)
    struct block_state state;
    float *dx;   // gradient of the residual stream: of the layer's exit at first, then of its entry
    float *dqkv; // of what attention reads
};

static struct part part_from(const struct pass *pass, int64_t t)
{
    const struct shape *s = &pass->model->shape;
    const struct backward *b = pass->b;
    struct part part = {.t = t,
                        .rows = block_rows(pass->pack->T, t),
                        .state = block_state_from(pass->state, s, t),
                        .dx = b->dx + t * s->C,
                        .dqkv = b->dqkv + t * (s->H + 2L * s->KV) * s->D};
    part.state.norm = b->norm + t * inputs_stride(pass->model->compute, s->C);
    part.state.act = b->act + t * inputs_stride(pass->model->compute, s->F);
    return part;
}

// dy_put writes a part of dy, whose rows are N floats, as products read it.
static void dy_put(const struct pass *pass, const struct part *part, float *dy, const float *floats,
                   int64_t N)
{
    const struct model *model = pass->model;
    model->kernels->round_rows(dy + part->t * inputs_stride(model->compute, N), floats, N,
                               part->rows, N);
}

// qk_norm_backward replaces the gradients of normalized q and k heads by those of the plain ones.
static void qk_norm_backward(const struct pass *pass, const struct part *part)
{
    const struct shape *s = &pass->model->shape;
    const struct layer *layer = &pass->model->layers[pass->layer];
    const int64_t D = s->D, heads = s->H + s->KV, width = (heads + s->KV) * D;
    float *dq_gain = gradients_sum(pass->grads, pass->layer, PARAM_Q_NORM, D);
    float *dk_gain = gradients_sum(pass->grads, pass->layer, PARAM_K_NORM, D);
    float *row = pass->b->row;
    for (int64_t t = 0; t < part->rows; t++) {
        for (int64_t h = 0; h < heads; h++) {
            bool query = h < s->H;
            float *dhead = part->dqkv + t * width + h * D;
            memset(row, 0, (size_t)D * sizeof(float));
            pass->model->kernels->rmsnorm_backward(
                row, query ? dq_gain : dk_gain, dhead, part->state.qkv_plain + (t * heads + h) * D,
                part->state.qk_rstd + t * heads + h, query ? layer->q_norm : layer->k_norm, 1, D);
            memcpy(dhead, row, (size_t)D * sizeof(float));
        }
    }
}

// activation_backward goes from b->dact to the gradient before the activation, and writes the
// activation again.
static void activation_backward(const struct pass *pass, const struct part *part,
                                const struct linear *up)
{
    const struct backward *b = pass->b;
    const struct kernels *k = pass->model->kernels;
    const int64_t F = pass->model->shape.F;
    const struct block_state *state = &part->state;
    if (pass->model->shape.gated) {
        k->swiglu_backward(b->gates + part->t * inputs_stride(k->compute, 2 * F), state->act,
                           b->dact, state->up, part->rows, F);
    } else {
        k->gelu_backward(b->dup, state->act, b->dact, state->up, part->rows, F);
        dy_put(pass, part, b->gates, b->dup, F);
        linear_bias(pass, up, b->dup, part->rows);
    }
}

// feed_backward goes from the layer's exit to the residual stream between its halves.
static void feed_backward(const struct pass *pass)
{
    const struct backward *b = pass->b;
    const struct model *model = pass->model;
    const struct shape *s = &model->shape;
    const struct layer *layer = &model->layers[pass->layer];
    const struct linear down = {.w = &layer->down,
                                .x = inputs_own(model->compute, b->act, s->F),
                                .dy = inputs_own(model->compute, b->dy, s->C),
                                .weight = PARAM_DOWN,
                                .bias = PARAM_DOWN_BIAS};
    const struct linear up = {.w = &layer->up,
                              .x = inputs_own(model->compute, b->norm, s->C),
                              .dy = inputs_own(model->compute, b->gates, layer->up.N),
                              .weight = s->gated ? PARAM_GATE : PARAM_UP,
                              .bias = PARAM_UP_BIAS};
    for (int64_t t = 0; t < pass->pack->T; t += BLOCK_ROWS) {
        const struct part part = part_from(pass, t);
        dy_put(pass, &part, b->dy, part.dx, s->C);
        linear_bias(pass, &down, part.dx, part.rows);
        linear_inputs(pass, b->dact, &down, t, part.rows);
        activation_backward(pass, &part, &up);
        block_norm2(model, pass->layer, &part.state, part.rows);
        linear_inputs(pass, b->dnorm, &up, t, part.rows);
        const struct norm norm = {.x = part.state.mid,
                                  .mean = part.state.mean2,
                                  .rstd = part.state.rstd2,
                                  .gain = layer->norm2,
                                  .role = PARAM_NORM2};
        norm_backward(pass, part.dx, &norm, b->dnorm, part.rows);
    }
    linear_weights(pass, &down);
    linear_weights(pass, &up);
}

// out_backward goes on to attention's output.
static void out_backward(const struct pass *pass)
{
    const struct backward *b = pass->b;
    const struct model *model = pass->model;
    const int64_t C = model->shape.C;
    const struct matrix *w = &model->layers[pass->layer].out;
    const struct linear out = {.w = w,
                               .x = inputs_rows(pass->state->att, w->K),
                               .dy = inputs_own(model->compute, b->dy, C),
                               .weight = PARAM_O,
                               .bias = PARAM_O_BIAS};
    for (int64_t t = 0; t < pass->pack->T; t += BLOCK_ROWS) {
        const struct part part = part_from(pass, t);
        dy_put(pass, &part, b->dy, part.dx, C);
        linear_bias(pass, &out, part.dx, part.rows);
        linear_inputs(pass, b->datt + t * w->K, &out, t, part.rows);
    }
    linear_weights(pass, &out);
}

// qkv_backward goes from what attention reads to the layer's entry.
static void qkv_backward(const struct pass *pass)
{
    const struct backward *b = pass->b;
    const struct model *model = pass->model;
    const struct shape *s = &model->shape;
    const struct layer *layer = &model->layers[pass->layer];
    const int64_t N = layer->qkv.N;
    const struct linear qkv = {.w = &layer->qkv,
                               .x = inputs_own(model->compute, b->norm, s->C),
                               .dy = inputs_own(model->compute, b->dy, N),
                               .weight = PARAM_Q,
                               .bias = PARAM_Q_BIAS};
    for (int64_t t = 0; t < pass->pack->T; t += BLOCK_ROWS) {
        const struct part part = part_from(pass, t);
        if (model->rope != NULL) {
            model->kernels->rope(part.dqkv, N, model->rope, pass->pack->position + t, part.rows,
                                 s->H + s->KV, s->D, -1.0f);
        }
        if (s->qk_norm) {
            qk_norm_backward(pass, &part);
        }
        block_norm1(model, pass->layer, &part.state, part.rows);
        dy_put(pass, &part, b->dy, part.dqkv, N);
        linear_bias(pass, &qkv, part.dqkv, part.rows);
        linear_inputs(pass, b->dnorm, &qkv, t, part.rows);
        const struct norm norm = {.x = part.state.x,
                                  .mean = part.state.mean1,
                                  .rstd = part.state.rstd1,
                                  .gain = layer->norm1,
                                  .role = PARAM_NORM1};
        norm_backward(pass, part.dx, &norm, b->dnorm, part.rows);
    }
    linear_weights(pass, &qkv);
}

// embed_backward adds the gradient of the residual stream on entry to the embeddings'.
static void embed_backward(const struct backward *b, const struct model *model,
                           const struct pack *pack, const struct gradients *grads)
{
    const struct shape *s = &model->shape;
    const int64_t C = s->C;
    float *dembed = gradients_sum(grads, -1, PARAM_EMBED, s->V * C);
    float *dpositions = gradients_sum(grads, -1, PARAM_POSITIONS, s->T * C);
    for (int64_t t = 0; t < pack->T; t++) {
        model->kernels->add(dembed + pack->ids[t] * C, b->dx + t * C, C);
        if (dpositions != NULL) {
            model->kernels->add(dpositions + pack->position[t] * C, b->dx + t * C, C);
        }
    }
}

void backward_run(struct backward *backward, struct forward *forward, const struct model *model,
                  const struct pack *pack, const struct gradients *grads, float *dfinal)
{
    struct backward *b = backward;
    const int64_t C = model->shape.C, T = pack->T;
    CHECK(T <= b->rows_max);
    memset(b->dx, 0, (size_t)(T * C) * sizeof(float));
    struct pass pass = {.b = b, .model = model, .layer = -1, .pack = pack, .grads = grads};
    const struct norm norm = {.x = forward->last,
                              .mean = forward->final_mean,
                              .rstd = forward->final_rstd,
                              .gain = model->final_norm,
                              .role = PARAM_FINAL_NORM};
    norm_backward(&pass, b->dx, &norm, dfinal, T);
    for (int32_t l = model->shape.L - 1; l >= 0; l--) {
        pass.layer = l;
        pass.state = &forward->layers[l];
        feed_backward(&pass);
        out_backward(&pass);
        attend_backward_run(b->attend, model, pass.state, pack, b->datt, b->dqkv);
        qkv_backward(&pass);
    }
    embed_backward(b, model, pack, grads);
}
