// What norms and activations write is what round_rows makes of the same numbers in f32, in every
// instruction set and compute type, and nothing behind it; the backward passes write it again, and
// SwiGLU's its gradients likewise.
#include "tests/support.h"
#include "tests/tables.h"
#include "tests/tile_unit.h"

#include "common/base/rng.h"
#include "common/tensor/kernels.h"

#include <stdlib.h>
#include <string.h>

enum { CASES = 60, ROWS_MAX = 20, WIDTH_MAX = 100 };

// struct rows is one case: T rows of `width` numbers, or of twice as many where an activation has
// gates.
struct rows {
    int64_t T, width;
    float x[ROWS_MAX * 2 * WIDTH_MAX], dy[ROWS_MAX * WIDTH_MAX];
    float gain[WIDTH_MAX], bias[WIDTH_MAX];
};

static void random_fill(struct rng *rng, float *floats, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        floats[i] = (float)rng_normal(rng);
    }
}

static void rows_init(struct rows *rows, struct rng *rng)
{
    rows->T = 1 + (int64_t)rng_below(rng, ROWS_MAX);
    rows->width = 1 + (int64_t)rng_below(rng, WIDTH_MAX);
    random_fill(rng, rows->x, sizeof(rows->x) / sizeof(float));
    random_fill(rng, rows->dy, sizeof(rows->dy) / sizeof(float));
    random_fill(rng, rows->gain, WIDTH_MAX);
    random_fill(rng, rows->bias, WIDTH_MAX);
}

// An operation writes y, [T, width] or as many times as wide, from a case.
typedef void operation(const struct kernels *kernels, const struct rows *rows, float *y);

static void rmsnorm(const struct kernels *kernels, const struct rows *rows, float *y)
{
    kernels->rmsnorm_inputs(y, NULL, rows->x, rows->gain, rows->T, rows->width, 1e-6f);
}

static void layernorm(const struct kernels *kernels, const struct rows *rows, float *y)
{
    kernels->layernorm(y, NULL, NULL, rows->x, rows->gain, rows->bias, rows->T, rows->width, 1e-6f);
}

static void swiglu(const struct kernels *kernels, const struct rows *rows, float *y)
{
    kernels->swiglu(y, rows->x, rows->T, rows->width);
}

static void swiglu_again(const struct kernels *kernels, const struct rows *rows, float *y)
{
    float dx[ROWS_MAX * 2 * WIDTH_MAX];
    kernels->swiglu_backward(dx, y, rows->dy, rows->x, rows->T, rows->width);
}

static void swiglu_gradients(const struct kernels *kernels, const struct rows *rows, float *dx)
{
    float y[ROWS_MAX * 2 * WIDTH_MAX];
    kernels->swiglu_backward(dx, y, rows->dy, rows->x, rows->T, rows->width);
}

static void gelu(const struct kernels *kernels, const struct rows *rows, float *y)
{
    kernels->gelu(y, rows->x, rows->T, rows->width);
}

static void gelu_again(const struct kernels *kernels, const struct rows *rows, float *y)
{
    float dx[ROWS_MAX * WIDTH_MAX];
    kernels->gelu_backward(dx, y, rows->dy, rows->x, rows->T, rows->width);
}

static int64_t floats_of(const struct kernels *kernels, int64_t T, int64_t width)
{
    return T * inputs_stride(kernels->compute, width);
}

static float *untouched(int64_t count)
{
    float *y = test_malloc((size_t)count * sizeof(*y));
    for (int64_t i = 0; i < count; i++) {
        y[i] = 12345.0f;
    }
    return y;
}

static float *written(const struct kernels *kernels, const struct rows *rows, int64_t times,
                      operation *run)
{
    float *y = untouched(floats_of(kernels, rows->T, times * rows->width)); // its end is watched
    run(kernels, rows, y);
    return y;
}

static void check_table(const struct kernels *kernels, const struct rows *rows, int64_t times,
                        operation *forward, operation *run)
{
    if (kernels == NULL) { // not on this host
        return;
    }
    const int64_t width = times * rows->width, count = floats_of(kernels, rows->T, width);
    float *plain = written(kernels_find("portable", COMPUTE_F32), rows, times, forward);
    float *got = written(kernels, rows, times, run);
    float *wanted = untouched(count);
    kernels_find("portable", kernels->compute)->round_rows(wanted, plain, width, rows->T, width);
    assert_memory_equal(got, wanted, (size_t)count * sizeof(float));
    test_free(plain);
    test_free(got);
    test_free(wanted);
}

// `run` writes in every table what `forward` does in portable f32.
static void check(int64_t times, operation *forward, operation *run)
{
    struct rng rng = {.key = 20261128};
    for (int i = 0; i < CASES; i++) {
        struct rows rows;
        rows_init(&rows, &rng);
        for (size_t t = 0; t < TABLES; t++) {
            for (enum compute c = COMPUTE_F32; c <= COMPUTE_BF16_AMX; c++) {
                check_table(kernels_of(tables[t], c), &rows, times, forward, run);
            }
        }
    }
}

static void test_norms(void **state)
{
    (void)state;
    check(1, rmsnorm, rmsnorm);
    check(1, layernorm, layernorm);
}

static void test_activations(void **state)
{
    (void)state;
    check(1, swiglu, swiglu);
    check(1, swiglu, swiglu_again);
    check(2, swiglu_gradients, swiglu_gradients);
    check(1, gelu, gelu);
    check(1, gelu, gelu_again);
}

// The numbers that round_rows writes are those of the upper halves, to nearest even, and zeros
// behind them.
static void test_rounding(void **state)
{
    (void)state;
    const float x[3] = {1.00390625f, -1.01171875f, 3.0f}; // halfway between two numbers; whole
    float pairs[16];
    kernels_find("portable", COMPUTE_BF16)->round_rows(pairs, x, 3, 1, 3);
    uint16_t bits[32], wanted[32] = {0x3F80, 0xBF82, 0x4040};
    memcpy(bits, pairs, sizeof(bits));
    assert_memory_equal(bits, wanted, sizeof(bits));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norms),
        cmocka_unit_test(test_activations),
        cmocka_unit_test(test_rounding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
