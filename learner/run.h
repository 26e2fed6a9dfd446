// run.h: rank 0 of a self-play run. The loop thread owns the sockets, the store and what is asked
// for next; the engine thread trains; a third one writes checkpoints. A step goes
//   dispatch (a step's groups are complete) → batch → engine → report, store, checkpoint → publish
//   → dispatch.
//
// The run folder is locked while a run is open. Loop thread.
#ifndef LEARNER_RUN_H
#define LEARNER_RUN_H

#include "common/base/run_config.h"
#include "common/wire/loop.h"

struct run;

struct run_events {
    void *context;
    // line: a step is done; one JSON object without a newline.
    void (*line)(void *context, const char *line);
    // ended: everything is closed and only run_destroy is left; comes once.
    void (*ended)(void *context, int exit_code);
};

// run_open opens everything, what may refuse before what writes: on failure the folder is as it
// was. With `resume` the folder's newest checkpoint is where it goes on; otherwise the folder must
// hold no run.
int run_open(struct run **out, struct loop *loop, const struct run_config *config, bool resume,
             const struct run_events *events, struct error *err);

void run_start(struct run *run);

// run_stop lets a step that is in training end, saves, and ends with EXIT_REQUEUE.
void run_stop(struct run *run);

// run_destroy ends at once, without a word to the workers or to the disk, if the run has not ended.
// Handles close on later turns of the loop; NULL is allowed.
void run_destroy(struct run *run);

#endif
