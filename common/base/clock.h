// clock.h: monotonic time, replaceable in tests.
#ifndef COMMON_BASE_CLOCK_H
#define COMMON_BASE_CLOCK_H

#include <stdint.h>

// clock_ns is the time since an arbitrary start, in nanoseconds; it never goes back. Any thread.
uint64_t clock_ns(void);

static inline uint64_t clock_ms(void)
{
    return clock_ns() / 1000000;
}

// clock_fake makes clock_ns return `now_ns` until the next call; 0 brings the real clock back.
// Tests only.
void clock_fake(uint64_t now_ns);

#endif
