// AdamW, the norm, and rounding to the published type.
#include "common/tensor/cpu.h"
#include "common/tensor/vec.h"

void cpu_adamw(float *w, float *m, float *v, const float *g, const struct adamw *step, int64_t n)
{
    const v16 beta1 = v_set(step->beta1);
    const v16 beta2 = v_set(step->beta2);
    const v16 rest1 = v_set(1.0f - step->beta1);
    const v16 rest2 = v_set(1.0f - step->beta2);
    const v16 size = v_set(step->lr / step->correction1);
    const v16 root = v_set(1.0f / sqrtf(step->correction2));
    const v16 keep = v_set(1.0f - step->lr * step->weight_decay);
    for (int64_t i = 0; i < n; i += VEC) {
        int count = n - i < VEC ? (int)(n - i) : VEC;
        v16 grad = v_mul(v_load_n(g + i, count), v_set(step->grad_scale));
        v16 first = v_fma(rest1, grad, v_mul(beta1, v_load_n(m + i, count)));
        v16 second = v_mul(beta2, v_load_n(v + i, count));
        second = v_fma(v_mul(rest2, grad), grad, second);
        v16 weight = v_mul(v_load_n(w + i, count), keep);
        v16 bound = v_add(v_mul(v_sqrt(second), root), v_set(step->epsilon));
        weight = v_sub(weight, v_div(v_mul(size, first), bound));
        v_store_n(m + i, first, count);
        v_store_n(v + i, second, count);
        v_store_n(w + i, weight, count);
    }
}

double cpu_square_sum(const float *x, int64_t n)
{
    enum { BLOCK = 4096 };
    double total = 0.0;
    for (int64_t from = 0; from < n; from += BLOCK) {
        int64_t to = from + BLOCK < n ? from + BLOCK : n;
        v16 sum = v_set(0.0f);
        for (int64_t i = from; i < to; i += VEC) {
            v16 v = v_load_n(x + i, to - i < VEC ? (int)(to - i) : VEC);
            sum = v_fma(v, v, sum);
        }
        total += (double)v_sum(sum);
    }
    return total;
}

void cpu_round_bf16(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += VEC) {
        int count = n - i < VEC ? (int)(n - i) : VEC;
        v_store_n(y + i, v_round_bf16(v_load_n(x + i, count)), count);
    }
}
