// What the multiply-add units can do at most: independent chains in registers, no memory.
#include "common/tensor/amx.h"
#include "common/tensor/cpu.h"
#include "common/tensor/vec.h"

// Chains enough to hide the latency of every unit, few enough to stay in registers.
#if defined(__AVX512F__)
enum { CHAINS = 12 };
#else
enum { CHAINS = 6 };
#endif

VEC_INLINE double burn(float *sink, int64_t rounds, const bool pairs)
{
    static const float start[VEC] = {0.01f, 0.02f, 0.03f, 0.04f, 0.05f, 0.06f, 0.07f, 0.08f,
                                     0.09f, 0.10f, 0.11f, 0.12f, 0.13f, 0.14f, 0.15f, 0.16f};
    const v16 factor = pairs ? v_pairs(v_set(0.625f), v_set(-0.625f)) : v_set(0.999f);
    const v16 step = pairs ? v_pairs(v_set(0.375f), v_set(0.375f)) : v_set(0.001f);
    v16 chain[CHAINS];
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++) {
        chain[i] = v_add(v_set(*sink + (float)i), v_load(start)); // no two lanes are equal
    }
    for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; i++) {
            chain[i] = pairs ? v_dot_pairs(factor, step, chain[i]) : v_fma(chain[i], factor, step);
        }
    }
    v16 sum = v_set(0.0f);
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++) {
        sum = v_add(sum, chain[i]);
    }
    *sink = v_sum(sum) / (VEC * CHAINS);
    return (pairs ? 4.0 : 2.0) * VEC * CHAINS * (double)rounds;
}

double cpu_burn(float *sink, int64_t rounds)
{
    return burn(sink, rounds, false);
}

double cpu_burn_bf16(float *sink, int64_t rounds)
{
    return burn(sink, rounds, true);
}

double cpu_burn_amx(float *sink, int64_t rounds)
{
    enum { DOTS = 4 };
    _Alignas(CACHE_LINE) float numbers[TILE_WORDS];
    _Alignas(CACHE_LINE) float sums[TILE_WORDS];
    for (int i = 0; i < TILE_WORDS; i += VEC) { // on zeros the unit is faster
        v_store(numbers + i, v_pairs(v_set(0.625f + *sink), v_set(0.01f * (float)(i - 100))));
    }
    const int64_t stride = TILE * sizeof(float);
    amx_begin();
    amx_zero(0);
    amx_zero(1);
    amx_zero(2);
    amx_zero(3);
    amx_load(4, numbers, stride);
    amx_load(6, numbers, stride);
    for (int64_t r = 0; r < rounds; r++) {
        amx_dot(0, 4, 6);
        amx_dot(1, 4, 6);
        amx_dot(2, 4, 6);
        amx_dot(3, 4, 6);
    }
    amx_store(0, sums, stride);
    amx_end();
    *sink = 1.0f / (1.0f + sums[0] * sums[0]);
    return 4.0 * TILE_WORDS * TILE * DOTS * (double)rounds;
}
