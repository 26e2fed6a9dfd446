#include "tests/support.h"

#include "learner/advantage.h"

// The worked example of AZR.md section 5: lengths 1 and 3, rewards 1 and -0.5 → 1.5 and -0.5.
static void test_token_weights(void **state)
{
    (void)state;
    const struct response responses[] = {{.reward = 1.0, .tokens = 1},
                                         {.reward = -0.5, .tokens = 3}};
    float advantage[2];
    trr_advantage(advantage, responses, 2, WHITEN_TOKEN);
    assert_float_equal(advantage[0], 1.5, 1e-6);
    assert_float_equal(advantage[1], -0.5, 1e-6);
}

// With sequence whitening the lengths do not matter: ±1/sqrt(2).
static void test_sequence_weights(void **state)
{
    (void)state;
    const struct response responses[] = {{.reward = 1.0, .tokens = 1},
                                         {.reward = -0.5, .tokens = 300}};
    float advantage[2];
    trr_advantage(advantage, responses, 2, WHITEN_SEQUENCE);
    assert_float_equal(advantage[0], 0.70710678, 1e-6);
    assert_float_equal(advantage[1], -0.70710678, 1e-6);
}

// Blocks have baselines of their own; one without spread and one with a single response get zeros.
static void test_blocks_are_apart(void **state)
{
    (void)state;
    const struct response responses[] = {
        {.reward = 0.3, .tokens = 5, .block = 0, .baseline = 0},
        {.reward = 1.0, .tokens = 1, .block = 3, .baseline = 1},
        {.reward = 0.3, .tokens = 7, .block = 0, .baseline = 2},
        {.reward = -0.5, .tokens = 3, .block = 3, .baseline = 3},
        {.reward = -1.0, .tokens = 9, .block = 7, .baseline = 4},
    };
    float advantage[5];
    trr_advantage(advantage, responses, 5, WHITEN_TOKEN);
    assert_float_equal(advantage[0], 0.0, 0.0);
    assert_float_equal(advantage[2], 0.0, 0.0);
    assert_float_equal(advantage[4], 0.0, 0.0);
    assert_float_equal(advantage[1], 1.5, 1e-6);
    assert_float_equal(advantage[3], -0.5, 1e-6);
}

// With the task baseline a response is centred on its task's mean and scaled by its block.
static void test_task_baseline(void **state)
{
    (void)state;
    const struct response responses[] = {
        {.reward = 1.0, .tokens = 1, .baseline = 0},
        {.reward = 0.0, .tokens = 1, .baseline = 0},
        {.reward = 1.0, .tokens = 1, .baseline = 1},
        {.reward = 1.0, .tokens = 1, .baseline = 1},
    };
    float advantage[4];
    trr_advantage(advantage, responses, 4, WHITEN_SEQUENCE);
    assert_float_equal(advantage[0], 1.0, 1e-6); // 0.5 / sqrt(0.25)
    assert_float_equal(advantage[1], -1.0, 1e-6);
    assert_float_equal(advantage[2], 0.0, 1e-6);
    assert_float_equal(advantage[3], 0.0, 1e-6);
}

// A response that is alone in its task keeps its signal: it is centred on its block.
static void test_alone_in_its_task(void **state)
{
    (void)state;
    const struct response responses[] = {{.reward = 1.0, .tokens = 5, .baseline = 0},
                                         {.reward = 0.0, .tokens = 5, .baseline = 1}};
    float advantage[2];
    trr_advantage(advantage, responses, 2, WHITEN_SEQUENCE);
    assert_float_equal(advantage[0], 0.70710678, 1e-6); // 0.5 / sqrt(0.5)
    assert_float_equal(advantage[1], -0.70710678, 1e-6);
}

// A single-token block of two responses: the unbiased variance has M - 1 = 1, no division by zero.
static void test_shortest_block(void **state)
{
    (void)state;
    const struct response responses[] = {{.reward = 1.0, .tokens = 1},
                                         {.reward = -1.0, .tokens = 1}};
    float advantage[2];
    trr_advantage(advantage, responses, 2, WHITEN_TOKEN);
    assert_float_equal(advantage[0], 0.70710678, 1e-6);
    assert_float_equal(advantage[1], -0.70710678, 1e-6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_token_weights),     cmocka_unit_test(test_sequence_weights),
        cmocka_unit_test(test_blocks_are_apart),  cmocka_unit_test(test_task_baseline),
        cmocka_unit_test(test_alone_in_its_task), cmocka_unit_test(test_shortest_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
