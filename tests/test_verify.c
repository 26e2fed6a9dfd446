// The conformance table of AZR.md section 7, through the judge, on every back-end that this host
// offers.
#include "tests/judging.h"

#include "common/base/clock.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

struct row {
    const char *line;
    const char *outcomes; // accepted ones, separated by spaces
    const char *output;   // NULL: not looked at
};

static void check_rows(struct fixture *fixture, const struct row *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const char *name = outcome_name(ask(fixture, rows[i].line));
        if (strstr(rows[i].outcomes, name) == NULL) {
            fail_msg("%s: %s instead of %s", rows[i].line, name, rows[i].outcomes);
        }
        if (rows[i].output != NULL) {
            assert_string_equal(fixture->output, rows[i].output);
        }
    }
}

#define VALIDATE(program, input)                                                                   \
    "{\"kind\":\"validate\",\"program\":\"" program "\",\"input\":\"" input "\"}"
#define LIMITED(program, input)                                                                    \
    "{\"kind\":\"validate\",\"timeout_ms\":200,\"program\":\"" program "\",\"input\":\"" input "\"}"
#define DEDUCTION(gold, answer)                                                                    \
    "{\"kind\":\"deduction\",\"gold\":\"" gold "\",\"answer\":\"" answer "\"}"
#define ABDUCTION(program, gold, answer)                                                           \
    "{\"kind\":\"abduction\",\"program\":\"" program "\",\"gold\":\"" gold                         \
    "\",\"answer\":\"" answer "\"}"

// What AZR.md section 7 says of proposals.
static void test_proposals(void **state)
{
    static const struct row rows[] = {
        {VALIDATE("def f(a):\\n    return a", "\\\"Hello world\\\""), "ok", "'Hello world'"},
        {VALIDATE("def f(a):\\n    return a", "1, 2"), "raised", NULL},
        {VALIDATE("def f(a):\\n    raise Exception('x')", "1"), "raised", NULL},
        {VALIDATE("def f(a):\\n    exit()", "1"), "raised", NULL},
        {VALIDATE("def f(a):\\n    raise StopIteration", "1"), "raised", NULL},
        {VALIDATE("def f(a):\\n    return object()", "1"), "nondeterministic unsupported-value",
         NULL},
        {VALIDATE("def f(a):\\n    return id(a)", "1"), "nondeterministic unsupported-value", NULL},
        {VALIDATE("def f(a):\\n    return hash('a')", "1"), "nondeterministic unsupported-value",
         NULL},
        {VALIDATE("def f(a):\\n    return list({'a','b','c'})", "1"),
         "nondeterministic unsupported-value", NULL},
        {VALIDATE("from typing import sys\\ndef f(a):\\n    return 1", "1"), "forbidden raised",
         NULL},
        {VALIDATE("import statistics\\ndef f(a):\\n    return statistics.random.random()", "1"),
         "nondeterministic", NULL},
        {VALIDATE("import queue\\ndef f(a):\\n    return queue.time()", "1"), "nondeterministic",
         NULL},
        {VALIDATE("n = 0\\ndef f(a):\\n    global n\\n    n += 1\\n    return n", "1"), "ok", "1"},
        {VALIDATE("def f(a, m={}):\\n    m[a] = len(m)\\n    return m[a]", "1"), "ok", "0"},
        {VALIDATE("def f(a):\\n    return float('nan')", "1"), "ok", "nan"},
        {VALIDATE("def f(a):\\n    return 'a'*10000", "1"), "output-too-large", NULL},
        {VALIDATE("def my_input(a):\\n    return a\\ndef f(a):\\n    return my_input(a)", "1"),
         "ok", "1"},
        {LIMITED("import queue\\ndef f(a):\\n    queue.threading._time()\\n    "
                 "__builtins__.__dict__['__imp'+'ort__']('time').sleep(30)\\n    return 1",
                 "1"),
         "timeout", NULL},
        {LIMITED("def f(a):\\n    while True: pass", "1"), "timeout", NULL},
        {LIMITED(
             "def f(a):\\n    while True:\\n        try:\\n            while True: pass\\n        "
             "except BaseException: pass",
             "1"),
         "timeout", NULL},
    };
    check_rows(*state, rows, sizeof(rows) / sizeof(*rows));
}

#define LIMIT(limit, program)                                                                      \
    "{\"kind\":\"run\"," limit ",\"program\":\"" program "\",\"input\":\"1\"}"

// A request's own limits hold: CPU time, memory, output; and the next run has its own again.
static void test_limits(void **state)
{
    static const struct row rows[] = {
        {LIMIT("\"cpu_ms\":100", "def f(a):\\n    while True: pass"), "timeout", NULL},
        {LIMIT("\"memory_mb\":8", "def f(a):\\n    return len(bytearray(32 << 20))"),
         "out-of-memory", NULL},
        {LIMIT("\"memory_mb\":8", "def f(a):\\n    return len([[i] for i in range(1 << 19)])"),
         "out-of-memory", NULL},
        {LIMIT("\"memory_mb\":8",
               "def f(a):\\n    return sum(len(bytearray(4 << 20)) for i in range(99))"),
         "ok", "415236096"},
        {LIMIT("\"memory_mb\":60000", "def f(a):\\n    return len(bytearray(32 << 20))"), "ok",
         "33554432"},
        {LIMIT("\"output_bytes\":5", "def f(a):\\n    return 'abc'"), "ok", "'abc'"},
        {LIMIT("\"output_bytes\":4", "def f(a):\\n    return 'abc'"), "output-too-large", NULL},
    };
    check_rows(*state, rows, sizeof(rows) / sizeof(*rows));
}

// However runs end, no image is lost and the next run is right: more of each than there are images.
static void test_rough_ends(void **state)
{
    static const char *const ends[] = {
        LIMIT("\"timeout_ms\":10", "def f(a):\\n    while True: pass"),
        LIMIT("\"timeout_ms\":5000",
              "def f(a):\\n    __builtins__['__imp'+'ort__']('os')._exit(3)"),
        LIMIT("\"timeout_ms\":5000", "def f(a):\\n    __builtins__['__imp'+'ort__']('os').abort()"),
        LIMIT("\"memory_mb\":32",
              "def f(a):\\n    k = []\\n    while True: k.append(bytearray(1 << 22))"),
        LIMIT("\"timeout_ms\":5000", "def f(a):\\n    a = [a]\\n    a[0] = a\\n    return a"),
    };
    struct fixture *fixture = *state;
    uint64_t lost = pool_stats(fixture->service.pool).lost;
    for (int i = 0; i < 5; i++) {
        for (size_t k = 0; k < sizeof(ends) / sizeof(*ends); k++) {
            assert_int_not_equal(ask(fixture, ends[k]), OUTCOME_OK);
        }
        assert_int_equal(ask(fixture, VALIDATE("def f(a):\\n    return sorted({a, 2, 1})", "3")),
                         OUTCOME_OK);
        assert_string_equal(fixture->output, "[1, 2, 3]");
    }
    assert_int_equal(pool_stats(fixture->service.pool).lost, lost);
}

// What AZR.md section 7 says of answers.
static void test_answers(void **state)
{
    static const struct row rows[] = {
        {DEDUCTION("4", "4"), "ok", NULL},
        {DEDUCTION("4", "4.0"), "ok", NULL},
        {DEDUCTION("4", "2+2"), "wrong", NULL},
        {DEDUCTION("'ab'", "'ab'"), "ok", NULL},
        {DEDUCTION("'ab'", "\\\"ab\\\""), "ok", NULL},
        {DEDUCTION("'ab'", "ab"), "wrong", NULL},
        {DEDUCTION("(1, 2)", "(1,2)"), "ok", NULL},
        {DEDUCTION("(1, 2)", "1, 2"), "ok", NULL},
        {DEDUCTION("(1, 2)", "[1, 2]"), "wrong", NULL},
        {DEDUCTION("{1, 2}", "{2, 1}"), "ok", NULL},
        {ABDUCTION("def f(x):\\n    return x*x", "9", "3"), "ok", NULL},
        {ABDUCTION("def f(x):\\n    return x*x", "9", "-3"), "ok", NULL},
        {ABDUCTION("def f(x):\\n    return x*x", "9", "3.0"), "ok", NULL},
        {ABDUCTION("def f(x):\\n    return x*x", "9", "4"), "wrong", NULL},
        {ABDUCTION("def f(x):\\n    return x*x", "9", "0) or (1"), "malformed", NULL},
        {ABDUCTION("def f(x):\\n    return x*x", "9", "print(1)"), "malformed", NULL},
        {ABDUCTION("def f(x):\\n    return x*x", "9", "__import__('os')"), "malformed", NULL},
        {"{\"kind\":\"induction\",\"answer\":\"class A:\\n    def __eq__(s, o): return True\\ndef "
         "f(x):\\n    return A()\",\"inputs\":[\"1\"],\"outputs\":[\"1\"]}",
         "wrong", NULL},
        {"{\"kind\":\"induction\",\"answer\":\"def g(x):\\n    return x+1\",\"inputs\":[\"1\","
         "\"2\"],\"outputs\":[\"2\",\"3\"]}",
         "ok", NULL},
    };
    check_rows(*state, rows, sizeof(rows) / sizeof(*rows));
}

// A proposal whose input has the value of one that was shown is COPIED, however that is spelled; a
// nearly equal one, or one of another type, is not.
static void test_copied_input(void **state)
{
    struct fixture *fixture = *state;
    char program[] = "def f(s, n=1):\n    return s * n";
    char shown[] = "'ab', n=3", other[] = "[1, 2]";
    char *shown_inputs[] = {other, shown};
    static const struct {
        const char *input;
        enum outcome outcome;
    } rows[] = {{"'ab', n=3", OUTCOME_COPIED}, {"\"ab\",  n=0x3", OUTCOME_COPIED},
                {"[1,2]", OUTCOME_COPIED},     {"'ab', n=4", OUTCOME_OK},
                {"'ab', 3", OUTCOME_OK},       {"(1, 2)", OUTCOME_OK}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        char input[16];
        char *inputs[] = {input};
        (void)snprintf(input, sizeof(input), "%s", rows[i].input);
        Kelvin__VerifyRequest request = validation(program, inputs);
        request.n_shown_inputs = 2;
        request.shown_inputs = shown_inputs;
        assert_int_equal(submit(fixture, &request), rows[i].outcome);
        request.n_shown_inputs = 0; // the verdict is not kept for another question
        assert_int_equal(submit(fixture, &request), OUTCOME_OK);
    }
}

// --- a host that has no time ---

enum { STARVE_MS = 600, SPINNERS_MAX = 256 };

// Kernels that give each session its share weigh that, not the process.
static void weigh_session(pid_t pid, const char *nice)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/autogroup", (int)pid);
    FILE *file = fopen(path, "we");
    if (file != NULL) {
        (void)fputs(nice, file);
        (void)fclose(file);
    }
}

// Puts the images below everything else that runs, or back.
static void schedule_children(pid_t pid, bool idle)
{
    char path[64];
    char text[1024];
    (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)pid);
    FILE *file = fopen(path, "re");
    size_t size = file == NULL ? 0 : fread(text, 1, sizeof(text) - 1, file);
    text[size] = '\0';
    if (file != NULL) {
        (void)fclose(file);
    }
    const struct sched_param none = {0};
    char *at = text;
    for (char *end = NULL;; at = end) {
        pid_t child = (pid_t)strtol(at, &end, 10);
        if (end == at) {
            return;
        }
        (void)sched_setscheduler(child, idle ? SCHED_IDLE : SCHED_OTHER, &none);
        weigh_session(child, idle ? "19" : "0");
        schedule_children(child, idle); // of a zygote: the run
    }
}

static void *spin(void *context)
{
    uint64_t until_ns = clock_ns() + (uint64_t)STARVE_MS * 1000000;
    (void)context;
    while (clock_ns() < until_ns) {
    }
    schedule_children(getpid(), false);
    return NULL;
}

// What a run had to wait for a processor is not held against it; what it slept is.
static void test_a_busy_host_is_no_timeout(void **state)
{
    struct fixture *fixture = *state;
    cpu_set_t allowed;
    pthread_t spinners[SPINNERS_MAX];
    assert_int_equal(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
    int count = CPU_COUNT(&allowed) < SPINNERS_MAX ? CPU_COUNT(&allowed) : SPINNERS_MAX;
    schedule_children(getpid(), true);
    for (int i = 0; i < count; i++) {
        assert_int_equal(pthread_create(&spinners[i], NULL, spin, NULL), 0);
    }
    assert_int_equal(ask(fixture, "{\"kind\":\"validate\",\"timeout_ms\":250,\"program\":\"def "
                                  "f(a):\\n    return sum(i % 7 for i in range(a))\",\"input\":"
                                  "\"600000\"}"),
                     OUTCOME_OK);
    for (int i = 0; i < count; i++) {
        assert_int_equal(pthread_join(spinners[i], NULL), 0);
    }
    schedule_children(getpid(), false);
    assert_true(fixture->wall_us > 250000);
    assert_int_equal(ask(fixture, "{\"kind\":\"validate\",\"timeout_ms\":250,\"program\":\"import "
                                  "io\\ndef f(a):\\n    return io.FileIO(3).read(a)\",\"input\":"
                                  "\"1\"}"),
                     OUTCOME_TIMEOUT);
    assert_true(fixture->wall_us < 1000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_proposals),    cmocka_unit_test(test_answers),
        cmocka_unit_test(test_limits),       cmocka_unit_test(test_rough_ends),
        cmocka_unit_test(test_copied_input), cmocka_unit_test(test_a_busy_host_is_no_timeout),
    };
    return run_on_backends(tests, sizeof(tests) / sizeof(*tests));
}
