// judging.h: the judge with its workers, for the tests of what it says of programs: one service a
// group of tests, on every back-end that this host offers.
#ifndef TESTS_JUDGING_H
#define TESTS_JUDGING_H

#include "tests/support.h"

#include "common/base/json.h"
#include "common/base/task.h"
#include "verifier/request_json.h"
#include "verifier/rewind.h"
#include "verifier/service.h"

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
    char program[512];
    char detail[128];
    bool has_facts;
    Kelvin__SourceFacts facts;
};

static inline void on_ready(void *context, const struct error *failure)
{
    struct fixture *fixture = context;
    fixture->ready = failure == NULL;
    fixture->failed = failure != NULL;
}

static inline void on_verdict(void *context, uint64_t tag, const Kelvin__Verdict *verdict)
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

static inline void open_service(struct fixture *fixture, char *const *words, int count)
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

static inline int setup(void **state, char *backend)
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

static inline int setup_zygote(void **state)
{
    char backend[] = "verifier.backend=zygote";
    return setup(state, backend);
}

static inline int setup_rewind(void **state)
{
    char backend[] = "verifier.backend=rewind";
    return setup(state, backend);
}

static inline int teardown(void **state)
{
    struct fixture *fixture = *state;
    service_close(&fixture->service);
    while (uv_run(&fixture->loop, UV_RUN_DEFAULT) != 0) { // a verdict may have stopped it
    }
    return uv_loop_close(&fixture->loop);
}

static inline enum outcome ask(struct fixture *fixture, const char *line)
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

static inline enum outcome submit(struct fixture *fixture, const Kelvin__VerifyRequest *request)
{
    fixture->answered = false;
    judge_submit(fixture->service.judge, request, on_verdict, fixture, 0);
    while (!fixture->answered) {
        (void)uv_run(&fixture->loop, UV_RUN_ONCE);
    }
    return fixture->outcome;
}

// A request to validate `program` with one input; all borrowed.
static inline Kelvin__VerifyRequest validation(char *program, char **input)
{
    Kelvin__VerifyRequest request = KELVIN__VERIFY_REQUEST__INIT;
    request.check = KELVIN__CHECK__VALIDATE;
    request.role = KELVIN__ROLE__PROPOSE;
    request.program = program;
    request.n_inputs = 1;
    request.inputs = input;
    return request;
}

// run_on_backends runs a group of tests on each back-end.
static inline int run_on_backends(const struct CMUnitTest *tests, size_t count)
{
    struct error why = {0};
    int failed = _cmocka_run_group_tests("zygote", tests, count, setup_zygote, teardown);
    if (rewind_probe(&why) < 0) {
        print_message("rewind is not tested: %s\n", why.text);
        return failed;
    }
    return failed + _cmocka_run_group_tests("rewind", tests, count, setup_rewind, teardown);
}

#endif
