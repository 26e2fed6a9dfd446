#include "tests/support.h"

#include "common/text/prompt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char *const inputs[] = {"[1]", "[2]", "[3]", "[4]", "[5]"};
static const char *const outputs[] = {"1", "2", "3", "4", "5"};
static const struct prompt_task task = {.program = "def f(a):\n return a[0]",
                                        .inputs = inputs,
                                        .outputs = outputs,
                                        .pairs = 5,
                                        .message = "The hint."};
static const struct prompt_task references[] = {
    {.program = "def f(a):\n return a", .inputs = inputs, .outputs = inputs, .pairs = 1},
    {.program = "def f(b):\n return 0", .inputs = inputs + 1, .outputs = outputs, .pairs = 1},
};

static char *render(enum prompt_style style, enum role role, enum task_kind kind, bool scratchpad)
{
    const struct prompt_request request = {
        .style = style,
        .role = role,
        .kind = kind,
        .task = &task,
        .references = references,
        .reference_count = 2,
        .inputs_count = 5,
        .scratchpad = scratchpad,
    };
    struct error err = {0};
    char *text = prompt_render(&request, &err);
    assert_non_null(text);
    assert_string_equal(err.text, "");
    return text;
}

static void expect_compact(enum role role, enum task_kind kind, bool scratchpad, const char *wanted)
{
    char *text = render(STYLE_COMPACT, role, kind, scratchpad);
    assert_string_equal(text, wanted);
    free(text);
}

// The compact style writes exactly the forms that the small model was trained on.
static void test_compact_forms(void **state)
{
    (void)state;
    expect_compact(ROLE_PROPOSE, KIND_DEDUCTION, false,
                   "<propose><ded><prog>def f(a):\n return a<in>[1]<out>[1]"
                   "<prog>def f(b):\n return 0<in>[2]<out>1<go>");
    expect_compact(ROLE_PROPOSE, KIND_ABDUCTION, true,
                   "<propose><abd><prog>def f(a):\n return a<in>[1]<out>[1]"
                   "<prog>def f(b):\n return 0<in>[2]<out>1<go>");
    expect_compact(ROLE_PROPOSE, KIND_INDUCTION, false,
                   "<propose><ind><prog>def f(a):\n return a[0]<go>");
    expect_compact(ROLE_SOLVE, KIND_DEDUCTION, false,
                   "<solve><ded><prog>def f(a):\n return a[0]<in>[1]<go>");
    expect_compact(ROLE_SOLVE, KIND_ABDUCTION, false,
                   "<solve><abd><prog>def f(a):\n return a[0]<out>1<go>");
    expect_compact(ROLE_SOLVE, KIND_ABDUCTION, true,
                   "<solve><abd><prog>def f(a):\n return a[0]<out>1<go><think>");
    expect_compact(ROLE_SOLVE, KIND_INDUCTION, false, "<solve><ind><in>[1]<out>1<in>[2]<out>2<go>");
}

// A kind without a form is refused with a sentence that names another style.
static void test_compact_refuses_error_tasks(void **state)
{
    (void)state;
    const struct prompt_request request = {
        .style = STYLE_COMPACT, .role = ROLE_SOLVE, .kind = KIND_ERROR, .task = &task};
    struct error err = {0};
    assert_null(prompt_render(&request, &err));
    assert_non_null(strstr(err.text, "azr"));
}

// The first half of the pairs is shown, and one at least.
static void test_shown_pairs(void **state)
{
    (void)state;
    assert_int_equal(prompt_shown(1), 1);
    assert_int_equal(prompt_shown(2), 1);
    assert_int_equal(prompt_shown(5), 2);
    assert_int_equal(prompt_shown(10), 5);
}

// Styles are found by name, and their names come back.
static void test_style_names(void **state)
{
    (void)state;
    struct error err = {0};
    for (int style = 0; style < STYLES; style++) {
        assert_int_equal(prompt_style_find(prompt_style_name((enum prompt_style)style), &err),
                         style);
        assert_string_equal(prompt_stop((enum prompt_style)style), "</answer>");
    }
    assert_int_equal(prompt_style_find("gpt", &err), -EINVAL);
    assert_non_null(strstr(err.text, "compact, azr, chatml, llama3"));
}

static bool shows(const char *text, const char *part)
{
    return strstr(text, part) != NULL;
}

// Every large style, in every role and kind, ends inside an opened thinking part and not in white
// space, and says how the answer is marked.
static void test_every_form_opens_the_thinking_part(void **state)
{
    (void)state;
    for (int style = STYLE_AZR; style < STYLES; style++) {
        for (int kind = 0; kind < KINDS; kind++) {
            for (int role = 0; role < ROLES; role++) {
                char *text =
                    render((enum prompt_style)style, (enum role)role, (enum task_kind)kind, false);
                size_t size = strlen(text);
                assert_true(size > 7);
                assert_string_equal(text + size - 7, "<think>");
                assert_true(shows(text, "<answer>"));
                free(text);
            }
        }
    }
}

// A solver is never shown what it has to find: the output of a deduction, the input of an
// abduction, the program and the hidden pairs of an induction.
static void test_the_gold_is_hidden(void **state)
{
    (void)state;
    static const char *const secret_inputs[] = {"'in-one'", "'in-two'", "'in-three'"};
    static const char *const secret_outputs[] = {"'out-one'", "'out-two'", "'out-three'"};
    const struct prompt_task secret = {.program = "def f(secret):\n return 1",
                                       .inputs = secret_inputs,
                                       .outputs = secret_outputs,
                                       .pairs = 3,
                                       .message = "hint-text"};
    for (int style = 0; style < STYLES; style++) {
        for (int kind = KIND_DEDUCTION; kind <= KIND_INDUCTION; kind++) {
            const struct prompt_request request = {.style = (enum prompt_style)style,
                                                   .role = ROLE_SOLVE,
                                                   .kind = (enum task_kind)kind,
                                                   .task = &secret};
            struct error err = {0};
            char *text = prompt_render(&request, &err);
            assert_non_null(text);
            assert_int_equal(shows(text, "in-one"), kind != KIND_ABDUCTION);
            assert_int_equal(shows(text, "out-one"), kind != KIND_DEDUCTION);
            assert_int_equal(shows(text, "f(secret)"), kind != KIND_INDUCTION);
            assert_int_equal(shows(text, "hint-text"),
                             kind == KIND_INDUCTION && style != STYLE_COMPACT);
            assert_false(shows(text, "in-two") || shows(text, "out-two"));
            assert_false(shows(text, "in-three") || shows(text, "out-three"));
            free(text);
        }
    }
}

// Text of a task is data: what looks like a format or a template in it is copied as it is.
static void test_task_text_is_data(void **state)
{
    (void)state;
    static const char *const odd[] = {"'%s {0} $A'"};
    const struct prompt_task strange = {
        .program = "def f(a):\n return a % 3", .inputs = odd, .outputs = odd, .pairs = 1};
    const struct prompt_request request = {
        .style = STYLE_AZR, .role = ROLE_SOLVE, .kind = KIND_DEDUCTION, .task = &strange};
    struct error err = {0};
    char *text = prompt_render(&request, &err);
    assert_non_null(text);
    assert_true(shows(text, "```input\n'%s {0} $A'\n```"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compact_forms),
        cmocka_unit_test(test_compact_refuses_error_tasks),
        cmocka_unit_test(test_shown_pairs),
        cmocka_unit_test(test_style_names),
        cmocka_unit_test(test_every_form_opens_the_thinking_part),
        cmocka_unit_test(test_the_gold_is_hidden),
        cmocka_unit_test(test_task_text_is_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
