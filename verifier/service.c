#include "verifier/service.h"

#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/base/metrics.h"
#include "verifier/rewind.h"
#include "verifier/spawn.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

enum { RETIRE_RUNS = 50000 }; // an image is replaced after so many

METRIC(rewind_chosen, METRIC_GAUGE, "kelvin_verifier_backend{name=\"rewind\"}",
       "1 for the back-end in use");
METRIC(zygote_chosen, METRIC_GAUGE, "kelvin_verifier_backend{name=\"zygote\"}",
       "1 for the back-end in use");

static int choose_isolation(enum isolation *out, enum isolation least, struct error *err)
{
    struct error why = {0};
    *out = spawn_probe(&why);
    if (*out > least) {
        return error_set(err, -EPERM,
                         "verifier.isolation: %s is wanted and this host offers %s: %s; allow it "
                         "there, or accept verifier.isolation=%s",
                         isolation_name(least), isolation_name(*out),
                         why.text[0] != '\0' ? why.text : "an image has no cgroup of its own",
                         isolation_name(*out));
    }
    if (why.text[0] != '\0') {
        log_warn("verifier", "isolation is %s: %s", isolation_name(*out), why.text);
    }
    return 0;
}

static int choose_backend(enum backend_choice *out, enum backend_choice choice, struct error *err)
{
    struct error why = {0};
    *out = choice == BACKEND_AUTO ? BACKEND_REWIND : choice;
    if (*out == BACKEND_ZYGOTE || rewind_probe(&why) == 0) {
        return 0;
    }
    if (choice == BACKEND_REWIND) {
        return error_set(err, -ENOTSUP,
                         "verifier.backend: this host does not offer rewind: %s; allow it there, "
                         "or use verifier.backend=zygote",
                         why.text);
    }
    log_warn("verifier", "back-end is zygote, not rewind: %s", why.text);
    *out = BACKEND_ZYGOTE;
    return 0;
}

int service_open(struct service *out, uv_loop_t *loop, const struct run_config *config,
                 bool use_cache, pool_ready_fn *on_ready, void *context, struct error *err)
{
    *out = (struct service){0};
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    out->workers =
        config->verifier.workers > 0 ? (int)config->verifier.workers : (int)(cores > 0 ? cores : 1);
    int code = choose_isolation(&out->isolation, (enum isolation)config->verifier.isolation, err);
    code = code < 0
               ? code
               : choose_backend(&out->backend, (enum backend_choice)config->verifier.backend, err);
    if (code < 0) {
        return code;
    }
    struct pool_config pool = {
        .workers = out->workers,
        .pinned = config->verifier.pin,
        .backend = out->backend,
        .isolation = out->isolation,
        .memory_mb = (uint32_t)config->verifier.memory_mb,
        .retire_runs = RETIRE_RUNS,
        .audit_every = (uint32_t)config->verifier.audit_every,
        .forbidden = config->verifier.forbid,
    };
    metric_set(&rewind_chosen, out->backend == BACKEND_REWIND);
    metric_set(&zygote_chosen, out->backend == BACKEND_ZYGOTE);
    int images = (int)config->verifier.images;
    int risky = (int)config->verifier.images_risky;
    struct judge_config judge = {
        .images = images,
        .images_risky = images > risky ? images : risky,
        .timeout_ms = (uint32_t)config->verifier.timeout_ms,
        .allow_none = config->verifier.allow_none,
        .multiple_functions = config->verifier.multiple_functions,
        .cache_bytes = use_cache ? VERIFY_CACHE_BYTES_MAX : 0,
    };
    code = pool_create(&out->pool, loop, &pool, on_ready, context, err);
    code = code < 0 ? code : judge_create(&out->judge, out->pool, &judge, err);
    if (code < 0) {
        service_close(out);
        return code;
    }
    (void)snprintf(out->description, sizeof(out->description), "%s, %s, %d worker%s",
                   backend_name(out->backend), isolation_name(out->isolation), out->workers,
                   out->workers == 1 ? "" : "s");
    return 0;
}

void service_close(struct service *service)
{
    pool_close(service->pool);
    judge_destroy(service->judge);
    service->pool = NULL;
    service->judge = NULL;
}
