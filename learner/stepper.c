#include "learner/stepper.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

struct stepper {
    struct trainer *trainer; // borrowed
    struct objective objective;
    struct optimizer optimizer; // lr comes with each job
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct step_job *todo; // handed over, not yet taken
    struct step_job *done; // finished, not yet given back
    bool stop;
    bool busy; // loop's thread: a job is out
    uv_async_t wake;
    stepper_done_fn *on_done;
    void *context;
};

static struct step_job *next_job(struct stepper *stepper)
{
    (void)pthread_mutex_lock(&stepper->lock);
    while (stepper->todo == NULL && !stepper->stop) {
        // The loop's thread always ends this wait: it owns the stepper and closes it.
        (void)pthread_cond_wait(&stepper->changed, &stepper->lock);
    }
    struct step_job *job = stepper->stop ? NULL : TAKE(stepper->todo);
    (void)pthread_mutex_unlock(&stepper->lock);
    return job;
}

static void train(struct stepper *stepper, struct step_job *job)
{
    uint64_t start = clock_ns();
    struct optimizer optimizer = stepper->optimizer;
    optimizer.lr = (float)job->lr;
    if (job->count > 0) {
        job->code = trainer_step(stepper->trainer, job->sequences, job->count, &stepper->objective,
                                 &optimizer, NULL, &job->report, &job->err);
    } else { // every response had advantage 0
        job->report.updates = *trainer_state(stepper->trainer).updates;
    }
    job->seconds = (double)(clock_ns() - start) / 1e9;
}

static void *run_thread(void *context)
{
    struct stepper *stepper = context;
    struct step_job *job = NULL;
    while ((job = next_job(stepper)) != NULL) {
        train(stepper, job);
        (void)pthread_mutex_lock(&stepper->lock);
        stepper->done = job;
        (void)pthread_mutex_unlock(&stepper->lock);
        (void)uv_async_send(&stepper->wake);
    }
    return NULL;
}

static void on_wake(uv_async_t *wake)
{
    struct stepper *stepper = wake->data;
    (void)pthread_mutex_lock(&stepper->lock);
    struct step_job *job = TAKE(stepper->done);
    (void)pthread_mutex_unlock(&stepper->lock);
    if (job != NULL) {
        stepper->busy = false;
        stepper->on_done(stepper->context, job);
    }
}

static void on_closed(uv_handle_t *handle)
{
    struct stepper *stepper = handle->data;
    (void)pthread_cond_destroy(&stepper->changed);
    (void)pthread_mutex_destroy(&stepper->lock);
    free(stepper);
}

int stepper_create(struct stepper **out, uv_loop_t *loop, struct trainer *trainer,
                   const struct run_config *config, stepper_done_fn *on_done, void *context,
                   struct error *err)
{
    CLEANUP(freep) struct stepper *stepper = calloc(1, sizeof(*stepper));
    if (stepper == NULL) {
        return error_set(err, -ENOMEM, "stepper: out of memory");
    }
    stepper->trainer = trainer;
    stepper->objective = (struct objective){.clip_low = (float)config->loss.clip_low,
                                            .clip_high = (float)config->loss.clip_high,
                                            .dual_clip = (float)config->loss.dual_clip,
                                            .is_cap = (float)config->loss.is_cap,
                                            .entropy_coef = (float)config->loss.entropy_coef,
                                            .kl_coef = (float)config->loss.kl_coef};
    stepper->optimizer =
        (struct optimizer){.beta1 = (float)config->optimizer.beta1,
                           .beta2 = (float)config->optimizer.beta2,
                           .epsilon = (float)config->optimizer.epsilon,
                           .weight_decay = (float)config->optimizer.weight_decay,
                           .grad_norm_max = (float)config->optimizer.grad_norm_max};
    stepper->on_done = on_done;
    stepper->context = context;
    CHECK(pthread_mutex_init(&stepper->lock, NULL) == 0);
    CHECK(pthread_cond_init(&stepper->changed, NULL) == 0);
    int code = pthread_create(&stepper->thread, NULL, run_thread, stepper);
    if (code != 0) {
        return error_set(err, -code, "cannot start the engine thread: %s", strerrordesc_np(code));
    }
    CHECK(uv_async_init(loop, &stepper->wake, on_wake) == 0);
    stepper->wake.data = stepper;
    *out = TAKE(stepper);
    return 0;
}

void stepper_run(struct stepper *stepper, struct step_job *job)
{
    CHECK(!stepper->busy);
    stepper->busy = true;
    (void)pthread_mutex_lock(&stepper->lock);
    stepper->todo = job;
    (void)pthread_cond_signal(&stepper->changed);
    (void)pthread_mutex_unlock(&stepper->lock);
}

bool stepper_busy(const struct stepper *stepper)
{
    return stepper->busy;
}

void stepper_close(struct stepper *stepper)
{
    if (stepper == NULL) {
        return;
    }
    (void)pthread_mutex_lock(&stepper->lock);
    stepper->stop = true;
    (void)pthread_cond_signal(&stepper->changed);
    (void)pthread_mutex_unlock(&stepper->lock);
    (void)pthread_join(stepper->thread, NULL);
    uv_close((uv_handle_t *)&stepper->wake, on_closed);
}
