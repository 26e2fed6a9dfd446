#include "learner/drain.h"

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/wire/loop.h"

#include <errno.h>
#include <stdlib.h>

struct drain {
    struct hub *hub;
    struct loop_timer *timer;
    uint64_t since_ms;
    bool begun;
    int exit_code;
    void (*on_drained)(void *context, int exit_code);
    void *context;
};

static void on_turn(void *context)
{
    struct drain *drain = context;
    int32_t workers = hub_stats(drain->hub, KELVIN__WORKER_KIND__ACTOR).workers +
                      hub_stats(drain->hub, KELVIN__WORKER_KIND__VERIFIER).workers;
    if (workers == 0 || clock_ms() - drain->since_ms > DRAIN_MS) {
        loop_timer_stop(drain->timer);
        drain->on_drained(drain->context, drain->exit_code);
    }
}

int drain_create(struct drain **out, uv_loop_t *loop, struct hub *hub,
                 void (*on_drained)(void *context, int exit_code), void *context, struct error *err)
{
    CLEANUP(freep) struct drain *drain = calloc(1, sizeof(*drain));
    if (drain == NULL) {
        return error_set(err, -ENOMEM, "drain: out of memory");
    }
    *drain = (struct drain){.hub = hub, .on_drained = on_drained, .context = context};
    int code = loop_timer_create(&drain->timer, loop, on_turn, drain, err);
    if (code == 0) {
        *out = TAKE(drain);
    }
    return code;
}

void drain_begin(struct drain *drain, int exit_code, const char *reason)
{
    if (!drain->begun) {
        drain->begun = true;
        drain->exit_code = exit_code;
        drain->since_ms = clock_ms();
        hub_drain(drain->hub, reason);
        loop_timer_start(drain->timer, 0, DRAIN_TURN_MS);
    }
}

bool drain_begun(const struct drain *drain)
{
    return drain == NULL || drain->begun;
}

void drain_close(struct drain *drain)
{
    if (drain != NULL) {
        loop_timer_close(drain->timer);
        free(drain);
    }
}
