#include "learner/queue.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/wire/message.h"

#include "proto/queue.pb-c.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void *zeros(size_t count, size_t size)
{
    void *memory = calloc(count > 0 ? count : 1, size);
    CHECK(memory != NULL);
    return memory;
}

// --- packing: messages whose own memory is freed, and which borrow the replay's ---

static Kelvin__Play *pack_play(const struct play *play)
{
    Kelvin__Play *out = zeros(1, sizeof(*out));
    kelvin__play__init(out);
    out->rollout = play->rollout;
    out->verdict = play->verdict;
    return out;
}

// A proposal that is not validated yet is drawn anew.
static bool is_begun(const struct group *group)
{
    return group->state != GROUP_RUNNING || group->role == ROLE_SOLVE ||
           group->proposal.verdict != NULL;
}

static Kelvin__QueuedGroup *pack_group(const struct group *group)
{
    Kelvin__QueuedGroup *out = zeros(1, sizeof(*out));
    kelvin__queued_group__init(out);
    out->step = (uint64_t)group->step;
    out->kind = (Kelvin__TaskKind)group->kind;
    out->role = (Kelvin__Role)group->role;
    out->slot = (uint32_t)group->slot;
    out->state = (uint32_t)group->state;
    if (!is_begun(group)) {
        return out;
    }
    out->proposal = pack_play(&group->proposal);
    out->proposal_seed = group->proposal_seed;
    out->task = group->task;
    out->answer_count = (uint32_t)group->answer_count;
    out->answer_seed = group->answer_seed;
    if (group->state != GROUP_RUNNING) {
        out->answers = zeros((size_t)group->answer_count, sizeof(void *));
        for (int32_t i = 0; i < group->answer_count; i++) {
            out->answers[out->n_answers++] = pack_play(&group->answers[i]);
        }
    }
    out->valid = group->valid;
    out->duplicate = group->duplicate;
    out->withheld = group->withheld;
    out->too_long = group->too_long;
    out->accuracy = group->accuracy;
    out->n_intrinsic = INTRINSIC_TERMS;
    out->intrinsic = zeros(INTRINSIC_TERMS, sizeof(double));
    memcpy(out->intrinsic, group->intrinsic.value, sizeof(group->intrinsic.value));
    return out;
}

static void free_group(Kelvin__QueuedGroup *group)
{
    for (size_t i = 0; i < group->n_answers; i++) {
        free(group->answers[i]);
    }
    free(group->answers);
    free(group->proposal);
    free(group->intrinsic);
    free(group);
}

static Kelvin__QueuedStep *pack_step(const struct quota *quota, const struct cohort *cohorts,
                                     int count)
{
    Kelvin__QueuedStep *out = zeros(1, sizeof(*out));
    kelvin__queued_step__init(out);
    out->step = (uint64_t)quota->step;
    out->sealed = quota->sealed;
    out->n_lanes = LANES;
    out->lanes = zeros(LANES, sizeof(uint32_t));
    for (int lane = 0; lane < LANES; lane++) {
        out->lanes[lane] = (uint32_t)quota->lanes[lane];
    }
    for (int i = 0; i < count; i++) {
        if (cohorts[i].step != quota->step) {
            continue;
        }
        out->proposals = (uint32_t)cohorts[i].proposal_count;
        out->unvalidated = (uint32_t)cohorts[i].unvalidated;
        out->unclosed = (uint32_t)cohorts[i].unclosed;
        out->n_estimated = KINDS;
        out->estimated = zeros(KINDS, sizeof(uint32_t));
        for (int kind = 0; kind < KINDS; kind++) {
            out->estimated[kind] = (uint32_t)cohorts[i].estimated[kind];
        }
    }
    return out;
}

static void free_queue(const Kelvin__Queue *queue)
{
    for (size_t i = 0; i < queue->n_groups; i++) {
        free_group(queue->groups[i]);
    }
    for (size_t i = 0; i < queue->n_steps; i++) {
        free(queue->steps[i]->lanes);
        free(queue->steps[i]->estimated);
        free(queue->steps[i]);
    }
    free(queue->groups);
    free(queue->steps);
}

void queue_pack(uint8_t **out, size_t *size, const struct replay *replay,
                const struct cohort *cohorts, int count)
{
    Kelvin__Queue queue = KELVIN__QUEUE__INIT;
    size_t groups = 0;
    for (const struct group *group = replay_first(replay); group != NULL; group = group->next) {
        groups++;
    }
    queue.steps = zeros(QUOTAS, sizeof(void *));
    queue.groups = zeros(groups, sizeof(void *));
    for (int i = 0; i < QUOTAS; i++) {
        const struct quota *quota = replay_quota(replay, i);
        if (quota->step != 0) {
            queue.steps[queue.n_steps++] = pack_step(quota, cohorts, count);
        }
    }
    for (const struct group *group = replay_first(replay); group != NULL; group = group->next) {
        queue.groups[queue.n_groups++] = pack_group(group);
    }
    *out = NULL;
    *size = 0;
    if (queue.n_steps > 0) {
        *size = kelvin__queue__get_packed_size(&queue);
        *out = zeros(*size, 1);
        CHECK(kelvin__queue__pack(&queue, *out) == *size);
    }
    free_queue(&queue);
}

// --- unpacking ---

static int bad(struct error *err, const char *what)
{
    return error_set(err, -EINVAL, "the queue of the checkpoint holds %s", what);
}

static void unpack_play(struct play *play, Kelvin__Play *from)
{
    if (from != NULL) {
        play->rollout = TAKE(from->rollout);
        play->verdict = TAKE(from->verdict);
    }
}

static bool is_group(const Kelvin__QueuedGroup *from)
{
    bool begun = from->proposal != NULL;
    bool running = from->state == GROUP_RUNNING;
    bool asks = begun && running; // its answers are asked for again
    return from->step > 0 && from->step < INT64_MAX && (unsigned)from->kind < KINDS &&
           (unsigned)from->role < ROLES && from->slot < INT32_MAX && from->state <= GROUP_DROPPED &&
           from->answer_count <= SAMPLES_MAX && from->n_answers <= from->answer_count &&
           (!begun || from->n_intrinsic == INTRINSIC_TERMS) &&
           (begun || (running && from->role == KELVIN__ROLE__PROPOSE)) &&
           (!asks || (from->task != NULL && from->answer_count > 0));
}

static void unpack_group(struct replay *replay, Kelvin__QueuedGroup *from)
{
    struct group *group = zeros(1, sizeof(*group));
    group->step = (int64_t)from->step;
    group->kind = (enum task_kind)from->kind;
    group->role = (enum role)from->role;
    group->slot = (int32_t)from->slot;
    group->state = (enum group_state)from->state;
    unpack_play(&group->proposal, from->proposal);
    group->proposal_seed = from->proposal_seed;
    group->task = TAKE(from->task);
    group->answer_seed = from->answer_seed;
    if (from->answer_count > 0) {
        group_expect(group, (int32_t)from->answer_count);
    }
    for (size_t i = 0; i < from->n_answers; i++) {
        unpack_play(&group->answers[i], from->answers[i]);
    }
    group->valid = from->valid;
    group->duplicate = from->duplicate;
    group->withheld = from->withheld;
    group->too_long = from->too_long;
    group->accuracy = from->accuracy;
    if (from->n_intrinsic == INTRINSIC_TERMS) {
        memcpy(group->intrinsic.value, from->intrinsic, sizeof(group->intrinsic.value));
    }
    replay_adopt(replay, group);
}

static bool is_step(const Kelvin__QueuedStep *from)
{
    uint64_t most = (uint64_t)from->proposals | from->unvalidated | from->unclosed;
    for (size_t i = 0; i < from->n_lanes; i++) {
        most |= from->lanes[i];
    }
    for (size_t i = 0; i < from->n_estimated; i++) {
        most |= from->estimated[i];
    }
    return from->step > 0 && from->step < INT64_MAX && from->n_lanes == LANES &&
           (from->sealed || from->n_estimated == KINDS) && most <= INT32_MAX;
}

static int unpack_step(struct replay *replay, struct cohort *cohorts, int count,
                       const Kelvin__QueuedStep *from, struct error *err)
{
    struct quota quota = {.step = (int64_t)from->step, .sealed = from->sealed};
    for (int lane = 0; lane < LANES; lane++) {
        quota.lanes[lane] = (int32_t)from->lanes[lane];
    }
    struct cohort *cohort = NULL;
    for (int i = 0; i < count && !from->sealed; i++) {
        cohort = cohorts[i].step == 0 ? &cohorts[i] : cohort;
    }
    if (!replay_adopt_quota(replay, &quota) || (cohort == NULL && !from->sealed)) {
        return bad(err, "more steps than can be admitted at once");
    }
    if (cohort != NULL) {
        *cohort = (struct cohort){.step = quota.step,
                                  .proposal_count = (int32_t)from->proposals,
                                  .unvalidated = (int32_t)from->unvalidated,
                                  .unclosed = (int32_t)from->unclosed};
        for (int kind = 0; kind < KINDS; kind++) {
            cohort->estimated[kind] = (int32_t)from->estimated[kind];
        }
    }
    return 0;
}

static void free_unpacked(Kelvin__Queue **queue)
{
    message_free(*queue);
}

int queue_unpack(struct replay *replay, struct cohort *cohorts, int count, const uint8_t *bytes,
                 size_t size, struct error *err)
{
    CLEANUP(free_unpacked) Kelvin__Queue *queue = kelvin__queue__unpack(NULL, size, bytes);
    if (queue == NULL) {
        return bad(err, "bytes that are none");
    }
    for (size_t i = 0; i < queue->n_groups; i++) {
        if (!is_group(queue->groups[i])) {
            return bad(err, "a group that cannot be");
        }
    }
    for (size_t i = 0; i < queue->n_steps; i++) {
        int code = is_step(queue->steps[i])
                       ? unpack_step(replay, cohorts, count, queue->steps[i], err)
                       : bad(err, "a step that cannot be");
        if (code < 0) {
            return code;
        }
    }
    for (size_t i = 0; i < queue->n_groups; i++) {
        unpack_group(replay, queue->groups[i]);
    }
    return 0;
}
