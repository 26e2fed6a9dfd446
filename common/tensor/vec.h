// vec.h: sixteen floats at once, the same bits on every instruction set.
//
// The files cpu_*.c are written against this header and compiled once per instruction set
// (CMakeLists.txt), each into a table of its own. Only operations that round the same everywhere
// are here: add, multiply, fused multiply-add, compare, and sums in one fixed tree. So the portable
// build is the definition of right, and AVX2 and AVX-512 must and do equal it.
//
// A v16 is one, two or four parts of the width that the registers have. (A single vector type of 64
// bytes would be kept in memory by gcc wherever registers are narrower.)
#ifndef COMMON_TENSOR_VEC_H
#define COMMON_TENSOR_VEC_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

enum { VEC = 16 };

#if defined(__AVX512F__)
enum { PART = 16 };
#define EACH_PART(body) EACH_PART_AT(0, body)
#elif defined(__AVX2__)
enum { PART = 8 };
#define EACH_PART(body) EACH_PART_AT(0, body) EACH_PART_AT(1, body)
#else
enum { PART = 4 };
#define EACH_PART(body)                                                                            \
    EACH_PART_AT(0, body) EACH_PART_AT(1, body) EACH_PART_AT(2, body) EACH_PART_AT(3, body)
#endif
// `body` with p, the number of a part, as a constant.
#define EACH_PART_AT(number, body)                                                                 \
    {                                                                                              \
        enum { p = number };                                                                       \
        body;                                                                                      \
    }

typedef float part_f __attribute__((vector_size(PART * 4)));
typedef int32_t part_i __attribute__((vector_size(PART * 4)));

typedef struct {
    part_f part[VEC / PART];
} v16;

typedef struct {
    part_i part[VEC / PART];
} v16i;

#define VEC_INLINE static inline __attribute__((always_inline, unused))

VEC_INLINE v16 v_set(float value)
{
    v16 v;
    EACH_PART(v.part[p] = value - (part_f){0});
    return v;
}

VEC_INLINE v16 v_load(const float *from)
{
    v16 v;
    EACH_PART(memcpy(&v.part[p], from + (size_t)p * PART, sizeof(part_f)));
    return v;
}

VEC_INLINE void v_store(float *to, v16 v)
{
    EACH_PART(memcpy(to + (size_t)p * PART, &v.part[p], sizeof(part_f)));
}

// lanes_below is all ones in the lanes below `count`.
VEC_INLINE v16i lanes_below(int count)
{
    static const int32_t lane[VEC] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    v16i mask;
    EACH_PART(part_i number; memcpy(&number, lane + (size_t)p * PART, sizeof(number));
              mask.part[p] = number < count - (part_i){0});
    return mask;
}

// v_load_n reads the first `count` floats (0 .. 16) and zeros behind them; nothing beyond is
// touched.
VEC_INLINE v16 v_load_n(const float *from, int count)
{
    if (__builtin_expect(count >= VEC, 1)) {
        return v_load(from);
    }
    v16 v;
#if defined(__AVX512F__)
    v.part[0] = (part_f)_mm512_maskz_loadu_ps((__mmask16)((1u << (count & (VEC - 1))) - 1), from);
#elif defined(__AVX2__)
    v16i mask = lanes_below(count);
    EACH_PART(v.part[p] = _mm256_maskload_ps(from + (size_t)p * PART, (__m256i)mask.part[p]));
#else
    float lane[VEC] = {0};
    memcpy(lane, from, (size_t)count * sizeof(float));
    v = v_load(lane);
#endif
    return v;
}

VEC_INLINE void v_store_n(float *to, v16 v, int count)
{
    if (__builtin_expect(count >= VEC, 1)) {
        v_store(to, v);
        return;
    }
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << (count & (VEC - 1))) - 1), (__m512)v.part[0]);
#elif defined(__AVX2__)
    v16i mask = lanes_below(count);
    EACH_PART(_mm256_maskstore_ps(to + (size_t)p * PART, (__m256i)mask.part[p], v.part[p]));
#else
    memcpy(to, &v, (size_t)count * sizeof(float));
#endif
}

VEC_INLINE v16 v_add(v16 a, v16 b)
{
    EACH_PART(a.part[p] += b.part[p]);
    return a;
}

VEC_INLINE v16 v_sub(v16 a, v16 b)
{
    EACH_PART(a.part[p] -= b.part[p]);
    return a;
}

VEC_INLINE v16 v_mul(v16 a, v16 b)
{
    EACH_PART(a.part[p] *= b.part[p]);
    return a;
}

VEC_INLINE v16 v_div(v16 a, v16 b)
{
    EACH_PART(a.part[p] /= b.part[p]);
    return a;
}

VEC_INLINE v16 v_negate(v16 a)
{
    EACH_PART(a.part[p] = -a.part[p]);
    return a;
}

// v_spread fills every lane with the four bytes at `from`, as they are.
VEC_INLINE v16 v_spread(const float *from)
{
    int32_t bits;
    memcpy(&bits, from, sizeof(bits));
    v16 v;
    EACH_PART(v.part[p] = (part_f)(bits - (part_i){0}));
    return v;
}

// v_fma is a*b + c, rounded once.
VEC_INLINE v16 v_fma(v16 a, v16 b, v16 c)
{
#if defined(__AVX512F__)
    c.part[0] = (part_f)_mm512_fmadd_ps((__m512)a.part[0], (__m512)b.part[0], (__m512)c.part[0]);
#elif defined(__FMA__)
    EACH_PART(c.part[p] = _mm256_fmadd_ps(a.part[p], b.part[p], c.part[p]));
#else
    float x[VEC], y[VEC], z[VEC];
    v_store(x, a);
    v_store(y, b);
    v_store(z, c);
    for (int i = 0; i < VEC; i++) {
        z[i] = fmaf(x[i], y[i], z[i]);
    }
    c = v_load(z);
#endif
    return c;
}

VEC_INLINE v16 v_sqrt(v16 v)
{
#if defined(__AVX512F__)
    v.part[0] = (part_f)_mm512_sqrt_ps((__m512)v.part[0]);
#elif defined(__AVX2__)
    EACH_PART(v.part[p] = _mm256_sqrt_ps(v.part[p]));
#else
    float lane[VEC];
    v_store(lane, v);
    for (int i = 0; i < VEC; i++) {
        lane[i] = sqrtf(lane[i]);
    }
    v = v_load(lane);
#endif
    return v;
}

VEC_INLINE v16i v_less(v16 a, v16 b)
{
    v16i mask;
    EACH_PART(mask.part[p] = a.part[p] < b.part[p]);
    return mask;
}

VEC_INLINE v16 v_select(v16i mask, v16 yes, v16 no)
{
    v16 v;
    EACH_PART(v.part[p] = (part_f)(((part_i)yes.part[p] & mask.part[p]) |
                                   ((part_i)no.part[p] & ~mask.part[p])));
    return v;
}

// v_round_bf16 rounds to 8 bits of mantissa, to nearest even. A NaN may come out as infinity.
VEC_INLINE v16 v_round_bf16(v16 v)
{
    EACH_PART(part_i bits = (part_i)v.part[p]; bits += 0x7FFF + ((bits >> 16) & 1);
              v.part[p] = (part_f)(bits & (int32_t)0xFFFF0000));
    return v;
}

// Pairs of bf16: a lane of four bytes holds two numbers, the one with the even index in its low
// half. Subnormal numbers count as zeros of their sign.

// v_flush makes zeros of subnormal numbers.
VEC_INLINE v16 v_flush(v16 v)
{
    EACH_PART(part_i bits = (part_i)v.part[p]; part_i tiny = (bits & 0x7F800000) == 0;
              v.part[p] = (part_f)(bits & ~(tiny & 0x7FFFFFFF)));
    return v;
}

// v_pairs rounds two vectors to bf16, to nearest even, and pairs their lanes.
VEC_INLINE v16 v_pairs(v16 even, v16 odd)
{
    v16 v;
#if defined(__AVX512BF16__)
    static const uint16_t lanes[2 * VEC] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                            21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                            11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512bh both = _mm512_cvtne2ps_pbh((__m512)odd.part[0], (__m512)even.part[0]);
    v.part[0] = (part_f)_mm512_permutexvar_epi16(_mm512_loadu_si512(lanes), (__m512i)both);
#else
    even = v_round_bf16(v_flush(even));
    odd = v_round_bf16(v_flush(odd));
    EACH_PART(v.part[p] = (part_f)(((part_i)even.part[p] >> 16 & 0xFFFF) | (part_i)odd.part[p]));
#endif
    return v;
}

// v_odd_joins completes pairs by a vector of numbers with odd indices.
VEC_INLINE v16 v_odd_joins(v16 pairs, v16 odd)
{
    odd = v_pairs(v_set(0.0f), odd);
    EACH_PART(pairs.part[p] = (part_f)(((part_i)pairs.part[p] & 0xFFFF) | (part_i)odd.part[p]));
    return pairs;
}

// v_pairs_along rounds 32 numbers in a row, `first` and then `second`, to sixteen pairs.
VEC_INLINE v16 v_pairs_along(v16 first, v16 second)
{
    v16 v;
#if defined(__AVX512BF16__)
    v.part[0] = (part_f)_mm512_cvtne2ps_pbh((__m512)second.part[0], (__m512)first.part[0]);
#else
    float lane[2 * VEC], even[VEC], odd[VEC];
    v_store(lane, first);
    v_store(lane + VEC, second);
    for (size_t i = 0; i < VEC; i++) {
        memcpy(&even[i], &lane[2 * i], sizeof(float)); // as bytes: any bits are kept
        memcpy(&odd[i], &lane[2 * i + 1], sizeof(float));
    }
    v = v_pairs(v_load(even), v_load(odd));
#endif
    return v;
}

// v_store_bf16 rounds the first `count` numbers and stores them as so many bf16, one after another.
VEC_INLINE void v_store_bf16(void *to, v16 v, int count)
{
#if defined(__AVX512BF16__)
    const __m256i numbers = (__m256i)_mm512_cvtneps_pbh((__m512)v.part[0]);
    _mm256_mask_storeu_epi16(to, (__mmask16)((1u << count) - 1), numbers);
#else
    v = v_pairs_along(v, v_set(0.0f));
    memcpy(to, &v, (size_t)count * sizeof(uint16_t));
#endif
}

// v_join pairs `count` bf16 with as many others, which become the odd ones; zeros behind them.
VEC_INLINE v16 v_join(const void *even, const void *odd, int count)
{
    v16 v;
#if defined(__AVX512BW__)
    const __mmask16 mask = (__mmask16)((1u << count) - 1);
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, even));
    const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, odd));
    v.part[0] = (part_f)_mm512_or_si512(low, _mm512_slli_epi32(high, 16));
#else
    uint16_t lows[VEC] = {0}, highs[VEC] = {0};
    uint32_t lane[VEC];
    memcpy(lows, even, (size_t)count * sizeof(uint16_t));
    memcpy(highs, odd, (size_t)count * sizeof(uint16_t));
    for (int i = 0; i < VEC; i++) {
        lane[i] = lows[i] | (uint32_t)highs[i] << 16;
    }
    memcpy(&v, lane, sizeof(v));
#endif
    return v;
}

// fma_flushed is a*b + c rounded once, where subnormal inputs and results are zeros: the definition
// of what an x86 processor does when it is told so. A result is subnormal when it is so after
// rounding to 24 bits of any exponent.
VEC_INLINE float fma_flushed(float a, float b, float c)
{
    const float least = 0x1p-126f, up = 0x1p64f;
    const float none = 0.0f;
    a = fabsf(a) < least ? copysignf(none, a) : a;
    b = fabsf(b) < least ? copysignf(none, b) : b;
    c = fabsf(c) < least ? copysignf(none, c) : c;
    const float sum = fmaf(a, b, c);
    if (!(fabsf(sum) <= least)) {
        return sum;
    }
    // Once more, where the numbers are large enough that nothing is subnormal.
    const float large = fabsf(a) < fabsf(b) ? fmaf(a * up, b, c * up) : fmaf(a, b * up, c * up);
    return fabsf(large) < least * up ? copysignf(none, sum) : sum;
}

// v_fma_flushed is fma_flushed in every lane. Vectors need the processor to flush (flush_begin).
VEC_INLINE v16 v_fma_flushed(v16 a, v16 b, v16 c)
{
#if defined(__FMA__)
    return v_fma(a, b, c);
#else
    float x[VEC], y[VEC], z[VEC];
    v_store(x, a);
    v_store(y, b);
    v_store(z, c);
    for (int i = 0; i < VEC; i++) {
        z[i] = fma_flushed(x[i], y[i], z[i]);
    }
    return v_load(z);
#endif
}

// v_even and v_odd are the numbers of each lane's pair.
VEC_INLINE v16 v_even(v16 pairs)
{
    EACH_PART(pairs.part[p] = (part_f)((part_i)pairs.part[p] << 16));
    return pairs;
}

VEC_INLINE v16 v_odd(v16 pairs)
{
    EACH_PART(pairs.part[p] = (part_f)((part_i)pairs.part[p] & (int32_t)0xFFFF0000));
    return pairs;
}

// v_dot_pairs adds the two products of each lane's pairs to acc, the odd ones first, as a chain of
// two fma_flushed: VDPBF16PS.
VEC_INLINE v16 v_dot_pairs(v16 a, v16 b, v16 acc)
{
#if defined(__AVX512BF16__)
    acc.part[0] =
        (part_f)_mm512_dpbf16_ps((__m512)acc.part[0], (__m512bh)a.part[0], (__m512bh)b.part[0]);
#else
    acc = v_fma_flushed(v_odd(a), v_odd(b), acc);
    acc = v_fma_flushed(v_even(a), v_even(b), acc);
#endif
    return acc;
}

// flush_begin tells the processor to count subnormal numbers as zeros, where v_fma_flushed needs
// it; flush_end takes what it returned.
VEC_INLINE unsigned flush_begin(void)
{
    unsigned before = 0;
#if defined(__FMA__) && !defined(__AVX512BF16__)
    before = _mm_getcsr();
    _mm_setcsr(before | 0x8040); // inputs and results
#endif
    return before;
}

VEC_INLINE void flush_end(unsigned before)
{
    (void)before;
#if defined(__FMA__) && !defined(__AVX512BF16__)
    _mm_setcsr(before);
#endif
}

// v_transpose makes lane j of vector i from lane i of vector j, any bits.
VEC_INLINE void v_transpose(v16 v[VEC])
{
#if defined(__AVX512F__)
    __m512 two[VEC], four[VEC]; // lanes of two, then of four vectors side by side
#pragma GCC unroll 8
    for (int i = 0; i < VEC; i += 2) {
        two[i] = _mm512_unpacklo_ps((__m512)v[i].part[0], (__m512)v[i + 1].part[0]);
        two[i + 1] = _mm512_unpackhi_ps((__m512)v[i].part[0], (__m512)v[i + 1].part[0]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < VEC; i += 4) {
        for (int half = 0; half < 2; half++) {
            const __m512d low = (__m512d)two[i + half], high = (__m512d)two[i + 2 + half];
            four[i + 2 * half] = (__m512)_mm512_unpacklo_pd(low, high);
            four[i + 2 * half + 1] = (__m512)_mm512_unpackhi_pd(low, high);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < 4; i++) { // quarters q of the vectors hold rows 4q + i
        const __m512 a = _mm512_shuffle_f32x4(four[i], four[i + 4], 0x88);
        const __m512 b = _mm512_shuffle_f32x4(four[i], four[i + 4], 0xDD);
        const __m512 c = _mm512_shuffle_f32x4(four[i + 8], four[i + 12], 0x88);
        const __m512 d = _mm512_shuffle_f32x4(four[i + 8], four[i + 12], 0xDD);
        v[i].part[0] = (part_f)_mm512_shuffle_f32x4(a, c, 0x88);
        v[i + 4].part[0] = (part_f)_mm512_shuffle_f32x4(b, d, 0x88);
        v[i + 8].part[0] = (part_f)_mm512_shuffle_f32x4(a, c, 0xDD);
        v[i + 12].part[0] = (part_f)_mm512_shuffle_f32x4(b, d, 0xDD);
    }
#else
    float from[VEC][VEC], to[VEC][VEC];
    memcpy(from, v, sizeof(from));
    for (int i = 0; i < VEC; i++) {
        for (int j = 0; j < VEC; j++) {
            memcpy(&to[i][j], &from[j][i], sizeof(float)); // as bytes: any bits are kept
        }
    }
    memcpy(v, to, sizeof(to));
#endif
}

// v_keep zeros the lanes from `count` on.
VEC_INLINE v16 v_keep(v16 v, int count)
{
    v16i mask = lanes_below(count);
    EACH_PART(v.part[p] = (part_f)((part_i)v.part[p] & mask.part[p]));
    return v;
}

// v_max is b where they are equal or not comparable, and so is v_min: what the instructions do.
VEC_INLINE v16 v_max(v16 a, v16 b)
{
#if defined(__AVX512F__)
    a.part[0] = (part_f)_mm512_max_ps((__m512)a.part[0], (__m512)b.part[0]);
#elif defined(__AVX2__)
    EACH_PART(a.part[p] = _mm256_max_ps(a.part[p], b.part[p]));
#else
    a = v_select(v_less(b, a), a, b);
#endif
    return a;
}

VEC_INLINE v16 v_min(v16 a, v16 b)
{
#if defined(__AVX512F__)
    a.part[0] = (part_f)_mm512_min_ps((__m512)a.part[0], (__m512)b.part[0]);
#elif defined(__AVX2__)
    EACH_PART(a.part[p] = _mm256_min_ps(a.part[p], b.part[p]));
#else
    a = v_select(v_less(a, b), a, b);
#endif
    return a;
}

typedef float quad __attribute__((vector_size(16)));

// v_sum adds the lanes in a fixed tree: i with i+8, then +4, +2, +1.
VEC_INLINE float v_sum(v16 v)
{
    quad q[4];
    memcpy(q, &v, sizeof(v));
    q[0] = (q[0] + q[2]) + (q[1] + q[3]);
    return (q[0][0] + q[0][2]) + (q[0][1] + q[0][3]);
}

typedef int32_t quad_i __attribute__((vector_size(16)));

VEC_INLINE quad quad_max(quad a, quad b)
{
    const quad_i mask = a > b;
    return (quad)(((quad_i)a & mask) | ((quad_i)b & ~mask));
}

// v_max_lane is the largest lane, found in the same tree.
VEC_INLINE float v_max_lane(v16 v)
{
    quad q[4];
    memcpy(q, &v, sizeof(v));
    q[0] = quad_max(quad_max(q[0], q[2]), quad_max(q[1], q[3]));
    const float even = q[0][0] > q[0][2] ? q[0][0] : q[0][2];
    const float odd = q[0][1] > q[0][3] ? q[0][1] : q[0][3];
    return even > odd ? even : odd;
}

// v_exp is e^x within 2 ulp on [-87, 88]; below it is 0, above it is clamped. Cody-Waite reduction
// by ln 2 and a polynomial of degree 6 (Cephes expf).
VEC_INLINE v16 v_exp(v16 x)
{
    const v16i tiny = v_less(x, v_set(-87.0f));
    x = v_min(v_max(x, v_set(-87.0f)), v_set(88.0f));
    const v16 shift = v_set(12582912.0f); // 1.5 * 2^23: adding it rounds to an integer
    v16 n = v_fma(x, v_set(1.44269504088896341f), shift);
    v16i exponent;
    EACH_PART(exponent.part[p] = (part_i)n.part[p] << 23);
    n = v_sub(n, shift);
    v16 r = v_fma(n, v_set(-0.693359375f), x);
    r = v_fma(n, v_set(2.12194440e-4f), r);
    v16 y = v_set(1.9875691500e-4f);
    y = v_fma(y, r, v_set(1.3981999507e-3f));
    y = v_fma(y, r, v_set(8.3334519073e-3f));
    y = v_fma(y, r, v_set(4.1665795894e-2f));
    y = v_fma(y, r, v_set(1.6666665459e-1f));
    y = v_fma(y, r, v_set(5.0000001201e-1f));
    y = v_fma(y, v_mul(r, r), v_add(r, v_set(1.0f)));
    EACH_PART(y.part[p] = (part_f)(((part_i)y.part[p] + exponent.part[p]) & ~tiny.part[p]));
    return y;
}

VEC_INLINE float exp_one(float x)
{
    return v_exp(v_set(x)).part[0][0];
}

// v_sigmoid is 1 / (1 + e^-x).
VEC_INLINE v16 v_sigmoid(v16 x)
{
    return v_div(v_set(1.0f), v_add(v_set(1.0f), v_exp(v_negate(x))));
}

// v_tanh is (e^2x - 1) / (e^2x + 1), for |x| up to 20 where it is 1 in f32.
VEC_INLINE v16 v_tanh(v16 x)
{
    x = v_min(v_max(x, v_set(-20.0f)), v_set(20.0f));
    v16 e = v_exp(v_add(x, x));
    return v_div(v_sub(e, v_set(1.0f)), v_add(e, v_set(1.0f)));
}

#endif
