// What this host can do, and the kernels chosen for it.
#include "common/tensor/kernels.h"

#include <string.h>

extern const struct kernels portable_table;
#if defined(__x86_64__)
extern const struct kernels avx2_table;
extern const struct kernels avx512_table;
#endif

const struct kernels *kernels_find(const char *name)
{
    if (strcmp(name, portable_table.name) == 0) {
        return &portable_table;
    }
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (strcmp(name, avx512_table.name) == 0 && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw")) {
        return &avx512_table;
    }
    if (strcmp(name, avx2_table.name) == 0 && __builtin_cpu_supports("avx2") &&
        __builtin_cpu_supports("fma")) {
        return &avx2_table;
    }
#endif
    return NULL;
}

const struct kernels *kernels_best(void)
{
    const struct kernels *kernels = kernels_find("avx512");
    kernels = kernels != NULL ? kernels : kernels_find("avx2");
    return kernels != NULL ? kernels : &portable_table;
}

void pack_transposed(float *packed, const float *W, int64_t N, int64_t K)
{
    for (int64_t n0 = 0; n0 < N; n0 += PANEL) {
        const int64_t width = N - n0 < PANEL ? N - n0 : PANEL;
        float *panel = packed + n0 * K;
        const float *rows = W + n0 * K;
        for (int64_t k = 0; k < K; k++, panel += PANEL) {
            for (int64_t j = 0; j < PANEL; j++) {
                panel[j] = j < width ? rows[j * K + k] : 0.0f;
            }
        }
    }
}
