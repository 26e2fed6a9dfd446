// Every instruction set's product agrees with oneDNN's within the rounding of f32, for matrices of
// any size and every way in which they lie in memory; a row has the same bits whatever rows it is
// computed with, and all instruction sets have the bits of the portable one. A product in bf16 is
// held against oneDNN's of the rounded numbers.
#include "tests/support.h"
#include "tests/tables.h"
#include "tests/tile_unit.h"

#include "common/base/rng.h"
#include "common/tensor/kernels.h"

#include <dnnl.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CASES = 150, SIDE_MAX = 1300, PRODUCT_MAX = 1 << 20 };
// Tiles in portable C are slow.
enum { TILE_CASES = 100, TILE_PRODUCT_MAX = 1 << 18 };

// What the numbers are: of one size; of every size, subnormal ones too; such that their products,
// and what these are added to, lie about the least normal number.
enum numbers { NUMBERS_EVEN, NUMBERS_WILD, NUMBERS_LEAST, NUMBERS };

static const float untouched = 12345.0f;

// struct product is one case: c [M, N] (+)= a [M, K] · b [K, N].
struct product {
    enum compute compute;
    int64_t M, N, K, ldc;
    bool a_across, b_packed, accumulate; // a_across: a lies as [K, M]
    float *a, *b, *transposed, *packed;  // b is [K, N], packed from its transpose
    float *before, *c, *portable, *oracle;
    double *bound; // [M, N] how far f32 may be off
};

static float random_float(struct rng *rng, enum numbers numbers, int least)
{
    const float plain = (float)(rng_uniform(rng) - 0.5);
    if (numbers == NUMBERS_WILD) {
        return ldexpf(plain, -150 + (int)rng_below(rng, 180));
    }
    if (numbers == NUMBERS_LEAST) { // few bits, so that sums end near 2^-126 exactly
        const float bits = 1.0f + (float)rng_below(rng, 4) / 128.0f;
        return copysignf(ldexpf(bits, least - (int)rng_below(rng, 26)), plain);
    }
    return plain;
}

// The product of two numbers about 2^least is about 2^-126.
static float *random_numbers(struct rng *rng, int64_t count, enum numbers numbers, int least)
{
    float *floats = test_malloc((size_t)count * sizeof(*floats));
    for (int64_t i = 0; i < count; i++) {
        floats[i] = random_float(rng, numbers, least);
    }
    return floats;
}

static float *random_floats(struct rng *rng, int64_t count)
{
    return random_numbers(rng, count, NUMBERS_EVEN, 0);
}

// Small sizes are as frequent as large ones.
static int64_t random_size(struct rng *rng)
{
    int64_t size = 0;
    do {
        size = (int64_t)rng_below(rng, SIDE_MAX >> rng_below(rng, 8)) + 1;
    } while (size > SIDE_MAX);
    return size;
}

static float a_at(const struct product *p, int64_t m, int64_t k)
{
    return p->a_across ? p->a[k * p->M + m] : p->a[m * p->K + k];
}

static void transpose_and_pack(struct product *p, struct rng *rng)
{
    p->transposed = random_floats(rng, p->N * p->K);
    p->packed = random_floats(rng, packed_count(p->compute, p->N, p->K));
    for (int64_t k = 0; k < p->K; k++) {
        for (int64_t n = 0; n < p->N; n++) {
            p->transposed[n * p->K + k] = p->b[k * p->N + n];
        }
    }
    kernels_find("portable", p->compute)->pack(p->packed, p->transposed, p->N, p->K);
}

static void product_init(struct product *p, struct rng *rng, enum compute compute,
                         int64_t product_max)
{
    const enum numbers numbers = (enum numbers)rng_below(rng, NUMBERS);
    *p = (struct product){.compute = compute};
    do {
        p->M = random_size(rng);
        p->N = random_size(rng);
        p->K = random_size(rng);
    } while (p->M * p->N * p->K > product_max);
    p->ldc = p->N + (int64_t)rng_below(rng, 3);
    p->a_across = rng_below(rng, 2) == 1;
    p->b_packed = rng_below(rng, 2) == 1;
    p->accumulate = rng_below(rng, 2) == 1;
    p->a = random_numbers(rng, p->M * p->K, numbers, -50);
    p->b = random_numbers(rng, p->K * p->N, numbers, -50);
    p->before = random_numbers(rng, p->M * p->ldc, numbers, -113);
    p->c = random_floats(rng, p->M * p->ldc);
    p->portable = random_floats(rng, p->M * p->ldc);
    p->oracle = random_floats(rng, p->M * p->ldc);
    p->bound = test_malloc((size_t)(p->M * p->N) * sizeof(*p->bound));
    for (int64_t m = 0; m < p->M; m++) {
        for (int64_t n = p->N; n < p->ldc; n++) {
            p->before[m * p->ldc + n] = untouched;
        }
    }
    transpose_and_pack(p, rng);
}

static void product_finish(struct product *p)
{
    float *const arrays[] = {p->a,      p->b, p->transposed, p->packed,
                             p->before, p->c, p->portable,   p->oracle};
    for (size_t i = 0; i < sizeof(arrays) / sizeof(*arrays); i++) {
        test_free(arrays[i]);
    }
    test_free(p->bound);
}

// run computes rows [from, from + rows) of the product into c, which begins at row `from`; `own`,
// where it is not NULL, holds a as round_rows has written it (all rows then).
static void run(const struct kernels *kernels, const struct product *p, const float *own, float *c,
                int64_t from, int64_t rows)
{
    const struct operand b =
        p->b_packed ? operand_packed(p->compute, p->packed, p->K) : operand_row_major(p->b, p->N);
    memcpy(c, p->before + from * p->ldc, (size_t)(rows * p->ldc) * sizeof(float));
    const int64_t side = p->a_across ? p->M : p->K;
    const struct inputs lies =
        own != NULL ? inputs_own(p->compute, own, side) : inputs_rows(p->a, side);
    const struct inputs a = p->a_across ? inputs_turned(lies) : lies;
    kernels->product(c, p->ldc, inputs_from(a, from), b, rows, p->N, p->K, p->accumulate);
}

// Both sides add K products in some order; each addition errs by half a unit in the last place of
// what has been added so far at most, or loses a subnormal number and a product of one. The oracle
// of bf16 is given the numbers that are left after rounding.
static void run_oracle(struct product *p)
{
    if (p->compute != COMPUTE_F32) {
        const struct kernels *kernels = kernels_find("portable", COMPUTE_BF16);
        kernels->round_bf16(p->a, p->a, p->M * p->K);
        kernels->round_bf16(p->b, p->b, p->K * p->N);
    }
    memcpy(p->oracle, p->before, (size_t)(p->M * p->ldc) * sizeof(float));
    assert_int_equal(dnnl_sgemm(p->a_across ? 'T' : 'N', 'N', p->M, p->N, p->K, 1.0f, p->a,
                                p->a_across ? p->M : p->K, p->b, p->N, p->accumulate ? 1.0f : 0.0f,
                                p->oracle, p->ldc),
                     dnnl_success);
    for (int64_t m = 0; m < p->M; m++) {
        for (int64_t n = 0; n < p->N; n++) {
            double size = p->accumulate ? fabs((double)p->before[m * p->ldc + n]) : 0.0;
            double largest = 1.0;
            for (int64_t k = 0; k < p->K; k++) {
                const double a = fabs((double)a_at(p, m, k)), b = fabs((double)p->b[k * p->N + n]);
                size += a * b;
                largest = fmax(largest, fmax(a, b));
            }
            p->bound[m * p->N + n] = (double)(p->K + 1) * (FLT_EPSILON * size + FLT_MIN * largest);
        }
    }
}

static void check_element(const struct product *p, int64_t m, int64_t n)
{
    const double got = (double)p->c[m * p->ldc + n];
    const double off = fabs(got - (double)p->oracle[m * p->ldc + n]);
    if (off > p->bound[m * p->N + n]) {
        fail_msg("%lld x %lld x %lld: row %lld, column %lld is off by %g", (long long)p->M,
                 (long long)p->N, (long long)p->K, (long long)m, (long long)n, off);
    }
}

static void check_oracle(const struct product *p)
{
    for (int64_t m = 0; m < p->M; m++) {
        for (int64_t n = 0; n < p->N; n++) {
            check_element(p, m, n);
        }
        for (int64_t n = p->N; n < p->ldc; n++) {
            assert_true(p->c[m * p->ldc + n] == untouched);
        }
    }
}

// check_rows computes some of the rows by themselves.
static void check_rows(const struct kernels *kernels, const struct product *p, struct rng *rng)
{
    const int64_t from = (int64_t)rng_below(rng, (uint64_t)p->M);
    const int64_t rows = (int64_t)rng_below(rng, (uint64_t)(p->M - from)) + 1;
    float *c = random_floats(rng, rows * p->ldc);
    run(kernels, p, NULL, c, from, rows);
    assert_memory_equal(c, p->c + from * p->ldc, (size_t)(rows * p->ldc) * sizeof(float));
    test_free(c);
}

// rounded is x [T, K] as the table's products read it.
static float *rounded(const struct kernels *kernels, const float *x, int64_t T, int64_t K,
                      struct rng *rng)
{
    float *own = random_floats(rng, T * inputs_stride(kernels->compute, K));
    kernels->round_rows(own, x, K, T, K);
    return own;
}

// check_own computes the product of a that has been rounded before, as it lies.
static void check_own(const struct kernels *kernels, const struct product *p, struct rng *rng)
{
    float *own = p->a_across ? rounded(kernels, p->a, p->K, p->M, rng)
                             : rounded(kernels, p->a, p->M, p->K, rng);
    float *c = random_floats(rng, p->M * p->ldc);
    run(kernels, p, own, c, 0, p->M);
    assert_memory_equal(c, p->c, (size_t)(p->M * p->ldc) * sizeof(float));
    test_free(c);
    test_free(own);
}

// check_pack_rows packs a matrix by its rows, of floats or rounded ones.
static void check_pack_rows(const struct kernels *kernels, const struct product *p, bool own,
                            struct rng *rng)
{
    const int64_t count = packed_count(p->compute, p->N, p->K);
    float *packed = random_floats(rng, count);
    float *b = own ? rounded(kernels, p->b, p->K, p->N, rng) : NULL;
    kernels->pack_rows(packed, own ? inputs_own(p->compute, b, p->N) : inputs_rows(p->b, p->N),
                       p->K, p->N);
    assert_memory_equal(packed, p->packed, (size_t)count * sizeof(float));
    test_free(packed);
    test_free(b);
}

static void check_pack(const struct kernels *kernels, const struct product *p, struct rng *rng)
{
    const int64_t count = packed_count(p->compute, p->N, p->K);
    float *packed = random_floats(rng, count);
    kernels->pack(packed, p->transposed, p->N, p->K);
    assert_memory_equal(packed, p->packed, (size_t)count * sizeof(float));
    test_free(packed);
    if (kernels->pack_rows != NULL) {
        check_pack_rows(kernels, p, false, rng);
        check_pack_rows(kernels, p, true, rng);
    }
}

static void check_products(enum compute compute, int cases, int64_t product_max)
{
    struct rng rng = {.key = 20260115};
    for (int i = 0; i < cases; i++) {
        struct product p;
        product_init(&p, &rng, compute, product_max);
        run(kernels_find("portable", compute), &p, NULL, p.portable, 0, p.M);
        for (size_t k = 0; k < TABLES; k++) {
            const struct kernels *kernels = kernels_of(tables[k], compute);
            if (kernels == NULL) { // not on this host
                continue;
            }
            check_pack(kernels, &p, &rng);
            run(kernels, &p, NULL, p.c, 0, p.M);
            check_rows(kernels, &p, &rng);
            check_own(kernels, &p, &rng);
            assert_memory_equal(p.c, p.portable, (size_t)(p.M * p.ldc) * sizeof(float));
        }
        run_oracle(&p);
        check_oracle(&p);
        product_finish(&p);
    }
}

static void test_products_in_f32(void **state)
{
    (void)state;
    check_products(COMPUTE_F32, CASES, PRODUCT_MAX);
}

static void test_products_in_bf16(void **state)
{
    (void)state;
    check_products(COMPUTE_BF16, CASES, PRODUCT_MAX);
}

static void test_products_on_tiles(void **state)
{
    (void)state;
    check_products(COMPUTE_BF16_AMX, TILE_CASES, TILE_PRODUCT_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products_in_f32),
        cmocka_unit_test(test_products_in_bf16),
        cmocka_unit_test(test_products_on_tiles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
