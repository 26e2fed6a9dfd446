#include "learner/saver.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { WRITER_NICE = 10 }; // training goes first

struct saver {
    struct checkpoint_target target;
    struct checkpoint copy; // its arrays are one block
    pthread_t thread;
    bool busy;                  // loop's thread: the writer runs, or its end has not been seen
    struct saver_report report; // the writer's until it has sent `wake`
    uv_async_t wake;
    saver_done_fn *on_done;
    void *context;
};

static void *run_thread(void *argument)
{
    struct saver *saver = argument;
    (void)setpriority(PRIO_PROCESS, 0, WRITER_NICE); // of this thread only
    uint64_t start = clock_ns();
    saver->report.code = checkpoint_save(&saver->target, &saver->copy, &saver->report.err);
    saver->report.write_seconds = (double)(clock_ns() - start) / 1e9;
    (void)uv_async_send(&saver->wake);
    return NULL;
}

static void on_wake(uv_async_t *wake)
{
    struct saver *saver = wake->data;
    if (saver->busy && !uv_is_closing((uv_handle_t *)wake)) {
        CHECK(pthread_join(saver->thread, NULL) == 0);
        saver->busy = false;
        saver->on_done(saver->context, &saver->report);
    }
}

int saver_create(struct saver **out, uv_loop_t *loop, const struct checkpoint_target *target,
                 saver_done_fn *on_done, void *context, struct error *err)
{
    size_t elements = target->params->elements;
    CLEANUP(freep) struct saver *saver = calloc(1, sizeof(*saver));
    float *block = saver == NULL ? NULL : malloc(3 * elements * sizeof(float));
    if (block == NULL) {
        return error_set(err, -ENOMEM, "no memory for the copy of a checkpoint (%zu MB)",
                         (3 * elements * sizeof(float)) >> 20);
    }
    saver->target = *target;
    saver->copy.arrays =
        (struct trainer_arrays){.weights = block, .m = block + elements, .v = block + 2 * elements};
    saver->on_done = on_done;
    saver->context = context;
    CHECK(uv_async_init(loop, &saver->wake, on_wake) == 0);
    saver->wake.data = saver;
    *out = TAKE(saver);
    return 0;
}

void saver_start(struct saver *saver, const struct checkpoint *checkpoint)
{
    CHECK(!saver->busy);
    uint64_t start = clock_ns();
    size_t size = saver->target.params->elements * sizeof(float);
    struct trainer_arrays arrays = saver->copy.arrays;
    memcpy(arrays.weights, checkpoint->arrays.weights, size);
    memcpy(arrays.m, checkpoint->arrays.m, size);
    memcpy(arrays.v, checkpoint->arrays.v, size);
    arrays.updates = checkpoint->arrays.updates;
    free(saver->copy.queue);
    saver->copy = *checkpoint;
    saver->copy.arrays = arrays;
    if (checkpoint->queue_size > 0) {
        saver->copy.queue = malloc(checkpoint->queue_size);
        CHECK(saver->copy.queue != NULL);
        memcpy(saver->copy.queue, checkpoint->queue, checkpoint->queue_size);
    }
    saver->report = (struct saver_report){.step = checkpoint->step,
                                          .copy_seconds = (double)(clock_ns() - start) / 1e9};
    saver->busy = true;
    CHECK(pthread_create(&saver->thread, NULL, run_thread, saver) == 0);
}

bool saver_busy(const struct saver *saver)
{
    return saver->busy;
}

static void on_closed(uv_handle_t *handle)
{
    struct saver *saver = handle->data;
    free(saver->copy.arrays.weights);
    free(saver->copy.queue);
    free(saver);
}

void saver_close(struct saver *saver)
{
    if (saver == NULL) {
        return;
    }
    if (saver->busy) {
        CHECK(pthread_join(saver->thread, NULL) == 0);
    }
    uv_close((uv_handle_t *)&saver->wake, on_closed);
}
