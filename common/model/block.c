#include "common/model/block.h"

#include "common/tensor/attend.h"
#include "common/tensor/memory.h"

#include <stddef.h>
#include <string.h>

// struct array is one array of a state: where its pointer stands in struct block_state, and floats
// per row.
struct array {
    size_t pointer;
    int64_t width;
};

enum { ARRAYS_MAX = 12 };

#define ARRAY(name, width)                                                                         \
    (struct array)                                                                                 \
    {                                                                                              \
        offsetof(struct block_state, name), width                                                  \
    }

// arrays_of lists those that training keeps, and returns how many they are.
static int arrays_of(struct array arrays[ARRAYS_MAX], const struct shape *s)
{
    const int64_t HD = (int64_t)s->H * s->D, KD = (int64_t)s->KV * s->D;
    int count = 0;
    arrays[count++] = ARRAY(x, s->C);
    arrays[count++] = ARRAY(qkv, HD + 2 * KD);
    arrays[count++] = ARRAY(att, HD);
    arrays[count++] = ARRAY(mid, s->C);
    arrays[count++] = ARRAY(up, (s->gated ? 2L : 1L) * s->F);
    arrays[count++] = ARRAY(lse, s->H);
    arrays[count++] = ARRAY(mean1, 1);
    arrays[count++] = ARRAY(rstd1, 1);
    arrays[count++] = ARRAY(mean2, 1);
    arrays[count++] = ARRAY(rstd2, 1);
    if (s->qk_norm) {
        arrays[count++] = ARRAY(qkv_plain, HD + KD);
        arrays[count++] = ARRAY(qk_rstd, s->H + s->KV);
    }
    return count;
}

static float **pointer_of(struct block_state *state, const struct array *array)
{
    return (float **)(void *)((char *)state + array->pointer);
}

int64_t block_state_floats(const struct shape *shape, int64_t T)
{
    struct array arrays[ARRAYS_MAX];
    const int count = arrays_of(arrays, shape);
    int64_t floats = 0;
    for (int i = 0; i < count; i++) {
        floats += floats_whole(T * arrays[i].width);
    }
    return floats;
}

int64_t block_scratch_floats(const struct model *model)
{
    const struct shape *s = &model->shape;
    return BLOCK_ROWS * (inputs_stride(model->compute, s->C) + inputs_stride(model->compute, s->F));
}

float *block_state_carve(struct block_state *state, const struct model *model, float *memory,
                         int64_t T, float *scratch)
{
    struct array arrays[ARRAYS_MAX];
    const int count = arrays_of(arrays, &model->shape);
    *state = (struct block_state){
        .norm = scratch,
        .act = scratch + BLOCK_ROWS * inputs_stride(model->compute, model->shape.C)};
    for (int i = 0; i < count; i++) {
        *pointer_of(state, &arrays[i]) = memory;
        memory += floats_whole(T * arrays[i].width);
    }
    return memory;
}

struct block_state block_state_from(const struct block_state *state, const struct shape *shape,
                                    int64_t t)
{
    struct array arrays[ARRAYS_MAX];
    const int count = arrays_of(arrays, shape);
    struct block_state from = *state;
    for (int i = 0; i < count; i++) {
        *pointer_of(&from, &arrays[i]) += t * arrays[i].width;
    }
    return from;
}

void embed_rows(const struct model *model, float *x, const int32_t *ids, const int32_t *position,
                int64_t T)
{
    const int64_t C = model->shape.C;
    for (int64_t t = 0; t < T; t++, x += C) {
        memcpy(x, model->embed + ids[t] * C, (size_t)C * sizeof(float));
        if (model->positions != NULL) {
            model->kernels->add(x, model->positions + position[t] * C, C);
        }
    }
}

static void norm_rows(const struct model *model, float *y, float *mean, float *rstd, const float *x,
                      const float *gain, const float *bias, int64_t T)
{
    const struct shape *s = &model->shape;
    if (s->layer_norm) {
        model->kernels->layernorm(y, mean, rstd, x, gain, bias, T, s->C, s->norm_eps);
    } else {
        model->kernels->rmsnorm_inputs(y, rstd, x, gain, T, s->C, s->norm_eps);
    }
}

// linear writes y = x·Wᵀ + bias, where there is one.
static void linear(const struct model *model, float *y, struct inputs x, const struct matrix *w,
                   const float *bias, int64_t T)
{
    model->kernels->product(y, w->N, x, w->packed, T, w->N, w->K, false);
    if (bias != NULL) {
        model->kernels->add_bias(y, w->N, bias, T, w->N);
    }
}

// qk_norm_rows normalizes every q and k head of a row, each over its D elements.
static void qk_norm_rows(const struct model *model, const struct layer *layer,
                         const struct block_state *state, int64_t T)
{
    const struct shape *s = &model->shape;
    const int64_t heads = s->H + s->KV, width = (heads + s->KV) * s->D;
    const int64_t keys = (int64_t)s->H * s->D; // where the first key head begins
    for (int64_t t = 0; t < T; t++) {
        float *row = state->qkv + t * width;
        float *rstd = state->qk_rstd == NULL ? NULL : state->qk_rstd + t * heads;
        if (state->qkv_plain != NULL) {
            memcpy(state->qkv_plain + t * heads * s->D, row,
                   (size_t)(heads * s->D) * sizeof(float));
        }
        model->kernels->rmsnorm(row, rstd, row, layer->q_norm, s->H, s->D, s->norm_eps);
        model->kernels->rmsnorm(row + keys, rstd == NULL ? NULL : rstd + s->H, row + keys,
                                layer->k_norm, s->KV, s->D, s->norm_eps);
    }
}

void block_norm1(const struct model *model, int32_t layer, const struct block_state *state,
                 int64_t rows)
{
    const struct layer *w = &model->layers[layer];
    norm_rows(model, state->norm, state->mean1, state->rstd1, state->x, w->norm1, w->norm1_bias,
              rows);
}

void block_norm2(const struct model *model, int32_t layer, const struct block_state *state,
                 int64_t rows)
{
    const struct layer *w = &model->layers[layer];
    norm_rows(model, state->norm, state->mean2, state->rstd2, state->mid, w->norm2, w->norm2_bias,
              rows);
}

static void rows_before(const struct model *model, int32_t layer, const struct block_state *state,
                        const int32_t *position, int64_t rows)
{
    const struct shape *s = &model->shape;
    const struct layer *w = &model->layers[layer];
    block_norm1(model, layer, state, rows);
    linear(model, state->qkv, inputs_own(model->compute, state->norm, s->C), &w->qkv, w->qkv_bias,
           rows);
    if (s->qk_norm) {
        qk_norm_rows(model, w, state, rows);
    }
    if (model->rope != NULL) { // q and k lie side by side: one sweep over H + KV heads
        model->kernels->rope(state->qkv, w->qkv.N, model->rope, position, rows, s->H + s->KV, s->D,
                             1.0f);
    }
}

// The residual is added to sums that are done: a chain that began at a large one would lose bits.
static void rows_after(const struct model *model, int32_t layer, const struct block_state *state,
                       float *next, int64_t rows)
{
    const struct shape *s = &model->shape;
    const struct layer *w = &model->layers[layer];
    linear(model, state->mid, inputs_rows(state->att, w->out.K), &w->out, w->out_bias, rows);
    model->kernels->add(state->mid, state->x, rows * s->C);
    block_norm2(model, layer, state, rows);
    linear(model, state->up, inputs_own(model->compute, state->norm, s->C), &w->up, w->up_bias,
           rows);
    if (s->gated) {
        model->kernels->swiglu(state->act, state->up, rows, s->F);
    } else {
        model->kernels->gelu(state->act, state->up, rows, s->F);
    }
    linear(model, next, inputs_own(model->compute, state->act, s->F), &w->down, w->down_bias, rows);
    model->kernels->add(next, state->mid, rows * s->C);
}

void block_before(const struct model *model, int32_t layer, const struct block_state *state,
                  const int32_t *position, int64_t T)
{
    for (int64_t t = 0; t < T; t += BLOCK_ROWS) {
        const struct block_state from = block_state_from(state, &model->shape, t);
        rows_before(model, layer, &from, position + t, block_rows(T, t));
    }
}

void block_attend(const struct model *model, const struct block_state *state,
                  const struct block_look *look)
{
    const struct shape *s = &model->shape;
    const int64_t width = ((int64_t)s->H + 2L * s->KV) * s->D, HD = (int64_t)s->H * s->D;
    struct attend_part part[ATTEND_ROWS];
    for (int64_t h = 0; h < look->heads; h++) {
        const int64_t column = (look->head + h) * s->D;
        part[h] = (struct attend_part){.blocks = look->blocks,
                                       .q = state->qkv + look->row * width + column,
                                       .out = state->att + look->row * HD + column,
                                       .position = look->position};
    }
    const struct attend attend = {.D = s->D,
                                  .part = part,
                                  .parts = look->heads,
                                  .rows = look->rows,
                                  .position_step = 1,
                                  .shared = look->position / ATTENTION_BLOCK,
                                  .q_stride = width,
                                  .out_stride = HD,
                                  .lse = look->lse};
    model->kernels->attend(&attend);
}

void block_after(const struct model *model, int32_t layer, const struct block_state *state,
                 float *next, int64_t T)
{
    for (int64_t t = 0; t < T; t += BLOCK_ROWS) {
        const struct block_state from = block_state_from(state, &model->shape, t);
        rows_after(model, layer, &from, next + t * model->shape.C, block_rows(T, t));
    }
}

void final_rows(const struct model *model, float *y, float *mean, float *rstd, const float *x,
                int64_t T)
{
    norm_rows(model, y, mean, rstd, x, model->final_norm, model->final_norm_bias, T);
}
