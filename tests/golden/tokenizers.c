// The tokenizers of all families: ids and texts equal those of the `tokenizers` library, on the
// vectors that come with the golden models and on odd.jsonl (code, marks in and out of order,
// spaces of every kind, characters that newer Unicode versions added, added tokens in a row).
#include "tests/support.h"

#include "common/base/cleanup.h"
#include "common/base/json.h"
#include "common/text/tokenizer.h"
#include "common/text/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const families[] = {"qwen2", "qwen3", "llama3", "gpt2"};

static struct tokenizer *open_tokenizer(const char *family)
{
    char path[512];
    struct error err = {0};
    struct tokenizer *tokenizer = NULL;
    (void)snprintf(path, sizeof(path), GOLDEN_DIR "/%s/tokenizer.json", family);
    if (tokenizer_create(&tokenizer, path, &err) < 0) {
        fail_msg("%s", err.text);
    }
    return tokenizer;
}

static void expect_ids(const struct tokenizer *tokenizer, const json_t *text, const json_t *ids)
{
    struct error err = {0};
    struct token_list list = {0};
    assert_int_equal(tokenizer_encode(tokenizer, &list, json_string_value(text),
                                      json_string_length(text), true, &err),
                     0);
    if (list.count != json_array_size(ids)) {
        fail_msg("\"%s\" has %zu ids", json_string_value(text), list.count);
    }
    for (size_t i = 0; i < list.count; i++) {
        assert_int_equal(list.ids[i], json_integer_value(json_array_get(ids, i)));
    }
    free(list.ids);
}

static void expect_text(const struct tokenizer *tokenizer, const json_t *ids, const json_t *text)
{
    struct error err = {0};
    size_t count = json_array_size(ids);
    CLEANUP(freep) int32_t *list = calloc(count + 1, sizeof(*list));
    CLEANUP(freep) char *bytes = NULL;
    CLEANUP(words_finish) struct words lossy = {0};
    size_t size = 0;
    for (size_t i = 0; i < count; i++) {
        list[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    }
    assert_int_equal(tokenizer_decode(tokenizer, &bytes, &size, list, count, &err), 0);
    utf8_add_lossy(&lossy, bytes, size);
    words_add(&lossy, "");
    assert_int_equal(lossy.size, json_string_length(text));
    assert_memory_equal(lossy.text, json_string_value(text), lossy.size);
}

// Calls `check` with every line of GOLDEN_DIR/NAME; returns how many there were.
static int each_line(const char *name, const struct tokenizer *tokenizer, const char *key,
                     void (*check)(const struct tokenizer *, const json_t *, const char *))
{
    char path[512];
    char line[65536];
    (void)snprintf(path, sizeof(path), GOLDEN_DIR "/%s", name);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    int count = 0;
    for (; fgets(line, sizeof(line), file) != NULL; count++) {
        CLEANUP(json_decrefp) json_t *json = NULL;
        struct error err = {0};
        assert_int_equal(json_parse(&json, line, strlen(line), name, &err), 0);
        check(tokenizer, json, key);
    }
    (void)fclose(file);
    return count;
}

static void check_tokens(const struct tokenizer *tokenizer, const json_t *line, const char *key)
{
    const json_t *ids = json_object_get(line, key);
    expect_ids(tokenizer, json_object_get(line, "text"), ids);
    expect_text(tokenizer, ids, json_object_get(line, "decoded"));
}

static void check_decode(const struct tokenizer *tokenizer, const json_t *line, const char *key)
{
    expect_text(tokenizer, json_object_get(line, key), json_object_get(line, "text"));
}

static void check_odd(const struct tokenizer *tokenizer, const json_t *line, const char *key)
{
    expect_ids(tokenizer, json_object_get(line, "text"), json_object_get(line, key));
}

// Texts have the library's ids, and ids its texts.
static void test_vectors(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(families) / sizeof(*families); i++) {
        char name[64];
        struct tokenizer *tokenizer = open_tokenizer(families[i]);
        (void)snprintf(name, sizeof(name), "%s/tokens.jsonl", families[i]);
        assert_int_equal(each_line(name, tokenizer, "ids", check_tokens), 41);
        (void)snprintf(name, sizeof(name), "%s/decode.jsonl", families[i]);
        assert_int_equal(each_line(name, tokenizer, "ids", check_decode), 10);
        tokenizer_destroy(tokenizer);
    }
}

// So do texts that try the corners of Unicode and of the patterns.
static void test_odd_texts(void **state)
{
    (void)state;
    static const char *const keys[] = {"qwen2", "llama3", "gpt2"};
    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
        struct tokenizer *tokenizer = open_tokenizer(keys[i]);
        assert_int_equal(each_line("odd.jsonl", tokenizer, keys[i], check_odd), 167);
        tokenizer_destroy(tokenizer);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_odd_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
