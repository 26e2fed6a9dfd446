#include "tests/support.h"

#include "common/wire/loop.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

struct seen {
    struct loop *loop;
    struct loop_timer *timer;
    struct loop_wake *wake;
    pthread_t thread;
    int ticks;
    int wakes;
    int stop_signal;
    int warning_signal;
};

static void on_stop(void *context, int number)
{
    struct seen *seen = context;
    seen->stop_signal = number;
    loop_stop(seen->loop);
}

static void on_warning(void *context, int number)
{
    struct seen *seen = context;
    seen->warning_signal = number;
    assert_int_equal(raise(SIGTERM), 0);
}

// SIGUSR1 warns and the loop goes on; SIGTERM asks to stop, and loop_run returns.
static void test_signals(void **state)
{
    (void)state;
    struct seen seen = {0};
    struct loop_events events = {&seen, on_stop, on_warning};
    assert_int_equal(loop_create(&seen.loop, &events, NULL), 0);
    assert_int_equal(raise(SIGUSR1), 0);
    loop_run(seen.loop);
    assert_int_equal(seen.warning_signal, SIGUSR1);
    assert_int_equal(seen.stop_signal, SIGTERM);
    loop_destroy(seen.loop);
}

static void on_stuck(void *context, int number)
{
    (void)context, (void)number;
    (void)raise(SIGINT); // a person presses the keys again, since the first time did not help
}

// A second SIGINT ends a program that does not stop.
static void test_second_signal(void **state)
{
    (void)state;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct loop *loop = NULL;
        struct loop_events events = {NULL, on_stuck, NULL};
        if (loop_create(&loop, &events, NULL) == 0 && raise(SIGINT) == 0) {
            loop_run(loop);
        }
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 128 + SIGINT);
}

static void on_tick(void *context)
{
    struct seen *seen = context;
    if (++seen->ticks == 3) {
        loop_timer_close(seen->timer);
        loop_stop(seen->loop);
    }
}

// A repeating timer calls until it is closed, even from inside its own call.
static void test_timer(void **state)
{
    (void)state;
    struct seen seen = {0};
    struct loop_events events = {&seen, on_stop, NULL};
    assert_int_equal(loop_create(&seen.loop, &events, NULL), 0);
    assert_int_equal(loop_timer_create(&seen.timer, loop_uv(seen.loop), on_tick, &seen, NULL), 0);
    loop_timer_start(seen.timer, 0, 1);
    loop_run(seen.loop);
    assert_int_equal(seen.ticks, 3);
    loop_destroy(seen.loop);
}

static void *send_wakes(void *context)
{
    struct seen *seen = context;
    for (int i = 0; i < 100; i++) {
        loop_wake_send(seen->wake);
    }
    return NULL;
}

static void on_wake(void *context)
{
    struct seen *seen = context;
    if (seen->wakes++ == 0) {
        assert_int_equal(pthread_join(seen->thread, NULL), 0);
        loop_wake_close(seen->wake);
        loop_stop(seen->loop);
    }
}

// Another thread wakes the loop; its sends may merge, but never to none.
static void test_wake(void **state)
{
    (void)state;
    struct seen seen = {0};
    struct loop_events events = {&seen, on_stop, NULL};
    assert_int_equal(loop_create(&seen.loop, &events, NULL), 0);
    assert_int_equal(loop_wake_create(&seen.wake, loop_uv(seen.loop), on_wake, &seen, NULL), 0);
    assert_int_equal(pthread_create(&seen.thread, NULL, send_wakes, &seen), 0);
    loop_run(seen.loop);
    assert_in_range(seen.wakes, 1, 100);
    loop_destroy(seen.loop);
    loop_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_signals),
        cmocka_unit_test(test_second_signal),
        cmocka_unit_test(test_timer),
        cmocka_unit_test(test_wake),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
