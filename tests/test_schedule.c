#include "tests/support.h"

#include "learner/schedule.h"

static struct run_config config_of(int schedule, int64_t steps, int64_t warmup)
{
    struct run_config config = {.steps = steps};
    config.optimizer.lr = 1.0;
    config.optimizer.lr_final = 0.1;
    config.optimizer.schedule = schedule;
    config.optimizer.warmup_steps = warmup;
    return config;
}

static float at(const struct run_config *config, int64_t step)
{
    return (float)schedule_lr(config, step);
}

// The warm-up rises to the full step size at its last step; constant stays there.
static void test_warmup_and_constant(void **state)
{
    (void)state;
    struct run_config config = config_of(SCHEDULE_CONSTANT, 100, 5);
    assert_float_equal(at(&config, 1), 0.2F, 1e-6);
    assert_float_equal(at(&config, 5), 1.0F, 1e-6);
    assert_float_equal(at(&config, 6), 1.0F, 1e-6);
    assert_float_equal(at(&config, 100), 1.0F, 1e-6);
}

// Linear and cosine begin at the full step size after the warm-up and end at lr_final of it.
static void test_falling(void **state)
{
    (void)state;
    for (int schedule = SCHEDULE_LINEAR; schedule <= SCHEDULE_COSINE; schedule++) {
        struct run_config config = config_of(schedule, 106, 5);
        assert_float_equal(at(&config, 6), 1.0F, 1e-6);
        assert_float_equal(at(&config, 56), 0.55F, 1e-6);
        assert_float_equal(at(&config, 106), 0.1F, 1e-6);
        assert_float_equal(at(&config, 200), 0.1F, 1e-6); // a run that was given more steps
    }
}

// A run that is all warm-up, and one of a single step, have a step size.
static void test_short_runs(void **state)
{
    (void)state;
    struct run_config config = config_of(SCHEDULE_LINEAR, 1, 0);
    assert_float_equal(at(&config, 1), 1.0F, 1e-6);
    config = config_of(SCHEDULE_COSINE, 3, 5);
    assert_float_equal(at(&config, 3), 0.6F, 1e-6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_warmup_and_constant),
        cmocka_unit_test(test_falling),
        cmocka_unit_test(test_short_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
