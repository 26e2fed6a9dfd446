#include "tests/support.h"

#include "common/base/cleanup.h"
#include "common/base/rng.h"
#include "common/text/compact_vocab.h"
#include "common/text/tokenizer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct tokenizer *compact(void)
{
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    char *json = compact_tokenizer_json();
    assert_non_null(json);
    assert_int_equal(tokenizer_parse(&tokenizer, json, strlen(json), "compact", &err), 0);
    free(json);
    return tokenizer;
}

static size_t encode(const struct tokenizer *tokenizer, int32_t *ids, const char *text, size_t size,
                     bool specials)
{
    struct token_list list = {0};
    struct error err = {0};
    assert_int_equal(tokenizer_encode(tokenizer, &list, text, size, specials, &err), 0);
    assert_true(list.count <= 256);
    if (list.count > 0) {
        memcpy(ids, list.ids, list.count * sizeof(*ids));
    }
    free(list.ids);
    return list.count;
}

// The compact vocabulary cuts leftmost and longest into tags, pieces of code and bytes.
static void test_compact_pieces(void **state)
{
    (void)state;
    static const char *const wanted[] = {"<answer>", "<prog>", "def f(a):", "\n return ", "a",
                                         "[::-1]",   "<in>",   "[3",        ", 1",        ", ",
                                         "-",        "2",      "]",         "</answer>"};
    static const char text[] = "<answer><prog>def f(a):\n return a[::-1]<in>[3, 1, -2]</answer>";
    struct tokenizer *tokenizer = compact();
    int32_t ids[256];
    assert_int_equal(encode(tokenizer, ids, text, strlen(text), true),
                     sizeof(wanted) / sizeof(*wanted));
    for (size_t i = 0; i < sizeof(wanted) / sizeof(*wanted); i++) {
        size_t size = 0;
        const char *token = tokenizer_token(tokenizer, ids[i], &size);
        assert_non_null(token);
        assert_int_equal(size, strlen(wanted[i]));
        assert_memory_equal(token, wanted[i], size);
        assert_int_equal(tokenizer_find(tokenizer, wanted[i]), ids[i]);
    }
    tokenizer_destroy(tokenizer);
}

// Special tokens in a text are text when they are not asked for; other added tokens stay tokens.
static void test_specials_may_be_text(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = compact();
    int32_t ids[256];
    assert_int_equal(encode(tokenizer, ids, "<go>sum(", 8, true), 2);
    assert_int_equal(encode(tokenizer, ids, "<go>sum(", 8, false), 5);
    assert_int_equal(ids[0], '<');
    assert_int_equal(ids[4], tokenizer_find(tokenizer, "sum("));
    tokenizer_destroy(tokenizer);
}

// Any bytes come back from their ids, UTF-8 or not.
static void test_any_bytes_come_back(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = compact();
    struct rng rng = {.key = 7};
    for (int round = 0; round < 500; round++) {
        char text[64];
        size_t size = (size_t)rng_below(&rng, sizeof(text) + 1);
        for (size_t i = 0; i < size; i++) {
            text[i] = (char)rng_below(&rng, 256);
        }
        int32_t ids[256];
        size_t count = encode(tokenizer, ids, text, size, true);
        char *back = NULL;
        size_t back_size = 0;
        struct error err = {0};
        assert_int_equal(tokenizer_decode(tokenizer, &back, &back_size, ids, count, &err), 0);
        assert_int_equal(back_size, size);
        assert_memory_equal(back, text, size);
        free(back);
    }
    tokenizer_destroy(tokenizer);
}

// An id outside the vocabulary is refused by name.
static void test_unknown_ids(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = compact();
    struct error err = {0};
    char *text = NULL;
    size_t size = 0;
    const int32_t beyond = tokenizer_vocab(tokenizer);
    const int32_t negative = -1;
    assert_int_equal(tokenizer_decode(tokenizer, &text, &size, &beyond, 1, &err), -EINVAL);
    assert_non_null(strstr(err.text, "there is no token"));
    assert_int_equal(tokenizer_decode(tokenizer, &text, &size, &negative, 1, &err), -EINVAL);
    assert_null(text);
    assert_int_equal(tokenizer_find(tokenizer, "no such token"), -1);
    tokenizer_destroy(tokenizer);
}

// Changes one place of the compact tokenizer.json and expects it to be refused with `reason`.
static void expect_refused(const char *part, const char *instead, const char *reason)
{
    char *json = compact_tokenizer_json();
    assert_non_null(json);
    char *at = strstr(json, part);
    assert_non_null(at);
    char *changed = NULL;
    int size = asprintf(&changed, "%.*s%s%s", (int)(at - json), json, instead, at + strlen(part));
    assert_true(size > 0);
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    int code = tokenizer_parse(&tokenizer, changed, (size_t)size, "file.json", &err);
    if (code == 0 || strstr(err.text, reason) == NULL) {
        fail_msg("%s -> %s: %d, \"%s\"", part, instead, code, err.text);
    }
    assert_memory_equal(err.text, "file.json", 9);
    assert_null(tokenizer);
    free(changed);
    free(json);
}

// A file that would give other ids than its makers mean is refused, and the sentence names the file
// and the part.
static void test_unsupported_files(void **state)
{
    (void)state;
    expect_refused("\"BPE\"", "\"Unigram\"", "model type Unigram");
    expect_refused("\"dropout\": null", "\"dropout\": 0.1", "dropout");
    expect_refused("\"byte_fallback\": false", "\"byte_fallback\": true", "byte_fallback");
    expect_refused("\"normalizer\": null", "\"normalizer\": {\"type\": \"NFKC\"}", "NFKC");
    expect_refused("\"pre_tokenizer\": {\n  \"type\": \"ByteLevel\"",
                   "\"pre_tokenizer\": {\n  \"type\": \"Metaspace\"", "Metaspace");
    expect_refused("\"add_prefix_space\": false", "\"add_prefix_space\": true", "prefix");
    expect_refused("\"lstrip\": false", "\"lstrip\": true", "lstrip");
    expect_refused("\"merges\": []", "\"merges\": [\"a bc\"]", "right part");
    expect_refused("\"merges\": []", "\"merges\": [\"a b\"]", "the result");
    expect_refused("\"merges\": []", "\"merges\": [7]", "not a pair");
    expect_refused("\"merges\": []", "\"merges\": 7", "not a list");
    expect_refused("\"a\": 97", "\"a\": 98", "two tokens have the id 98");
    expect_refused("\"a\": 97", "\"ab\": 97", "byte 0x61");
    expect_refused("\"a\": 97", "\"a\": 97000000", "the id of token");
    expect_refused("\"id\": 256", "\"id\": 97", "two tokens have the id 97");
    expect_refused("\"id\": 256", "\"id\": \"x\"", "added token 0");
    expect_refused("\"<|end|>\"", "\"\"", "empty");
    expect_refused("\"version\"", "version", "not JSON");
}

// A missing file is named.
static void test_missing_file(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    assert_int_equal(tokenizer_create(&tokenizer, "no/tokenizer.json", &err), -ENOENT);
    assert_non_null(strstr(err.text, "no/tokenizer.json"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compact_pieces),      cmocka_unit_test(test_specials_may_be_text),
        cmocka_unit_test(test_any_bytes_come_back), cmocka_unit_test(test_unknown_ids),
        cmocka_unit_test(test_unsupported_files),   cmocka_unit_test(test_missing_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
