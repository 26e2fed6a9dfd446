// The image is linked with --wrap for the functions below, so CPython sees this clock. Before
// runtime_clock_start they pass through. Afterwards time moves by one tick at each look and by the
// length of each sleep, differs between images, and costs no system call (the vDSO would read real
// time behind the back of any filter). A sleep returns at once; a program that asks to sleep past
// its limit blocks until the daemon's deadline ends it.
#include "verifier/protocol.h"
#include "verifier/runtime.h"

#include <errno.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming): the linker's names
int __real_clock_gettime(clockid_t clock, struct timespec *out);
int __wrap_clock_gettime(clockid_t clock, struct timespec *out);
time_t __wrap_time(time_t *out);
int __wrap_gettimeofday(struct timeval *out, void *zone);
int __wrap_clock_nanosleep(clockid_t clock, int flags, const struct timespec *want,
                           struct timespec *left);
int __real_clock_nanosleep(clockid_t clock, int flags, const struct timespec *want,
                           struct timespec *left);
// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)

static struct {
    bool on;
    int64_t base_ns;
    int64_t now_ns; // since the base
    int64_t tick_ns;
    int64_t slept_ns;
    int64_t limit_ns;
} state;

void runtime_clock_start(int64_t base_s, uint32_t tick_ns)
{
    state.on = true;
    state.base_ns = base_s * 1000000000;
    state.tick_ns = tick_ns;
}

void runtime_clock_limit(uint32_t sleep_ms)
{
    state.limit_ns = (int64_t)sleep_ms * 1000000;
    state.slept_ns = 0;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *out)
{
    if (!state.on) {
        return __real_clock_gettime(clock, out);
    }
    state.now_ns += state.tick_ns;
    int64_t now = state.base_ns + state.now_ns;
    out->tv_sec = now / 1000000000;
    out->tv_nsec = now % 1000000000;
    return 0;
}

time_t __wrap_time(time_t *out)
{
    struct timespec now;
    (void)__wrap_clock_gettime(CLOCK_REALTIME, &now);
    if (out != NULL) {
        *out = now.tv_sec;
    }
    return now.tv_sec;
}

int __wrap_gettimeofday(struct timeval *out, void *zone)
{
    (void)zone;
    struct timespec now;
    (void)__wrap_clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}

static void never_wake(void)
{
    char byte = 0;
    while (read(IMAGE_FD_REQUEST, &byte, 1) >= 0 || errno == EINTR) {
    }
    for (;;) {
    }
}

int __wrap_clock_nanosleep(clockid_t clock, int flags, const struct timespec *want,
                           struct timespec *left)
{
    if (!state.on) {
        return __real_clock_nanosleep(clock, flags, want, left);
    }
    int64_t span = (int64_t)want->tv_nsec;
    bool endless = want->tv_sec > 8000000000; // nanoseconds would overflow
    span += endless ? INT64_MAX / 4 : want->tv_sec * 1000000000;
    if ((flags & TIMER_ABSTIME) != 0 && !endless) {
        span -= state.base_ns + state.now_ns;
    }
    span = span < 0 ? 0 : span;
    if (endless || span > state.limit_ns - state.slept_ns) {
        never_wake();
    }
    state.slept_ns += span;
    state.now_ns += span;
    return 0;
}
