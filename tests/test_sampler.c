#include "tests/support.h"

#include "actor/sampler.h"
#include "common/base/rng.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

enum { V_MAX = 700 };

static void random_logits(float *logits, int32_t V, uint64_t seed)
{
    struct rng rng = {.key = seed};
    for (int32_t i = 0; i < V; i++) {
        logits[i] = (float)(2.0 * rng_normal(&rng));
        if (rng_below(&rng, 8) == 0 && i > 0) {
            logits[i] = logits[i - 1]; // ties
        }
    }
}

static const float *order_logits;

static int by_likelihood(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    if (order_logits[x] != order_logits[y]) {
        return order_logits[x] > order_logits[y] ? -1 : 1;
    }
    return x < y ? -1 : 1;
}

// The definition: sort, cut, renormalize.
static void naive_probabilities(double *p, const float *logits, int32_t V,
                                const struct sampling *sampling)
{
    int32_t order[V_MAX];
    double total = 0;
    for (int32_t i = 0; i < V; i++) {
        order[i] = i;
        p[i] = 0;
    }
    order_logits = logits;
    qsort(order, (size_t)V, sizeof(*order), by_likelihood);
    double weight[V_MAX];
    int32_t kept = sampling->top_k > 0 && sampling->top_k < V ? sampling->top_k : V;
    for (int32_t i = 0; i < kept; i++) {
        weight[i] = exp(((double)logits[order[i]] - (double)logits[order[0]]) /
                        (double)sampling->temperature);
        total += weight[i];
    }
    double need = (double)sampling->top_p * total, sum = 0;
    int32_t nucleus = 0;
    while (nucleus < kept && (nucleus == 0 || sum < need)) {
        sum += weight[nucleus++];
    }
    kept = sampling->top_p > 0 && sampling->top_p < 1 ? nucleus : kept;
    sum = 0;
    for (int32_t i = 0; i < kept; i++) {
        p[order[i]] = weight[i] >= (double)sampling->min_p ? weight[i] : 0;
        sum += p[order[i]];
    }
    for (int32_t i = 0; i < V; i++) {
        p[i] /= sum;
    }
}

static const struct sampling settings[] = {
    {.temperature = 1, .top_p = 1},
    {.temperature = 0.6f, .top_p = 1},
    {.temperature = 1, .top_p = 0.8f},
    {.temperature = 1, .top_p = 1, .top_k = 5},
    {.temperature = 1, .top_p = 1, .min_p = 0.05f},
    {.temperature = 1.3f, .top_p = 0.9f, .top_k = 40, .min_p = 0.02f},
    {.temperature = 1, .top_p = 0.001f},
    {.temperature = 1, .top_p = 1, .top_k = 1},
};

enum { SETTINGS = sizeof(settings) / sizeof(*settings) };

// Whatever the settings, tokens come as often as the definition says: chi-square over the tokens
// that are expected at least five times, and never a token that was cut off.
static void test_distribution_is_the_defined_one(void **state)
{
    (void)state;
    enum { DRAWS = 40000 };
    for (int k = 0; k < SETTINGS; k++) {
        int32_t V = k % 2 == 0 ? 300 : 37;
        float logits[V_MAX];
        double p[V_MAX];
        int32_t seen[V_MAX] = {0};
        random_logits(logits, V, 7 + (uint64_t)k);
        naive_probabilities(p, logits, V, &settings[k]);
        struct sampler *sampler = NULL;
        assert_int_equal(sampler_create(&sampler, V, NULL), 0);
        for (uint32_t i = 0; i < DRAWS; i++) {
            seen[sampler_draw(sampler, logits, &settings[k], 99, i / 100, i % 100)]++;
        }
        sampler_destroy(sampler);
        double chi = 0;
        int cells = 0;
        for (int32_t i = 0; i < V; i++) {
            assert_true(p[i] > 0 || seen[i] == 0);
            double expected = p[i] * DRAWS;
            if (expected >= 5) {
                chi += (seen[i] - expected) * (seen[i] - expected) / expected;
                cells++;
            }
        }
        // Mean cells - 1, standard deviation sqrt(2 (cells - 1)): five of them never happen.
        assert_true(chi < cells + 5 * sqrt(2.0 * cells) + 5);
    }
}

// The set of tokens that can be drawn is exactly the defined one, ties included: every uniform
// number falls on a kept token, and over many logits all of few kept tokens are hit.
static void test_cuts_are_exact(void **state)
{
    (void)state;
    struct rng rng = {.key = 3};
    for (uint64_t round = 0; round < 300; round++) {
        int32_t V = 2 + (int32_t)rng_below(&rng, V_MAX - 2);
        struct sampling s = {.temperature = (float)(0.3 + rng_uniform(&rng)),
                             .top_p = (float)(0.05 + 0.9 * rng_uniform(&rng)),
                             .top_k = (int32_t)rng_below(&rng, 12),
                             .min_p = rng_below(&rng, 2) == 0 ? 0 : 0.1f};
        float logits[V_MAX];
        double p[V_MAX];
        random_logits(logits, V, round);
        naive_probabilities(p, logits, V, &s);
        struct sampler *sampler = NULL;
        assert_int_equal(sampler_create(&sampler, V, NULL), 0);
        bool seen[V_MAX] = {false};
        for (uint32_t i = 0; i < 2000; i++) {
            int32_t token = sampler_draw(sampler, logits, &s, round, 0, i);
            assert_true(token >= 0 && token < V);
            assert_true(p[token] > 0);
            seen[token] = true;
        }
        for (int32_t i = 0; i < V; i++) {
            assert_true(seen[i] || p[i] < 0.02);
        }
        sampler_destroy(sampler);
    }
}

// Temperature 0 takes the largest logit, the lowest id of equals, and uses no random number.
static void test_greedy_takes_the_first_of_the_largest(void **state)
{
    (void)state;
    const float logits[] = {0, 3, 1, 3, 3, -1};
    struct sampling greedy = {.temperature = 0, .top_p = 1};
    struct sampler *sampler = NULL;
    assert_int_equal(sampler_create(&sampler, 6, NULL), 0);
    for (uint32_t i = 0; i < 50; i++) {
        assert_int_equal(sampler_draw(sampler, logits, &greedy, i, i, i), 1);
    }
    sampler_destroy(sampler);
}

// A draw depends on (seed, sample, position) and the logits only: not on what was drawn before.
static void test_draws_are_counted_not_sequenced(void **state)
{
    (void)state;
    float logits[V_MAX];
    random_logits(logits, V_MAX, 5);
    struct sampler *sampler = NULL;
    assert_int_equal(sampler_create(&sampler, V_MAX, NULL), 0);
    for (int k = 0; k < SETTINGS; k++) {
        int32_t forward[64];
        for (uint32_t i = 0; i < 64; i++) {
            forward[i] = sampler_draw(sampler, logits, &settings[k], 1, i % 4, i);
        }
        for (uint32_t i = 64; i-- > 0;) {
            assert_int_equal(sampler_draw(sampler, logits, &settings[k], 1, i % 4, i), forward[i]);
        }
    }
    sampler_destroy(sampler);
}

// Broken logits (NaN, infinities) give a token id, not a crash.
static void test_broken_logits_give_some_id(void **state)
{
    (void)state;
    struct sampler *sampler = NULL;
    assert_int_equal(sampler_create(&sampler, 4, NULL), 0);
    const float rows[3][4] = {{NAN, NAN, NAN, NAN},
                              {-INFINITY, -INFINITY, -INFINITY, -INFINITY},
                              {INFINITY, 0, INFINITY, NAN}};
    for (int r = 0; r < 3; r++) {
        for (int k = 0; k < SETTINGS; k++) {
            int32_t token = sampler_draw(sampler, rows[r], &settings[k], 1, 2, 3);
            assert_in_range(token, 0, 3);
        }
    }
    sampler_destroy(sampler);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_distribution_is_the_defined_one),
        cmocka_unit_test(test_cuts_are_exact),
        cmocka_unit_test(test_greedy_takes_the_first_of_the_largest),
        cmocka_unit_test(test_draws_are_counted_not_sequenced),
        cmocka_unit_test(test_broken_logits_give_some_id),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
