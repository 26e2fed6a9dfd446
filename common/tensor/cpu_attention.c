// Softmax over key blocks: two vectors of scores a row.
#include "common/tensor/cpu.h"
#include "common/tensor/vec.h"

_Static_assert(ATTENTION_BLOCK == 2 * VEC, "a block of scores is two vectors");

static void rescale(float *out, float factor, int64_t D)
{
    if (factor != 1.0f) { // x * 1 is x: skipping it changes no bit
        cpu_scale(out, factor, D);
    }
}

void cpu_softmax_block(float *score, float *max, float *sum, float *out, int64_t ld, int64_t D,
                       const int32_t *valid, int64_t rows)
{
    const v16 lowest = v_set(-INFINITY);
    for (int64_t r = 0; r < rows; r++, score += ATTENTION_BLOCK, out += ld) {
        if (valid[r] == 0) {
            v_store(score, v_set(0.0f));
            v_store(score + VEC, v_set(0.0f));
            continue;
        }
        v16 a = v_select(lanes_below(valid[r]), v_load(score), lowest);
        v16 b = v_select(lanes_below(valid[r] - VEC), v_load(score + VEC), lowest);
        float top = v_max_lane(v_max(a, b));
        top = top > max[r] ? top : max[r];
        a = v_exp(v_sub(a, v_set(top))); // e^-inf is 0: the masked keys
        b = v_exp(v_sub(b, v_set(top)));
        float factor = exp_one(max[r] - top);
        sum[r] = fmaf(sum[r], factor, v_sum(v_add(a, b)));
        max[r] = top;
        rescale(out, factor, D);
        v_store(score, a);
        v_store(score + VEC, b);
    }
}

void cpu_softmax_finish(float *out, int64_t ld, int64_t D, const float *sum, int64_t rows)
{
    for (int64_t r = 0; r < rows; r++, out += ld) {
        cpu_scale(out, 1.0f / sum[r], D);
    }
}

void cpu_softmax_backward(float *score, float *dp, const float *lse, const float *delta,
                          const int32_t *valid, int64_t rows)
{
    for (int64_t r = 0; r < rows; r++, score += ATTENTION_BLOCK, dp += ATTENTION_BLOCK) {
        for (int64_t at = 0; at < ATTENTION_BLOCK; at += VEC) {
            const int count = (int)(valid[r] - at);
            v16 p = v_keep(v_exp(v_sub(v_load(score + at), v_set(lse[r]))), count);
            v16 ds = v_mul(p, v_sub(v_load(dp + at), v_set(delta[r])));
            v_store(score + at, p);
            v_store(dp + at, v_keep(ds, count));
        }
    }
}
