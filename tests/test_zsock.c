#include "tests/support.h"

#include "common/wire/zsock.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <zmq.h>

enum { MESSAGES = 10000 };

struct flow {
    struct zsock *push;
    struct zsock *pull;
    uv_timer_t tick;
    uv_timer_t deadline;
    int sent;
    int received;
    int ticks;
};

static void on_tick(uv_timer_t *timer)
{
    struct flow *flow = timer->data;
    flow->ticks++;
    while (flow->sent < MESSAGES) {
        struct zframes frames = {.body = {&flow->sent, sizeof(flow->sent)}};
        int code = zsock_send(flow->push, &frames);
        if (code < 0) {
            assert_int_equal(code, -EAGAIN);
            return;
        }
        flow->sent++;
    }
}

static void stop(struct flow *flow)
{
    zsock_close(flow->push);
    zsock_close(flow->pull);
    uv_close((uv_handle_t *)&flow->tick, NULL);
    uv_close((uv_handle_t *)&flow->deadline, NULL);
}

static void on_message(struct zsock *sock, const struct zframes *frames, void *context)
{
    (void)sock;
    struct flow *flow = context;
    assert_null(frames->identity.data);
    assert_null(frames->raw.data);
    assert_int_equal(frames->body.size, sizeof(int));
    assert_int_equal(*(const int *)frames->body.data, flow->received);
    if (++flow->received == MESSAGES) {
        stop(flow);
    }
}

static void on_deadline(uv_timer_t *timer)
{
    (void)timer;
    fail_msg("messages were lost");
}

// Every message arrives, in order, over each transport; timers keep running meanwhile.
static void run_flow(const char *endpoint)
{
    uv_loop_t loop;
    assert_int_equal(uv_loop_init(&loop), 0);
    void *zmq = zmq_ctx_new();
    struct flow flow = {0};
    struct error err = {0};
    assert_int_equal(zsock_create(&flow.pull, &loop, zmq, ZMQ_PULL, on_message, &flow, &err), 0);
    assert_int_equal(zsock_create(&flow.push, &loop, zmq, ZMQ_PUSH, on_message, &flow, &err), 0);
    assert_int_equal(zsock_bind(flow.pull, endpoint, &err), 0);
    char bound[256];
    assert_int_equal(zsock_endpoint(flow.pull, bound, sizeof(bound)), 0);
    assert_int_equal(zsock_connect(flow.push, bound, &err), 0);
    uv_timer_init(&loop, &flow.tick);
    uv_timer_init(&loop, &flow.deadline);
    flow.tick.data = &flow;
    uv_timer_start(&flow.tick, on_tick, 0, 1);
    uv_timer_start(&flow.deadline, on_deadline, 20000, 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(flow.received, MESSAGES);
    print_message("%s: ticks %d\n", endpoint, flow.ticks);
    assert_int_equal(uv_loop_close(&loop), 0);
    assert_int_equal(zmq_ctx_term(zmq), 0);
}

static void test_tcp(void **state)
{
    (void)state;
    run_flow("tcp://127.0.0.1:*");
}
static void test_inproc(void **state)
{
    (void)state;
    run_flow("inproc://flow");
}
static void test_ipc(void **state)
{
    (void)state;
    run_flow("ipc://zsock_test.ipc");
}

static void on_unused(struct zsock *sock, const struct zframes *frames, void *context)
{
    (void)sock, (void)frames, (void)context;
}

// An address that cannot work is named, with what to write instead.
static void test_bind_error_has_text(void **state)
{
    (void)state;
    uv_loop_t loop;
    uv_loop_init(&loop);
    void *zmq = zmq_ctx_new();
    struct zsock *sock = NULL;
    struct error err = {0};
    assert_int_equal(zsock_create(&sock, &loop, zmq, ZMQ_PULL, on_unused, NULL, &err), 0);
    assert_int_equal(zsock_bind(sock, "nonsense://x", &err), -EPROTONOSUPPORT);
    assert_string_equal(err.text, "cannot listen on nonsense://x: Protocol not supported; write "
                                  "tcp://HOST:PORT or ipc://PATH");
    zsock_close(sock);
    zsock_close(NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    zmq_ctx_term(zmq);
}

// A second socket on the same port is refused with a sentence that names it.
static void test_port_in_use(void **state)
{
    (void)state;
    uv_loop_t loop;
    uv_loop_init(&loop);
    void *zmq = zmq_ctx_new();
    struct zsock *first = NULL;
    struct zsock *second = NULL;
    struct error err = {0};
    char bound[256];
    assert_int_equal(zsock_create(&first, &loop, zmq, ZMQ_ROUTER, on_unused, NULL, &err), 0);
    assert_int_equal(zsock_bind(first, "tcp://127.0.0.1:*", &err), 0);
    assert_int_equal(zsock_endpoint(first, bound, sizeof(bound)), 0);
    assert_int_equal(zsock_create(&second, &loop, zmq, ZMQ_ROUTER, on_unused, NULL, &err), 0);
    assert_int_equal(zsock_bind(second, bound, &err), -EADDRINUSE);
    assert_non_null(strstr(err.text, bound));
    assert_non_null(strstr(err.text, "another process listens there"));
    zsock_close(first);
    zsock_close(second);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    zmq_ctx_term(zmq);
}

struct echo {
    struct zsock *router;
    struct zsock *dealer;
    int answers;
};

static bool frame_is(struct zframe frame, const char *text)
{
    return frame.size == strlen(text) && memcmp(frame.data, text, frame.size) == 0;
}

static void on_request(struct zsock *sock, const struct zframes *frames, void *context)
{
    (void)context;
    assert_true(frames->identity.size > 0);
    assert_true(frame_is(frames->body, "ask"));
    assert_null(frames->raw.data);
    struct zframes nobody = *frames;
    nobody.identity = (struct zframe){"nobody", 6};
    assert_int_equal(zsock_send(sock, &nobody), -EHOSTUNREACH);
    struct zframes answer = *frames;
    answer.raw = (struct zframe){"raw bytes", 9};
    assert_int_equal(zsock_send(sock, &answer), 0);
}

static void on_answer(struct zsock *sock, const struct zframes *frames, void *context)
{
    (void)sock;
    struct echo *echo = context;
    assert_null(frames->identity.data);
    assert_true(frame_is(frames->body, "ask"));
    assert_true(frame_is(frames->raw, "raw bytes"));
    echo->answers++;
    zsock_close(echo->router);
    zsock_close(echo->dealer);
}

// A ROUTER sees who asks and answers that peer with body and raw frame; an unknown peer is an
// error.
static void test_router_answers_with_raw_frame(void **state)
{
    (void)state;
    uv_loop_t loop;
    uv_loop_init(&loop);
    void *zmq = zmq_ctx_new();
    struct echo echo = {0};
    struct error err = {0};
    assert_int_equal(zsock_create(&echo.router, &loop, zmq, ZMQ_ROUTER, on_request, &echo, &err),
                     0);
    assert_int_equal(zsock_create(&echo.dealer, &loop, zmq, ZMQ_DEALER, on_answer, &echo, &err), 0);
    struct zframes ask = {.body = {"ask", 3}};
    assert_int_equal(zsock_send(echo.dealer, &ask), -EAGAIN); // nobody is connected yet
    assert_int_equal(zsock_bind(echo.router, "inproc://echo", &err), 0);
    assert_int_equal(zsock_connect(echo.dealer, "inproc://echo", &err), 0);
    assert_int_equal(zsock_send(echo.dealer, &ask), 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(echo.answers, 1);
    assert_int_equal(uv_loop_close(&loop), 0);
    zmq_ctx_term(zmq);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tcp),         cmocka_unit_test(test_inproc),
        cmocka_unit_test(test_ipc),         cmocka_unit_test(test_bind_error_has_text),
        cmocka_unit_test(test_port_in_use), cmocka_unit_test(test_router_answers_with_raw_frame),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
