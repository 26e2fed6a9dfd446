// report.h: what a step says about itself: a line of metrics.jsonl, and the same line for the
// front.
#ifndef LEARNER_REPORT_H
#define LEARNER_REPORT_H

#include "common/base/run_config.h"
#include "learner/dispatch.h"
#include "learner/hub.h"
#include "learner/stepper.h"
#include "learner/tasks.h"

struct report_input {
    const struct run_config *config;
    const struct step_job *job;
    const struct tasks *tasks;
    struct hub_stats actors, verifiers;
    struct dispatch_stats dispatch;
    double seconds; // wall time since the step before
};

// report_line is one JSON object without a newline; the caller frees it. README.md explains the
// keys. A number that is not finite is null. The metrics of the process take the same numbers.
char *report_line(const struct report_input *input);

// report_truncate drops the lines of `path` whose step is after `step`; a missing file is fine.
// report_copy writes the lines that stay to another file.
int report_truncate(const char *path, int64_t step, struct error *err);
int report_copy(const char *to, const char *from, int64_t step, struct error *err);

#endif
