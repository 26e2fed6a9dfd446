#include "common/model/attention.h"

#include "common/base/check.h"

#include <math.h>
#include <string.h>

enum { HEAD_SIZE_MAX = 1024 };

void kv_block_put(float *block, int64_t position, const float *key, const float *value, int64_t D)
{
    int64_t slot = position % ATTENTION_BLOCK;
    for (int64_t d = 0; d < D; d++) {
        block[d * ATTENTION_BLOCK + slot] = key[d];
    }
    memcpy(block + ATTENTION_BLOCK * D + slot * D, value, (size_t)D * sizeof(float));
}

static void attend_block(const struct attend *a, const float *q, int64_t b, float *max, float *sum)
{
    float score[ATTEND_ROWS * ATTENTION_BLOCK];
    int32_t valid[ATTEND_ROWS];
    for (int64_t r = 0; r < a->rows; r++) {
        int64_t seen = a->position + r * a->position_step + 1 - b * ATTENTION_BLOCK;
        valid[r] = (int32_t)(seen < 0 ? 0 : seen < ATTENTION_BLOCK ? seen : ATTENTION_BLOCK);
    }
    const float *keys = a->blocks[b];
    const struct operand k = operand_row_major(keys, ATTENTION_BLOCK);
    const struct operand v = operand_row_major(keys + ATTENTION_BLOCK * a->D, a->D);
    for (int64_t i = 0; i < ATTENTION_BLOCK * a->D; i += 16) {
        __builtin_prefetch(keys + ATTENTION_BLOCK * a->D + i);
    }
    a->kernels->product(score, ATTENTION_BLOCK, q, a->D, 1, k, a->rows, ATTENTION_BLOCK, a->D,
                        false);
    const int64_t last = a->position + (a->rows - 1) * a->position_step;
    const float *next = b < last / ATTENTION_BLOCK ? a->blocks[b + 1] : keys;
    for (int64_t i = 0; i < ATTENTION_BLOCK * a->D; i += 16) {
        __builtin_prefetch(next + i);
    }
    a->kernels->softmax_block(score, max, sum, a->out, a->out_stride, a->D, valid, a->rows);
    // The last row sees most; beyond it the probabilities are 0 and the values may not be written
    // yet.
    a->kernels->product(a->out, a->out_stride, score, ATTENTION_BLOCK, 1, v, a->rows, a->D,
                        valid[a->rows - 1], true);
}

void attend_run(const struct attend *attend)
{
    const struct attend *a = attend;
    CHECK(a->rows >= 1 && a->rows <= ATTEND_ROWS && a->D <= HEAD_SIZE_MAX);
    float q[ATTEND_ROWS * HEAD_SIZE_MAX];
    float max[ATTEND_ROWS];
    float sum[ATTEND_ROWS];
    const float scale = 1.0f / sqrtf((float)a->D);
    for (int64_t r = 0; r < a->rows; r++) {
        memcpy(q + r * a->D, a->q + r * a->q_stride, (size_t)a->D * sizeof(float));
        memset(a->out + r * a->out_stride, 0, (size_t)a->D * sizeof(float));
        max[r] = -INFINITY;
        sum[r] = 0.0f;
    }
    a->kernels->scale(q, scale, a->rows * a->D);
    int64_t last = a->position + (a->rows - 1) * a->position_step;
    for (int64_t b = 0; b <= last / ATTENTION_BLOCK; b++) {
        attend_block(a, q, b, max, sum);
    }
    a->kernels->softmax_finish(a->out, a->out_stride, a->D, sum, a->rows);
    for (int64_t r = 0; a->lse != NULL && r < a->rows; r++) {
        a->lse[r] = max[r] + logf(sum[r]);
    }
}
