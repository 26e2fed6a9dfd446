// run_check.h: whether the values of a run's configuration can hold together. The option table
// bounds each value; this looks at what they say against each other, before anything is started.
#ifndef COMMON_BASE_RUN_CHECK_H
#define COMMON_BASE_RUN_CHECK_H

#include "common/base/run_config.h"

// run_config_check is -EINVAL with the two keys and a remedy in one sentence for the first
// contradiction.
int run_config_check(const struct run_config *config, struct error *err);

#endif
