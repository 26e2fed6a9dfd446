// parallel.h: a loop whose turns run on several threads.
#ifndef COMMON_BASE_PARALLEL_H
#define COMMON_BASE_PARALLEL_H

enum { PARALLEL_THREADS_MAX = 256 };

// parallel_fn does turn `index` on worker `worker` (0 .. threads-1); one worker does its turns one
// after another.
typedef void parallel_fn(void *context, int index, int worker);

// parallel_run does turns 0 .. count-1 and returns when all are done. Which worker does which turn
// is not defined. The caller is worker 0; where a thread cannot be started, the others do its part.
void parallel_run(int threads, int count, parallel_fn *fn, void *context);

// parallel_cores is how many processors this process may use, at least 1.
int parallel_cores(void);

#endif
