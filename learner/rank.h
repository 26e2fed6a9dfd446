// rank.h: a learner of several ranks: the processes beside rank 0, and each rank's trainer as the
// configuration says. Rank 0 owns the control plane; the others only train, and end with it.
#ifndef LEARNER_RANK_H
#define LEARNER_RANK_H

#include "common/base/run_config.h"
#include "learner/collective.h"
#include "learner/step.h"

#include <sys/types.h>

// struct rank_group is what rank 0 knows of the others; zeroed: there are none.
struct rank_group {
    struct collective *collective; // NULL with one rank
    pid_t pids[RANKS_MAX];         // started here; 0: none
};

// rank_group_check says whether this host can run the ranks (learner.collective).
int rank_group_check(const struct run_config *config, struct error *err);

// rank_group_start makes rank 0's end, findable by the file `ranks` in the run folder, and starts
// the others as processes of this program (learner.start_ranks), which read the model in
// `model_dir`.
int rank_group_start(struct rank_group *group, const struct run_config *config,
                     const char *model_dir, struct error *err);

// rank_group_stop ends the others, after rank 0's trainer is destroyed, and forgets them.
// `failed`: why rank 0 cannot go on, or NULL. A zeroed group is allowed.
void rank_group_stop(struct rank_group *group, const char *failed);

// rank_trainer makes the trainer of one rank. `weights` are the starting model's, and the reference
// of loss.kl_coef where loss.reference names no other. `collective` may be NULL.
int rank_trainer(struct trainer **out, const struct run_config *config, const struct shape *shape,
                 const float *weights, struct collective *collective, struct error *err);

// rank_run is the life of rank `rank` > 0; it returns the process's exit code.
int rank_run(const struct run_config *config, int32_t rank);

#endif
