// fork.h: a new run folder that begins at another run's checkpoint, with the tasks, rollouts and
// metrics of that time.
#ifndef LEARNER_FORK_H
#define LEARNER_FORK_H

#include "common/base/run_config.h"

// fork_run reads `from` ("RUN@STEP") and its config with `words` [count] over it, among them
// run_dir=FOLDER, and fills that folder. The store comes last, so that a fork that was killed is no
// run and can be made again. The source may be a run in progress.
int fork_run(struct run_config *config, const char *from, char *const *words, int count,
             struct error *err);

#endif
