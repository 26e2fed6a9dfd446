// stepper.h: the learner's engine thread: one training step at a time, away from the loop.
//
// The loop hands over a job and gets it back in `on_done`, on the loop's thread, with the report
// filled in. While no job is out, the trainer rests and may be read from the loop's thread.
#ifndef LEARNER_STEPPER_H
#define LEARNER_STEPPER_H

#include "common/base/error.h"
#include "common/base/run_config.h"
#include "learner/batch.h"
#include "learner/step.h"

#include <uv.h>

struct stepper;

struct step_job {
    int64_t step;
    const struct sequence *sequences; // [count] borrowed; none: there is nothing to train on
    int32_t count;
    double lr;
    struct batch *batch;   // self-play: where the sequences come from; owned by the job's maker
    struct group **groups; // likewise
    int32_t group_count;
    struct step_report report; // written
    double seconds;            // written: wall time of the step
    int code;                  // written: of trainer_step
    struct error err;          // written
};

typedef void stepper_done_fn(void *context, struct step_job *job);

// stepper_create starts the thread around `trainer` (borrowed). stepper_close waits for a running
// job, stops the thread and frees the stepper on a later turn of the loop; a job that was out comes
// back no more. NULL is allowed.
int stepper_create(struct stepper **out, uv_loop_t *loop, struct trainer *trainer,
                   const struct run_config *config, stepper_done_fn *on_done, void *context,
                   struct error *err);
void stepper_close(struct stepper *stepper);

// stepper_run hands a job over; none may be out. It is borrowed until on_done.
void stepper_run(struct stepper *stepper, struct step_job *job);

bool stepper_busy(const struct stepper *stepper);

#endif
