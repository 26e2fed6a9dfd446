#include "common/base/parallel.h"

#include "common/base/check.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

struct parallel {
    atomic_int next;
    int count;
    parallel_fn *fn;
    void *context;
};

struct worker {
    struct parallel *parallel;
    int index;
};

static void *work(void *data)
{
    const struct worker *worker = data;
    struct parallel *parallel = worker->parallel;
    int turn = 0;
    while ((turn = atomic_fetch_add(&parallel->next, 1)) < parallel->count) {
        parallel->fn(parallel->context, turn, worker->index);
    }
    return NULL;
}

void parallel_run(int threads, int count, parallel_fn *fn, void *context)
{
    CHECK(threads >= 1 && threads <= PARALLEL_THREADS_MAX);
    struct parallel parallel = {.count = count, .fn = fn, .context = context};
    struct worker workers[PARALLEL_THREADS_MAX];
    pthread_t handles[PARALLEL_THREADS_MAX];
    int started = 1;
    for (int i = 0; i < threads; i++) {
        workers[i] = (struct worker){.parallel = &parallel, .index = i};
    }
    while (started < threads && started < count &&
           pthread_create(&handles[started], NULL, work, &workers[started]) == 0) {
        started++;
    }
    (void)work(&workers[0]);
    for (int i = 1; i < started; i++) {
        CHECK(pthread_join(handles[i], NULL) == 0);
    }
}

int parallel_cores(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    int cores = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
    return cores < 1 ? 1 : cores > PARALLEL_THREADS_MAX ? PARALLEL_THREADS_MAX : cores;
}
