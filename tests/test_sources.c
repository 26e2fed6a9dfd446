// What the judge makes of a program's text beside running it: facts, distances, and rewriting.
#include "tests/judging.h"

static void describe(struct fixture *fixture, const char *program, const char *input,
                     char **references, size_t count)
{
    char text[1024];
    char arguments[64];
    char *inputs[] = {arguments};
    (void)snprintf(text, sizeof(text), "%s", program);
    (void)snprintf(arguments, sizeof(arguments), "%s", input);
    Kelvin__VerifyRequest request = validation(text, inputs);
    request.describe = true;
    request.n_references = count;
    request.references = references;
    assert_int_equal(submit(fixture, &request), OUTCOME_OK);
    assert_true(fixture->has_facts);
}

// Complexity and Halstead's counts, against counts made by hand.
static void test_facts(void **state)
{
    struct fixture *fixture = *state;
    describe(fixture, "def f(x):\n    return x + 1", "1", NULL, 0);
    assert_int_equal(fixture->facts.cyclomatic, 1);
    assert_int_equal(fixture->facts.operators, 1); // +
    assert_int_equal(fixture->facts.operands, 2);  // x 1
    assert_int_equal(fixture->facts.distinct_operators, 1);
    assert_int_equal(fixture->facts.distinct_operands, 2);
    assert_int_equal(fixture->facts.references, 0);
    describe(fixture,
             "def f(a, b):\n    if a > 0 and b:\n        for i in range(a):\n            b += i\n"
             "    return [c for c in [a] if c]",
             "2, 3", NULL, 0);
    assert_int_equal(fixture->facts.cyclomatic, 1 + 1 + 1 + 1 + 2); // if, and, for, [for if]
    assert_int_equal(fixture->facts.operators, 3);                  // > and +=
    assert_int_equal(fixture->facts.operands, 6);                   // a 0, (a > 0) b, b i
    assert_int_equal(fixture->facts.distinct_operators, 3);
    assert_int_equal(fixture->facts.distinct_operands, 5);
}

// A tree is at distance 0 from itself, also under other names, far from another one, and nearer to
// a small change; what cannot be parsed does not count.
static void test_distance(void **state)
{
    struct fixture *fixture = *state;
    static const char program[] = "def f(x):\n    y = x * 2\n    return y + 1";
    char same[] = "def f(n):\n    m = n * 7\n    return m + 3";
    char near[] = "def f(x):\n    y = x * 2\n    return y - 1";
    char far[] = "import math\ndef f(s):\n    while s:\n        s = s[1:]\n    return {'a': [s]}";
    char broken[] = "def f(:";
    char *references[] = {same};
    describe(fixture, program, "1", references, 1);
    assert_int_equal(fixture->facts.distance_ppm, 0);
    references[0] = near;
    describe(fixture, program, "1", references, 1);
    uint32_t small = fixture->facts.distance_ppm;
    references[0] = far;
    describe(fixture, program, "1", references, 1);
    uint32_t large = fixture->facts.distance_ppm;
    assert_true(0 < small && small < large && large <= 1000000);
    char *two[] = {same, broken};
    describe(fixture, program, "1", two, 2);
    assert_int_equal(fixture->facts.references, 1);
    assert_int_equal(fixture->facts.distance_ppm, 0);
}

// Facts come only of valid programs, and only when they are wanted.
static void test_facts_are_asked_for(void **state)
{
    struct fixture *fixture = *state;
    char program[] = "def f(x):\n    return 1 // x";
    char zero[] = "0";
    char one[] = "1";
    char *inputs[] = {zero};
    Kelvin__VerifyRequest request = validation(program, inputs);
    request.describe = true;
    assert_int_equal(submit(fixture, &request), OUTCOME_RAISED);
    assert_false(fixture->has_facts);
    inputs[0] = one;
    request.describe = false;
    assert_int_equal(submit(fixture, &request), OUTCOME_OK);
    assert_false(fixture->has_facts);
}

// Seeds lose comments, docstrings and module-level statements, and keep the rest; one that has none
// of them keeps its text letter for letter.
static void test_strip(void **state)
{
    struct fixture *fixture = *state;
    char program[] = "import math\n# a comment\nLIMIT = 3\nprint('x')\n"
                     "def f(x):\n    \"what it does\"\n    # more\n    return math.floor(x)\n"
                     "f(2)\n";
    char input[] = "2.5";
    char *inputs[] = {input};
    Kelvin__VerifyRequest request = validation(program, inputs);
    request.strip = true;
    assert_int_equal(submit(fixture, &request), OUTCOME_OK);
    assert_string_equal(fixture->program, "import math\n\ndef f(x):\n    return math.floor(x)");
    assert_string_equal(fixture->output, "2");
    char depends[] = "LIMIT = 3\ndef f(x):\n    return x + LIMIT";
    request.program = depends;
    assert_int_equal(submit(fixture, &request), OUTCOME_RAISED); // without its global
    char named[] = "def my_input(x):  # no f\n    return my_input(x - 1) if x > 0 else 0";
    request.program = named;
    assert_int_equal(submit(fixture, &request), OUTCOME_OK);
    assert_null(strstr(fixture->program, "my_input"));
    assert_null(strstr(fixture->program, "#"));
    char tight[] = "def f(x):\n x=x+1\n return x";
    request.program = tight;
    assert_int_equal(submit(fixture, &request), OUTCOME_OK);
    assert_string_equal(fixture->program, tight);
}

static enum outcome rename_to(struct fixture *fixture, const char *program, const char *name)
{
    char text[256];
    char word[16];
    (void)snprintf(text, sizeof(text), "%s", program);
    (void)snprintf(word, sizeof(word), "%s", name);
    Kelvin__VerifyRequest request = KELVIN__VERIFY_REQUEST__INIT;
    request.check = KELVIN__CHECK__RENAME;
    request.program = text;
    request.answer = word;
    return submit(fixture, &request);
}

// f is renamed by syntax tree: recursion follows, strings and other names stay; what binds f twice
// is left alone.
static void test_rename(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(rename_to(fixture,
                               "def f(n):\n    if n < 2: return 'f'\n    self_f = f(n - 1)\n"
                               "    return self_f",
                               "g_0"),
                     OUTCOME_OK);
    assert_string_equal(fixture->program,
                        "def g_0(n):\n    if n < 2: return 'f'\n    self_f = g_0(n - 1)\n"
                        "    return self_f");
    assert_int_equal(rename_to(fixture, "def f(f):\n    return f", "g_0"), OUTCOME_MALFORMED);
    assert_int_equal(rename_to(fixture, "def f(g_0):\n    return g_0", "g_0"), OUTCOME_MALFORMED);
    assert_int_equal(rename_to(fixture, "def f(:", "g_0"), OUTCOME_MALFORMED);
}

// A composite program calls every function that it is given and binds none of them anew; it is
// stored with them in front.
static void test_composites(void **state)
{
    struct fixture *fixture = *state;
    char helper[] = "def g_0(x):\n    return x + 1";
    char other[] = "def g_1(x):\n    return -x";
    char *helpers[] = {helper, other};
    char input[] = "3";
    char *inputs[] = {input};
    char good[] = "def f(x):\n    return g_1(g_0(x)) * 2";
    char half[] = "def f(x):\n    return g_0(x) * 2";
    char anew[] = "def g_1(x):\n    return x\ndef f(x):\n    return g_1(g_0(x))";
    char over[] = "def f(x):\n    g_0 = abs\n    return g_1(g_0(x))";
    Kelvin__VerifyRequest request = validation(good, inputs);
    request.n_helpers = 2;
    request.helpers = helpers;
    assert_int_equal(submit(fixture, &request), OUTCOME_OK);
    assert_string_equal(fixture->output, "-8");
    assert_string_equal(fixture->program,
                        "def g_0(x):\n    return x + 1\n\ndef g_1(x):\n    return -x\n\n"
                        "def f(x):\n    return g_1(g_0(x)) * 2");
    request.program = half;
    assert_int_equal(submit(fixture, &request), OUTCOME_MALFORMED);
    assert_string_equal(fixture->detail, "f does not call g_1");
    request.program = anew;
    assert_int_equal(submit(fixture, &request), OUTCOME_MALFORMED);
    assert_string_equal(fixture->detail, "binds g_1, which is given");
    request.program = over;
    assert_int_equal(submit(fixture, &request), OUTCOME_MALFORMED);
    assert_string_equal(fixture->detail, "binds g_0, which is given");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_facts),
        cmocka_unit_test(test_distance),
        cmocka_unit_test(test_facts_are_asked_for),
        cmocka_unit_test(test_strip),
        cmocka_unit_test(test_rename),
        cmocka_unit_test(test_composites),
    };
    return run_on_backends(tests, sizeof(tests) / sizeof(*tests));
}
