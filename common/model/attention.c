// Blocks that several parts share are walked once for all their rows, then each part walks its own.
#include "common/model/attention.h"

#include "common/base/check.h"

#include <math.h>
#include <string.h>

enum { HEAD_SIZE_MAX = 1024 };

void kv_block_put(const struct kernels *kernels, float *block, int64_t position, const float *key,
                  const float *value, int64_t D)
{
    const int64_t slot = position % ATTENTION_BLOCK;
    kernels->put_column(block, slot, key, D);
    kernels->put_row(block + columns_floats(kernels->compute, D), slot, value, D);
}

// struct walk is what the rows of a call have come to.
struct walk {
    float q[ATTEND_ROWS * HEAD_SIZE_MAX]; // scaled
    float out[ATTEND_ROWS * HEAD_SIZE_MAX];
    float max[ATTEND_ROWS], sum[ATTEND_ROWS];
    int32_t valid[ATTEND_ROWS]; // keys of the current block that a row sees
};

// walk_block takes rows [from, from + rows) over one block; `next` is read after it: its keys are
// fetched during the first product, its values during the second, which hides memory's latency.
static void walk_block(const struct attend *a, struct walk *walk, int64_t from, int64_t rows,
                       const float *block, const float *next)
{
    const int64_t D = a->D;
    float score[ATTEND_ROWS * ATTENTION_BLOCK];
    struct operand keys = kv_block_keys(a->kernels->compute, block, D);
    struct operand values = kv_block_values(a->kernels->compute, block, D);
    keys.next = next;
    values.next = next + columns_floats(a->kernels->compute, D);
    a->kernels->product(score, ATTENTION_BLOCK, walk->q + from * D, D, 1, keys, rows,
                        ATTENTION_BLOCK, D, false);
    a->kernels->softmax_block(score, walk->max + from, walk->sum + from, walk->out + from * D, D, D,
                              walk->valid + from, rows);
    // The last row sees most; beyond it the probabilities are 0 and the values may not be written
    // yet.
    a->kernels->product(walk->out + from * D, D, score, ATTENTION_BLOCK, 1, values, rows, D,
                        walk->valid[from + rows - 1], true);
}

static void walk_shared(const struct attend *a, struct walk *walk)
{
    const int64_t rows = a->parts * a->rows;
    const float *const *blocks = a->part[0].blocks;
    for (int64_t r = 0; r < rows; r++) {
        walk->valid[r] = ATTENTION_BLOCK;
    }
    for (int64_t b = 0; b < a->shared; b++) {
        walk_block(a, walk, 0, rows, blocks[b], blocks[b + 1]);
    }
}

static void walk_own(const struct attend *a, struct walk *walk, int64_t index)
{
    const struct attend_part *part = &a->part[index];
    const int64_t from = index * a->rows;
    const int64_t last = (part->position + (a->rows - 1) * a->position_step) / ATTENTION_BLOCK;
    for (int64_t b = a->shared; b <= last; b++) {
        for (int64_t r = 0; r < a->rows; r++) {
            int64_t seen = part->position + r * a->position_step + 1 - b * ATTENTION_BLOCK;
            walk->valid[from + r] = (int32_t)(seen < 0                 ? 0
                                              : seen < ATTENTION_BLOCK ? seen
                                                                       : ATTENTION_BLOCK);
        }
        walk_block(a, walk, from, a->rows, part->blocks[b], part->blocks[b < last ? b + 1 : b]);
    }
}

void attend_run(const struct attend *attend)
{
    const struct attend *a = attend;
    const int64_t D = a->D, rows = a->parts * a->rows;
    CHECK(rows >= 1 && rows <= ATTEND_ROWS && D <= HEAD_SIZE_MAX);
    struct walk walk;
    for (int64_t r = 0; r < rows; r++) {
        const float *q = a->part[r / a->rows].q + r % a->rows * a->q_stride;
        memcpy(walk.q + r * D, q, (size_t)D * sizeof(float));
        walk.max[r] = -INFINITY;
        walk.sum[r] = 0.0f;
    }
    memset(walk.out, 0, (size_t)(rows * D) * sizeof(float));
    a->kernels->scale(walk.q, 1.0f / sqrtf((float)D), rows * D);
    walk_shared(a, &walk);
    for (int64_t i = 0; i < a->parts; i++) {
        walk_own(a, &walk, i);
    }
    a->kernels->softmax_finish(walk.out, D, D, walk.sum, rows);
    for (int64_t r = 0; r < rows; r++) {
        float *out = a->part[r / a->rows].out + r % a->rows * a->out_stride;
        memcpy(out, walk.out + r * D, (size_t)D * sizeof(float));
        if (a->lse != NULL) {
            a->lse[r] = walk.max[r] + logf(walk.sum[r]);
        }
    }
}
