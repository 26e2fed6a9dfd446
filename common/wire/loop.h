// loop.h: the process's libuv loop and its 0MQ context: signals, timers, wake-ups from other
// threads, orderly stop.
//
// A program makes one loop, opens its parts on it and calls loop_run. The first SIGINT or SIGTERM
// calls on_stop, which lets the parts finish and then loop_stop; a second one exits at once with
// 128 + its number. SIGUSR1 (Slurm's warning) calls on_warning. When every part has closed its
// handles loop_run returns.
//
// All calls are made on the loop's thread, but loop_wake_send.
#ifndef COMMON_WIRE_LOOP_H
#define COMMON_WIRE_LOOP_H

#include "common/base/error.h"

#include <stdint.h>
#include <uv.h>

struct loop;

struct loop_events {
    void *context;
    void (*on_stop)(void *context, int signal);    // NULL: loop_stop at once
    void (*on_warning)(void *context, int signal); // NULL: as on_stop
};

int loop_create(struct loop **out, const struct loop_events *events, struct error *err);

// loop_destroy closes the loop; every handle on it was closed and loop_run has returned. It waits
// for 0MQ to send what is queued, ZSOCK_LINGER_MS at most. NULL is allowed.
void loop_destroy(struct loop *loop);

uv_loop_t *loop_uv(struct loop *loop);
void *loop_zmq(struct loop *loop);

// loop_run turns the loop until loop_stop was called and every other handle is closed.
void loop_run(struct loop *loop);

// loop_stop lets go of the signals, so that loop_run returns when the last part has closed. It may
// be called more than once.
void loop_stop(struct loop *loop);

// A timer calls back after `after_ms`, and then every `repeat_ms` (0: once).
struct loop_timer;
typedef void loop_fn(void *context);

int loop_timer_create(struct loop_timer **out, uv_loop_t *loop, loop_fn *fn, void *context,
                      struct error *err);
void loop_timer_start(struct loop_timer *timer, uint64_t after_ms, uint64_t repeat_ms);
void loop_timer_stop(struct loop_timer *timer);
void loop_timer_close(struct loop_timer *timer); // frees it on a later turn; NULL is allowed

// A wake-up calls back on the loop's thread after loop_wake_send of any thread. Several sends may
// make one call: the receiver drains its ring. No send may come after loop_wake_close.
struct loop_wake;

int loop_wake_create(struct loop_wake **out, uv_loop_t *loop, loop_fn *fn, void *context,
                     struct error *err);
void loop_wake_send(struct loop_wake *wake);
void loop_wake_close(struct loop_wake *wake); // frees it on a later turn; NULL is allowed

#endif
