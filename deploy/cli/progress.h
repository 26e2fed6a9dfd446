// progress.h: a learner's event lines as a progress bar.
//
// On a terminal one line is drawn over again; elsewhere each step is a line, so that a job's log
// can be read. Times come from the events themselves.
#ifndef DEPLOY_CLI_PROGRESS_H
#define DEPLOY_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct progress {
    FILE *file;
    bool terminal;
    int64_t steps;      // of the whole run
    int64_t step_first; // step of the first event seen
    uint64_t start_ms;  // when this job started
    int64_t step;       // last seen
    int width_drawn;    // columns that the last drawing used
};

void progress_init(struct progress *progress, FILE *file, int64_t steps);

// progress_event shows one event line: a JSON object with "step", "steps" where the learner knows
// better how many there are, and the keys of metrics.jsonl. A line that is not one is shown as it
// is. Its type suits supervisor_run.
void progress_event(void *context, const char *line);

// progress_finish ends the drawn line.
void progress_finish(struct progress *progress);

#endif
