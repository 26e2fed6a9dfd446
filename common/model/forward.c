#include "common/model/forward.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/model/decode.h"
#include "common/tensor/attend.h"
#include "common/tensor/memory.h"

#include <errno.h>
#include <stdlib.h>

static void forward_destroyp(struct forward **forward)
{
    forward_destroy(*forward);
}

int forward_create(struct forward **out, const struct model *model, int64_t rows_max,
                   struct error *err)
{
    const struct shape *s = &model->shape;
    CLEANUP(forward_destroyp) struct forward *forward = calloc(1, sizeof(*forward));
    if (forward == NULL) {
        return error_set(err, -ENOMEM, "forward: out of memory");
    }
    forward->rows_max = rows_max;
    const int64_t floats = block_scratch_floats(model) + s->L * block_state_floats(s, rows_max) +
                           floats_whole(rows_max * s->C) + 2 * floats_whole(rows_max) +
                           rows_max * inputs_stride(model->compute, s->C);
    int64_t blocks = (rows_max + ATTENTION_BLOCK - 1) / ATTENTION_BLOCK;
    const int64_t block = kv_block_floats(model->compute, s->D);
    forward->memory = floats_alloc((size_t)floats);
    forward->layers = calloc((size_t)s->L, sizeof(*forward->layers));
    forward->blocks = floats_alloc((size_t)(blocks * block));
    forward->block_list = calloc((size_t)blocks, sizeof(*forward->block_list));
    if (forward->memory == NULL || forward->layers == NULL || forward->blocks == NULL ||
        forward->block_list == NULL) {
        return error_set(err, -ENOMEM, "forward: no memory for %lld rows of activations",
                         (long long)rows_max);
    }
    for (int64_t b = 0; b < blocks; b++) {
        forward->block_list[b] = forward->blocks + b * block;
    }
    *out = TAKE(forward);
    return 0;
}

void forward_destroy(struct forward *forward)
{
    if (forward != NULL) {
        floats_free(forward->memory);
        free(forward->layers);
        floats_free(forward->blocks);
        free(forward->block_list);
        free(forward);
    }
}

// carve lays the arrays out for T rows and returns where the head's input is written.
static float *carve(struct forward *forward, const struct model *model, int64_t T)
{
    const struct shape *s = &model->shape;
    float *scratch = forward->memory, *memory = scratch + block_scratch_floats(model);
    for (int32_t l = 0; l < s->L; l++) {
        memory = block_state_carve(&forward->layers[l], model, memory, T, scratch);
    }
    forward->last = memory;
    forward->final_mean = forward->last + floats_whole(T * s->C);
    forward->final_rstd = forward->final_mean + floats_whole(T);
    float *final = forward->final_rstd + floats_whole(T);
    forward->final = inputs_own(model->compute, final, s->C);
    return final;
}

// blocks_of lays the keys and values of head `kv` of sequence `k`, taken from a layer's qkv, out as
// blocks for the kernel `attend`; the list is valid until the next call. A sequence with shared
// rows must follow the one that owns them, for the same head.
static const float *const *blocks_of(struct forward *forward, const struct model *model,
                                     const float *qkv, const struct pack *pack, int32_t k,
                                     int64_t kv)
{
    const struct shape *s = &model->shape;
    const int64_t width = ((int64_t)s->H + 2L * s->KV) * s->D;
    const int64_t key = ((int64_t)s->H + kv) * s->D, value = key + (int64_t)s->KV * s->D;
    const float *row = qkv + pack->start[k] * width;
    const int64_t shared = pack_shared(pack, k);
    const struct kv_rows rows = {.key = row + key,
                                 .value = row + value,
                                 .stride = width,
                                 .count = pack_count(pack, k) - shared};
    kv_blocks_put(model->kernels, forward->blocks, shared, rows, s->D);
    return forward->block_list;
}

// attend_heads has the own rows of sequence `k` look at its keys with `heads` query heads.
static void attend_heads(const struct model *model, const struct block_state *state,
                         const float *const *blocks, const struct pack *pack, int32_t k,
                         int64_t head, int64_t heads)
{
    const int64_t from = pack->start[k], to = pack->start[k + 1];
    float lse[ATTEND_ROWS];
    for (int64_t t = from; t < to; t += ATTEND_POSITIONS) {
        const struct block_look look = {.blocks = blocks,
                                        .row = t,
                                        .rows =
                                            to - t < ATTEND_POSITIONS ? to - t : ATTEND_POSITIONS,
                                        .position = pack_shared(pack, k) + t - from,
                                        .head = head,
                                        .heads = heads,
                                        .lse = lse};
        block_attend(model, state, &look);
        for (int64_t i = 0; i < heads * look.rows; i++) {
            state->lse[(t + i % look.rows) * model->shape.H + head + i / look.rows] = lse[i];
        }
    }
}

static void attention_rows(struct forward *forward, const struct model *model,
                           const struct block_state *state, const struct pack *pack)
{
    const struct shape *s = &model->shape;
    const int64_t group = s->H / s->KV;
    for (int64_t kv = 0; kv < s->KV; kv++) {
        for (int32_t k = 0; k < pack->count; k++) {
            const float *const *blocks = blocks_of(forward, model, state->qkv, pack, k, kv);
            for (int64_t g = 0; g < group; g += ATTEND_HEADS) {
                attend_heads(model, state, blocks, pack, k, kv * group + g,
                             group - g < ATTEND_HEADS ? group - g : ATTEND_HEADS);
            }
        }
    }
}

void forward_run(struct forward *forward, const struct model *model, const struct pack *pack)
{
    const struct shape *s = &model->shape;
    CHECK(pack->T >= 1 && pack->T <= forward->rows_max);
    float *final = carve(forward, model, pack->T);
    embed_rows(model, forward->layers[0].x, pack->ids, pack->position, pack->T);
    for (int32_t l = 0; l < s->L; l++) {
        const struct block_state *state = &forward->layers[l];
        block_before(model, l, state, pack->position, pack->T);
        attention_rows(forward, model, state, pack);
        block_after(model, l, state, l + 1 < s->L ? forward->layers[l + 1].x : forward->last,
                    pack->T);
    }
    final_rows(model, final, forward->final_mean, forward->final_rstd, forward->last, pack->T);
}

void forward_logprobs(struct forward *forward, const struct model *model, float *logprob,
                      const int32_t *ids, int64_t T, float *logits, int64_t logits_rows)
{
    const struct matrix *head = &model->head;
    CLEANUP(freep) int32_t *position = malloc((size_t)T * sizeof(*position));
    CHECK(position != NULL);
    for (int64_t t = 0; t < T; t++) {
        position[t] = (int32_t)t;
    }
    const int32_t start[2] = {0, (int32_t)T};
    const struct pack pack = {.T = T, .count = 1, .start = start, .ids = ids, .position = position};
    forward_run(forward, model, &pack);
    for (int64_t t = 0; t + 1 < T; t += logits_rows) {
        int64_t rows = T - 1 - t < logits_rows ? T - 1 - t : logits_rows;
        model->kernels->product(logits, head->N, inputs_from(forward->final, t), head->packed, rows,
                                head->N, head->K, false);
        for (int64_t r = 0; r < rows; r++) {
            logprob[t + r] = logprob_of(logits + r * head->N, model->shape.V, ids[t + r + 1]);
        }
    }
}
