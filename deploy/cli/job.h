// job.h: a supervised job in a run folder, as `train` and `pretrain` start it: the learner program,
// actors, verifiers, a progress bar, and the learner's own sentence when it fails.
#ifndef DEPLOY_CLI_JOB_H
#define DEPLOY_CLI_JOB_H

#include "common/base/error.h"
#include "common/base/run_config.h"

#include <stdbool.h>
#include <stdint.h>

enum { JOB_WORDS_MAX = 96, JOB_PATH_MAX = 4096 };

struct job {
    const char *command;            // "train", for messages
    const char *learner_word;       // "--pretrain", or NULL
    struct run_config config;       // as the programs will read it; run_dir is set
    bool resume;                    // the learner goes on with config.run_dir
    char config_path[JOB_PATH_MAX]; // the file that workers read
    char run_dir_word[CONFIG_STRING_MAX + 16];
    char *words[JOB_WORDS_MAX]; // key=value words for every program
    int word_count;
};

// job_read reads `COMMAND --config FILE [key=value ...]` or `COMMAND --resume RUN [key=value ...]`
// into a job whose command and learner_word are set. An empty run_dir becomes runs/DATE-TIME. The
// job borrows `argv`.
int job_read(struct job *job, int argc, char **argv, struct error *err);

// job_run prints the run folder, runs the job and returns the exit code for the shell.
int job_run(const struct job *job);

#endif
