#include "tests/support.h"

#include "verifier/extract.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    DED = KELVIN__TASK_KIND__DEDUCTION,
    ABD = KELVIN__TASK_KIND__ABDUCTION,
    IND = KELVIN__TASK_KIND__INDUCTION,
    ERR = KELVIN__TASK_KIND__ERROR_DEDUCTION,
    PROPOSE = KELVIN__ROLE__PROPOSE,
    SOLVE = KELVIN__ROLE__SOLVE,
};

static int extract(struct extracted *out, const char *style, int role, int kind,
                   const char *response, struct error *err)
{
    char text[4096];
    char name[16];
    (void)snprintf(text, sizeof(text), "%s", response);
    (void)snprintf(name, sizeof(name), "%s", style);
    Kelvin__VerifyRequest request = KELVIN__VERIFY_REQUEST__INIT;
    request.style = name;
    request.role = (Kelvin__Role)role;
    request.kind = (Kelvin__TaskKind)kind;
    request.response = text;
    request.inputs_count = role == PROPOSE && kind == IND ? 2 : 0;
    return extract_parts(out, &request, err);
}

static struct extracted expect(const char *style, int role, int kind, const char *response)
{
    struct extracted out = {0};
    struct error err = {0};
    int code = extract(&out, style, role, kind, response, &err);
    assert_string_equal(err.text, "");
    assert_int_equal(code, 0);
    return out;
}

static void expect_answer(const char *style, int kind, const char *response, const char *answer,
                          bool formatted)
{
    struct extracted out = expect(style, SOLVE, kind, response);
    assert_string_equal(out.answer, answer);
    assert_int_equal(out.formatted, formatted);
    assert_null(out.program);
    assert_int_equal(out.input_count, 0);
    extract_finish(&out);
}

static void expect_missing(const char *style, int role, int kind, const char *response,
                           const char *reason)
{
    struct extracted out = {.answer = NULL, .input_count = 7};
    struct error err = {0};
    assert_int_equal(extract(&out, style, role, kind, response, &err), -EBADMSG);
    assert_non_null(strstr(err.text, reason));
    assert_int_equal(out.input_count, 7);
}

// Compact proposals: a program and its input, or several inputs.
static void test_compact_proposals(void **state)
{
    (void)state;
    struct extracted out =
        expect("compact", PROPOSE, DED, "<answer><prog>def f(a):\n a=a+1\n return a<in>3</answer>");
    assert_string_equal(out.program, "def f(a):\n a=a+1\n return a");
    assert_int_equal(out.input_count, 1);
    assert_string_equal(out.inputs[0], "3");
    assert_true(out.formatted);
    assert_false(out.scratchpad);
    extract_finish(&out);

    out = expect("compact", PROPOSE, IND, "<answer><in>1<in>2<in>3</answer>");
    assert_int_equal(out.input_count, 2);
    assert_string_equal(out.inputs[0], "2");
    assert_string_equal(out.inputs[1], "3");
    assert_true(out.formatted);
    extract_finish(&out);

    expect_missing("compact", PROPOSE, IND, "<answer><in>1</answer>", "2 inputs are wanted");
    expect_missing("compact", PROPOSE, DED, "<answer>def f(a)<in>1</answer>", "of the form");
    expect_missing("compact", PROPOSE, DED, "<answer><prog>x<in>1<in>2</answer>", "tag");
    expect_missing("compact", PROPOSE, DED, "<answer><prog><in>1</answer>", "program is empty");
    expect_missing("compact", PROPOSE, DED, "<prog>x<in>1", "no <answer>");
}

// Compact answers, with a scratchpad that the response or the prompt opened, or with none.
static void test_compact_answers(void **state)
{
    (void)state;
    expect_answer("compact", DED, "<answer>[1, 2]</answer>", "[1, 2]", true);
    expect_answer("compact", IND, "<answer>def f(a):\n return a</answer>", "def f(a):\n return a",
                  true);
    expect_answer("compact", ABD, "<think>3;4</think><answer>3</answer>", "3", true);
    expect_answer("compact", ABD, "3;4</think><answer>3</answer>", "3", true);
    expect_answer("compact", ABD, "3;4<answer>3</answer>", "3", false);
    expect_answer("compact", ABD, "<think>3;4<answer>3</answer>", "3", false);
    expect_answer("compact", ABD, "<answer>3", "3", false);
    expect_answer("compact", ABD, "<answer>3</answer>4", "3", false);
    expect_missing("compact", SOLVE, DED, "<answer>1<go>2</answer>", "tag");
    expect_missing("compact", SOLVE, DED, "<answer></answer>", "answer is empty");
    expect_missing("compact", SOLVE, DED, "", "no <answer>");
}

// The scratchpad is seen in every style, and an empty one does not count.
static void test_scratchpad(void **state)
{
    (void)state;
    static const struct {
        const char *style;
        const char *response;
        bool scratchpad;
    } rows[] = {
        {"compact", "<think>1;2</think><answer>2</answer>", true},
        {"compact", "1;2</think><answer>2</answer>", true},
        {"compact", "</think><answer>2</answer>", false},
        {"compact", "<answer>2</answer>", false},
        {"azr", "one, two.</think><answer>2</answer>", true},
        {"azr", " </think><answer>2</answer>", false},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct extracted out = expect(rows[i].style, SOLVE, DED, rows[i].response);
        assert_int_equal(out.scratchpad, rows[i].scratchpad);
        extract_finish(&out);
    }
}

// A proposal in fenced blocks: the first python block and the first input block, trimmed.
static void test_fenced_proposals(void **state)
{
    (void)state;
    struct extracted out =
        expect("azr", PROPOSE, ABD,
               "plan ```python\nnot this\n```</think>\n<answer>\n```python\ndef f(x):\n"
               "    return x\n```\n```input\n'a', 1\n```\n```python\nlater\n```</answer>");
    assert_string_equal(out.program, "def f(x):\n    return x");
    assert_int_equal(out.input_count, 1);
    assert_string_equal(out.inputs[0], "'a', 1");
    assert_true(out.formatted);
    assert_true(out.scratchpad);
    extract_finish(&out);
    expect_missing("azr", PROPOSE, DED, "</think><answer>```python\ndef f(x): pass", "python");
    expect_missing("llama3", PROPOSE, DED, "</think><answer>```python\nf\n```", "input");
}

// Where there is no input block, a last line print(f(...)) is the input and leaves the program.
static void test_a_print_line_is_the_input(void **state)
{
    (void)state;
    struct extracted out =
        expect("chatml", PROPOSE, DED,
               "ok</think><answer>```python\ndef g(s, n):\n    return s[::-1] * n\n\n"
               "print(g('hel(lo', 2))\n```</answer>");
    assert_string_equal(out.program, "def g(s, n):\n    return s[::-1] * n");
    assert_string_equal(out.inputs[0], "'hel(lo', 2");
    extract_finish(&out);
    expect_missing("chatml", PROPOSE, DED, "<answer>```python\nprint(1)\n```</answer>", "input");
    expect_missing("chatml", PROPOSE, DED, "<answer>```python\nprint(f()\n```</answer>", "input");
    expect_missing("chatml", PROPOSE, DED, "<answer>```python\nprint((1))\n```</answer>", "input");
}

// An induction proposal has the last N input blocks and a message.
static void test_fenced_inputs(void **state)
{
    (void)state;
    struct extracted out = expect("llama3", PROPOSE, IND,
                                  "x</think><answer>```input\n1\n```\n```input\n2\n```\n"
                                  "```input 3```\n```message\nDouble it.\n```</answer>");
    assert_int_equal(out.input_count, 2);
    assert_string_equal(out.inputs[0], "2");
    assert_string_equal(out.inputs[1], "3");
    assert_string_equal(out.message, "Double it.");
    assert_null(out.program);
    extract_finish(&out);
    expect_missing("azr", PROPOSE, IND, "<answer>```input\n1\n```\n```input\n2\n```</answer>",
                   "message");
    expect_missing("azr", PROPOSE, IND, "<answer>```input\n1\n```\n```message\nm\n```</answer>",
                   "2 inputs are wanted, the answer has 1");
}

// A solver's value stands in a block or is the whole answer; its program needs a block. The last
// <answer> counts, and the last block in it.
static void test_fenced_answers(void **state)
{
    (void)state;
    expect_answer("azr", DED, "a</think><answer> [1] </answer>", "[1]", true);
    expect_answer("azr", DED, "a</think> <answer>```output\n1\n```or ```output\n2\n```</answer>",
                  "2", true);
    expect_answer("azr", ABD, "a</think><answer>```input\n'a', 1\n```</answer>", "'a', 1", true);
    expect_answer("azr", ERR, "a</think><answer>ValueError</answer>", "ValueError", true);
    expect_answer("azr", DED, "<answer>1</answer></think>\n<answer>2</answer>", "2", true);
    expect_answer("azr", IND, "</think><answer>```python\nx\n```\n```Python\ny\n```</answer>", "y",
                  true);
    expect_missing("azr", SOLVE, IND, "</think><answer>def f(x): pass</answer>", "python");
}

// The form: </think>, optional space, <answer>...</answer>; what follows is not looked at.
static void test_fenced_form(void **state)
{
    (void)state;
    expect_answer("azr", DED, "x</think>\n\n<answer>y</answer> trailing", "y", true);
    expect_answer("azr", DED, "x</think> so <answer>y</answer>", "y", false);
    expect_answer("azr", DED, "x <answer>y</answer>", "y", false);
    expect_answer("azr", DED, "x</think><answer>y", "y", false);
}

// What is not a request is refused, and so are parts beyond the limits.
static void test_bounds(void **state)
{
    (void)state;
    struct extracted out = {0};
    struct error err = {0};
    assert_int_equal(extract(&out, "prose", SOLVE, DED, "<answer>1</answer>", &err), -EINVAL);
    assert_int_equal(extract(&out, "azr", SOLVE, 9, "<answer>1</answer>", &err), -EINVAL);
    assert_int_equal(extract(&out, "azr", 9, DED, "<answer>1</answer>", &err), -EINVAL);

    char filler[70000];
    memset(filler, 'a', sizeof(filler));
    char *response = NULL;
    assert_true(asprintf(&response, "<answer>%.*s</answer>", (int)sizeof(filler), filler) > 0);
    char style[] = "azr";
    Kelvin__VerifyRequest request = KELVIN__VERIFY_REQUEST__INIT;
    request.style = style;
    request.role = KELVIN__ROLE__SOLVE;
    request.response = response;
    assert_int_equal(extract_parts(&out, &request, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "at most 65536"));
    free(response);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compact_proposals),
        cmocka_unit_test(test_compact_answers),
        cmocka_unit_test(test_scratchpad),
        cmocka_unit_test(test_fenced_proposals),
        cmocka_unit_test(test_a_print_line_is_the_input),
        cmocka_unit_test(test_fenced_inputs),
        cmocka_unit_test(test_fenced_answers),
        cmocka_unit_test(test_fenced_form),
        cmocka_unit_test(test_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
