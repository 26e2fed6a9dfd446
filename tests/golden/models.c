// The tiny golden models of all families: log-probabilities equal those of float64 PyTorch within
// 1e-4 in f32 and within what rounding to bf16 explains in bf16, and token-by-token decoding equals
// the whole-sequence pass bit for bit.
#include "tests/support.h"

#include "common/base/cleanup.h"
#include "common/base/json.h"
#include "common/model/decode.h"
#include "common/model/forward.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS_MAX = 256, LOGITS_ROWS = 8 };

struct golden {
    struct model *model;
    struct forward *forward;
    float *logits;
};

static void golden_open(struct golden *golden, const char *name, enum compute compute)
{
    char dir[256];
    struct error err = {0};
    (void)snprintf(dir, sizeof(dir), GOLDEN_DIR "/%s", name);
    if (model_load(&golden->model, dir, compute, &err) < 0) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(forward_create(&golden->forward, golden->model, TOKENS_MAX, &err), 0);
    golden->logits = calloc((size_t)golden->model->shape.V * LOGITS_ROWS, sizeof(float));
}

static void golden_close(struct golden *golden)
{
    free(golden->logits);
    forward_destroy(golden->forward);
    model_destroy(golden->model);
}

static int read_ids(int32_t *ids, const json_t *line)
{
    const json_t *list = json_object_get(line, "ids");
    for (size_t i = 0; i < json_array_size(list); i++) {
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    }
    return (int)json_array_size(list);
}

struct wanted {
    float *logprob;
    const int32_t *ids;
    const struct decode_row *rows;
    int32_t V;
};

static void on_logits(void *context, int32_t row, float *logits)
{
    struct wanted *wanted = context;
    int32_t position = wanted->rows[row].position;
    wanted->logprob[position] = logprob_of(logits, wanted->V, wanted->ids[position + 1]);
}

// decode_all runs ids[0..count-2] in chunks of the given sizes, repeated.
static void decode_all(const struct golden *golden, float *logprob, const int32_t *ids, int count,
                       const int *chunks, int chunk_count)
{
    struct error err = {0};
    struct kv_memory *memory = NULL;
    struct decode *decode = NULL;
    int32_t pages[TOKENS_MAX / KV_PAGE_TOKENS];
    for (int i = 0; i < TOKENS_MAX / KV_PAGE_TOKENS; i++) {
        pages[i] = TOKENS_MAX / KV_PAGE_TOKENS - 1 - i; // in any order
    }
    assert_int_equal(kv_memory_create(&memory, golden->model, TOKENS_MAX / KV_PAGE_TOKENS, &err),
                     0);
    assert_int_equal(decode_create(&decode, golden->model, 64, &err), 0);
    struct decode_row rows[64];
    struct wanted wanted = {logprob, ids, rows, golden->model->shape.V};
    for (int from = 0, turn = 0; from < count - 1; turn++) {
        int size = chunks[turn % chunk_count];
        size = from + size > count - 1 ? count - 1 - from : size;
        for (int i = 0; i < size; i++) {
            rows[i] = (struct decode_row){
                .token = ids[from + i], .position = from + i, .pages = pages, .wants_logits = true};
        }
        decode_run(decode, golden->model, memory, rows, size, on_logits, &wanted);
        from += size;
    }
    decode_destroy(decode);
    kv_memory_destroy(memory);
}

// struct offset is how far log-probabilities are off.
struct offset {
    double most, squares;
    int count;
};

static void check_line(struct offset *off, const struct golden *golden, const json_t *line)
{
    int32_t ids[TOKENS_MAX];
    float logprob[TOKENS_MAX];
    float decoded[TOKENS_MAX];
    const int one_by_one[] = {1}, mixed[] = {5, 1, 40, 2};
    int count = read_ids(ids, line);
    const json_t *expected = json_object_get(line, "logprobs");
    forward_logprobs(golden->forward, golden->model, logprob, ids, count, golden->logits,
                     LOGITS_ROWS);
    for (int i = 0; i + 1 < count; i++) {
        double wanted = json_number_value(json_array_get(expected, (size_t)i));
        const double apart = fabs(wanted - (double)logprob[i]);
        off->most = fmax(off->most, apart);
        off->squares += apart * apart;
        off->count++;
    }
    if (count > 1) {
        size_t size = (size_t)(count - 1) * sizeof(float);
        decode_all(golden, decoded, ids, count, one_by_one, 1);
        assert_memory_equal(decoded, logprob, size);
        decode_all(golden, decoded, ids, count, mixed, 4);
        assert_memory_equal(decoded, logprob, size);
    }
}

// bf16_bound is how far rounding may put log-probabilities in the mean, by the logits that the f32
// model has just computed. Rounding changes an operand by up to 2^-9 of it, at random, so a
// product's results by about that part of their size. Such errors add up as independent ones over
// the products that a row runs through: four of weights and two of attention a layer, and the head.
// What lies between them may enlarge an error: four times that.
static double bf16_bound(const struct golden *f32)
{
    const int32_t V = f32->model->shape.V;
    double squares = 0.0;
    for (int32_t i = 0; i < V; i++) {
        squares += (double)f32->logits[i] * (double)f32->logits[i];
    }
    return 4.0 * sqrt(6.0 * f32->model->shape.L + 1.0) / 512.0 * sqrt(squares / V);
}

static void check_family(const char *name)
{
    struct golden f32 = {0}, bf16 = {0};
    golden_open(&f32, name, COMPUTE_F32);
    golden_open(&bf16, name, COMPUTE_BF16);
    char path[256];
    (void)snprintf(path, sizeof(path), GOLDEN_DIR "/%s/expected.jsonl", name);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    char *text = NULL;
    size_t room = 0;
    int lines = 0;
    struct offset off = {0}, bf16_off = {0};
    ssize_t size = 0;
    while ((size = getline(&text, &room, file)) > 0) {
        CLEANUP(json_decrefp) json_t *line = NULL;
        assert_int_equal(json_parse(&line, text, (size_t)size, path, NULL), 0);
        check_line(&off, &f32, line);
        check_line(&bf16_off, &bf16, line);
        lines++;
    }
    assert_true(lines >= 5);
    assert_true(off.most <= 1e-4);
    assert_true(sqrt(bf16_off.squares / bf16_off.count) <= bf16_bound(&f32));
    free(text);
    (void)fclose(file);
    golden_close(&f32);
    golden_close(&bf16);
}

static void test_qwen2(void **state)
{
    (void)state;
    check_family("qwen2");
}

static void test_qwen3(void **state)
{
    (void)state;
    check_family("qwen3");
}

static void test_llama3(void **state)
{
    (void)state;
    check_family("llama3");
}

static void test_gpt2(void **state)
{
    (void)state;
    check_family("gpt2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_qwen2),
        cmocka_unit_test(test_qwen3),
        cmocka_unit_test(test_llama3),
        cmocka_unit_test(test_gpt2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
