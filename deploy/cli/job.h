// job.h: a supervised job in a run folder, as `train` and `pretrain` start it: the learner program,
// actors, verifiers, a progress bar, and the learner's own sentence when it fails.
#ifndef DEPLOY_CLI_JOB_H
#define DEPLOY_CLI_JOB_H

#include "common/base/error.h"
#include "common/base/run_config.h"

#include <stdbool.h>
#include <stdint.h>

enum { JOB_WORDS_MAX = 96, JOB_PATH_MAX = 4096 };

// How a job begins.
enum job_start {
    JOB_FRESH,  // --config FILE
    JOB_RESUME, // --resume RUN
    JOB_FORK,   // --fork RUN@STEP, where the command takes it
};

struct job {
    const char *command;      // "train", for messages
    const char *learner_word; // "--pretrain", or NULL
    struct run_config config; // as the programs will read it; run_dir is set
    bool forks;               // the command takes --fork
    enum job_start start;
    char *from;                     // the word behind --config, --resume or --fork
    char config_path[JOB_PATH_MAX]; // the file that workers read
    char run_dir_word[CONFIG_STRING_MAX + 16];
    char *words[JOB_WORDS_MAX]; // key=value words for every program
    int word_count;
};

// job_read reads `COMMAND --config FILE [key=value ...]`, `COMMAND --resume RUN [key=value ...]` or
// `COMMAND --fork RUN@STEP [key=value ...]` into a job whose command, learner_word and forks are
// set. An empty run_dir becomes runs/DATE-TIME. The job borrows `argv`.
int job_read(struct job *job, int argc, char **argv, struct error *err);

// job_run prints the run folder, runs the job and returns the exit code for the shell. A learner
// that is killed is started again and goes on at its newest checkpoint.
int job_run(const struct job *job);

#endif
