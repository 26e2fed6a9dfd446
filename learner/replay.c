#include "learner/replay.h"

#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/wire/message.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct replay {
    struct group *first;
    int32_t staleness;
    struct quota quotas[QUOTAS];
};

static int lane_of(const struct group *group)
{
    return (int)group->kind * ROLES + (int)group->role;
}

static void play_clear(struct play *play)
{
    message_free(play->rollout);
    message_free(play->verdict);
    *play = (struct play){0};
}

void group_drop_helpers(struct group *group)
{
    for (int i = 0; i < COMPOSITES_MAX; i++) {
        free(group->helpers[i]);
        group->helpers[i] = NULL;
    }
    group->helper_count = 0;
}

void group_destroy(struct group *group)
{
    if (group == NULL) {
        return;
    }
    group_drop_helpers(group);
    play_clear(&group->proposal);
    for (int32_t i = 0; i < group->answer_count; i++) {
        play_clear(&group->answers[i]);
    }
    free(group->answers);
    message_free(group->shown);
    message_free(group->task);
    free(group);
}

int replay_create(struct replay **out, int32_t staleness, struct error *err)
{
    CHECK(staleness >= 0 && staleness <= STALENESS_MAX);
    struct replay *replay = calloc(1, sizeof(*replay));
    if (replay == NULL) {
        return error_set(err, -ENOMEM, "replay: out of memory");
    }
    replay->staleness = staleness;
    *out = replay;
    return 0;
}

void replay_destroy(struct replay *replay)
{
    if (replay == NULL) {
        return;
    }
    while (replay->first != NULL) {
        struct group *group = replay->first;
        replay->first = group->next;
        group_destroy(group);
    }
    free(replay);
}

static struct quota *find_quota(struct replay *replay, int64_t step)
{
    for (int i = 0; i < QUOTAS; i++) {
        if (replay->quotas[i].step == step) {
            return &replay->quotas[i];
        }
    }
    return NULL;
}

static struct quota *open_quota(struct replay *replay, int64_t step)
{
    struct quota *quota = find_quota(replay, step);
    if (quota == NULL) {
        quota = find_quota(replay, 0);
        CHECK(quota != NULL); // admission opens at most staleness + 1 steps at once
        *quota = (struct quota){.step = step};
    }
    return quota;
}

struct group *replay_open(struct replay *replay, int64_t step, enum task_kind kind, enum role role,
                          int32_t slot)
{
    CHECK(step > 0);
    struct quota *quota = open_quota(replay, step);
    CHECK(!quota->sealed);
    struct group *group = calloc(1, sizeof(*group));
    CHECK(group != NULL);
    group->step = step;
    group->kind = kind;
    group->role = role;
    group->slot = slot;
    group->next = replay->first;
    replay->first = group;
    quota->lanes[lane_of(group)]++;
    return group;
}

void group_expect(struct group *group, int32_t answers)
{
    CHECK(group->answers == NULL && answers > 0);
    group->answers = calloc((size_t)answers, sizeof(*group->answers));
    CHECK(group->answers != NULL);
    group->answer_count = answers;
}

void replay_seal(struct replay *replay, int64_t step)
{
    open_quota(replay, step)->sealed = true;
}

bool replay_ready(const struct replay *replay, int64_t step)
{
    const struct quota *quota = NULL;
    for (int i = 0; i < QUOTAS; i++) {
        if (replay->quotas[i].step == step) {
            quota = &replay->quotas[i];
        }
    }
    if (quota == NULL || !quota->sealed) {
        return false;
    }
    int32_t closed[LANES] = {0};
    for (const struct group *group = replay->first; group != NULL; group = group->next) {
        if (group->state != GROUP_RUNNING) {
            closed[lane_of(group)]++;
        } else if (group->step <= step - replay->staleness) {
            return false;
        }
    }
    for (int lane = 0; lane < LANES; lane++) {
        if (closed[lane] < quota->lanes[lane]) {
            return false;
        }
    }
    return true;
}

static int by_lane_and_age(const void *left, const void *right)
{
    const struct group *a = *(struct group *const *)left;
    const struct group *b = *(struct group *const *)right;
    if (lane_of(a) != lane_of(b)) {
        return lane_of(a) - lane_of(b);
    }
    if (a->step != b->step) {
        return a->step < b->step ? -1 : 1;
    }
    return a->slot - b->slot;
}

static void unlink_group(struct replay *replay, struct group *group)
{
    struct group **link = &replay->first;
    while (*link != group) {
        link = &(*link)->next;
    }
    *link = group->next;
    group->next = NULL;
}

int32_t replay_take(struct replay *replay, int64_t step, struct group ***out)
{
    CHECK(replay_ready(replay, step));
    struct quota *quota = find_quota(replay, step);
    int32_t closed = 0;
    for (const struct group *group = replay->first; group != NULL; group = group->next) {
        closed += group->state != GROUP_RUNNING;
    }
    struct group **groups = calloc((size_t)closed + 1, sizeof(void *));
    CHECK(groups != NULL);
    closed = 0;
    for (struct group *group = replay->first; group != NULL; group = group->next) {
        if (group->state != GROUP_RUNNING) {
            groups[closed++] = group;
        }
    }
    qsort(groups, (size_t)closed, sizeof(void *), by_lane_and_age);
    int32_t taken = 0;
    for (int32_t i = 0; i < closed; i++) { // the oldest of each lane stand first
        int32_t *left = &quota->lanes[lane_of(groups[i])];
        if (*left > 0) {
            (*left)--;
            unlink_group(replay, groups[i]);
            groups[taken++] = groups[i];
        }
    }
    *quota = (struct quota){0};
    *out = groups;
    return taken;
}

int32_t replay_running(const struct replay *replay)
{
    int32_t running = 0;
    for (const struct group *group = replay->first; group != NULL; group = group->next) {
        running += group->state == GROUP_RUNNING;
    }
    return running;
}

struct group *replay_first(const struct replay *replay)
{
    return replay->first;
}

const struct quota *replay_quota(const struct replay *replay, int index)
{
    return &replay->quotas[index];
}

void replay_adopt(struct replay *replay, struct group *group)
{
    group->next = replay->first;
    replay->first = group;
}

bool replay_adopt_quota(struct replay *replay, const struct quota *quota)
{
    struct quota *free_one = find_quota(replay, 0);
    if (free_one == NULL || find_quota(replay, quota->step) != NULL) {
        return false;
    }
    *free_one = *quota;
    return true;
}
