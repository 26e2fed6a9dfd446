// saver.h: checkpoints that are written while training goes on: a copy is taken between two steps,
// and a thread of its own writes it (checkpoint.h). One save at a time.
//
// Loop thread.
#ifndef LEARNER_SAVER_H
#define LEARNER_SAVER_H

#include "learner/checkpoint.h"

#include <stdbool.h>
#include <uv.h>

struct saver;

struct saver_report {
    int64_t step;
    double copy_seconds;  // that the caller was held up
    double write_seconds; // on the thread
    int code;             // of checkpoint_save
    struct error err;
};
typedef void saver_done_fn(void *context, const struct saver_report *report);

// saver_create makes room for a copy; what `target` points to is borrowed for life.
int saver_create(struct saver **out, uv_loop_t *loop, const struct checkpoint_target *target,
                 saver_done_fn *on_done, void *context, struct error *err);

// saver_start copies the checkpoint and begins to write it; none may be under way. `on_done` comes
// on a later turn of the loop.
void saver_start(struct saver *saver, const struct checkpoint *checkpoint);

bool saver_busy(const struct saver *saver);

// saver_close waits for a save that is under way and frees the saver on a later turn; `on_done`
// comes no more. NULL is allowed.
void saver_close(struct saver *saver);

#endif
