// service.h: a pool and a judge, made from a run's configuration and from what the host offers. The
// fronts (lines.h, server.h) and the benchmark (bench.h) put requests into it.
#ifndef VERIFIER_SERVICE_H
#define VERIFIER_SERVICE_H

#include "common/base/run_config.h"
#include "verifier/judge.h"
#include "verifier/pool.h"

struct service {
    struct pool *pool;
    struct judge *judge;
    int workers;
    enum backend_choice backend;
    enum isolation isolation;
    char description[96]; // "zygote, namespaces, 2 workers"
};

// service_open chooses back-end and isolation, refuses to go below what `config` accepts, and
// starts the first images; `on_ready` is called as pool.h says. `config` outlives the service.
int service_open(struct service *out, uv_loop_t *loop, const struct run_config *config,
                 bool use_cache, pool_ready_fn *on_ready, void *context, struct error *err);

// service_close ends all images and forgets all checks.
void service_close(struct service *service);

#endif
