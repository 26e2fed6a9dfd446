#include "tests/support.h"

#include "actor/engine.h"
#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/model/forward.h"
#include "tests/toy.h"

#include <errno.h>
#include <string.h>

enum { GENERATIONS = 40, SAMPLES = 6, PATIENCE_MS = 30000 };
enum { LONE = 3 }; // this generation and the next one have several samples

struct results {
    struct completion *of[GENERATIONS][SAMPLES];
    struct generation *generations[GENERATIONS];
    int tags[GENERATIONS];
    int32_t count, wanted;
};

static void keep(void *context, struct completion *completion)
{
    struct results *results = context;
    const int index = *(const int *)completion->generation->tag;
    assert_null(results->of[index][completion->sample]);
    results->of[index][completion->sample] = completion;
    results->count++;
}

static void submit(struct engine *engine, struct results *results, int index)
{
    struct generation *generation = toy_generation(100 + (uint64_t)index);
    results->tags[index] = index;
    results->generations[index] = generation;
    generation->tag = &results->tags[index];
    results->wanted += generation->samples;
    engine_submit(engine, generation);
}

static void wait_for_all(struct engine *engine, struct results *results)
{
    const uint64_t deadline_ms = clock_ms() + PATIENCE_MS;
    (void)engine_poll(engine, keep, results);
    while (results->count < results->wanted) {
        assert_true(clock_ms() < deadline_ms);
        engine_wait(engine, 100);
        (void)engine_poll(engine, keep, results);
    }
    for (int g = 0; g < GENERATIONS; g++) {
        assert_int_equal(results->generations[g] == NULL ? 0 : results->generations[g]->missing, 0);
    }
}

static void results_finish(struct results *results)
{
    for (int g = 0; g < GENERATIONS; g++) {
        for (int i = 0; i < SAMPLES; i++) {
            free(results->of[g][i]);
        }
        if (results->generations[g] != NULL) {
            toy_generation_free(results->generations[g]);
        }
    }
}

static struct engine *make(int32_t threads, enum swap_mode swap)
{
    struct engine_config config = {.threads = threads,
                                   .slots = 6,
                                   .call_rows = 24,
                                   .kv_tokens = (int64_t)40 * KV_PAGE_TOKENS,
                                   .pin = threads == 2,
                                   .swap = swap,
                                   .vocabulary = {.bytes = toy_bytes}};
    struct engine *engine = NULL;
    assert_int_equal(engine_create(&engine, &config, toy_model(1), 1, NULL), 0);
    return engine;
}

static void assert_same(const struct results *x, const struct results *y)
{
    for (int i = 0; i < GENERATIONS * SAMPLES; i++) {
        const struct completion *a = x->of[i / SAMPLES][i % SAMPLES];
        const struct completion *b = y->of[i / SAMPLES][i % SAMPLES];
        assert_int_equal(a == NULL, b == NULL);
        if (a != NULL) {
            assert_int_equal(a->count, b->count);
            assert_memory_equal(a->tokens, b->tokens, (size_t)a->count * sizeof(int32_t));
            assert_memory_equal(a->logprobs, b->logprobs, (size_t)a->count * sizeof(float));
        }
    }
}

// Samples are the same bits on one, two and three threads.
static void test_results_do_not_depend_on_threads(void **state)
{
    (void)state;
    struct results all[3] = {0};
    for (int32_t t = 0; t < 3; t++) {
        struct engine *engine = make(t + 1, SWAP_PINNED);
        for (int i = 0; i < GENERATIONS; i++) {
            submit(engine, &all[t], i);
        }
        wait_for_all(engine, &all[t]);
        struct engine_stats stats = engine_stats(engine);
        assert_int_equal(stats.outstanding, 0);
        engine_destroy(engine);
    }
    assert_same(&all[0], &all[1]);
    assert_same(&all[0], &all[2]);
    for (int t = 0; t < 3; t++) {
        results_finish(&all[t]);
    }
}

// The samples of a prompt that is alone are spread over all threads, of which each computes the
// prompt; of two prompts each has a thread.
static void test_a_lone_prompt_is_spread(void **state)
{
    (void)state;
    for (int prompts = 1; prompts <= 2; prompts++) {
        struct results apart = {0}, spread = {0};
        struct engine *one = make(1, SWAP_PINNED), *two = make(2, SWAP_PINNED);
        uint64_t prompt_tokens = 0;
        for (int i = 0; i < prompts; i++) {
            submit(one, &apart, LONE + i);
            submit(two, &spread, LONE + i);
            const struct generation *generation = spread.generations[LONE + i];
            assert_true(generation->samples > 1 && generation->tokens_max > 1);
            prompt_tokens += (uint64_t)generation->prompt_count;
        }
        wait_for_all(one, &apart);
        wait_for_all(two, &spread);
        assert_same(&apart, &spread);
        assert_int_equal(engine_stats(one).prefilled, prompt_tokens);
        assert_int_equal(engine_stats(two).prefilled, prompt_tokens * (prompts == 1 ? 2 : 1));
        engine_destroy(one);
        engine_destroy(two);
        results_finish(&apart);
        results_finish(&spread);
    }
}

// assert_exact checks a pinned sample against the whole-sequence pass of its one version.
static void assert_exact(const struct completion *c, struct model *const *models)
{
    const struct generation *g = c->generation;
    int32_t ids[TOY_T];
    float logprob[TOY_T], logits[TOY_V * 16];
    memcpy(ids, g->prompt, (size_t)g->prompt_count * sizeof(*ids));
    memcpy(ids + g->prompt_count, c->tokens, (size_t)c->count * sizeof(*ids));
    assert_int_equal(c->version_count, 1);
    struct forward *forward = NULL;
    const struct model *model = models[c->versions[0].version];
    assert_int_equal(forward_create(&forward, model, TOY_T, NULL), 0);
    forward_logprobs(forward, model, logprob, ids, g->prompt_count + c->count, logits, 16);
    assert_memory_equal(c->logprobs, logprob + g->prompt_count - 1,
                        (size_t)c->count * sizeof(float));
    forward_destroy(forward);
}

// New versions come while samples run on several threads: each sample is exactly what its version
// computes, the last version is reached, and a load that finds both models in use says so.
static void test_versions_change_under_load(void **state)
{
    (void)state;
    enum { VERSIONS = 6 };
    struct model *models[VERSIONS + 1] = {NULL};
    for (uint64_t v = 1; v <= VERSIONS; v++) {
        models[v] = toy_model(v);
    }
    struct results results = {0};
    struct engine *engine = make(2, SWAP_PINNED);
    const uint64_t deadline_ms = clock_ms() + PATIENCE_MS;
    uint64_t version = 1;
    for (int i = 0; i < GENERATIONS || version < VERSIONS; i++) {
        assert_true(clock_ms() < deadline_ms);
        if (i < GENERATIONS) {
            submit(engine, &results, i);
        }
        if (version < VERSIONS) {
            float *weights = toy_weights(models[1], version + 1);
            int code = engine_load(engine, weights, DTYPE_BF16, version + 1, NULL);
            assert_true(code == 0 || code == -EAGAIN);
            version += code == 0 ? 1 : 0;
            free(weights);
        }
        engine_wait(engine, 1);
        (void)engine_poll(engine, keep, &results);
    }
    wait_for_all(engine, &results);
    assert_int_equal(engine_stats(engine).version, VERSIONS);
    for (int i = 0; i < GENERATIONS * SAMPLES; i++) {
        const struct completion *c = results.of[i / SAMPLES][i % SAMPLES];
        if (c != NULL) {
            assert_exact(c, models);
        }
    }
    engine_destroy(engine);
    results_finish(&results);
    for (int v = 1; v <= VERSIONS; v++) {
        model_destroy(models[v]);
    }
}

// A cancelled engine returns every sample once, finished or cancelled, and then works on.
static void test_cancel_returns_everything(void **state)
{
    (void)state;
    struct results results = {0};
    struct engine *engine = make(2, SWAP_PINNED);
    for (int i = 0; i < GENERATIONS - 1; i++) {
        submit(engine, &results, i);
    }
    assert_int_equal(engine_poll(engine, keep, &results), 0); // begins
    engine_cancel(engine);
    submit(engine, &results, GENERATIONS - 1);
    wait_for_all(engine, &results);
    int32_t cancelled = 0;
    for (int i = 0; i < GENERATIONS * SAMPLES; i++) {
        const struct completion *c = results.of[i / SAMPLES][i % SAMPLES];
        cancelled += c != NULL && c->finish == FINISH_CANCELLED ? 1 : 0;
    }
    assert_true(cancelled > 0);
    assert_int_equal(results.of[GENERATIONS - 1][0]->finish, FINISH_LENGTH);
    engine_destroy(engine);
    results_finish(&results);
}

// An engine that is destroyed with work in it stops, and frees what it has.
static void test_destroy_with_work_in_it(void **state)
{
    (void)state;
    struct results results = {0};
    struct engine *engine = make(2, SWAP_PINNED);
    for (int i = 0; i < GENERATIONS; i++) {
        submit(engine, &results, i);
    }
    assert_int_equal(engine_poll(engine, keep, &results), 0); // begins
    engine_wait(engine, 5);
    engine_destroy(engine);
    assert_int_equal(results.count, 0);
    results_finish(&results);
}

static void test_destroy_with_parts_in_it(void **state)
{
    (void)state;
    struct results results = {0};
    struct engine *engine = make(2, SWAP_PINNED);
    submit(engine, &results, LONE);
    assert_int_equal(engine_poll(engine, keep, &results), 0);
    engine_destroy(engine);
    results_finish(&results);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_results_do_not_depend_on_threads),
        cmocka_unit_test(test_a_lone_prompt_is_spread),
        cmocka_unit_test(test_destroy_with_parts_in_it),
        cmocka_unit_test(test_versions_change_under_load),
        cmocka_unit_test(test_cancel_returns_everything),
        cmocka_unit_test(test_destroy_with_work_in_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
