// kelvin logprobs, run as a person runs it: JSON lines in, JSON lines out in their order, an error
// that names the line.
#include "tests/support.h"

#include "common/base/cleanup.h"
#include "common/base/json.h"
#include "deploy/cli/cli.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

// struct result is what one run of the command left.
struct result {
    int code;
    char *out;
    size_t out_size;
    char *err;
    size_t err_size;
};

static void result_finish(struct result *result)
{
    free(result->out);
    free(result->err);
}

static char *read_back(FILE *file, size_t *size)
{
    CLEANUP(freep) char *text = NULL;
    size_t room = 0;
    rewind(file);
    ssize_t length = getdelim(&text, &room, '\0', file);
    *size = length < 0 ? 0 : (size_t)length;
    (void)fclose(file);
    return length < 0 ? strdup("") : TAKE(text);
}

// run runs the command on `input` in a process of its own.
static struct result run(const char *model, FILE *input)
{
    struct result result = {0};
    FILE *out = tmpfile();
    FILE *err = tmpfile();
    assert_true(out != NULL && err != NULL && input != NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        char name[] = "logprobs", model_word[] = "--model", compute_word[] = "--compute";
        char compute[] = "f32";
        char *words[] = {name, model_word, without_const(model), compute_word, compute, NULL};
        (void)dup2(fileno(input), STDIN_FILENO);
        (void)dup2(fileno(out), STDOUT_FILENO);
        (void)dup2(fileno(err), STDERR_FILENO);
        int code = command_logprobs(5, words);
        _exit(fflush(stdout) == 0 ? code : 99);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    result.code = WEXITSTATUS(status);
    result.out = read_back(out, &result.out_size);
    result.err = read_back(err, &result.err_size);
    (void)fclose(input);
    return result;
}

static struct result run_text(const char *text)
{
    FILE *input = tmpfile();
    assert_non_null(input);
    assert_true(fputs(text, input) >= 0);
    assert_int_equal(fflush(input), 0);
    rewind(input);
    return run(GOLDEN_DIR "/qwen2", input);
}

static void compare_lines(const char *wanted_text, const char *got_text)
{
    CLEANUP(json_decrefp) json_t *wanted = NULL;
    CLEANUP(json_decrefp) json_t *got = NULL;
    assert_int_equal(json_parse(&wanted, wanted_text, strlen(wanted_text), "wanted", NULL), 0);
    assert_int_equal(json_parse(&got, got_text, strlen(got_text), "got", NULL), 0);
    assert_true(json_equal(json_object_get(wanted, "ids"), json_object_get(got, "ids")));
    const json_t *a = json_object_get(wanted, "logprobs");
    const json_t *b = json_object_get(got, "logprobs");
    assert_int_equal(json_array_size(a), json_array_size(b));
    for (size_t i = 0; i < json_array_size(a); i++) {
        double gap =
            json_number_value(json_array_get(a, i)) - json_number_value(json_array_get(b, i));
        assert_true(fabs(gap) <= 1e-4);
    }
}

// The golden sequences of a family, which another implementation scored, come out in their order
// with its numbers.
static void test_golden_lines(void **state)
{
    (void)state;
    static const char *const families[] = {"qwen2", "qwen3", "llama3", "gpt2"};
    for (size_t f = 0; f < 4; f++) {
        char path[512];
        char dir[512];
        (void)snprintf(dir, sizeof(dir), GOLDEN_DIR "/%s", families[f]);
        (void)snprintf(path, sizeof(path), GOLDEN_DIR "/%s/expected.jsonl", families[f]);
        CLEANUP(result_finish) struct result result = run(dir, fopen(path, "r"));
        assert_string_equal(result.err, "");
        assert_int_equal(result.code, 0);
        size_t size = 0;
        CLEANUP(freep) char *expected = read_back(fopen(path, "r"), &size);
        char *wanted_rest = NULL;
        char *got_rest = NULL;
        char *wanted = strtok_r(expected, "\n", &wanted_rest);
        char *got = strtok_r(result.out, "\n", &got_rest);
        int lines = 0;
        for (; wanted != NULL && got != NULL; lines++) {
            compare_lines(wanted, got);
            wanted = strtok_r(NULL, "\n", &wanted_rest);
            got = strtok_r(NULL, "\n", &got_rest);
        }
        assert_true(wanted == NULL && got == NULL && lines >= 5);
    }
}

// A text gives the line that its ids give.
static void test_text_is_its_ids(void **state)
{
    (void)state;
    CLEANUP(result_finish) struct result text = run_text("{\"text\": \"def f(x):\"}\n");
    assert_int_equal(text.code, 0);
    char again[512];
    const char *end = strstr(text.out, ",\"logprobs\"");
    assert_non_null(end);
    (void)snprintf(again, sizeof(again), "%.*s}", (int)(end - text.out), text.out);
    CLEANUP(result_finish) struct result ids = run_text(again); // and no newline at the end
    assert_string_equal(ids.out, text.out);
}

// A bad line ends the command with exit code 2 and one line that names it; the lines before it are
// written.
static void test_bad_lines(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"{\"ids\": [1, 384]}", "id 384 is outside the model's vocabulary of 384"},
        {"{\"ids\": [1, -1]}", "item 1 of \"ids\" is not an id"},
        {"{\"ids\": []}", "the sequence is empty"},
        {"{\"text\": \"\"}", "the sequence is empty"},
        {"{\"text\": 1}", "not {\"text\""},
        {"{\"text\": \"a\", \"ids\": [1]}", "not {\"text\""},
        {"[1, 2]", "not {\"text\""},
        {"{\"ids\": [1", "not JSON"},
        {"", "not JSON"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        char input[256];
        (void)snprintf(input, sizeof(input), "{\"ids\": [1]}\n%s\n{\"ids\": [2]}\n", bad[i][0]);
        CLEANUP(result_finish) struct result result = run_text(input);
        assert_int_equal(result.code, CLI_BAD_INPUT);
        assert_string_equal(result.out, "{\"ids\":[1],\"logprobs\":[]}\n");
        assert_non_null(strstr(result.err, "line 2: "));
        assert_non_null(strstr(result.err, bad[i][1]));
        assert_ptr_equal(strchr(result.err, '\n'), result.err + result.err_size - 1);
    }
}

// The model's positions are the limit: as many tokens are computed, one more is refused.
static void test_positions(void **state)
{
    (void)state;
    enum { POSITIONS = 256 }; // of the golden model
    char input[16 + 2 * (POSITIONS + 1)] = "{\"ids\":[";
    for (int extra = 0; extra < 2; extra++) {
        size_t size = 8;
        for (int i = 0; i < POSITIONS + extra; i++) {
            input[size++] = i == 0 ? ' ' : ',';
            input[size++] = '7';
        }
        memcpy(input + size, "]}\n", 4);
        CLEANUP(result_finish) struct result result = run_text(input);
        assert_int_equal(result.code, extra == 0 ? 0 : CLI_BAD_INPUT);
        if (extra == 1) {
            assert_non_null(strstr(result.err, "257 tokens; the model has 256 positions"));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_lines),
        cmocka_unit_test(test_text_is_its_ids),
        cmocka_unit_test(test_bad_lines),
        cmocka_unit_test(test_positions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
