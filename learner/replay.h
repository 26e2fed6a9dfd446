// replay.h: groups on their way from a prompt to a batch.
//
// A group is one slot of a step's work: a proposal with the answers that estimate it, or a task
// with its fresh answer. Groups are opened by step, kind, role and slot, filled as results come in
// any order, and finished or dropped. A batch for step t takes, lane by lane (a lane is a kind and
// a role), as many closed groups as step t opened there, oldest first; it is ready when those are
// there and nothing opened for step t - staleness or before is still running. With staleness 0 that
// is exactly the work of step t, in slot order, whatever the order of arrival.
//
// Loop thread.
#ifndef LEARNER_REPLAY_H
#define LEARNER_REPLAY_H

#include "common/base/error.h"
#include "common/base/limits.h"
#include "common/base/task.h"
#include "learner/intrinsic.h"

#include "proto/rollout.pb-c.h"
#include "proto/task.pb-c.h"
#include "proto/verdict.pb-c.h"

#include <stdbool.h>
#include <stdint.h>

// struct play is one response and what the verifier said of it; both owned, NULL until they come.
struct play {
    Kelvin__Rollout *rollout;
    Kelvin__Verdict *verdict;
};

enum group_state {
    GROUP_RUNNING,
    GROUP_FINISHED,
    GROUP_DROPPED, // could not be completed; counts for its lane, trains nothing
};

struct group {
    int64_t step; // whose work it is
    enum task_kind kind;
    enum role role;
    int32_t slot;
    enum group_state state;

    struct play proposal; // ROLE_PROPOSE
    uint64_t proposal_seed;
    Kelvin__Task *task;   // valid proposal, or the task that is solved; owned
    struct play *answers; // [answer_count]
    int32_t answer_count;
    uint64_t answer_seed;
    bool valid;     // the proposal passed its validation
    bool duplicate; // the store held it
    bool withheld;  // its program is kept for tests (generator_held_out): it was dropped
    double accuracy;
    struct intrinsic intrinsic; // of a valid proposal

    // For the part that runs the group (player.h).
    void *owner;
    Kelvin__Task *shown; // induction proposals: the task whose program was shown; a generated task;
                         // owned
    const Kelvin__Task *given; // proposals that no model made, read from a file or generated
    uint64_t parents[TASK_REFERENCES_MAX]; // the references of the proposal
    int32_t parent_count;
    char *helpers[COMPOSITES_MAX]; // functions g_0, g_1, ... that the proposal must call; owned
    int32_t helper_count;
    int32_t open;  // requests under way
    int32_t tries; // prompts tried: a reference set that does not fit is drawn again
    bool too_long; // the task does not fit a solver's prompt

    struct group *next; // in the replay
};

enum { LANES = KINDS * ROLES, QUOTAS = STALENESS_MAX + 2 };

// struct quota is what one step opened: the size of its batch, lane by lane.
struct quota {
    int64_t step; // 0: free
    int32_t lanes[LANES];
    bool sealed;
};

struct replay;

int replay_create(struct replay **out, int32_t staleness, struct error *err);
void replay_destroy(struct replay *replay); // with the groups that are in it; NULL is allowed

// replay_open makes a group with room for `answers` answers. The replay owns it until
// replay_take.
struct group *replay_open(struct replay *replay, int64_t step, enum task_kind kind, enum role role,
                          int32_t slot);
void group_expect(struct group *group, int32_t answers);

// group_drop_helpers forgets the functions that the proposal must call.
void group_drop_helpers(struct group *group);

// replay_seal says that step `step` opens no more groups. Steps are sealed in order, from the first
// one that opens any.
void replay_seal(struct replay *replay, int64_t step);

// replay_ready says whether the batch of `step` (sealed) can be taken.
bool replay_ready(const struct replay *replay, int64_t step);

// replay_take moves the groups of the batch of `step` out, sorted by kind, role, step and slot, and
// returns how many; the caller frees *out and each group (group_destroy).
int32_t replay_take(struct replay *replay, int64_t step, struct group ***out);
void group_destroy(struct group *group);

// replay_running is how many groups are not closed yet, of all steps.
int32_t replay_running(const struct replay *replay);

// What the replay holds, for the queue of a checkpoint (queue.h): its groups from the first on, and
// quota `index` of QUOTAS. adopt puts them back as they were; a quota has no room (false) when all
// are taken or its step is there.
struct group *replay_first(const struct replay *replay);
const struct quota *replay_quota(const struct replay *replay, int index);
void replay_adopt(struct replay *replay, struct group *group);
bool replay_adopt_quota(struct replay *replay, const struct quota *quota);

#endif
