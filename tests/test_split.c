#include "tests/support.h"

#include "common/base/rng.h"
#include "common/text/split.h"
#include "common/text/utf8.h"

#include <stdio.h>
#include <string.h>

enum { TEXT_MAX = 48, ROUNDS = 20000 };

// Characters that the patterns tell apart, and some of Unicode beside them.
static const uint32_t interesting[] = {
    'a',   'Z',    's',    'S',    't',  'r',    'e',    'v',    'l',    'L',    'm',    'd',
    '0',   '9',    '1',    ' ',    ' ',  ' ',    '\t',   '\n',   '\n',   '\r',   0x0b,   0x0c,
    0x1c,  0x00,   0x7f,   '\'',   '\'', '(',    '.',    '_',    '+',    0x85,   0xa0,   0xe9,
    0x17f, 0x212a, 0x0301, 0x0660, 0xb2, 0x180e, 0x2003, 0x2028, 0x3000, 0x4e2d, 0x2019, 0x1f600,
};

static size_t random_text(char *text, struct rng *rng)
{
    // Every other text is ASCII alone, which is where the hand-written code works longest.
    size_t choices = rng_below(rng, 2) == 0 ? 33 : sizeof(interesting) / sizeof(*interesting);
    size_t size = 0;
    size_t count = (size_t)rng_below(rng, TEXT_MAX / 4) + 1;
    for (size_t i = 0; i < count; i++) {
        size += utf8_put(text + size, interesting[rng_below(rng, choices)]);
    }
    return size;
}

struct pair {
    struct splitter *fast;
    struct splitter *slow;
    struct split_state state;
};

static void compare_text(struct pair *pair, const char *text, size_t size)
{
    struct error err = {0};
    for (size_t at = 0; at < size;) {
        size_t length = 0;
        size_t wanted = 0;
        int code = splitter_next(pair->fast, &pair->state, text, size, at, &length, &err) |
                   splitter_next(pair->slow, &pair->state, text, size, at, &wanted, &err);
        if (code != 0 || length != wanted || length == 0) {
            fail_msg("at %zu of \"%.*s\": %zu, not %zu", at, (int)size, text, length, wanted);
        }
        at += length;
    }
}

static void compare(const char *pattern)
{
    struct pair pair = {0};
    struct error err = {0};
    struct rng rng = {.key = 1};
    assert_int_equal(splitter_create(&pair.fast, pattern, true, &err), 0);
    assert_int_equal(splitter_create(&pair.slow, pattern, false, &err), 0);
    for (int round = 0; round < ROUNDS; round++) {
        char text[TEXT_MAX + 4];
        compare_text(&pair, text, random_text(text, &rng));
    }
    split_state_finish(&pair.state);
    splitter_destroy(pair.fast);
    splitter_destroy(pair.slow);
}

// The hand-written scanners cut as the expressions do.
static void test_scanners_equal_expressions(void **state)
{
    (void)state;
    compare(split_gpt2);
    compare(split_llama3);
    compare(split_qwen2);
    compare(split_digits);
}

// A pattern that PCRE2 does not know is refused with its reason.
static void test_bad_pattern(void **state)
{
    (void)state;
    struct splitter *splitter = NULL;
    struct error err = {0};
    assert_true(splitter_create(&splitter, "(a", true, &err) < 0);
    assert_non_null(strstr(err.text, "parenthesis"));
    assert_null(splitter);
}

// A pattern that leaves gaps, or matches nothing, still cuts the whole text.
static void test_gaps_and_empty_matches(void **state)
{
    (void)state;
    struct splitter *splitter = NULL;
    struct split_state state_of_match = {0};
    struct error err = {0};
    size_t length = 0;
    assert_int_equal(splitter_create(&splitter, "b*", true, &err), 0);
    assert_int_equal(splitter_next(splitter, &state_of_match, "aabba", 5, 0, &length, &err), 0);
    assert_int_equal(length, 2);
    assert_int_equal(splitter_next(splitter, &state_of_match, "aabba", 5, 2, &length, &err), 0);
    assert_int_equal(length, 2);
    assert_int_equal(splitter_next(splitter, &state_of_match, "aabba", 5, 4, &length, &err), 0);
    assert_int_equal(length, 1);
    split_state_finish(&state_of_match);
    splitter_destroy(splitter);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scanners_equal_expressions),
        cmocka_unit_test(test_bad_pattern),
        cmocka_unit_test(test_gaps_and_empty_matches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
