#include "learner/engine.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

struct engine {
    struct trainer *trainer; // borrowed
    struct objective objective;
    struct optimizer optimizer; // lr comes with each job
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct engine_job *todo; // handed over, not yet taken
    struct engine_job *done; // finished, not yet given back
    bool stop;
    bool busy; // loop's thread: a job is out
    uv_async_t wake;
    engine_done_fn *on_done;
    void *context;
};

static struct engine_job *next_job(struct engine *engine)
{
    (void)pthread_mutex_lock(&engine->lock);
    while (engine->todo == NULL && !engine->stop) {
        // The loop's thread always ends this wait: it owns the engine and closes it.
        (void)pthread_cond_wait(&engine->changed, &engine->lock);
    }
    struct engine_job *job = engine->stop ? NULL : TAKE(engine->todo);
    (void)pthread_mutex_unlock(&engine->lock);
    return job;
}

static void train(struct engine *engine, struct engine_job *job)
{
    uint64_t start = clock_ns();
    struct optimizer optimizer = engine->optimizer;
    optimizer.lr = (float)job->lr;
    if (job->count > 0) {
        job->code = trainer_step(engine->trainer, job->sequences, job->count, &engine->objective,
                                 &optimizer, NULL, &job->report, &job->err);
    }
    job->seconds = (double)(clock_ns() - start) / 1e9;
}

static void *run_thread(void *context)
{
    struct engine *engine = context;
    struct engine_job *job = NULL;
    while ((job = next_job(engine)) != NULL) {
        train(engine, job);
        (void)pthread_mutex_lock(&engine->lock);
        engine->done = job;
        (void)pthread_mutex_unlock(&engine->lock);
        (void)uv_async_send(&engine->wake);
    }
    return NULL;
}

static void on_wake(uv_async_t *wake)
{
    struct engine *engine = wake->data;
    (void)pthread_mutex_lock(&engine->lock);
    struct engine_job *job = TAKE(engine->done);
    (void)pthread_mutex_unlock(&engine->lock);
    if (job != NULL) {
        engine->busy = false;
        engine->on_done(engine->context, job);
    }
}

static void on_closed(uv_handle_t *handle)
{
    struct engine *engine = handle->data;
    (void)pthread_cond_destroy(&engine->changed);
    (void)pthread_mutex_destroy(&engine->lock);
    free(engine);
}

int engine_create(struct engine **out, uv_loop_t *loop, struct trainer *trainer,
                  const struct run_config *config, engine_done_fn *on_done, void *context,
                  struct error *err)
{
    CLEANUP(freep) struct engine *engine = calloc(1, sizeof(*engine));
    if (engine == NULL) {
        return error_set(err, -ENOMEM, "engine: out of memory");
    }
    engine->trainer = trainer;
    engine->objective = (struct objective){.clip_low = (float)config->loss.clip_low,
                                           .clip_high = (float)config->loss.clip_high,
                                           .dual_clip = (float)config->loss.dual_clip,
                                           .is_cap = (float)config->loss.is_cap,
                                           .entropy_coef = (float)config->loss.entropy_coef,
                                           .kl_coef = (float)config->loss.kl_coef};
    engine->optimizer = (struct optimizer){.beta1 = (float)config->optimizer.beta1,
                                           .beta2 = (float)config->optimizer.beta2,
                                           .epsilon = (float)config->optimizer.epsilon,
                                           .weight_decay = (float)config->optimizer.weight_decay,
                                           .grad_norm_max = (float)config->optimizer.grad_norm_max};
    engine->on_done = on_done;
    engine->context = context;
    CHECK(pthread_mutex_init(&engine->lock, NULL) == 0);
    CHECK(pthread_cond_init(&engine->changed, NULL) == 0);
    int code = pthread_create(&engine->thread, NULL, run_thread, engine);
    if (code != 0) {
        return error_set(err, -code, "cannot start the engine thread: %s", strerrordesc_np(code));
    }
    CHECK(uv_async_init(loop, &engine->wake, on_wake) == 0);
    engine->wake.data = engine;
    *out = TAKE(engine);
    return 0;
}

void engine_run(struct engine *engine, struct engine_job *job)
{
    CHECK(!engine->busy);
    engine->busy = true;
    (void)pthread_mutex_lock(&engine->lock);
    engine->todo = job;
    (void)pthread_cond_signal(&engine->changed);
    (void)pthread_mutex_unlock(&engine->lock);
}

bool engine_busy(const struct engine *engine)
{
    return engine->busy;
}

void engine_close(struct engine *engine)
{
    if (engine == NULL) {
        return;
    }
    (void)pthread_mutex_lock(&engine->lock);
    engine->stop = true;
    (void)pthread_cond_signal(&engine->changed);
    (void)pthread_mutex_unlock(&engine->lock);
    (void)pthread_join(engine->thread, NULL);
    uv_close((uv_handle_t *)&engine->wake, on_closed);
}
