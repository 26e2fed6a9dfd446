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

// With e the weights and d = x - max: the entropy -sum p log p is log(sum e) - sum(e d) / sum e.
struct softmax cpu_softmax(float *weights, const float *x, int64_t n)
{
    float max = cpu_maximum(x, n);
    v16 sum = v_set(0.0f), moment = v_set(0.0f);
    for (int64_t i = 0; i < n; i += VEC) {
        int count = n - i < VEC ? (int)(n - i) : VEC;
        v16 d = v_sub(v_load_n(x + i, count), v_set(max));
        v16 e = v_keep(v_exp(d), count);
        v_store_n(weights + i, e, count);
        sum = v_add(sum, e);
        moment = v_fma(e, d, moment);
    }
    const float total = v_sum(sum), log_total = logf(total);
    return (struct softmax){
        .lse = max + log_total, .total = total, .entropy = log_total - v_sum(moment) / total};
}

void cpu_softmax_gradient(float *weights, const float *x, int64_t n, const struct softmax *softmax,
                          float scale, float entropy_scale)
{
    const v16 each = v_set(1.0f / softmax->total), lse = v_set(softmax->lse);
    for (int64_t i = 0; i < n; i += VEC) {
        int count = n - i < VEC ? (int)(n - i) : VEC;
        v16 p = v_mul(v_load_n(weights + i, count), each);
        v16 surprise = v_add(v_sub(v_load_n(x + i, count), lse), v_set(softmax->entropy));
        v16 slope = v_fma(v_set(-entropy_scale), surprise, v_set(scale));
        v_store_n(weights + i, v_mul(p, slope), count);
    }
}

VEC_INLINE void softmax_backward(float *p, float *ds, int64_t row, const struct softmax_rows *s,
                                 const bool pairs)
{
    const float *score = s->score, *dp = s->dp;
    for (int64_t r = 0; r < s->rows; r++, p += row, ds += row) {
        const v16 lse = v_set(s->lse[r]), delta = v_set(s->delta[r]);
        v16 weight[2], slope[2];
        for (int i = 0; i < 2; i++, score += VEC, dp += VEC) {
            const int count = s->valid[r] - i * VEC;
            weight[i] = v_keep(v_exp(v_sub(v_load(score), lse)), count);
            slope[i] = v_keep(v_mul(weight[i], v_sub(v_load(dp), delta)), count);
        }
        if (pairs) {
            v_store(p, v_pairs_along(weight[0], weight[1]));
            v_store(ds, v_pairs_along(slope[0], slope[1]));
        } else {
            v_store(p, weight[0]);
            v_store(p + VEC, weight[1]);
            v_store(ds, slope[0]);
            v_store(ds + VEC, slope[1]);
        }
    }
}

void cpu_softmax_backward(float *p, float *ds, int64_t row, const struct softmax_rows *softmax)
{
    softmax_backward(p, ds, row, softmax, false);
}

void cpu_softmax_backward_bf16(float *p, float *ds, int64_t row, const struct softmax_rows *softmax)
{
    softmax_backward(p, ds, row, softmax, true);
}
