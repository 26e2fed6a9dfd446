// What this host can do, and the kernels chosen for it.
#include "common/tensor/kernels.h"

#include <string.h>

// Each build of cpu_*.c has a table of either compute type; avx512bf16 differs from avx512 in one
// of them only.
extern const struct kernels portable_f32, portable_bf16;
#if defined(__x86_64__)
extern const struct kernels avx2_f32, avx2_bf16, avx512_f32, avx512_bf16;
extern const struct kernels avx512bf16_bf16;

static bool host_has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
}

static bool host_has_avx512bf16(void)
{
    return host_has_avx512() && __builtin_cpu_supports("avx512bf16");
}

static bool host_has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif

static bool host_has_any(void)
{
    return true;
}

// From the fastest to what every host runs.
static const struct build {
    const struct kernels *f32, *bf16;
    bool (*on_host)(void);
} builds[] = {
#if defined(__x86_64__)
    {NULL, &avx512bf16_bf16, host_has_avx512bf16},
    {&avx512_f32, &avx512_bf16, host_has_avx512},
    {&avx2_f32, &avx2_bf16, host_has_avx2},
#endif
    {&portable_f32, &portable_bf16, host_has_any},
};

// Products in bf16 are worth it where one instruction adds two of them at twice the rate of f32:
// AMD's processors; Intel's do it at half the rate.
static enum compute fastest(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    return host_has_avx512bf16() && __builtin_cpu_is("amd") ? COMPUTE_BF16 : COMPUTE_F32;
#else
    return COMPUTE_F32;
#endif
}

// find_table is the first table of this name, or of any name when it is NULL.
static const struct kernels *find_table(const char *name, enum compute compute)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    compute = compute == COMPUTE_AUTO ? fastest() : compute;
    for (size_t i = 0; i < sizeof(builds) / sizeof(*builds); i++) {
        const struct kernels *kernels = compute == COMPUTE_F32 ? builds[i].f32 : builds[i].bf16;
        if (kernels != NULL && (name == NULL || strcmp(name, kernels->name) == 0) &&
            builds[i].on_host()) {
            return kernels;
        }
    }
    return NULL;
}

const struct kernels *kernels_find(const char *name, enum compute compute)
{
    return find_table(name, compute);
}

const struct kernels *kernels_best(enum compute compute)
{
    return find_table(NULL, compute);
}
