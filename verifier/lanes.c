#include "verifier/lanes.h"

#include "common/base/check.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>

struct lane {
    bool taken;
    int processor; // -1: any
};

struct lanes {
    int count;
    int taken;
    bool pinned;
    struct lane lane[];
};

// The processors that this thread may use, one after another, from the one that it is on.
static void spread(struct lanes *lanes)
{
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) < 0) {
        return; // more processors than fit: the kernel chooses
    }
    int here = sched_getcpu();
    int at = here < 0 ? 0 : here;
    for (int i = 0; i < lanes->count; i++) {
        while (!CPU_ISSET((size_t)at, &allowed)) {
            at = (at + 1) % CPU_SETSIZE;
        }
        lanes->lane[i].processor = at;
        at = (at + 1) % CPU_SETSIZE;
    }
}

int lanes_create(struct lanes **out, int count, bool pinned, struct error *err)
{
    struct lanes *lanes = calloc(1, sizeof(*lanes) + (size_t)count * sizeof(lanes->lane[0]));
    if (lanes == NULL) {
        return error_set(err, -ENOMEM, "lanes: out of memory");
    }
    lanes->count = count;
    lanes->pinned = pinned;
    for (int i = 0; i < count; i++) {
        lanes->lane[i].processor = -1;
    }
    if (pinned && count > 1) {
        spread(lanes);
    }
    *out = lanes;
    return 0;
}

void lanes_destroy(struct lanes *lanes)
{
    free(lanes);
}

void lanes_settle(struct lanes *lanes)
{
    if (!lanes->pinned || lanes->count > 1) {
        return;
    }
    spread(lanes);
    int processor = lanes->lane[0].processor;
    cpu_set_t one;
    CPU_ZERO(&one);
    if (processor >= 0) {
        CPU_SET((size_t)processor, &one);
        (void)sched_setaffinity(0, sizeof(one), &one); // refused: it is only slower
    }
}

bool lanes_is_free(const struct lanes *lanes, int lane)
{
    return lane >= 0 && !lanes->lane[lane].taken;
}

int lanes_free(const struct lanes *lanes)
{
    return lanes->count - lanes->taken;
}

int lanes_take(struct lanes *lanes, int wish)
{
    CHECK(lanes_free(lanes) > 0);
    int lane = lanes_is_free(lanes, wish) ? wish : 0;
    while (lanes->lane[lane].taken) {
        lane++;
    }
    lanes->lane[lane].taken = true;
    lanes->taken++;
    return lane;
}

void lanes_leave(struct lanes *lanes, int lane)
{
    CHECK(lanes->lane[lane].taken);
    lanes->lane[lane].taken = false;
    lanes->taken--;
}

int lanes_processor(const struct lanes *lanes, int lane)
{
    return lanes->lane[lane].processor;
}
