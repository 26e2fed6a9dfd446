#include "tests/support.h"

#include "learner/reward.h"

static const struct run_config *defaults(void)
{
    static struct run_config config;
    config.azr.format_reward = true;
    config.azr.invalid_reward = -1.0;
    config.azr.zero_learnability_reward = -0.5;
    config.azr.duplicate_reward = 1.0;
    config.azr.wrong_reward = -0.5;
    return &config;
}

static double proposal(enum outcome outcome, bool formatted, double accuracy)
{
    struct proposal_result result = {
        .outcome = outcome, .formatted = formatted, .accuracy = accuracy};
    return reward_propose(defaults(), &result);
}

static double answer(enum outcome outcome, bool formatted, double score)
{
    struct answer_result result = {.outcome = outcome, .formatted = formatted, .score = score};
    return reward_solve(defaults(), &result);
}

// The last row of the conformance table of AZR.md section 7, proposer's half.
static void test_proposer(void **state)
{
    (void)state;
    assert_float_equal(proposal(OUTCOME_RAISED, true, 0.0), -1.0, 0.0);
    assert_float_equal(proposal(OUTCOME_OK, true, 0.0), -0.5, 0.0);
    assert_float_equal(proposal(OUTCOME_OK, true, 0.125), 0.875, 0.0);
    assert_float_equal(proposal(OUTCOME_OK, true, 0.5), 0.5, 0.0);
    assert_float_equal(proposal(OUTCOME_OK, true, 0.875), 0.125, 0.0);
    assert_float_equal(proposal(OUTCOME_OK, true, 1.0), -0.5, 0.0);
    assert_float_equal(proposal(OUTCOME_OK, false, 0.5), -1.0, 0.0);
}

// Every outcome but OK makes a proposal invalid.
static void test_every_failure_is_invalid(void **state)
{
    (void)state;
    for (int outcome = OUTCOME_WRONG; outcome < OUTCOMES; outcome++) {
        if (outcome != OUTCOME_INFRASTRUCTURE) {
            assert_float_equal(proposal((enum outcome)outcome, true, 0.5), -1.0, 0.0);
        }
    }
}

// The solver's half: right 1, wrong -0.5, bad format -1 even when right, a fraction as it is.
static void test_solver(void **state)
{
    (void)state;
    assert_float_equal(answer(OUTCOME_OK, true, 1.0), 1.0, 0.0);
    assert_float_equal(answer(OUTCOME_WRONG, true, 0.0), -0.5, 0.0);
    assert_float_equal(answer(OUTCOME_TIMEOUT, true, 0.0), -0.5, 0.0);
    assert_float_equal(answer(OUTCOME_OK, false, 1.0), -1.0, 0.0);
    assert_float_equal(answer(OUTCOME_WRONG, true, 0.4), 0.4, 0.0);
}

// A duplicate gets duplicate_reward; at 1 it is rewarded as any other proposal.
static void test_duplicates(void **state)
{
    (void)state;
    struct run_config config = *defaults();
    struct proposal_result result = {
        .outcome = OUTCOME_OK, .formatted = true, .duplicate = true, .accuracy = 0.25};
    assert_float_equal(reward_propose(&config, &result), 0.75, 0.0);
    config.azr.duplicate_reward = -0.5;
    assert_float_equal(reward_propose(&config, &result), -0.5, 0.0);
    result.duplicate = false;
    assert_float_equal(reward_propose(&config, &result), 0.75, 0.0);
}

// The variance form peaks where the task is solved half of the time; the ends earn what they did.
static void test_variance(void **state)
{
    (void)state;
    struct run_config config = *defaults();
    config.azr.learnability = LEARNABILITY_VARIANCE;
    static const struct {
        double accuracy, reward;
    } cases[] = {{0.0, -0.5}, {0.25, 0.75}, {0.5, 1.0}, {0.75, 0.75}, {1.0, -0.5}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct proposal_result result = {
            .outcome = OUTCOME_OK, .formatted = true, .accuracy = cases[i].accuracy};
        assert_float_equal(reward_propose(&config, &result), cases[i].reward, 0.0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_proposer), cmocka_unit_test(test_every_failure_is_invalid),
        cmocka_unit_test(test_solver),   cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_variance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
