// job.h: a supervised job in a run folder, as `train` and `pretrain` start it: the learner program,
// actors, verifiers, a progress bar, and the learner's own sentence when it fails.
#ifndef DEPLOY_CLI_JOB_H
#define DEPLOY_CLI_JOB_H

#include "common/base/error.h"

#include <stdint.h>

enum { JOB_WORDS_MAX = 96 };

struct job {
    const char *command; // "train", for messages
    const char *run_dir; // made if it is not there; logs go to its log/
    int64_t steps;       // for the progress bar
    int64_t actors, verifiers;
    const char *learner_word;   // "--pretrain", or NULL
    char *words[JOB_WORDS_MAX]; // what every program is started with: --config FILE key=value ...
    int word_count;
};

// job_run runs the job and returns the exit code for the shell.
int job_run(const struct job *job);

#endif
