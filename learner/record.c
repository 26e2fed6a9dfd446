#include "learner/record.h"

#include <math.h>

// struct cursor walks the batch's rows beside the groups: both are in the same order, but some
// plays have no row.
struct cursor {
    struct rollouts *rollouts;
    const struct batch *batch;
    int64_t step; // that trains them
    int32_t row;
};

static int record_play(struct cursor *cursor, const struct group *group, const struct play *play,
                       enum role role, uint64_t seed, struct error *err)
{
    if (play->rollout == NULL) {
        return 0;
    }
    const struct batch_row *row = NULL;
    if (cursor->row < cursor->batch->row_count && cursor->batch->rows[cursor->row].play == play) {
        row = &cursor->batch->rows[cursor->row++];
    }
    const struct rollout_record record = {.step = cursor->step,
                                          .kind = group->kind,
                                          .role = role,
                                          .slot = group->slot,
                                          .task = group->task != NULL ? group->task->id : 0,
                                          .seed = seed,
                                          .trained = row != NULL,
                                          .reward = row != NULL ? row->reward : NAN,
                                          .advantage = row != NULL ? (double)row->advantage : NAN,
                                          .rollout = play->rollout,
                                          .verdict = play->verdict};
    return rollouts_add(cursor->rollouts, &record, err);
}

int record_step(struct rollouts *rollouts, int64_t step, struct group *const *groups, int32_t count,
                const struct batch *batch, struct error *err)
{
    struct cursor cursor = {.rollouts = rollouts, .batch = batch, .step = step};
    int code = 0;
    for (int32_t i = 0; code == 0 && i < count; i++) {
        const struct group *group = groups[i];
        if (group->role == ROLE_PROPOSE) {
            code = record_play(&cursor, group, &group->proposal, ROLE_PROPOSE, group->proposal_seed,
                               err);
        }
        for (int32_t k = 0; code == 0 && k < group->answer_count; k++) {
            code = record_play(&cursor, group, &group->answers[k], ROLE_SOLVE, group->answer_seed,
                               err);
        }
    }
    return code;
}
