#include "tests/support.h"

#include "common/wire/zsock.h"

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
        if (zsock_send(flow->push, &flow->sent, sizeof(flow->sent)) < 0) {
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

static void on_message(struct zsock *sock, const void *data, size_t size, void *context)
{
    (void)sock;
    struct flow *flow = context;
    assert_int_equal(size, sizeof(int));
    assert_int_equal(*(const int *)data, flow->received);
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
    assert_int_equal(zsock_connect(flow.push, endpoint, &err), 0);
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
    run_flow("tcp://127.0.0.1:45871");
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

static void on_unused(struct zsock *s, const void *d, size_t n, void *c)
{
    (void)s, (void)d, (void)n, (void)c;
}

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
    assert_string_equal(err.text, "bind nonsense://x: Protocol not supported");
    zsock_close(sock);
    zsock_close(NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    zmq_ctx_term(zmq);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tcp),
        cmocka_unit_test(test_inproc),
        cmocka_unit_test(test_ipc),
        cmocka_unit_test(test_bind_error_has_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
