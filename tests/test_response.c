#include "tests/support.h"

#include "common/text/response.h"

#include <stdlib.h>

static void expect(enum role role, enum task_kind kind, const char *scratchpad, const char *wanted)
{
    static const char *const inputs[] = {"[1]", "[2], 3"};
    const struct response response = {.role = role,
                                      .kind = kind,
                                      .program = "def f(a):\n return a[0]",
                                      .inputs = inputs,
                                      .pairs = 2,
                                      .output = "1",
                                      .scratchpad = scratchpad};
    char *text = response_render(&response, NULL);
    assert_non_null(text);
    assert_string_equal(text, wanted);
    free(text);
}

// The forms are those that verifier/extract.c reads.
static void test_forms(void **state)
{
    (void)state;
    expect(ROLE_PROPOSE, KIND_DEDUCTION, NULL,
           "<answer><prog>def f(a):\n return a[0]<in>[1]</answer>");
    expect(ROLE_PROPOSE, KIND_ABDUCTION, NULL,
           "<answer><prog>def f(a):\n return a[0]<in>[1]</answer>");
    expect(ROLE_PROPOSE, KIND_INDUCTION, NULL, "<answer><in>[1]<in>[2], 3</answer>");
    expect(ROLE_SOLVE, KIND_DEDUCTION, NULL, "<answer>1</answer>");
    expect(ROLE_SOLVE, KIND_DEDUCTION, "2;1", "<think>2;1</think><answer>1</answer>");
    expect(ROLE_SOLVE, KIND_ABDUCTION, "1;2", "<think>1;2</think><answer>[1]</answer>");
    expect(ROLE_SOLVE, KIND_INDUCTION, NULL, "<answer>def f(a):\n return a[0]</answer>");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forms)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
