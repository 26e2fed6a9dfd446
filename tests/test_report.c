#include "tests/support.h"

#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "learner/report.h"

#include <math.h>
#include <string.h>

static char path[] = "/tmp/kelvin-report-XXXXXX";

static int setup(void **state)
{
    (void)state;
    strcpy(path, "/tmp/kelvin-report-XXXXXX");
    assert_non_null(mkdtemp(path));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return file_remove_tree(path, NULL);
}

// A line is one JSON object with the step's numbers; kinds that are not played are left out, and a
// number that is not finite is null.
static void test_line(void **state)
{
    (void)state;
    struct run_config config;
    char types[] = "azr.types=deduction";
    char *words[] = {types};
    struct tasks *tasks = NULL;
    char store[64];
    (void)snprintf(store, sizeof(store), "%s/tasks.db", path);
    assert_int_equal(run_config_read(&config, NULL, words, 1, NULL), 0);
    assert_int_equal(tasks_open(&tasks, store, 16, NULL), 0);
    struct batch batch = {.tokens_sampled = 300, .tokens_trained = 200, .row_count = 4};
    batch.kinds[KIND_DEDUCTION] = (struct batch_kind){
        .proposals = 4, .valid = 3, .answers = 2, .accuracy = 0.25, .solver_rows = 2};
    struct step_job job = {.step = 6,
                           .batch = &batch,
                           .seconds = 0.5,
                           .report = {.loss = NAN, .tokens = 500, .skipped = true}};
    const struct report_input input = {.config = &config,
                                       .job = &job,
                                       .tasks = tasks,
                                       .actors = {.workers = 2, .lost = 1},
                                       .seconds = 2.0};
    CLEANUP(freep) char *line = report_line(&input);
    CLEANUP(json_decrefp) json_t *parsed = NULL;
    assert_null(strchr(line, '\n'));
    assert_int_equal(json_parse(&parsed, line, strlen(line), "line", NULL), 0);
    assert_int_equal(json_integer_value(json_object_get(parsed, "step")), 6);
    assert_int_equal(json_integer_value(json_object_get(parsed, "version")), 7);
    assert_true(json_real_value(json_object_get(parsed, "tokens/s")) == 150.0);
    assert_true(json_real_value(json_object_get(parsed, "valid/deduction")) == 0.75);
    assert_true(json_real_value(json_object_get(parsed, "accuracy/deduction")) == 0.25);
    assert_null(json_object_get(parsed, "valid/abduction"));
    assert_true(json_is_null(json_object_get(parsed, "loss")));
    assert_true(json_is_true(json_object_get(parsed, "skipped")));
    assert_int_equal(json_integer_value(json_object_get(parsed, "actors")), 2);
    assert_int_equal(json_integer_value(json_object_get(parsed, "actors/lost")), 1);
    tasks_close(tasks);
}

static void assert_content(const char *name, const char *wanted)
{
    CLEANUP(freep) char *text = NULL;
    size_t size = 0;
    assert_int_equal(file_read(&text, &size, name, 1 << 20, NULL), 0);
    assert_string_equal(text, wanted);
}

// Lines of later steps go, and so does one that a kill cut short; a copy has the lines that stay.
static void test_truncate(void **state)
{
    (void)state;
    static const char all[] = "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"ste";
    char name[64];
    char copy[64];
    (void)snprintf(name, sizeof(name), "%s/metrics.jsonl", path);
    (void)snprintf(copy, sizeof(copy), "%s/copy.jsonl", path);
    assert_int_equal(report_truncate(name, 5, NULL), 0); // nothing there
    assert_int_equal(file_write(name, all, strlen(all), NULL), 0);
    assert_int_equal(report_copy(copy, name, 2, NULL), 0);
    assert_content(copy, "{\"step\":1}\n{\"step\":2}\n");
    assert_content(name, all);
    assert_int_equal(report_truncate(name, 9, NULL), 0);
    assert_content(name, "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n");
    assert_int_equal(report_truncate(name, 0, NULL), 0);
    assert_content(name, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_line, setup, teardown),
        cmocka_unit_test_setup_teardown(test_truncate, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
