// player.h: plays one group through: asks the actors for its rollouts and the verifiers for their
// verdicts, until the group is finished or dropped.
//
//   proposal:  [rename composites →] prompt → rollout → validate ─ valid ▶ n answers → judge each →
//   a = mean score solve:     prompt → answers → judge each
//
// Every random choice is keyed by (run seed, step, kind, role, slot), so what a group becomes does
// not depend on when its results arrive. Loop thread.
#ifndef LEARNER_PLAYER_H
#define LEARNER_PLAYER_H

#include "common/base/run_config.h"
#include "learner/hub.h"
#include "learner/replay.h"
#include "learner/tasks.h"

struct player {
    struct hub *hub;                 // borrowed
    struct tasks *tasks;             // borrowed
    const struct run_config *config; // borrowed
    char style[CONFIG_STRING_MAX];   // of the config, where a message may point
    int32_t vocab;                   // ids of a sane rollout are below it
    bool scratchpad;                 // solvers are made to begin with the thinking part
    bool strip;                      // proposals are stripped of comments and globals (seeds)
    void *context;
    // validated: a proposal's validity is known (group->valid, group->task). Returns whether to
    // estimate it. Called once per proposal group, before `closed`.
    bool (*validated)(void *context, struct group *group);
    // closed: the group is finished or dropped, nothing of it is under way.
    void (*closed)(void *context, struct group *group);
    // failed: the store or the hub cannot go on; the run must end.
    void (*failed)(void *context, const struct error *err);
};

// player_init fills in all but the callbacks.
void player_init(struct player *player, struct hub *hub, struct tasks *tasks,
                 const struct run_config *config, int32_t vocab);

// player_propose starts a proposal group; player_solve one whose task and answers are set.
void player_propose(struct player *player, struct group *group);
void player_solve(struct player *player, struct group *group);

// player_check validates `task` (borrowed until the group is closed) as if it had been proposed.
void player_check(struct player *player, struct group *group, const Kelvin__Task *task);

#endif
