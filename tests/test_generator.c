#include "tests/support.h"

#include "learner/generator.h"

#include <stdlib.h>
#include <string.h>

enum { PROGRAMS = 300 };

static const double lengths[GENERATED_LENGTHS] = {0.40, 0.34, 0.18, 0.06, 0.02};

static struct generated *draw_many(uint64_t stream, bool held_out)
{
    struct rng rng = {.key = 1, .stream = stream};
    struct generated *programs = calloc(PROGRAMS, sizeof(*programs));
    assert_non_null(programs);
    for (int i = 0; i < PROGRAMS; i++) {
        generate(&programs[i], &rng, lengths, 6, held_out);
    }
    return programs;
}

// The same stream gives the same programs; each lies on its side of the split and has distinct
// inputs.
static void test_draws(void **state)
{
    (void)state;
    for (int held = 0; held < 2; held++) {
        struct generated *a = draw_many(7, held == 1), *b = draw_many(7, held == 1);
        assert_memory_equal(a, b, PROGRAMS * sizeof(*a));
        for (int i = 0; i < PROGRAMS; i++) {
            assert_int_equal(generator_held_out(a[i].program), held);
            assert_true(a[i].input_count >= 2);
            for (int k = 1; k < a[i].input_count; k++) {
                assert_string_not_equal(a[i].inputs[k - 1], a[i].inputs[k]);
            }
        }
        free(a);
        free(b);
    }
}

// The shares of program lengths are those asked for.
static void test_lengths(void **state)
{
    (void)state;
    struct generated *programs = draw_many(3, false);
    int count[GENERATED_LENGTHS + 1] = {0};
    for (int i = 0; i < PROGRAMS; i++) {
        count[programs[i].assignments]++;
    }
    for (int i = 0; i < GENERATED_LENGTHS; i++) { // four standard deviations
        assert_true(abs(count[i + 1] - (int)(lengths[i] * PROGRAMS)) < 36);
    }
    free(programs);
}

// Results are read back by program and input, states of the first input kept; a failed run has
// none.
static void test_results(void **state)
{
    (void)state;
    struct generated programs[2] = {{.input_count = 2}, {.input_count = 1}};
    struct error err = {0};
    assert_int_equal(generator_results(programs, 2, "\"'ab'|[1, 2]~3;'x'!~\"", &err), 0);
    assert_string_equal(programs[0].outputs[0], "'ab'");
    assert_string_equal(programs[0].outputs[1], "[1, 2]");
    assert_string_equal(programs[0].states, "3;'x'");
    assert_string_equal(programs[1].outputs[0], "");
    assert_string_equal(programs[1].states, "");
}

static void test_broken_results_are_refused(void **state)
{
    (void)state;
    static const char *const broken[] = {"",
                                         "'",
                                         "'1|2~3'",
                                         "'1|2~3!1~!'",
                                         "'1~3!1~'",
                                         "'1|2|3~!1~'",
                                         "'1|2!3'",
                                         "[1, 2]",
                                         "'1|2~3!1~' + 'x",
                                         "'1|23456789012345678901234567890123456789~!1~'"};
    for (size_t i = 0; i < sizeof(broken) / sizeof(*broken); i++) {
        struct generated programs[2] = {{.input_count = 2}, {.input_count = 1}};
        struct error err = {0};
        assert_true(generator_results(programs, 2, broken[i], &err) < 0);
        assert_true(err.text[0] != '\0');
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_draws),
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_results),
        cmocka_unit_test(test_broken_results_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
