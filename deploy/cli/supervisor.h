// supervisor.h: one job on this machine: a learner and its workers as child processes.
//
// The learner's standard output is a line of JSON per event, handed to the caller; every child's
// log goes to a file of its own. A worker that dies is started again, and so is a learner that a
// signal killed; when the learner exits, all end. Children are told by the kernel when this process
// dies, however it dies, so none is left behind. SIGINT, SIGTERM and SIGUSR1 stop the learner first
// (it saves), then the workers; a second SIGINT or SIGTERM stops at once.
#ifndef DEPLOY_CLI_SUPERVISOR_H
#define DEPLOY_CLI_SUPERVISOR_H

#include "common/base/error.h"

#include <stddef.h>

enum {
    SUPERVISOR_WORDS_MAX = 128,    // words of one command line
    SUPERVISOR_WORKERS_MAX = 256,  // worker processes of one job
    SUPERVISOR_LINE_MAX = 1 << 16, // bytes of one event line
    SUPERVISOR_RESTARTS_MAX =
        20, // of one worker within SUPERVISOR_RESTART_WINDOW_MS; then the job fails
    SUPERVISOR_RESTART_WINDOW_MS = 60000,
    SUPERVISOR_RESTART_DELAY_MS = 500,
    SUPERVISOR_LEARNER_RESTARTS_MAX = 3, // without a line of output between them
    SUPERVISOR_SAVE_MS = 600000,         // a learner that is asked to stop may take so long to save
    SUPERVISOR_STOP_MS = 5000,           // a worker likewise; then it is killed
};

// struct child_spec is a program to run: words[0] its path, NULL-terminated, and its log file.
// Borrowed.
struct child_spec {
    const char *name; // "actor-0"
    char *const *words;
    char *const *words_again; // to start it again after it was killed; NULL: as `words` (workers),
                              // or not at all (the learner)
    const char *log_path;
};

// supervisor_line_fn receives one line of the learner's standard output, NUL-terminated without the
// newline.
typedef void supervisor_line_fn(void *context, const char *line);

// supervisor_run runs the job to its end and returns the learner's exit code, 128 + N when signal N
// killed the learner for good, 130 after SIGINT, 128 + N also after a stop by signal N that the
// learner did not answer with an exit code of its own, or a negative errno with a sentence when
// something could not be started.
int supervisor_run(const struct child_spec *learner, const struct child_spec *workers,
                   int worker_count, supervisor_line_fn *on_line, void *context, struct error *err);

#endif
