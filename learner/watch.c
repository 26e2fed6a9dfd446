#include "learner/watch.h"

#include "common/base/log.h"
#include "common/wire/loop.h"

#include <errno.h>
#include <stdlib.h>

struct watch {
    const struct hub *hub; // borrowed
    struct loop_timer *timer;
    uint64_t results;  // at the last look
    uint64_t quiet_ms; // without a new one
};

const char *watch_sentence(const struct hub_stats *actors, const struct hub_stats *verifiers)
{
    if (verifiers->leased + verifiers->waiting > 0) {
        return verifiers->workers == 0 ? "no verifier is there" : "verifiers owe verdicts";
    }
    if (actors->leased + actors->waiting > 0) {
        return actors->workers == 0 ? "no actor is there" : "actors owe rollouts";
    }
    return NULL;
}

static void on_look(void *context)
{
    struct watch *watch = context;
    struct hub_stats actors = hub_stats(watch->hub, KELVIN__WORKER_KIND__ACTOR);
    struct hub_stats verifiers = hub_stats(watch->hub, KELVIN__WORKER_KIND__VERIFIER);
    uint64_t results = actors.results + verifiers.results;
    const char *sentence = watch_sentence(&actors, &verifiers);
    bool quiet = results == watch->results && sentence != NULL;
    watch->results = results;
    watch->quiet_ms = quiet ? watch->quiet_ms + WATCH_MS : 0;
    if (quiet) {
        log_warn("watch",
                 "nothing came for %llu s: %s actors=%d samples_leased=%d samples_waiting=%d "
                 "verifiers=%d checks_leased=%d checks_waiting=%d",
                 (unsigned long long)watch->quiet_ms / 1000, sentence, actors.workers,
                 actors.leased, actors.waiting, verifiers.workers, verifiers.leased,
                 verifiers.waiting);
    }
}

int watch_open(struct watch **out, uv_loop_t *loop, const struct hub *hub, struct error *err)
{
    struct watch *watch = calloc(1, sizeof(*watch));
    if (watch == NULL) {
        return error_set(err, -ENOMEM, "watch: out of memory");
    }
    watch->hub = hub;
    int code = loop_timer_create(&watch->timer, loop, on_look, watch, err);
    if (code < 0) {
        free(watch);
        return code;
    }
    loop_timer_start(watch->timer, WATCH_MS, WATCH_MS);
    *out = watch;
    return 0;
}

void watch_close(struct watch *watch)
{
    if (watch != NULL) {
        loop_timer_close(watch->timer);
        free(watch);
    }
}
