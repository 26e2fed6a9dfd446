// Norms, biases, rotary embedding and activations, with their backward passes. Row sums run in
// sixteen lanes, then the tree of vec.h; sums over rows run upwards.
#include "common/tensor/cpu.h"
#include "common/tensor/vec.h"

// FOR_VEC walks n elements; inside, `i` is the first element and `c` how many of the 16 exist.
#define FOR_VEC(i, c, n) for (int64_t i = 0, c = 0; (c = (n)-i < VEC ? (n)-i : VEC) > 0; i += VEC)

// What products read is written in floats or in pairs (kernels.h), as a constant says.

// inputs_store writes `count` numbers, from number i of a row on.
VEC_INLINE void inputs_store(float *row, int64_t i, v16 v, int64_t count, const bool pairs)
{
    if (pairs) {
        v_store_bf16((char *)row + i * (int64_t)sizeof(uint16_t), v, (int)count);
    } else {
        v_store_n(row + i, v, (int)count);
    }
}

// inputs_width is how many floats a row takes.
VEC_INLINE int64_t inputs_width(int64_t K, const bool pairs)
{
    return inputs_stride(pairs ? COMPUTE_BF16 : COMPUTE_F32, K);
}

// inputs_end fills a row of pairs up.
VEC_INLINE void inputs_end(float *row, int64_t K, const bool pairs)
{
    if (pairs && K % PACKED_DEPTH != 0) {
        memset((char *)row + K * (int64_t)sizeof(uint16_t), 0,
               (size_t)(PACKED_DEPTH - K % PACKED_DEPTH) * sizeof(uint16_t));
    }
}

// Rows that a norm takes at once: the sums of some run while others wait for a root.
enum { NORM_ROWS = 8 };

static float rms_reciprocal(const float *x, int64_t C, float eps)
{
    v16 squares = v_set(0.0f);
    FOR_VEC(i, c, C)
    {
        __builtin_prefetch(x + NORM_ROWS * C + i);
        v16 v = v_load_n(x + i, (int)c);
        squares = v_fma(v, v, squares);
    }
    return 1.0f / sqrtf(v_sum(squares) / (float)C + eps);
}

VEC_INLINE void rmsnorm(float *y, float *rstd, const float *x, const float *gain, int64_t T,
                        int64_t C, float eps, const bool pairs)
{
    for (int64_t from = 0; from < T; from += NORM_ROWS) {
        const int64_t rows = T - from < NORM_ROWS ? T - from : NORM_ROWS;
        float r[NORM_ROWS];
        for (int64_t t = 0; t < rows; t++) {
            r[t] = rms_reciprocal(x + t * C, C, eps);
        }
        if (rstd != NULL) {
            memcpy(rstd + from, r, (size_t)rows * sizeof(float));
        }
        for (int64_t t = 0; t < rows; t++, x += C, y += inputs_width(C, pairs)) {
            FOR_VEC(i, c, C)
            {
                v16 v = v_mul(v_load_n(x + i, (int)c), v_set(r[t]));
                inputs_store(y, i, v_mul(v, v_load_n(gain + i, (int)c)), c, pairs);
            }
            inputs_end(y, C, pairs);
        }
    }
}

void cpu_rmsnorm(float *y, float *rstd, const float *x, const float *gain, int64_t T, int64_t C,
                 float eps)
{
    rmsnorm(y, rstd, x, gain, T, C, eps, false);
}

void cpu_rmsnorm_bf16(float *y, float *rstd, const float *x, const float *gain, int64_t T,
                      int64_t C, float eps)
{
    rmsnorm(y, rstd, x, gain, T, C, eps, true);
}

// With n = x*r: dx = r * (dy*gain - n * mean(dy*gain*n)).
void cpu_rmsnorm_backward(float *dx, float *dgain, const float *dy, const float *x,
                          const float *rstd, const float *gain, int64_t T, int64_t C)
{
    for (int64_t t = 0; t < T; t++, x += C, dx += C, dy += C) {
        v16 r = v_set(rstd[t]);
        v16 sum = v_set(0.0f);
        FOR_VEC(i, c, C)
        {
            v16 n = v_mul(v_load_n(x + i, (int)c), r);
            v16 d = v_load_n(dy + i, (int)c);
            v_store_n(dgain + i, v_fma(d, n, v_load_n(dgain + i, (int)c)), (int)c);
            sum = v_fma(v_mul(d, v_load_n(gain + i, (int)c)), n, sum);
        }
        v16 mean = v_set(v_sum(sum) / (float)C);
        FOR_VEC(i, c, C)
        {
            v16 n = v_mul(v_load_n(x + i, (int)c), r);
            v16 d = v_mul(v_load_n(dy + i, (int)c), v_load_n(gain + i, (int)c));
            v16 g = v_fma(r, v_sub(d, v_mul(n, mean)), v_load_n(dx + i, (int)c));
            v_store_n(dx + i, g, (int)c);
        }
    }
}

struct layernorm {
    float *y, *mean, *rstd;
    const float *x, *gain, *bias;
    int64_t T, C;
    float eps;
};

VEC_INLINE void layernorm(const struct layernorm *norm, const bool pairs)
{
    const int64_t C = norm->C;
    const float *x = norm->x;
    float *y = norm->y;
    for (int64_t t = 0; t < norm->T; t++, x += C, y += inputs_width(C, pairs)) {
        v16 sum = v_set(0.0f);
        FOR_VEC(i, c, C)
        {
            sum = v_add(sum, v_load_n(x + i, (int)c));
        }
        float m = v_sum(sum) / (float)C;
        v16 squares = v_set(0.0f);
        FOR_VEC(i, c, C)
        {
            v16 d = v_keep(v_sub(v_load_n(x + i, (int)c), v_set(m)), (int)c);
            squares = v_fma(d, d, squares);
        }
        float r = 1.0f / sqrtf(v_sum(squares) / (float)C + norm->eps);
        FOR_VEC(i, c, C)
        {
            v16 n = v_mul(v_sub(v_load_n(x + i, (int)c), v_set(m)), v_set(r));
            v16 v = v_fma(n, v_load_n(norm->gain + i, (int)c), v_load_n(norm->bias + i, (int)c));
            inputs_store(y, i, v, c, pairs);
        }
        inputs_end(y, C, pairs);
        if (norm->rstd != NULL) {
            norm->mean[t] = m;
            norm->rstd[t] = r;
        }
    }
}

void cpu_layernorm(float *y, float *mean, float *rstd, const float *x, const float *gain,
                   const float *bias, int64_t T, int64_t C, float eps)
{
    const struct layernorm norm = {y, mean, rstd, x, gain, bias, T, C, eps};
    layernorm(&norm, false);
}

void cpu_layernorm_bf16(float *y, float *mean, float *rstd, const float *x, const float *gain,
                        const float *bias, int64_t T, int64_t C, float eps)
{
    const struct layernorm norm = {y, mean, rstd, x, gain, bias, T, C, eps};
    layernorm(&norm, true);
}

// With n = (x-m)*r and d = dy*gain: dx = r * (d - mean(d) - n * mean(d*n)).
void cpu_layernorm_backward(float *dx, float *dgain, float *dbias, const float *dy, const float *x,
                            const float *mean, const float *rstd, const float *gain, int64_t T,
                            int64_t C)
{
    for (int64_t t = 0; t < T; t++, x += C, dx += C, dy += C) {
        v16 r = v_set(rstd[t]);
        v16 m = v_set(mean[t]);
        v16 sum_d = v_set(0.0f);
        v16 sum_dn = v_set(0.0f);
        FOR_VEC(i, c, C)
        {
            v16 n = v_mul(v_sub(v_load_n(x + i, (int)c), m), r);
            v16 g = v_load_n(dy + i, (int)c);
            v16 d = v_mul(g, v_load_n(gain + i, (int)c)); // zero behind the row, as dy is
            v_store_n(dgain + i, v_fma(g, n, v_load_n(dgain + i, (int)c)), (int)c);
            v_store_n(dbias + i, v_add(v_load_n(dbias + i, (int)c), g), (int)c);
            sum_d = v_add(sum_d, d);
            sum_dn = v_fma(d, n, sum_dn);
        }
        v16 mean_d = v_set(v_sum(sum_d) / (float)C);
        v16 mean_dn = v_set(v_sum(sum_dn) / (float)C);
        FOR_VEC(i, c, C)
        {
            v16 n = v_mul(v_sub(v_load_n(x + i, (int)c), m), r);
            v16 d = v_mul(v_load_n(dy + i, (int)c), v_load_n(gain + i, (int)c));
            d = v_sub(v_sub(d, mean_d), v_mul(n, mean_dn));
            v16 g = v_fma(r, d, v_load_n(dx + i, (int)c));
            v_store_n(dx + i, g, (int)c);
        }
    }
}

void cpu_add_bias(float *y, int64_t ld, const float *bias, int64_t T, int64_t C)
{
    for (int64_t t = 0; t < T; t++, y += ld) {
        FOR_VEC(i, c, C)
        {
            v16 sum = v_add(v_load_n(y + i, (int)c), v_load_n(bias + i, (int)c));
            v_store_n(y + i, sum, (int)c);
        }
    }
}

void cpu_bias_backward(float *dbias, const float *dy, int64_t ld, int64_t T, int64_t C)
{
    for (int64_t t = 0; t < T; t++, dy += ld) {
        FOR_VEC(i, c, C)
        {
            v16 sum = v_add(v_load_n(dbias + i, (int)c), v_load_n(dy + i, (int)c));
            v_store_n(dbias + i, sum, (int)c);
        }
    }
}

void cpu_add(float *y, const float *x, int64_t n)
{
    FOR_VEC(i, c, n)
    {
        v_store_n(y + i, v_add(v_load_n(y + i, (int)c), v_load_n(x + i, (int)c)), (int)c);
    }
}

void cpu_scale(float *y, int64_t y_row, const float *x, int64_t x_row, float factor, int64_t rows,
               int64_t n)
{
    for (int64_t r = 0; r < rows; r++, x += x_row, y += y_row) {
        FOR_VEC(i, c, n)
        {
            v_store_n(y + i, v_mul(v_load_n(x + i, (int)c), v_set(factor)), (int)c);
        }
    }
}

void cpu_dots(float *y, const float *a, const float *b, int64_t row, int64_t rows, int64_t n)
{
    for (int64_t r = 0; r < rows; r++, a += row, b += row) {
        v16 sum = v_set(0.0f);
        FOR_VEC(i, c, n)
        {
            sum = v_fma(v_load_n(a + i, (int)c), v_load_n(b + i, (int)c), sum);
        }
        y[r] = v_sum(sum);
    }
}

static void rope_head(float *x, const float *cosine, const float *sine, int64_t half, float sign)
{
    FOR_VEC(i, c, half)
    {
        v16 a = v_load_n(x + i, (int)c);
        v16 b = v_load_n(x + half + i, (int)c);
        v16 co = v_load_n(cosine + i, (int)c);
        v16 si = v_mul(v_load_n(sine + i, (int)c), v_set(sign));
        v_store_n(x + i, v_fma(a, co, v_negate(v_mul(b, si))), (int)c);
        v_store_n(x + half + i, v_fma(b, co, v_mul(a, si)), (int)c);
    }
}

void cpu_rope(float *x, int64_t ld, const float *table, const int32_t *position, int64_t T,
              int64_t heads, int64_t D, float sign)
{
    for (int64_t t = 0; t < T; t++, x += ld) {
        const float *cosine = table + D * position[t];
        for (int64_t h = 0; h < heads; h++) {
            rope_head(x + h * D, cosine, cosine + D / 2, D / 2, sign);
        }
    }
}

VEC_INLINE void swiglu(float *y, const float *gate_up, int64_t T, int64_t F, const bool pairs)
{
    for (int64_t t = 0; t < T; t++, gate_up += 2 * F, y += inputs_width(F, pairs)) {
        FOR_VEC(i, c, F)
        {
            v16 g = v_load_n(gate_up + i, (int)c);
            v16 u = v_load_n(gate_up + F + i, (int)c);
            inputs_store(y, i, v_mul(v_mul(g, v_sigmoid(g)), u), c, pairs);
        }
        inputs_end(y, F, pairs);
    }
}

void cpu_swiglu(float *y, const float *gate_up, int64_t T, int64_t F)
{
    swiglu(y, gate_up, T, F, false);
}

void cpu_swiglu_bf16(float *y, const float *gate_up, int64_t T, int64_t F)
{
    swiglu(y, gate_up, T, F, true);
}

VEC_INLINE void swiglu_backward(float *dgate_up, float *y, const float *dy, const float *gate_up,
                                int64_t T, int64_t F, const bool pairs)
{
    for (int64_t t = 0; t < T; t++, gate_up += 2 * F, dy += F) {
        FOR_VEC(i, c, F)
        {
            v16 g = v_load_n(gate_up + i, (int)c);
            v16 u = v_load_n(gate_up + F + i, (int)c);
            v16 d = v_load_n(dy + i, (int)c);
            __builtin_prefetch(gate_up + 2 * F + i); // the next row, which comes from far
            __builtin_prefetch(gate_up + 3 * F + i);
            v16 s = v_sigmoid(g);
            v16 slope = v_mul(s, v_fma(g, v_sub(v_set(1.0f), s), v_set(1.0f)));
            inputs_store(dgate_up, i, v_mul(v_mul(d, u), slope), c, pairs);
            inputs_store(dgate_up, F + i, v_mul(v_mul(d, g), s), c, pairs);
            inputs_store(y, i, v_mul(v_mul(g, s), u), c, pairs);
        }
        inputs_end(dgate_up, 2 * F, pairs);
        inputs_end(y, F, pairs);
        dgate_up += inputs_width(2 * F, pairs);
        y += inputs_width(F, pairs);
    }
}

void cpu_swiglu_backward(float *dgate_up, float *y, const float *dy, const float *gate_up,
                         int64_t T, int64_t F)
{
    swiglu_backward(dgate_up, y, dy, gate_up, T, F, false);
}

void cpu_swiglu_backward_bf16(float *dgate_up, float *y, const float *dy, const float *gate_up,
                              int64_t T, int64_t F)
{
    swiglu_backward(dgate_up, y, dy, gate_up, T, F, true);
}

static const float gelu_a = 0.7978845608028654f; // sqrt(2/pi)
static const float gelu_b = 0.044715f;

VEC_INLINE v16 gelu_tanh(v16 x)
{
    v16 cube = v_mul(v_mul(v_set(gelu_b), x), x);
    return v_tanh(v_mul(v_set(gelu_a), v_fma(cube, x, x)));
}

VEC_INLINE v16 gelu_of(v16 x, v16 tanh)
{
    return v_mul(v_mul(v_set(0.5f), x), v_add(v_set(1.0f), tanh));
}

VEC_INLINE void gelu(float *y, const float *x, int64_t T, int64_t F, const bool pairs)
{
    for (int64_t t = 0; t < T; t++, x += F, y += inputs_width(F, pairs)) {
        FOR_VEC(i, c, F)
        {
            v16 v = v_load_n(x + i, (int)c);
            inputs_store(y, i, gelu_of(v, gelu_tanh(v)), c, pairs);
        }
        inputs_end(y, F, pairs);
    }
}

void cpu_gelu(float *y, const float *x, int64_t T, int64_t F)
{
    gelu(y, x, T, F, false);
}

void cpu_gelu_bf16(float *y, const float *x, int64_t T, int64_t F)
{
    gelu(y, x, T, F, true);
}

VEC_INLINE void gelu_backward(float *dx, float *y, const float *dy, const float *x, int64_t T,
                              int64_t F, const bool pairs)
{
    for (int64_t t = 0; t < T; t++, x += F, dx += F, dy += F, y += inputs_width(F, pairs)) {
        FOR_VEC(i, c, F)
        {
            v16 v = v_load_n(x + i, (int)c);
            v16 tanh = gelu_tanh(v);
            v16 inner = v_fma(v_mul(v_set(3.0f * gelu_b), v), v, v_set(1.0f));
            inner = v_mul(v_set(gelu_a), inner);
            v16 rest = v_mul(v_mul(v_set(0.5f), v), v_sub(v_set(1.0f), v_mul(tanh, tanh)));
            v16 slope = v_add(v_mul(v_set(0.5f), v_add(v_set(1.0f), tanh)), v_mul(rest, inner));
            v_store_n(dx + i, v_mul(v_load_n(dy + i, (int)c), slope), (int)c);
            inputs_store(y, i, gelu_of(v, tanh), c, pairs);
        }
        inputs_end(y, F, pairs);
    }
}

void cpu_gelu_backward(float *dx, float *y, const float *dy, const float *x, int64_t T, int64_t F)
{
    gelu_backward(dx, y, dy, x, T, F, false);
}

void cpu_gelu_backward_bf16(float *dx, float *y, const float *dy, const float *x, int64_t T,
                            int64_t F)
{
    gelu_backward(dx, y, dy, x, T, F, true);
}
