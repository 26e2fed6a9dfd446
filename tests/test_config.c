#include "tests/support.h"

#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/run_check.h"
#include "common/base/run_config.h"
#include "common/base/task.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int read_text(struct run_config *config, const char *text, struct error *err)
{
    char path[] = "/tmp/kelvin-config-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(close(fd), 0);
    int code = run_config_read(config, path, NULL, 0, err);
    assert_int_equal(unlink(path), 0);
    return code;
}

static void assert_sample(const struct run_config *config)
{
    assert_string_equal(config->model, "gpt2-large");
    assert_int_equal(config->azr.types,
                     1U << KIND_DEDUCTION | 1U << KIND_INDUCTION | 1U << KIND_ABDUCTION);
    assert_true(config->optimizer.lr == 1e-5);
    assert_int_equal(config->azr.batch, 32);
}

// The sample configuration of the paper's quick start reads as it stands, also with the quotes that
// a web page made of it.
static void test_sample_configuration(void **state)
{
    (void)state;
    struct run_config config;
    struct error err = {0};
    assert_int_equal(read_text(&config,
                               "model_name: \"gpt2-large\"\n"
                               "task_types: [\"deduction\", \"induction\", \"abduction\"]\n"
                               "reward_function: \"learnability_and_accuracy\"\n"
                               "learning_rate: 1e-5\n"
                               "batch_size: 32\n",
                               &err),
                     0);
    assert_sample(&config);
    assert_int_equal(read_text(&config,
                               "model_name: “gpt2-large”\n"
                               "task_types: [“deduction”, “induction”, “abduction”]\n"
                               "reward_function: “learnability_and_accuracy”\n"
                               "learning_rate: 1e-5\n"
                               "batch_size: 32\n",
                               &err),
                     0);
    assert_sample(&config);
}

// A set is a list, in block or flow style, or names with commas; unknown names and lists elsewhere
// are refused with their line.
static void test_sets(void **state)
{
    (void)state;
    struct run_config config;
    struct error err = {0};
    assert_int_equal(read_text(&config, "azr:\n  types:\n    - error\n    - abduction\n", &err), 0);
    assert_int_equal(config.azr.types, 1U << KIND_ERROR | 1U << KIND_ABDUCTION);
    assert_int_equal(read_text(&config, "azr:\n  types: deduction, error\n", &err), 0);
    assert_int_equal(config.azr.types, 1U << KIND_ERROR | 1U << KIND_DEDUCTION);
    assert_int_equal(read_text(&config, "steps: 3\ntask_types: [riddles]\n", &err), -EINVAL);
    assert_non_null(strstr(err.text, ":2: azr.types: \"riddles\" is none of deduction, abduction"));
    assert_int_equal(read_text(&config, "azr: {types: []}\n", &err), -EINVAL);
    assert_int_equal(read_text(&config, "steps: [3]\n", &err), -EINVAL);
    assert_non_null(strstr(err.text, ":1: steps is not a list"));
    assert_int_equal(read_text(&config, "azr: {types: [[deduction]]}\n", &err), -EINVAL);
    assert_int_equal(read_text(&config, "azr: {types: [{deduction: 1}]}\n", &err), -EINVAL);
    assert_int_equal(read_text(&config, "azr: {types: error}\ntask_types: [error]\n", &err),
                     -EINVAL);
    assert_non_null(strstr(err.text, ":2: azr.types stands twice"));
}

// What is dumped reads back to the same dump.
static void test_dump_reads_back(void **state)
{
    (void)state;
    CLEANUP(freep) char *first = NULL;
    CLEANUP(freep) char *second = NULL;
    char **texts[] = {&first, &second};
    struct run_config config;
    struct error err = {0};
    assert_int_equal(read_text(&config, "azr: {types: [error, induction], batch: 7}\n", &err), 0);
    for (int i = 0; i < 2; i++) {
        size_t size = 0;
        FILE *file = open_memstream(texts[i], &size);
        config_dump(&config, &run_options, file);
        assert_int_equal(fclose(file), 0);
        assert_int_equal(read_text(&config, *texts[i], &err), 0);
    }
    assert_string_equal(first, second);
    assert_int_equal(config.azr.types, 1U << KIND_ERROR | 1U << KIND_INDUCTION);
}

// Lengths that are left open are the paper's, or share out fewer positions; given ones stay.
static void test_lengths(void **state)
{
    (void)state;
    struct run_config config;
    struct error err = {0};
    assert_int_equal(read_text(&config, "steps: 1\n", &err), 0);
    run_config_lengths(&config, 32768);
    assert_int_equal(config.rollout.prompt_tokens_max, 6144);
    assert_int_equal(config.rollout.response_tokens_max, 8096);
    assert_int_equal(read_text(&config, "steps: 1\n", &err), 0);
    run_config_lengths(&config, 1024);
    assert_int_equal(config.rollout.prompt_tokens_max + config.rollout.response_tokens_max, 1024);
    assert_int_equal(read_text(&config, "rollout: {response_tokens_max: 100}\n", &err), 0);
    run_config_lengths(&config, 1024);
    assert_int_equal(config.rollout.response_tokens_max, 100);
    assert_int_equal(config.rollout.prompt_tokens_max, 924);
}

// Every configuration that ships is read without an error and does not contradict itself.
static void test_shipped_files(void **state)
{
    (void)state;
    static const char *const names[] = {"laptop",    "pretrain",       "paper-3b",      "paper-7b",
                                        "paper-14b", "paper-llama-8b", "paper-qwen3-4b"};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        char path[512];
        struct run_config config;
        struct error err = {0};
        (void)snprintf(path, sizeof(path), CONFIG_DIR "/%s.yaml", names[i]);
        if (run_config_read(&config, path, NULL, 0, &err) < 0 ||
            run_config_check(&config, &err) < 0) {
            fail_msg("%s: %s", path, err.text);
        }
    }
}

// The paper's presets are the paper's numbers (tables 3 and 4 of the paper and its authors' runs).
static void test_paper_presets(void **state)
{
    (void)state;
    static const char *const names[] = {"paper-3b", "paper-7b", "paper-14b", "paper-llama-8b",
                                        "paper-qwen3-4b"};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        char path[512];
        struct run_config config;
        struct error err = {0};
        (void)snprintf(path, sizeof(path), CONFIG_DIR "/%s.yaml", names[i]);
        assert_int_equal(run_config_read(&config, path, NULL, 0, &err), 0);
        assert_int_equal(config.steps, 500);
        assert_int_equal(config.azr.batch, 64);
        assert_int_equal(config.azr.references, 6);
        assert_int_equal(config.azr.inputs, 10);
        assert_int_equal(config.azr.samples, 8);
        assert_int_equal(config.azr.solver_rollouts, ROLLOUTS_FRESH);
        assert_int_equal(config.azr.solver_data, DATA_MAX_NEW);
        assert_int_equal(config.azr.seed_factor, strstr(names[i], "llama") != NULL ? 1 : 4);
        assert_int_equal(config.azr.tasks_max, 16384);
        assert_int_equal(config.azr.whitening, WHITEN_TOKEN);
        assert_int_equal(config.azr.aggregate, AGGREGATE_BLOCK);
        assert_true(config.azr.zero_learnability_reward == -0.5);
        assert_true(config.optimizer.lr == 1e-6);
        assert_true(config.optimizer.weight_decay == 0.0);
        assert_int_equal(config.optimizer.schedule, SCHEDULE_CONSTANT);
        assert_true(config.loss.clip_low == 0.2 && config.loss.clip_high == 0.2);
        assert_true(config.loss.entropy_coef == 0.001 && config.loss.kl_coef == 0.0);
        assert_int_equal(config.rollout.prompt_tokens_max, 6144);
        assert_int_equal(config.rollout.response_tokens_max, 8096);
        assert_int_equal(config.azr.staleness, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sample_configuration), cmocka_unit_test(test_sets),
        cmocka_unit_test(test_dump_reads_back),      cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_shipped_files),        cmocka_unit_test(test_paper_presets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
