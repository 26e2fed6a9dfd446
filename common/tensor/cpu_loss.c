// Log-softmax over the vocabulary and its gradient, and that of the softmax over keys.
#include "common/tensor/cpu.h"
#include "common/tensor/vec.h"

float cpu_maximum(const float *x, int64_t n)
{
    v16 top = v_set(-INFINITY);
    int64_t whole = n / VEC * VEC;
    for (int64_t i = 0; i < whole; i += VEC) {
        top = v_max(v_load(x + i), top);
    }
    float max = v_max_lane(top);
    for (int64_t i = whole; i < n; i++) {
        max = x[i] > max ? x[i] : max;
    }
    return max;
}

float cpu_exp_weights(float *y, const float *x, int64_t n, float top, float factor)
{
    v16 sum = v_set(0.0f);
    for (int64_t i = 0; i < n; i += VEC) {
        int count = n - i < VEC ? (int)(n - i) : VEC;
        v16 e = v_exp(v_mul(v_sub(v_load_n(x + i, count), v_set(top)), v_set(factor)));
        e = v_keep(e, count);
        v_store_n(y + i, e, count);
        sum = v_add(sum, e);
    }
    return v_sum(sum);
}

float cpu_log_sum_exp(const float *x, int64_t n)
{
    float max = cpu_maximum(x, n);
    v16 sum = v_set(0.0f);
    for (int64_t i = 0; i < n; i += VEC) {
        int count = n - i < VEC ? (int)(n - i) : VEC;
        v16 e = v_exp(v_sub(v_load_n(x + i, count), v_set(max)));
        sum = v_add(sum, v_keep(e, count));
    }
    return max + logf(v_sum(sum));
}

// The gradient of the entropy H = -sum p log p with respect to a logit is -p (log p + H).
float cpu_softmax_gradient(float *dx, const float *x, int64_t n, float lse, float scale,
                           float entropy_scale)
{
    v16 sum = v_set(0.0f);
    for (int64_t i = 0; i < n; i += VEC) {
        int count = n - i < VEC ? (int)(n - i) : VEC;
        v16 logp = v_sub(v_load_n(x + i, count), v_set(lse));
        sum = v_fma(v_keep(v_exp(logp), count), logp, sum);
    }
    float entropy = -v_sum(sum);
    for (int64_t i = 0; i < n; i += VEC) {
        int count = n - i < VEC ? (int)(n - i) : VEC;
        v16 logp = v_sub(v_load_n(x + i, count), v_set(lse));
        v16 p = v_exp(logp);
        v16 slope = v_fma(v_set(-entropy_scale), v_add(logp, v_set(entropy)), v_set(scale));
        v_store_n(dx + i, v_mul(p, slope), count);
    }
    return entropy;
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
