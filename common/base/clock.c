#include "common/base/clock.h"

#include <stdatomic.h>
#include <time.h>

static atomic_uint_fast64_t fake_ns; // 0: the real clock

void clock_fake(uint64_t now_ns)
{
    atomic_store(&fake_ns, now_ns);
}

uint64_t clock_ns(void)
{
    uint64_t fake = atomic_load_explicit(&fake_ns, memory_order_relaxed);
    if (fake != 0) {
        return fake;
    }
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
