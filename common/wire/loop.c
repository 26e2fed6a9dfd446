#include "common/wire/loop.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <unistd.h>
#include <zmq.h>

enum { LOOP_SIGNALS = 3 };
static const int loop_signals[LOOP_SIGNALS] = {SIGINT, SIGTERM, SIGUSR1};

struct loop {
    uv_loop_t uv;
    void *zmq;
    struct loop_events events;
    uv_signal_t signals[LOOP_SIGNALS];
    bool asked;   // on_stop was called
    bool stopped; // loop_stop was called
};

static void on_signal(uv_signal_t *handle, int number)
{
    struct loop *loop = handle->data;
    if (number == SIGUSR1 && loop->events.on_warning != NULL) {
        loop->events.on_warning(loop->events.context, number);
        return;
    }
    if (loop->asked) {
        _exit(128 + number);
    }
    loop->asked = true;
    if (loop->events.on_stop != NULL) {
        loop->events.on_stop(loop->events.context, number);
    } else {
        loop_stop(loop);
    }
}

int loop_create(struct loop **out, const struct loop_events *events, struct error *err)
{
    CLEANUP(freep) struct loop *loop = calloc(1, sizeof(*loop));
    if (loop == NULL) {
        return error_set(err, -ENOMEM, "loop: out of memory");
    }
    loop->events = *events;
    int code = uv_loop_init(&loop->uv);
    if (code < 0) {
        return error_set(err, code, "cannot make an event loop: %s", uv_strerror(code));
    }
    loop->zmq = zmq_ctx_new();
    CHECK(loop->zmq != NULL);
    for (int i = 0; i < LOOP_SIGNALS; i++) {
        CHECK(uv_signal_init(&loop->uv, &loop->signals[i]) == 0);
        loop->signals[i].data = loop;
        CHECK(uv_signal_start(&loop->signals[i], on_signal, loop_signals[i]) == 0);
    }
    *out = TAKE(loop);
    return 0;
}

void loop_destroy(struct loop *loop)
{
    if (loop == NULL) {
        return;
    }
    loop_stop(loop);
    (void)uv_run(&loop->uv, UV_RUN_NOWAIT); // lets closed handles go
    CHECK(uv_loop_close(&loop->uv) == 0);
    while (zmq_ctx_term(loop->zmq) < 0) {
        CHECK(zmq_errno() == EINTR);
    }
    free(loop);
}

uv_loop_t *loop_uv(struct loop *loop)
{
    return &loop->uv;
}

void *loop_zmq(struct loop *loop)
{
    return loop->zmq;
}

void loop_run(struct loop *loop)
{
    (void)uv_run(&loop->uv, UV_RUN_DEFAULT);
}

void loop_stop(struct loop *loop)
{
    if (loop->stopped) {
        return;
    }
    loop->stopped = true;
    for (int i = 0; i < LOOP_SIGNALS; i++) {
        // From here to the end the process dies of a further signal as any other does.
        uv_close((uv_handle_t *)&loop->signals[i], NULL);
    }
}

struct loop_timer {
    uv_timer_t handle;
    loop_fn *fn;
    void *context;
};

static void on_timer(uv_timer_t *handle)
{
    struct loop_timer *timer = handle->data;
    timer->fn(timer->context);
}

int loop_timer_create(struct loop_timer **out, uv_loop_t *loop, loop_fn *fn, void *context,
                      struct error *err)
{
    struct loop_timer *timer = calloc(1, sizeof(*timer));
    if (timer == NULL) {
        return error_set(err, -ENOMEM, "timer: out of memory");
    }
    timer->fn = fn;
    timer->context = context;
    CHECK(uv_timer_init(loop, &timer->handle) == 0);
    timer->handle.data = timer;
    *out = timer;
    return 0;
}

void loop_timer_start(struct loop_timer *timer, uint64_t after_ms, uint64_t repeat_ms)
{
    uv_update_time(timer->handle.loop); // `after` counts from now, not from the turn's start
    CHECK(uv_timer_start(&timer->handle, on_timer, after_ms, repeat_ms) == 0);
}

void loop_timer_stop(struct loop_timer *timer)
{
    CHECK(uv_timer_stop(&timer->handle) == 0);
}

static void free_data(uv_handle_t *handle)
{
    free(handle->data);
}

void loop_timer_close(struct loop_timer *timer)
{
    if (timer != NULL) {
        uv_close((uv_handle_t *)&timer->handle, free_data);
    }
}

struct loop_wake {
    uv_async_t handle;
    loop_fn *fn;
    void *context;
};

static void on_wake(uv_async_t *handle)
{
    struct loop_wake *wake = handle->data;
    wake->fn(wake->context);
}

int loop_wake_create(struct loop_wake **out, uv_loop_t *loop, loop_fn *fn, void *context,
                     struct error *err)
{
    CLEANUP(freep) struct loop_wake *wake = calloc(1, sizeof(*wake));
    if (wake == NULL) {
        return error_set(err, -ENOMEM, "wake-up: out of memory");
    }
    wake->fn = fn;
    wake->context = context;
    int code = uv_async_init(loop, &wake->handle, on_wake);
    if (code < 0) {
        return error_set(err, code, "wake-up: %s", uv_strerror(code));
    }
    wake->handle.data = wake;
    *out = TAKE(wake);
    return 0;
}

void loop_wake_send(struct loop_wake *wake)
{
    CHECK(uv_async_send(&wake->handle) == 0);
}

void loop_wake_close(struct loop_wake *wake)
{
    if (wake != NULL) {
        uv_close((uv_handle_t *)&wake->handle, free_data);
    }
}
