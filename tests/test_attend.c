// Every instruction set's attention agrees with the formula in double precision, sees nothing of a
// block but the positions that were put there, and has the bits of the portable one, however the
// rows are put together and whichever keys are written at once.
#include "tests/support.h"
#include "tests/tables.h"
#include "tests/tile_unit.h"

#include "common/base/rng.h"
#include "common/tensor/attend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CASES = 40, KEYS_MAX = 600, ROWS_MAX = 24, D_MAX = 96 };
enum { BLOCKS_MAX = (KEYS_MAX + ATTENTION_BLOCK - 1) / ATTENTION_BLOCK };

// struct look is one case: `rows` queries of the last positions of a sequence of `count`. They may
// go in parts of `each` rows, which share so many blocks.
struct look {
    int64_t D, count, rows, each, shared;
    float key[KEYS_MAX][D_MAX], value[KEYS_MAX][D_MAX], query[ROWS_MAX][D_MAX];
};

struct result {
    float out[ROWS_MAX][D_MAX], lse[ROWS_MAX];
};

static void random_rows(struct rng *rng, float rows[][D_MAX], int64_t count, int64_t D)
{
    for (int64_t r = 0; r < count; r++) {
        for (int64_t d = 0; d < D; d++) {
            rows[r][d] = (float)rng_normal(rng);
        }
    }
}

static void look_init(struct look *look, struct rng *rng)
{
    memset(look, 0, sizeof(*look));
    look->D = 1 + (int64_t)rng_below(rng, D_MAX);
    look->count = 1 + (int64_t)rng_below(rng, KEYS_MAX);
    look->rows = 1 + (int64_t)rng_below(rng, ROWS_MAX);
    look->rows = look->rows < look->count ? look->rows : look->count;
    look->each = 1 + (int64_t)rng_below(rng, (uint64_t)look->rows);
    look->rows -= look->rows % look->each;
    const int64_t before = (look->count - look->rows) / ATTENTION_BLOCK;
    look->shared = (int64_t)rng_below(rng, (uint64_t)before + 1);
    random_rows(rng, look->key, look->count, look->D);
    random_rows(rng, look->value, look->count, look->D);
    random_rows(rng, look->query, look->rows, look->D);
}

// put writes the keys and values into their blocks, `each` positions at a time.
static void put(const struct kernels *kernels, const struct look *look, float *blocks, int64_t each)
{
    for (int64_t t = 0; t < look->count; t += each) {
        const int64_t left = look->count - t;
        kv_blocks_put(kernels, blocks, t,
                      (struct kv_rows){.key = look->key[t],
                                       .value = look->value[t],
                                       .stride = D_MAX,
                                       .count = left < each ? left : each},
                      look->D);
    }
}

// Runs a case on blocks that hold NaN wherever nothing was put, with all rows in one part or in
// several ones.
static void run(const struct kernels *kernels, const struct look *look, bool whole,
                struct result *result)
{
    const int64_t floats = kv_block_floats(kernels->compute, look->D);
    float *memory = test_malloc((size_t)(BLOCKS_MAX * floats) * sizeof(*memory));
    const float *blocks[BLOCKS_MAX];
    for (int64_t i = 0; i < BLOCKS_MAX * floats; i++) {
        memory[i] = NAN;
    }
    for (int64_t b = 0; b < BLOCKS_MAX; b++) {
        blocks[b] = memory + b * floats;
    }
    put(kernels, look, memory, whole ? look->count : look->each);
    memset(result, 0, sizeof(*result));
    const int64_t each = whole ? look->rows : look->each;
    struct attend_part parts[ROWS_MAX];
    for (int64_t i = 0; i * each < look->rows; i++) {
        parts[i] = (struct attend_part){.blocks = blocks,
                                        .q = look->query[i * each],
                                        .out = result->out[i * each],
                                        .position = look->count - look->rows + i * each};
    }
    kernels->attend(&(struct attend){.D = look->D,
                                     .part = parts,
                                     .parts = look->rows / each,
                                     .rows = each,
                                     .position_step = 1,
                                     .shared = whole ? 0 : look->shared,
                                     .q_stride = D_MAX,
                                     .out_stride = D_MAX,
                                     .lse = result->lse});
    test_free(memory);
}

static double score(const struct look *look, int64_t row, int64_t t)
{
    double sum = 0.0;
    for (int64_t d = 0; d < look->D; d++) {
        sum += (double)look->query[row][d] * (double)look->key[t][d];
    }
    return sum / sqrt((double)look->D);
}

// Holds a row against softmax(q·K/√D)·V.
static void check_row(const struct look *look, const struct result *result, int64_t row, double off)
{
    const int64_t seen = look->count - look->rows + row + 1;
    double total = 0.0, out[D_MAX] = {0.0};
    for (int64_t t = 0; t < seen; t++) {
        const double weight = exp(score(look, row, t));
        total += weight;
        for (int64_t d = 0; d < look->D; d++) {
            out[d] += weight * (double)look->value[t][d];
        }
    }
    assert_true(fabs((double)result->lse[row] - log(total)) <= off);
    for (int64_t d = 0; d < look->D; d++) {
        assert_true(fabs((double)result->out[row][d] - out[d] / total) <= off);
    }
}

// bf16 keeps 8 bits: of scores below 10 or so, and of values below 5.
static void check(enum compute compute, double off)
{
    static struct look look;
    static struct result portable, result;
    struct rng rng = {.key = 20261128};
    for (int i = 0; i < CASES; i++) {
        look_init(&look, &rng);
        run(kernels_find("portable", compute), &look, true, &portable);
        for (int64_t row = 0; row < look.rows; row++) {
            check_row(&look, &portable, row, off);
        }
        for (size_t k = 0; k < 2L * TABLES; k++) {
            const struct kernels *kernels = kernels_of(tables[k / 2], compute);
            if (kernels != NULL) { // on this host
                run(kernels, &look, k % 2 == 0, &result);
                assert_memory_equal(&result, &portable, sizeof(result));
            }
        }
    }
}

static void test_attention_in_f32(void **state)
{
    (void)state;
    check(COMPUTE_F32, 2e-5);
}

static void test_attention_in_bf16(void **state)
{
    (void)state;
    check(COMPUTE_BF16, 0.05);
}

static void test_attention_on_tiles(void **state)
{
    (void)state;
    check(COMPUTE_BF16_AMX, 0.05);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention_in_f32),
        cmocka_unit_test(test_attention_in_bf16),
        cmocka_unit_test(test_attention_on_tiles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
