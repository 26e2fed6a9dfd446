// The conformance table of AZR.md section 7, through the judge, on every back-end that this host
// offers.
#include "tests/support.h"

#include "common/base/task.h"
#include "verifier/request_json.h"
#include "verifier/rewind.h"
#include "verifier/service.h"

#include "common/base/json.h"

#include <string.h>

struct fixture {
    uv_loop_t loop;
    struct run_config config;
    struct service service;
    bool ready;
    bool failed;
    bool answered;
    enum outcome outcome;
    char output[256];
    char exception[64];
    uint64_t wall_us;
};

static void on_ready(void *context, const struct error *failure)
{
    struct fixture *fixture = context;
    fixture->ready = failure == NULL;
    fixture->failed = failure != NULL;
}

static void on_verdict(void *context, uint64_t tag, const Kelvin__Verdict *verdict)
{
    struct fixture *fixture = context;
    (void)tag;
    fixture->answered = true;
    uv_stop(&fixture->loop); // a verdict may come from a timer, before a long poll
    fixture->outcome = (enum outcome)verdict->outcome;
    fixture->wall_us = verdict->wall_us;
    (void)snprintf(fixture->output, sizeof(fixture->output), "%s",
                   verdict->n_outputs > 0 ? verdict->outputs[0] : "");
    (void)snprintf(fixture->exception, sizeof(fixture->exception), "%s", verdict->exception);
}

static void open_service(struct fixture *fixture, char *const *words, int count)
{
    struct error err = {0};
    assert_int_equal(uv_loop_init(&fixture->loop), 0);
    assert_int_equal(run_config_read(&fixture->config, NULL, words, count, &err), 0);
    int code = service_open(&fixture->service, &fixture->loop, &fixture->config, true, on_ready,
                            fixture, &err);
    if (code < 0) {
        fail_msg("%s", err.text);
    }
    while (!fixture->ready && !fixture->failed) {
        (void)uv_run(&fixture->loop, UV_RUN_ONCE);
    }
    assert_true(fixture->ready);
}

static int setup(void **state, char *backend)
{
    static struct fixture fixture;
    char isolation[] = "verifier.isolation=process";
    char workers[] = "verifier.workers=2";
    char helpers[] = "verifier.multiple_functions=true";
    char audits[] = "verifier.audit_every=1";
    char *words[] = {backend, isolation, workers, helpers, audits};
    memset(&fixture, 0, sizeof(fixture));
    open_service(&fixture, words, 5);
    *state = &fixture;
    return 0;
}

static int setup_zygote(void **state)
{
    char backend[] = "verifier.backend=zygote";
    return setup(state, backend);
}

static int setup_rewind(void **state)
{
    char backend[] = "verifier.backend=rewind";
    return setup(state, backend);
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    service_close(&fixture->service);
    while (uv_run(&fixture->loop, UV_RUN_DEFAULT) != 0) { // a verdict may have stopped it
    }
    return uv_loop_close(&fixture->loop);
}

static enum outcome ask(struct fixture *fixture, const char *line)
{
    struct error err = {0};
    json_t *json = NULL;
    Kelvin__VerifyRequest request;
    assert_int_equal(json_parse(&json, line, strlen(line), "a line", &err), 0);
    if (request_from_json(&request, json, &err) < 0) {
        fail_msg("%s: %s", err.text, line);
    }
    fixture->answered = false;
    judge_submit(fixture->service.judge, &request, on_verdict, fixture, 0);
    request_finish(&request);
    json_decref(json);
    while (!fixture->answered) {
        (void)uv_run(&fixture->loop, UV_RUN_ONCE);
    }
    return fixture->outcome;
}

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_proposals),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_rough_ends),
    };
    struct error why = {0};
    int failed = cmocka_run_group_tests_name("zygote", tests, setup_zygote, teardown);
    if (rewind_probe(&why) < 0) {
        print_message("rewind is not tested: %s\n", why.text);
        return failed;
    }
    return failed + cmocka_run_group_tests_name("rewind", tests, setup_rewind, teardown);
}
