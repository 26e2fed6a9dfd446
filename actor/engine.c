// Two rings and a semaphore per shard. A shard's loop: take a new model, take new generations, run
// one step; without work it waits for the semaphore.
#include "actor/engine.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/base/ring.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

enum { BUFFERS = 2, IDLE_WAIT_MS = 1000 };

struct buffer { // room for one version's weights
    struct model *model;
    uint64_t version;
    atomic_int users; // shards that may still compute with it
};

struct shard {
    struct engine *engine;
    struct scheduler *scheduler;
    struct ring *in;  // generations, and &cancel_all
    struct ring *out; // completions
    sem_t work;
    pthread_t thread;
    bool started;
    int32_t outstanding;            // samples given and not polled: the caller's thread
    struct buffer *held[BUFFERS];   // models that it has not let go: the shard's thread
    _Atomic(struct buffer *) adopt; // model to take before the next step
    atomic_uint_fast64_t sampled, prefilled, calls, rows, busy_ns;
    atomic_int running, pages_used;
};

// In a shard's ring: everything that was sent before it is to be cancelled.
static struct generation cancel_all;

// struct part is some samples of a generation, for one shard.
struct part {
    struct generation generation; // a copy; the shards read its prompt where it is
    struct part *next;
};

struct engine {
    struct engine_config config;
    struct buffer buffers[BUFFERS];
    _Atomic(struct buffer *) current;
    struct generation *queue, **queue_end; // waiting for a shard with room
    int32_t queued;                        // samples
    struct part *parts;                    // of generations that several shards work on
    struct generation *cancelled;          // that no shard had; completed by the next poll
    struct shard *shards;
    sem_t ready; // engine_wait
    atomic_bool stopping;
};

static void notify(struct engine *engine)
{
    if (engine->config.notify != NULL) {
        engine->config.notify(engine->config.notify_context);
    } else {
        (void)sem_post(&engine->ready);
    }
}

// sem_wait_ms waits for a post, at most `timeout_ms`.
static void sem_wait_ms(sem_t *semaphore, int32_t timeout_ms)
{
    struct timespec until;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &until) == 0);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    (void)sem_clockwait(semaphore, CLOCK_MONOTONIC, &until); // an early return does no harm
}

static void on_shard_complete(void *context, struct completion *completion)
{
    struct shard *shard = context;
    CHECK(ring_push(shard->out, completion)); // it has room for all that the shard may hold
    notify(shard->engine);
}

// release_models lets go of models that the scheduler does not need any more.
static void release_models(struct shard *shard)
{
    for (int i = 0; i < BUFFERS; i++) {
        struct buffer *held = shard->held[i];
        if (held != NULL && !scheduler_uses(shard->scheduler, held->model)) {
            shard->held[i] = NULL;
            if (atomic_fetch_sub(&held->users, 1) == 1) {
                notify(shard->engine);
            }
        }
    }
}

static void take_model(struct shard *shard)
{
    struct buffer *adopt = atomic_exchange(&shard->adopt, NULL);
    if (adopt == NULL) {
        return;
    }
    scheduler_set_model(shard->scheduler, adopt->model, adopt->version);
    shard->held[adopt - shard->engine->buffers] = adopt;
    release_models(shard);
}

static void publish_stats(struct shard *shard)
{
    struct scheduler_stats stats = scheduler_stats(shard->scheduler);
    atomic_store_explicit(&shard->sampled, stats.sampled, memory_order_relaxed);
    atomic_store_explicit(&shard->prefilled, stats.prefilled, memory_order_relaxed);
    atomic_store_explicit(&shard->calls, stats.calls, memory_order_relaxed);
    atomic_store_explicit(&shard->rows, stats.rows, memory_order_relaxed);
    atomic_store_explicit(&shard->running, stats.running, memory_order_relaxed);
    atomic_store_explicit(&shard->pages_used, stats.pages_used, memory_order_relaxed);
}

// take_work moves what the caller has sent into the scheduler.
static void take_work(struct shard *shard)
{
    take_model(shard);
    struct generation *generation = NULL;
    while ((generation = ring_pop(shard->in)) != NULL) {
        if (generation == &cancel_all) {
            scheduler_cancel(shard->scheduler);
        } else {
            scheduler_submit(shard->scheduler, generation);
        }
    }
}

static void *shard_run(void *argument)
{
    struct shard *shard = argument;
    while (!atomic_load(&shard->engine->stopping)) {
        take_work(shard);
        uint64_t start_ns = clock_ns();
        bool ran = scheduler_step(shard->scheduler);
        release_models(shard);
        publish_stats(shard);
        if (ran) {
            atomic_fetch_add(&shard->busy_ns, clock_ns() - start_ns);
        } else {
            sem_wait_ms(&shard->work, IDLE_WAIT_MS);
        }
    }
    return NULL;
}

static void pin_shard(const struct shard *shard, int32_t index)
{
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) {
        return; // unpinned works too
    }
    int32_t left = index % CPU_COUNT(&allowed);
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &allowed) && left-- == 0) {
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            (void)pthread_setaffinity_np(shard->thread, sizeof(one), &one);
            return;
        }
    }
}

static size_t power_of_two(size_t at_least)
{
    size_t power = 1;
    while (power < at_least) {
        power *= 2;
    }
    return power;
}

static int shard_start(struct shard *shard, int32_t index, struct error *err)
{
    struct engine *engine = shard->engine;
    const struct engine_config *config = &engine->config;
    struct buffer *first = &engine->buffers[0];
    // A shard is given work up to half a batch beyond its slots; one generation may exceed it.
    size_t room = power_of_two(2 * (size_t)config->slots + SAMPLES_MAX);
    struct scheduler_config scheduler = {.slots = config->slots,
                                         .call_rows = config->call_rows,
                                         .page_count =
                                             (int32_t)(config->kv_tokens / KV_PAGE_TOKENS),
                                         .swap = config->swap,
                                         .vocabulary = config->vocabulary,
                                         .on_complete = on_shard_complete,
                                         .context = shard};
    int code = ring_create(&shard->in, room, err);
    code = code < 0 ? code : ring_create(&shard->out, room, err);
    code = code < 0
               ? code
               : scheduler_create(&shard->scheduler, &scheduler, first->model, first->version, err);
    if (code < 0) {
        return code;
    }
    CHECK(sem_init(&shard->work, 0, 0) == 0);
    shard->held[0] = first;
    code = -pthread_create(&shard->thread, NULL, shard_run, shard);
    if (code < 0) {
        (void)sem_destroy(&shard->work);
        return error_set(err, code, "engine: cannot start thread %d; lower actor.threads", index);
    }
    shard->started = true;
    if (config->pin) {
        pin_shard(shard, index);
    }
    return 0;
}

int engine_create(struct engine **out, const struct engine_config *config, struct model *model,
                  uint64_t version, struct error *err)
{
    CHECK(config->threads > 0 && config->kv_tokens >= KV_PAGE_TOKENS);
    CLEANUP(engine_destroyp) struct engine *engine = calloc(1, sizeof(*engine));
    if (engine == NULL) {
        return error_set(err, -ENOMEM, "engine: out of memory");
    }
    CHECK(sem_init(&engine->ready, 0, 0) == 0);
    engine->config = *config;
    engine->queue_end = &engine->queue;
    engine->shards = calloc((size_t)config->threads, sizeof(*engine->shards));
    if (engine->shards == NULL) {
        return error_set(err, -ENOMEM, "engine: out of memory");
    }
    engine->buffers[0].model = model;
    engine->buffers[0].version = version;
    atomic_store(&engine->buffers[0].users, config->threads);
    atomic_store(&engine->current, &engine->buffers[0]);
    int code = 0;
    for (int32_t i = 0; i < config->threads && code == 0; i++) {
        engine->shards[i].engine = engine;
        code = shard_start(&engine->shards[i], i, err);
    }
    if (code < 0) {
        engine->buffers[0].model = NULL; // it stays the caller's; threads are joined before that
        return code;
    }
    *out = TAKE(engine);
    return 0;
}

static void shard_finish(struct shard *shard)
{
    if (shard->started) {
        (void)sem_post(&shard->work);
        CHECK(pthread_join(shard->thread, NULL) == 0);
        (void)sem_destroy(&shard->work);
    }
    struct completion *completion = NULL;
    while (shard->out != NULL && (completion = ring_pop(shard->out)) != NULL) {
        free(completion);
    }
    scheduler_destroy(shard->scheduler);
    ring_destroy(shard->in);
    ring_destroy(shard->out);
}

void engine_destroy(struct engine *engine)
{
    if (engine == NULL) {
        return;
    }
    atomic_store(&engine->stopping, true);
    for (int32_t i = 0; engine->shards != NULL && i < engine->config.threads; i++) {
        shard_finish(&engine->shards[i]);
    }
    free(engine->shards);
    for (struct part *part = engine->parts, *next = NULL; part != NULL; part = next) {
        next = part->next;
        free(part);
    }
    model_destroy(engine->buffers[0].model);
    model_destroy(engine->buffers[1].model);
    (void)sem_destroy(&engine->ready);
    free(engine);
}

// least_loaded is the shard that holds the fewest samples.
static struct shard *least_loaded(const struct engine *engine)
{
    struct shard *best = &engine->shards[0];
    for (int32_t i = 1; i < engine->config.threads; i++) {
        struct shard *shard = &engine->shards[i];
        best = shard->outstanding < best->outstanding ? shard : best;
    }
    return best;
}

static int32_t idle_shards(const struct engine *engine)
{
    int32_t idle = 0;
    for (int32_t i = 0; i < engine->config.threads; i++) {
        idle += engine->shards[i].outstanding == 0;
    }
    return idle;
}

static void give(struct shard *shard, struct generation *generation)
{
    shard->outstanding += generation->samples;
    CHECK(ring_push(shard->in, generation));
    (void)sem_post(&shard->work);
}

// give_parts spreads a generation over `parts` shards, which would be idle otherwise: each computes
// the prompt, all at the same time.
static void give_parts(struct engine *engine, struct generation *generation, int32_t parts)
{
    for (int32_t p = 0; p < parts; p++) {
        const int32_t from = generation->samples * p / parts;
        struct part *part = malloc(sizeof(*part));
        CHECK(part != NULL);
        *part = (struct part){.generation = *generation, .next = engine->parts};
        part->generation.first = from;
        part->generation.samples = generation->samples * (p + 1) / parts - from;
        part->generation.missing = part->generation.samples;
        part->generation.whole = generation;
        engine->parts = part;
        give(least_loaded(engine), &part->generation);
    }
}

// part_end frees a part whose last completion has come.
static void part_end(struct engine *engine, struct generation *generation)
{
    struct part **at = &engine->parts;
    while (&(*at)->generation != generation) {
        at = &(*at)->next;
    }
    struct part *ended = *at;
    *at = ended->next;
    free(ended);
}

// dispatch gives queued generations to shards that have room. A shard gets half a batch more than
// it can run, so that it never waits for the caller; more would only make the end uneven. The last
// one in the queue is spread over the shards that have nothing.
static void dispatch(struct engine *engine)
{
    const int32_t room = engine->config.slots + engine->config.slots / 2;
    while (engine->queue != NULL) {
        struct generation *generation = engine->queue;
        struct shard *shard = least_loaded(engine);
        if (shard->outstanding > 0 && shard->outstanding + generation->samples > room) {
            return;
        }
        engine->queue = generation->next;
        if (engine->queue == NULL) {
            engine->queue_end = &engine->queue;
        }
        engine->queued -= generation->samples;
        const int32_t idle = engine->queue == NULL ? idle_shards(engine) : 1;
        const int32_t parts = idle < generation->samples ? idle : generation->samples;
        if (parts > 1) {
            give_parts(engine, generation, parts);
        } else {
            give(shard, generation);
        }
    }
}

void engine_submit(struct engine *engine, struct generation *generation)
{
    CHECK(generation->samples > 0 && generation->samples <= SAMPLES_MAX);
    generation->missing = generation->samples;
    generation->first = 0;
    generation->whole = NULL;
    generation->next = NULL;
    *engine->queue_end = generation;
    engine->queue_end = &generation->next;
    engine->queued += generation->samples;
    if (idle_shards(engine) == engine->config.threads) {
        notify(engine); // the next poll knows what else there is
    } else {
        dispatch(engine);
    }
}

static int32_t poll_cancelled(struct engine *engine, complete_fn *on_complete, void *context)
{
    int32_t count = 0;
    struct generation *next = NULL;
    for (struct generation *g = engine->cancelled; g != NULL; g = next) {
        next = g->next;
        const int32_t samples = g->samples;
        engine->queued -= samples;
        for (int32_t i = 0; i < samples; i++) {
            g->missing--;
            on_complete(context, completion_create(g, i, FINISH_CANCELLED, "cancelled"));
        }
        count += samples;
    }
    engine->cancelled = NULL;
    return count;
}

// take_part makes the completion of a part one of the whole generation.
static void take_part(struct engine *engine, struct completion *completion)
{
    struct generation *part = completion->generation;
    if (part->whole != NULL) {
        completion->generation = part->whole;
        if (--part->missing == 0) {
            part_end(engine, part);
        }
    }
}

int32_t engine_poll(struct engine *engine, complete_fn *on_complete, void *context)
{
    int32_t count = poll_cancelled(engine, on_complete, context);
    for (int32_t i = 0; i < engine->config.threads; i++) {
        struct shard *shard = &engine->shards[i];
        struct completion *completion = NULL;
        while ((completion = ring_pop(shard->out)) != NULL) {
            shard->outstanding--;
            take_part(engine, completion);
            completion->generation->missing--;
            count++;
            on_complete(context, completion);
        }
    }
    dispatch(engine);
    return count;
}

void engine_wait(struct engine *engine, int32_t timeout_ms)
{
    CHECK(engine->config.notify == NULL);
    sem_wait_ms(&engine->ready, timeout_ms);
    while (sem_trywait(&engine->ready) == 0) { // one poll answers them all
    }
}

int engine_load(struct engine *engine, const float *weights, enum dtype type, uint64_t version,
                struct error *err)
{
    struct buffer *current = atomic_load(&engine->current);
    struct buffer *next =
        current == &engine->buffers[0] ? &engine->buffers[1] : &engine->buffers[0];
    if (atomic_load(&next->users) > 0) {
        return error_set(err, -EAGAIN, "engine: samples still run on version %llu",
                         (unsigned long long)next->version);
    }
    if (next->model == NULL) {
        int code = model_create(&next->model, &current->model->shape, current->model->compute, err);
        if (code < 0) {
            return code;
        }
    }
    model_set(next->model, weights, type);
    next->version = version;
    atomic_store(&next->users, engine->config.threads);
    atomic_store(&engine->current, next);
    for (int32_t i = 0; i < engine->config.threads; i++) {
        atomic_store(&engine->shards[i].adopt, next);
        (void)sem_post(&engine->shards[i].work);
    }
    return 0;
}

void engine_cancel(struct engine *engine)
{
    *engine->queue_end = engine->cancelled; // both lists end in NULL
    engine->cancelled = engine->queue;
    engine->queue = NULL;
    engine->queue_end = &engine->queue;
    for (int32_t i = 0; i < engine->config.threads; i++) {
        CHECK(ring_push(engine->shards[i].in, &cancel_all));
        (void)sem_post(&engine->shards[i].work);
    }
    notify(engine);
}

struct engine_stats engine_stats(const struct engine *engine)
{
    struct engine_stats stats = {.outstanding = engine->queued};
    stats.version = atomic_load(&engine->current)->version;
    for (int32_t i = 0; i < engine->config.threads; i++) {
        const struct shard *shard = &engine->shards[i];
        stats.outstanding += shard->outstanding;
        stats.running += atomic_load(&shard->running);
        stats.sampled += atomic_load(&shard->sampled);
        stats.prefilled += atomic_load(&shard->prefilled);
        stats.calls += atomic_load(&shard->calls);
        stats.rows += atomic_load(&shard->rows);
        stats.busy_ns += atomic_load(&shard->busy_ns);
        stats.kv_tokens_used += (int64_t)atomic_load(&shard->pages_used) * KV_PAGE_TOKENS;
    }
    return stats;
}

const struct model *engine_model(const struct engine *engine)
{
    return atomic_load(&engine->current)->model;
}

int32_t engine_threads(const struct engine *engine)
{
    return engine->config.threads;
}
