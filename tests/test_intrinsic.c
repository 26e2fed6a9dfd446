#include "tests/support.h"

#include "learner/intrinsic.h"
#include "learner/statements.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void assert_near(double have, double want, double bound)
{
    if (!(fabs(have - want) <= bound)) {
        fail_msg("%.17g instead of %.17g", have, want);
    }
}

// A value that is not there surprises fully, a repeated one less; what leaves is forgotten; blanks
// around a text do not matter.
static void test_counts(void **state)
{
    (void)state;
    struct counts counts = {0};
    assert_near(counts_surprise(&counts, "1"), 1.0, 0.0);
    for (int i = 0; i < 1000; i++) {
        char text[16];
        (void)snprintf(text, sizeof(text), "%d", i);
        counts_add(&counts, text, 1);
    }
    counts_add(&counts, " 7\n", 1);
    assert_near(counts_surprise(&counts, "7"), 1.0 - 2.0 / 1001.0, 1e-12);
    assert_near(counts_surprise(&counts, "8"), 1.0 - 1.0 / 1001.0, 1e-12);
    assert_near(counts_surprise(&counts, "seven"), 1.0, 0.0);
    for (int i = 0; i < 1000; i++) {
        char text[16];
        (void)snprintf(text, sizeof(text), "%d", i);
        counts_add(&counts, text, -1);
    }
    assert_int_equal(counts.total, 1);
    assert_near(counts_surprise(&counts, "7"), 0.0, 0.0);
    assert_near(counts_surprise(&counts, "8"), 1.0, 0.0);
    counts_finish(&counts);
}

// How terms combine with learnability, with coefficients, caps and terms that are off or unknown.
static void test_combinations(void **state)
{
    (void)state;
    struct run_config config;
    assert_int_equal(run_config_read(&config, NULL, NULL, 0, NULL), 0);
    struct intrinsic measured = {.value = {0.4, 0.9, 0.2, NAN, 0.6}};
    assert_near(intrinsic_reward(&config, &measured, 0.75), 0.75, 0.0); // all off
    config.intrinsic.coef[INTRINSIC_CYCLOMATIC] = 0.5;                  // 0.2
    config.intrinsic.coef[INTRINSIC_HALSTEAD] = 1.0;                    // 0.9, capped: 0.5
    config.intrinsic.coef[INTRINSIC_INPUT] = 1.0;                       // does not apply
    static const double wanted[] = {0.75 + 0.7, 0.75 * 0.1, 0.75 + 0.1, 0.75 * 0.7};
    for (int combine = COMBINE_SUM; combine <= COMBINE_PRODUCT_SUM; combine++) {
        config.intrinsic.combine = combine;
        assert_near(intrinsic_reward(&config, &measured, 0.75), wanted[combine], 1e-12);
    }
}

static Kelvin__Task task_of(enum task_kind kind, char **inputs, char **outputs, size_t pairs)
{
    static char program[] = "def f(a):\n    return a";
    Kelvin__Task task = KELVIN__TASK__INIT;
    task.kind = (Kelvin__TaskKind)kind;
    task.program = program;
    task.inputs = inputs;
    task.outputs = outputs;
    task.n_inputs = task.n_outputs = pairs;
    return task;
}

// Each kind of task has its terms: complexity where a program was written, the surprise of what its
// solver has to find, counted in the store of its own kind and without what has left.
static void test_measures(void **state)
{
    (void)state;
    char dir[] = "/tmp/kelvin-intrinsic-XXXXXX";
    char path[64];
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/tasks.db", dir);
    struct tasks *tasks = NULL;
    bool duplicate = false;
    assert_int_equal(tasks_open(&tasks, path, 2, NULL), 0);
    char one[] = "1", two[] = "2", three[] = "3";
    char *pairs[][1] = {{one}, {two}, {three}};
    for (int i = 0; i < 3; i++) { // room for two: the first leaves
        Kelvin__Task task = task_of(KIND_DEDUCTION, pairs[i], pairs[i > 0], 1);
        task.step = 1;
        assert_int_equal(tasks_add(tasks, &task, NAN, 1, &duplicate, NULL), 0);
    }
    Kelvin__SourceFacts facts = KELVIN__SOURCE_FACTS__INIT;
    facts.cyclomatic = 3;
    facts.operators = 8;
    facts.operands = 8;
    facts.distinct_operators = 4;
    facts.distinct_operands = 4; // volume 16·log2(8) = 48, difficulty 4/2·8/4 = 4, effort 192
    facts.references = 2;
    facts.distance_ppm = 250000;
    struct intrinsic measured;
    Kelvin__Task deduction = task_of(KIND_DEDUCTION, pairs[0], pairs[1], 1);
    intrinsic_measure(&measured, tasks, &deduction, &facts);
    assert_near(measured.value[INTRINSIC_CYCLOMATIC], 0.3, 1e-12);
    assert_near(measured.value[INTRINSIC_HALSTEAD], 0.5 * 0.0192 + 0.3 * 0.3 + 0.2 * 48.0 / 500.0,
                1e-12);
    assert_near(measured.value[INTRINSIC_DISTANCE], 0.25, 1e-12);
    assert_true(isnan(measured.value[INTRINSIC_INPUT]));
    assert_near(measured.value[INTRINSIC_OUTPUT], 0.0, 1e-12);   // "2" is all there is
    assert_near(measured.value[INTRINSIC_STATEMENTS], 0.0, 0.0); // so is its statement
    deduction.outputs = pairs[0];
    intrinsic_measure(&measured, tasks, &deduction, &facts);
    assert_near(measured.value[INTRINSIC_OUTPUT], 1.0, 1e-12); // "1" has left

    char *many[] = {two, three};
    Kelvin__Task abduction = task_of(KIND_ABDUCTION, pairs[0], pairs[1], 1);
    intrinsic_measure(&measured, tasks, &abduction, NULL);
    assert_near(measured.value[INTRINSIC_INPUT], 1.0, 1e-12); // its own store is empty
    assert_true(isnan(measured.value[INTRINSIC_OUTPUT]));
    assert_true(isnan(measured.value[INTRINSIC_CYCLOMATIC]));
    Kelvin__Task induction = task_of(KIND_INDUCTION, many, many, 2);
    assert_int_equal(tasks_add(tasks, &induction, NAN, 1, &duplicate, NULL), 0);
    intrinsic_measure(&measured, tasks, &induction, &facts);
    assert_true(isnan(measured.value[INTRINSIC_HALSTEAD]));
    assert_near(measured.value[INTRINSIC_INPUT], 0.5, 1e-12);
    assert_near(measured.value[INTRINSIC_OUTPUT], 0.5, 1e-12);

    tasks_close(tasks); // the counts come back with the store
    assert_int_equal(tasks_open(&tasks, path, 2, NULL), 0);
    assert_near(counts_surprise(tasks_outputs(tasks, KIND_DEDUCTION), "2"), 0.0, 0.0);
    assert_int_equal(tasks_inputs(tasks, KIND_INDUCTION)->total, 2);
    assert_int_equal(tasks_statements(tasks, KIND_DEDUCTION)->total, 2);
    tasks_close(tasks);
    char command[96];
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    assert_int_equal(system(command), 0);
}

// Statements are counted without their numbers, strings and indentation, functions' heads left out;
// a program is as rare as its statements are on average.
static void test_statements(void **state)
{
    (void)state;
    struct counts counts = {0};
    assert_near(statements_rarity(&counts, "def f(a):\n return a"), 1.0, 0.0); // nothing is there
    statements_add(&counts, "def f(a):\n a=a+12\n  a=a+'it\\'s'\n return a", 1);
    statements_add(&counts, "def f(a):\n a=a+3\n return a", 1);
    assert_int_equal(counts.total, 5); // a=a+0 twice, a=a+'' once, return a twice
    double twice = -log2(0.4) / 10.0;
    double once = -log2(0.2) / 10.0;
    assert_near(statements_rarity(&counts, "def f(a,b):\n  a=a+7\n\n return a"), twice, 1e-12);
    assert_near(statements_rarity(&counts, "def g():\n a=a+\"x\"\n a=a+1"), (once + twice) / 2.0,
                1e-12);
    assert_near(statements_rarity(&counts, "def g():\n a=sum(a)\n a=a+1"), (1.0 + twice) / 2.0,
                1e-12);
    assert_true(isnan(statements_rarity(&counts, "def g():")));
    statements_add(&counts, "def f(a):\n a=a+3\n return a", -1);
    assert_int_equal(counts.total, 3);
    counts_finish(&counts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_combinations),
        cmocka_unit_test(test_statements),
        cmocka_unit_test(test_measures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
