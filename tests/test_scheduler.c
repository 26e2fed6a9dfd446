#include "tests/support.h"

#include "actor/scheduler.h"
#include "common/base/check.h"
#include "common/model/forward.h"
#include "tests/toy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { GENERATIONS = 24, SAMPLES = 6, VERSIONS = 3 };

struct results {
    struct completion *of[GENERATIONS][SAMPLES];
    struct generation *generations[GENERATIONS];
    int tags[GENERATIONS];
    int32_t count;
};

static void keep(void *context, struct completion *completion)
{
    struct results *results = context;
    const int index = *(const int *)completion->generation->tag;
    assert_true(completion->sample < (uint32_t)completion->generation->samples);
    assert_null(results->of[index][completion->sample]); // one completion a sample
    results->of[index][completion->sample] = completion;
    results->count++;
}

static void submit(struct scheduler *scheduler, struct results *results, int index, uint64_t seed)
{
    results->generations[index] = toy_generation(seed);
    results->tags[index] = index;
    results->generations[index]->tag = &results->tags[index];
    scheduler_submit(scheduler, results->generations[index]);
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

static struct scheduler *make(struct results *results, const struct model *model, int32_t slots,
                              int32_t call_rows, int32_t pages, enum swap_mode swap)
{
    struct scheduler_config config = {.slots = slots,
                                      .call_rows = call_rows,
                                      .page_count = pages,
                                      .swap = swap,
                                      .vocabulary = {.bytes = toy_bytes},
                                      .on_complete = keep,
                                      .context = results};
    struct scheduler *scheduler = NULL;
    assert_int_equal(scheduler_create(&scheduler, &config, model, 1, NULL), 0);
    return scheduler;
}

static void run_all(struct results *results, const struct model *model, int32_t slots,
                    int32_t call_rows, int32_t pages, const int *order, int count)
{
    struct scheduler *scheduler = make(results, model, slots, call_rows, pages, SWAP_PINNED);
    for (int i = 0; i < count; i++) {
        submit(scheduler, results, order[i], 100 + (uint64_t)order[i]);
        if (i % 3 == 2) { // some come while others run
            (void)scheduler_step(scheduler);
        }
    }
    while (scheduler_step(scheduler)) {
    }
    assert_int_equal(scheduler_stats(scheduler).pages_used, 0);
    assert_int_equal(scheduler_stats(scheduler).running, 0);
    assert_int_equal(scheduler_stats(scheduler).waiting, 0);
    scheduler_destroy(scheduler);
}

static void assert_same(const struct completion *a, const struct completion *b)
{
    assert_non_null(a);
    assert_non_null(b);
    assert_int_equal(a->finish, b->finish);
    assert_int_equal(a->count, b->count);
    assert_memory_equal(a->tokens, b->tokens, (size_t)a->count * sizeof(int32_t));
    assert_memory_equal(a->logprobs, b->logprobs, (size_t)a->count * sizeof(float));
    assert_string_equal(a->text, b->text);
}

// A sample's tokens, log-probabilities and text are the same bits whether it runs alone in calls of
// one row, or with any neighbours, slots, chunks and scarcity of pages.
static void test_results_do_not_depend_on_the_batch(void **state)
{
    (void)state;
    struct model *model = toy_model(1);
    struct rng rng = {.key = 5};
    struct results alone = {0};
    int order[GENERATIONS];
    for (int i = 0; i < GENERATIONS; i++) {
        order[i] = i;
        run_all(&alone, model, 1, 1, 12, &order[i], 1);
    }
    for (int round = 0; round < 12; round++) {
        for (int i = GENERATIONS - 1; i > 0; i--) {
            int j = (int)rng_below(&rng, (uint64_t)i + 1), held = order[i];
            order[i] = order[j];
            order[j] = held;
        }
        struct results mixed = {0};
        int32_t slots = 1 + (int32_t)rng_below(&rng, 20);
        int32_t call_rows = slots + (int32_t)rng_below(&rng, 70);
        int32_t pages = 12 + (int32_t)rng_below(&rng, 60);
        run_all(&mixed, model, slots, call_rows, pages, order, GENERATIONS);
        assert_int_equal(mixed.count, alone.count);
        for (int g = 0; g < GENERATIONS; g++) {
            for (int i = 0; i < alone.generations[g]->samples; i++) {
                assert_same(mixed.of[g][i], alone.of[g][i]);
            }
        }
        results_finish(&mixed);
    }
    results_finish(&alone);
    model_destroy(model);
}

// assert_exact recomputes each token's log-probability with the version that sampled it, by the
// learner's whole-sequence pass over all that came before.
static void assert_exact(const struct completion *c, struct model *const *models)
{
    const struct generation *g = c->generation;
    int32_t ids[TOY_T];
    float logprob[TOY_T], logits[TOY_V * 16];
    const int32_t n = g->prompt_count + c->count;
    memcpy(ids, g->prompt, (size_t)g->prompt_count * sizeof(*ids));
    memcpy(ids + g->prompt_count, c->tokens, (size_t)c->count * sizeof(*ids));
    int32_t from = 0;
    for (int32_t r = 0; r < c->version_count; r++) {
        const struct model *model = models[c->versions[r].version];
        struct forward *forward = NULL;
        assert_int_equal(forward_create(&forward, model, TOY_T, NULL), 0);
        forward_logprobs(forward, model, logprob, ids, n, logits, 16);
        for (int32_t i = 0; i < (int32_t)c->versions[r].count; i++, from++) {
            assert_memory_equal(&c->logprobs[from], &logprob[g->prompt_count - 1 + from],
                                sizeof(float));
        }
        forward_destroy(forward);
    }
    assert_int_equal(from, c->count);
}

// run_swapping submits a generation a step and changes the weights twice on the way.
static void run_swapping(struct results *results, struct model *const *models, enum swap_mode mode)
{
    struct scheduler *scheduler = make(results, models[1], 5, 16, 40, mode);
    int submitted = 0, steps = 0;
    uint64_t version = 1;
    while (scheduler_step(scheduler) || submitted < GENERATIONS) {
        if (submitted < GENERATIONS) {
            submit(scheduler, results, submitted, 100 + (uint64_t)submitted);
            submitted++;
        }
        steps++;
        if (version < VERSIONS && steps % 40 == 0 &&
            !(version > 1 && scheduler_uses(scheduler, models[version - 1]))) {
            version++;
            scheduler_set_model(scheduler, models[version], version);
        }
    }
    assert_int_equal(version, VERSIONS);
    scheduler_destroy(scheduler);
}

// Weights change twice while samples run. In every mode each sample ends once, and its version runs
// add up; pinned samples have one version each; pinned and re-prefilled log-probabilities equal the
// whole-sequence pass of the version that sampled the token, bit for bit.
static void test_swaps_in_the_middle(void **state)
{
    (void)state;
    struct model *models[VERSIONS + 1] = {NULL, toy_model(1), toy_model(2), toy_model(3)};
    for (int mode = SWAP_PINNED; mode <= SWAP_STALE; mode++) {
        struct results results = {0};
        run_swapping(&results, models, (enum swap_mode)mode);
        bool changed = false;
        for (int i = 0; i < GENERATIONS * SAMPLES; i++) {
            const struct completion *c = results.of[i / SAMPLES][i % SAMPLES];
            if (i % SAMPLES >= results.generations[i / SAMPLES]->samples) {
                continue;
            }
            assert_non_null(c);
            uint32_t total = 0;
            for (int r = 0; r < c->version_count; r++) {
                total += c->versions[r].count;
            }
            assert_int_equal(total, c->count);
            changed |= c->version_count > 1;
            if (mode != SWAP_STALE) {
                assert_exact(c, models);
            }
        }
        assert_int_equal(changed, mode != SWAP_PINNED);
        results_finish(&results);
    }
    for (int v = 1; v <= VERSIONS; v++) {
        model_destroy(models[v]);
    }
}

static struct completion *run_one(struct generation *generation, const struct model *model,
                                  const struct vocabulary *vocabulary)
{
    struct results results = {0};
    generation->tag = &results.tags[0];
    struct scheduler_config config = {.slots = 2,
                                      .call_rows = 8,
                                      .page_count = 16,
                                      .vocabulary = *vocabulary,
                                      .on_complete = keep,
                                      .context = &results};
    struct scheduler *scheduler = NULL;
    assert_int_equal(scheduler_create(&scheduler, &config, model, 1, NULL), 0);
    scheduler_submit(scheduler, generation);
    while (scheduler_step(scheduler)) {
    }
    scheduler_destroy(scheduler);
    assert_int_equal(results.count, 1);
    return results.of[0][0];
}

// A stop text is found across token borders, at the first place where it stands; the text is cut
// behind it, and the tokens are those of the run without it, up to there.
static void test_stop_text_crosses_tokens(void **state)
{
    (void)state;
    struct model *model = toy_model(4);
    struct vocabulary letters = {.bytes = toy_bytes};
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct generation *generation = toy_generation(seed);
        generation->samples = 1;
        generation->tokens_max = 50;
        struct completion *whole = run_one(generation, model, &letters);
        assert_int_equal(whole->finish, FINISH_LENGTH);
        assert_int_equal(whole->text_size, 50);
        char stop[4] = {0};
        memcpy(stop, whole->text + 20 + seed, 3);
        size_t end = (size_t)(strstr(whole->text, stop) - whole->text) + 3;
        generation->stop = stop;
        struct completion *cut = run_one(generation, model, &letters);
        assert_int_equal(cut->finish, FINISH_STOPPED);
        assert_int_equal(cut->text_size, end);
        assert_int_equal(cut->count, end);
        assert_memory_equal(cut->text, whole->text, end);
        assert_memory_equal(cut->tokens, whole->tokens, end * sizeof(int32_t));
        free(whole);
        free(cut);
        toy_generation_free(generation);
    }
    model_destroy(model);
}

// A stop token ends the response, is among its tokens, and is not in its text.
static void test_stop_tokens_end_a_response(void **state)
{
    (void)state;
    struct model *model = toy_model(4);
    struct vocabulary letters = {.bytes = toy_bytes};
    struct generation *generation = toy_generation(3);
    generation->samples = 1;
    generation->tokens_max = 50;
    struct completion *whole = run_one(generation, model, &letters);
    int32_t stop = whole->tokens[30], at = 0;
    while (whole->tokens[at] != stop) {
        at++;
    }
    letters.stops = &stop;
    letters.stop_count = 1;
    struct completion *cut = run_one(generation, model, &letters);
    assert_int_equal(cut->finish, FINISH_STOPPED);
    assert_int_equal(cut->count, at + 1);
    assert_int_equal(cut->tokens[at], stop);
    assert_int_equal(cut->text_size, at);
    free(whole);
    free(cut);
    toy_generation_free(generation);
    model_destroy(model);
}

// What can never run comes back at once with the reason: too long, beyond the pages, an unknown id.
static void test_impossible_generations_are_rejected(void **state)
{
    (void)state;
    struct model *model = toy_model(1);
    const char *const reasons[] = {"positions", "actor.kv_tokens", "token 2 of the prompt"};
    for (int k = 0; k < 3; k++) {
        struct results results = {0};
        struct scheduler *scheduler = make(&results, model, 2, 8, k == 1 ? 4 : 40, SWAP_PINNED);
        struct generation *generation = results.generations[0] = calloc(1, sizeof(*generation));
        CHECK(generation != NULL);
        generation->tag = &results.tags[0];
        generation->prompt = calloc(TOY_T, sizeof(int32_t));
        CHECK(generation->prompt != NULL);
        generation->prompt_count = k == 0 ? TOY_T : 100;
        generation->prompt[2] = k == 2 ? TOY_V : 0;
        generation->samples = 2;
        generation->tokens_max = 64;
        scheduler_submit(scheduler, generation);
        assert_int_equal(results.count, 2);
        assert_int_equal(results.of[0][1]->finish, FINISH_REJECTED);
        assert_non_null(strstr(results.of[0][1]->note, reasons[k]));
        assert_false(scheduler_step(scheduler));
        scheduler_destroy(scheduler);
        results_finish(&results);
    }
    model_destroy(model);
}

// A generation that wants newer weights waits for them, and starts when they come.
static void test_waits_for_its_version(void **state)
{
    (void)state;
    struct model *old = toy_model(1), *young = toy_model(2);
    struct results results = {0};
    struct scheduler *scheduler = make(&results, old, 4, 16, 40, SWAP_PINNED);
    results.generations[0] = toy_generation(1);
    results.generations[0]->tag = &results.tags[0];
    results.generations[0]->version_min = 2;
    scheduler_submit(scheduler, results.generations[0]);
    assert_false(scheduler_step(scheduler));
    assert_int_equal(results.count, 0);
    scheduler_set_model(scheduler, young, 2);
    while (scheduler_step(scheduler)) {
    }
    assert_int_equal(results.count, results.generations[0]->samples);
    assert_int_equal(results.of[0][0]->versions[0].version, 2);
    scheduler_destroy(scheduler);
    results_finish(&results);
    model_destroy(old);
    model_destroy(young);
}

// Cancelling ends everything once, wherever it stands, gives all pages back, and leaves a
// scheduler that works.
static void test_cancel_ends_everything_once(void **state)
{
    (void)state;
    struct model *model = toy_model(1);
    for (int steps = 0; steps < 40; steps += 3) {
        struct results results = {0};
        struct scheduler *scheduler = make(&results, model, 5, 20, 40, SWAP_PINNED);
        int32_t samples = 0;
        for (int i = 0; i < GENERATIONS - 1; i++) {
            submit(scheduler, &results, i, 100 + (uint64_t)i);
            samples += results.generations[i]->samples;
        }
        for (int i = 0; i < steps; i++) {
            (void)scheduler_step(scheduler);
        }
        scheduler_cancel(scheduler);
        assert_int_equal(results.count, samples);
        assert_int_equal(scheduler_stats(scheduler).pages_used, 0);
        assert_int_equal(scheduler_stats(scheduler).waiting, 0);
        submit(scheduler, &results, GENERATIONS - 1, 7);
        while (scheduler_step(scheduler)) {
        }
        assert_int_equal(results.count, samples + results.generations[GENERATIONS - 1]->samples);
        scheduler_destroy(scheduler);
        results_finish(&results);
    }
    model_destroy(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_results_do_not_depend_on_the_batch),
        cmocka_unit_test(test_swaps_in_the_middle),
        cmocka_unit_test(test_stop_text_crosses_tokens),
        cmocka_unit_test(test_stop_tokens_end_a_response),
        cmocka_unit_test(test_impossible_generations_are_rejected),
        cmocka_unit_test(test_waits_for_its_version),
        cmocka_unit_test(test_cancel_ends_everything_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
