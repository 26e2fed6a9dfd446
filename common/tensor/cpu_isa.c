// What this host can do, and the kernels chosen for it.
#include "common/base/log.h"
#include "common/tensor/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// Each build of cpu_*.c has a table of every compute type; that for AVX512-BF16, which has the tile
// unit too, none of f32.
extern const struct kernels portable_f32, portable_bf16, portable_bf16_amx;
#if defined(__x86_64__)
extern const struct kernels avx2_f32, avx2_bf16, avx2_bf16_amx;
extern const struct kernels avx512_f32, avx512_bf16, avx512_bf16_amx;
extern const struct kernels avx512bf16_bf16, avx512bf16_bf16_amx;

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

// The system gives a process the unit's registers only when it asks for them.
static bool tiles_granted(void)
{
    enum { REQUEST = 0x1023, TILE_DATA = 18, HAS_BF16 = 1 << 22, HAS_TILES = 1 << 24 };
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & HAS_BF16) != 0 &&
           (d & HAS_TILES) != 0 && syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

// The manual says in which order the unit adds; the bits of a run hang on it, so it is tried.
static bool tiles_agree(void)
{
    enum { M = 19, N = 37, K = 75 };
    float a[M * K], b[K * N], c[M * N], wanted[M * N];
    for (int i = 0; i < M * K; i++) {
        a[i] = (float)(i * 37 % 101 - 50) / 7.0f;
    }
    for (int i = 0; i < K * N; i++) {
        b[i] = (float)(i * 53 % 97 - 48) / 11.0f;
    }
    const struct operand right = operand_row_major(b, N);
    portable_bf16_amx.product(wanted, N, inputs_rows(a, K), right, M, N, K, false);
    avx512bf16_bf16_amx.product(c, N, inputs_rows(a, K), right, M, N, K, false);
    bool agree = true;
    for (int i = 0; i < M * N; i++) {
        agree = agree && c[i] == wanted[i]; // none is zero, or not a number
    }
    if (!agree) {
        log_warn("tensor",
                 "this processor's tile unit adds in an order of its own; it is not used");
    }
    return agree;
}

static bool host_has_amx(void)
{
    static atomic_int known; // 0: not yet; threads that ask at once find the same
    if (known == 0) {
        known = host_has_avx512bf16() && tiles_granted() && tiles_agree() ? 1 : -1;
    }
    return known > 0;
}
#endif

static bool host_has_any(void)
{
    return true;
}

// Those of a compute type from the fastest to what every host runs.
static const struct {
    const struct kernels *kernels;
    bool (*on_host)(void);
} tables[] = {
#if defined(__x86_64__)
    {&avx512bf16_bf16_amx, host_has_amx}, {&avx512bf16_bf16, host_has_avx512bf16},
    {&avx512_f32, host_has_avx512},       {&avx512_bf16, host_has_avx512},
    {&avx512_bf16_amx, host_has_avx512},  {&avx2_f32, host_has_avx2},
    {&avx2_bf16, host_has_avx2},          {&avx2_bf16_amx, host_has_avx2},
#endif
    {&portable_f32, host_has_any},        {&portable_bf16, host_has_any},
    {&portable_bf16_amx, host_has_any},
};

// Products in bf16 are worth it on the tile unit, and where one instruction adds two of them at
// twice the rate of f32: AMD's processors; Intel's do it at half the rate.
static enum compute fastest(void)
{
#if defined(__x86_64__)
    if (host_has_amx()) {
        return COMPUTE_BF16_AMX;
    }
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
    for (size_t i = 0; i < sizeof(tables) / sizeof(*tables); i++) {
        const struct kernels *kernels = tables[i].kernels;
        if (kernels->compute == compute && (name == NULL || strcmp(name, kernels->name) == 0) &&
            tables[i].on_host()) {
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
