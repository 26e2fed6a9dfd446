// pool.h: images in use. Runs wait here, the one with the oldest deadline first, until an image
// that may take them is free; at most `workers` run at once. Images are started when they are
// needed, up to `workers` of each variant, and retired after enough runs or on any surprise.
//
// An audit of an image keeps no run waiting that another image can take: it goes on in steps, one
// after each run and all of them while nothing runs. Where runs wait nevertheless, the audit is
// brought to its end first.
//
// A run that loses its image (the host killed it, say) is tried once more elsewhere.
#ifndef VERIFIER_POOL_H
#define VERIFIER_POOL_H

#include "common/base/error.h"
#include "common/base/limits.h"
#include "verifier/image.h"

#include <stdint.h>
#include <uv.h>

struct pool;

struct pool_config {
    int workers;
    bool pinned; // each to a processor (lanes.h)
    enum backend_choice backend;
    enum isolation isolation;
    uint32_t memory_mb;
    uint64_t retire_runs;  // an image is replaced after so many
    uint32_t audit_every;  // image.h
    const char *forbidden; // borrowed as long as the pool lives
};

enum { POOL_ANY_VARIANT = -1 };

// One run. The caller owns it and what its job points to, from pool_submit until `done`.
struct pool_run {
    struct image_job job;
    int variant;          // the image's variant, or POOL_ANY_VARIANT
    uint64_t deadline_ns; // order in the queue only
    void (*done)(struct pool_run *run, int variant, const struct image_result *result);
    void *context;
    // The pool's own.
    struct pool_run *left;
    struct pool_run *right;
    int rank;
    int losses;
};

// pool_create starts the first images. `on_ready` is called once, when one image of the first two
// variants can run, or with a sentence in `failure` when none can be started.
typedef void pool_ready_fn(void *context, const struct error *failure);
int pool_create(struct pool **out, uv_loop_t *loop, const struct pool_config *config,
                pool_ready_fn *on_ready, void *context, struct error *err);

// pool_close ends all images; runs that wait or go on are forgotten without a call. The pool is
// freed on a later turn of the loop. NULL is allowed.
void pool_close(struct pool *pool);

// pool_submit queues the run; `done` comes on a later turn of the loop, or from pool_submit's own
// image. It may submit more.
void pool_submit(struct pool *pool, struct pool_run *run);

struct pool_stats {
    int running;
    int waiting;
    int images;
    uint64_t runs;
    uint64_t timeouts;
    uint64_t crashes;
    uint64_t lost;    // images
    uint64_t retired; // images, after their runs
};
struct pool_stats pool_stats(const struct pool *pool);

// pool_memory_kb is what its images hold; it reads /proc once for each.
uint64_t pool_memory_kb(const struct pool *pool);

#endif
