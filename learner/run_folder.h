// run_folder.h: the folder of a run: whether it holds one already, where that goes on, and the lock
// that keeps a second learner out.
#ifndef LEARNER_RUN_FOLDER_H
#define LEARNER_RUN_FOLDER_H

#include "common/base/error.h"
#include "common/base/run_config.h"

#include <stdbool.h>
#include <stdint.h>

enum { RUN_PATH_MAX = 4096 };

struct run_folder {
    char model_dir[RUN_PATH_MAX]; // of the starting model
    int64_t from;                 // step of the checkpoint to go on from, -1: from the beginning
    int lock;                     // -1: not taken
    bool made;                    // the folder was not there
};

// run_folder_last is the step of the last checkpoint in config->run_dir, -1 where there is none,
// and writes nothing. A folder with a run, which has `file` then, is -EEXIST without `resume`, one
// without is -ENOENT with it, and one that has done more than config->steps is -EINVAL.
int run_folder_last(int64_t *step, const struct run_config *config, const char *file, bool resume,
                    struct error *err);

// run_folder_find says where a run of self-play begins, with the errors of run_folder_last.
int run_folder_find(struct run_folder *folder, const struct run_config *config, bool resume,
                    struct error *err);

// run_folder_open makes the folder and takes its lock, which the kernel lets go of however the
// process ends; -EBUSY when another learner has it. run_folder_close gives it back.
int run_folder_open(struct run_folder *folder, const char *run_dir, struct error *err);
void run_folder_close(struct run_folder *folder);

#endif
