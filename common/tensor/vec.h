// vec.h: sixteen floats at once, the same bits on every instruction set.
//
// The files cpu_*.c are written against this header and compiled once per instruction set
// (CMakeLists.txt), each into a table of its own. Only operations that round the same everywhere
// are here: add, multiply, fused multiply-add, compare, and sums in one fixed tree. So the portable
// build is the definition of right, and AVX2 and AVX-512 must and do equal it.
#ifndef COMMON_TENSOR_VEC_H
#define COMMON_TENSOR_VEC_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

enum { VEC = 16 };

typedef float v16 __attribute__((vector_size(64)));
typedef int32_t v16i __attribute__((vector_size(64)));

#define VEC_INLINE static inline __attribute__((always_inline, unused))

VEC_INLINE v16 v_set(float value)
{
    return value - (v16){0};
}

VEC_INLINE v16 v_load(const float *from)
{
    v16 v;
    memcpy(&v, from, sizeof(v));
    return v;
}

VEC_INLINE void v_store(float *to, v16 v)
{
    memcpy(to, &v, sizeof(v));
}

// v_load_n reads the first `count` floats (0 .. 16) and zeros behind them; nothing beyond is
// touched.
VEC_INLINE v16 v_load_n(const float *from, int count)
{
#if defined(__AVX512F__)
    return (v16)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), from);
#else
    v16 v = {0};
    memcpy(&v, from, (size_t)count * sizeof(float));
    return v;
#endif
}

VEC_INLINE void v_store_n(float *to, v16 v, int count)
{
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << count) - 1), (__m512)v);
#else
    memcpy(to, &v, (size_t)count * sizeof(float));
#endif
}

// v_fma is a*b + c, rounded once.
VEC_INLINE v16 v_fma(v16 a, v16 b, v16 c)
{
#if defined(__AVX512F__)
    return (v16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    union {
        v16 v;
        __m256 half[2];
    } x = {.v = a}, y = {.v = b}, z = {.v = c};
    z.half[0] = _mm256_fmadd_ps(x.half[0], y.half[0], z.half[0]);
    z.half[1] = _mm256_fmadd_ps(x.half[1], y.half[1], z.half[1]);
    return z.v;
#else
    for (int i = 0; i < VEC; i++) {
        c[i] = fmaf(a[i], b[i], c[i]);
    }
    return c;
#endif
}

VEC_INLINE v16 v_select(v16i mask, v16 yes, v16 no)
{
    return (v16)(((v16i)yes & mask) | ((v16i)no & ~mask));
}

// v_keep zeros the lanes from `count` on.
VEC_INLINE v16 v_keep(v16 v, int count)
{
    const v16i lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return v_select(lane < count - (v16i){0}, v, v_set(0.0f));
}

VEC_INLINE v16 v_max(v16 a, v16 b)
{
    return v_select(a > b, a, b);
}

VEC_INLINE v16 v_min(v16 a, v16 b)
{
    return v_select(a < b, a, b);
}

// v_sum adds the lanes in a fixed tree: i with i+8, then +4, +2, +1.
VEC_INLINE float v_sum(v16 v)
{
    float lane[VEC];
    v_store(lane, v);
    for (int half = VEC / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            lane[i] += lane[i + half];
        }
    }
    return lane[0];
}

VEC_INLINE float v_max_lane(v16 v)
{
    float lane[VEC];
    v_store(lane, v);
    for (int half = VEC / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
        }
    }
    return lane[0];
}

// v_exp is e^x within 2 ulp on [-87, 88]; below it is 0, above it is clamped. Cody-Waite reduction
// by ln 2 and a polynomial of degree 6 (Cephes expf).
VEC_INLINE v16 v_exp(v16 x)
{
    const v16i tiny = x < v_set(-87.0f);
    x = v_min(v_max(x, v_set(-87.0f)), v_set(88.0f));
    const v16 shift = v_set(12582912.0f); // 1.5 * 2^23: adding it rounds to an integer
    v16 n = v_fma(x, v_set(1.44269504088896341f), shift);
    v16i exponent = (v16i)n << 23;
    n -= shift;
    v16 r = v_fma(n, v_set(-0.693359375f), x);
    r = v_fma(n, v_set(2.12194440e-4f), r);
    v16 p = v_set(1.9875691500e-4f);
    p = v_fma(p, r, v_set(1.3981999507e-3f));
    p = v_fma(p, r, v_set(8.3334519073e-3f));
    p = v_fma(p, r, v_set(4.1665795894e-2f));
    p = v_fma(p, r, v_set(1.6666665459e-1f));
    p = v_fma(p, r, v_set(5.0000001201e-1f));
    p = v_fma(p, r * r, r + v_set(1.0f));
    return v_select(tiny, v_set(0.0f), (v16)((v16i)p + exponent));
}

VEC_INLINE float exp_one(float x)
{
    return v_exp(v_set(x))[0];
}

// v_sigmoid is 1 / (1 + e^-x).
VEC_INLINE v16 v_sigmoid(v16 x)
{
    return v_set(1.0f) / (v_set(1.0f) + v_exp(-x));
}

// v_tanh is (e^2x - 1) / (e^2x + 1), for |x| up to 20 where it is 1 in f32.
VEC_INLINE v16 v_tanh(v16 x)
{
    x = v_min(v_max(x, v_set(-20.0f)), v_set(20.0f));
    v16 e = v_exp(x + x);
    return (e - v_set(1.0f)) / (e + v_set(1.0f));
}

#endif
