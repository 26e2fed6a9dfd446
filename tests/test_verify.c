// The conformance table of AZR.md section 7, through the judge, on every back-end that this host
// offers.
#include "tests/support.h"

#include "common/base/task.h"
#include "verifier/request_json.h"
#include "verifier/rewind.h"
#include "verifier/service.h"

#include "common/base/clock.h"
#include "common/base/json.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
    char program[512];
    char detail[128];
    bool has_facts;
    Kelvin__SourceFacts facts;
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
    (void)snprintf(fixture->program, sizeof(fixture->program), "%s", verdict->program);
    (void)snprintf(fixture->detail, sizeof(fixture->detail), "%s", verdict->detail);
    fixture->has_facts = verdict->facts != NULL;
    if (fixture->has_facts) {
        fixture->facts = *verdict->facts;
    }
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

static enum outcome submit(struct fixture *fixture, const Kelvin__VerifyRequest *request)
{
    fixture->answered = false;
    judge_submit(fixture->service.judge, request, on_verdict, fixture, 0);
    while (!fixture->answered) {
        (void)uv_run(&fixture->loop, UV_RUN_ONCE);
    }
    return fixture->outcome;
}

// A request to validate `program` with one input; all borrowed.
static Kelvin__VerifyRequest validation(char *program, char **input)
{
    Kelvin__VerifyRequest request = KELVIN__VERIFY_REQUEST__INIT;
    request.check = KELVIN__CHECK__VALIDATE;
    request.role = KELVIN__ROLE__PROPOSE;
    request.program = program;
    request.n_inputs = 1;
    request.inputs = input;
    return request;
}

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
        cmocka_unit_test(test_proposals),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_rough_ends),
        cmocka_unit_test(test_facts),
        cmocka_unit_test(test_distance),
        cmocka_unit_test(test_facts_are_asked_for),
        cmocka_unit_test(test_copied_input),
        cmocka_unit_test(test_strip),
        cmocka_unit_test(test_rename),
        cmocka_unit_test(test_composites),
        cmocka_unit_test(test_a_busy_host_is_no_timeout),
    };
    struct error why = {0};
    int failed = cmocka_run_group_tests_name("zygote", tests, setup_zygote, teardown);
    if (rewind_probe(&why) < 0) {
        print_message("rewind is not tested: %s\n", why.text);
        return failed;
    }
    return failed + cmocka_run_group_tests_name("rewind", tests, setup_rewind, teardown);
}
