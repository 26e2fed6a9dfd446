#include "learner/dispatch.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/log.h"
#include "learner/draw.h"
#include "learner/player.h"
#include "learner/queue.h"
#include "learner/seeding.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

struct dispatch {
    struct player player;
    struct tasks *tasks;             // borrowed
    const struct run_config *config; // borrowed
    struct hub *hub;                 // borrowed
    struct replay *replay;
    struct seeding *seeding;
    struct cohort cohorts[STALENESS_MAX + 1];
    int64_t step;     // whose batch is next
    int64_t admitted; // last admitted step
    bool busy;        // the last batch is in training
    bool dead;
    struct dispatch_events events;
    struct dispatch_stats stats;
};

bool dispatch_plays(const struct run_config *config, enum task_kind kind)
{
    return (config->azr.types >> kind & 1) != 0;
}

bool dispatch_trains_proposer(const struct run_config *config, int64_t step)
{
    return config->azr.propose && config->azr.proposals == PROPOSALS_MODEL &&
           step > config->azr.warmup_solver_steps;
}

int32_t dispatch_requests_max(const struct run_config *config)
{
    int64_t slots = 2 * config->azr.batch + config->azr.old_tasks;
    int64_t groups = (config->azr.staleness + 1) * KINDS * slots;
    int64_t composites = config->azr.composite_max;
    int64_t most = config->azr.samples > composites ? config->azr.samples : composites;
    int64_t requests = groups * (most + 1);
    return (int32_t)(requests < REQUESTS_MAX ? requests : REQUESTS_MAX);
}

static void fail(struct dispatch *dispatch, const struct error *err)
{
    if (!dispatch->dead) {
        dispatch->dead = true;
        dispatch->events.failed(dispatch->events.context, err);
    }
}

static void on_failed(void *context, const struct error *err)
{
    fail(context, err);
}

static struct cohort *find_cohort(struct dispatch *dispatch, int64_t step)
{
    for (int i = 0; i <= STALENESS_MAX; i++) {
        if (dispatch->cohorts[i].step == step) {
            return &dispatch->cohorts[i];
        }
    }
    return NULL;
}

static bool synchronous(const struct dispatch *dispatch)
{
    return dispatch->config->azr.staleness == 0;
}

static bool filtered(const struct dispatch *dispatch)
{
    return dispatch->config->azr.filter != FILTER_ALL;
}

static bool admits(const struct run_config *config, double accuracy)
{
    switch ((enum task_filter)config->azr.filter) {
    case FILTER_NOT_ALWAYS_SOLVED:
        return accuracy < 1.0;
    case FILTER_SOMETIMES_SOLVED:
        return accuracy > 0.0 && accuracy < 1.0;
    default:
        return true;
    }
}

// Stores the task of a valid proposal, or finds that it is there already.
static void settle(struct dispatch *dispatch, struct group *group)
{
    if (!group->valid || group->state == GROUP_DROPPED || dispatch->dead) {
        return;
    }
    double accuracy =
        group->state == GROUP_FINISHED && group->answer_count > 0 ? group->accuracy : NAN;
    if (filtered(dispatch) && (isnan(accuracy) || !admits(dispatch->config, accuracy))) {
        return;
    }
    bool duplicate = false;
    struct error err = {0};
    if (tasks_add(dispatch->tasks, group->task, accuracy, dispatch->step, &duplicate, &err) < 0) {
        fail(dispatch, &err);
        return;
    }
    group->duplicate = group->duplicate || duplicate;
    dispatch->stats.duplicates += duplicate;
    dispatch->stats.stored += !duplicate;
}

static int start_solve(struct dispatch *dispatch, int64_t step, enum task_kind kind, int32_t slot,
                       uint64_t id, struct error *err)
{
    Kelvin__Task *task = NULL;
    int code = tasks_get(dispatch->tasks, id, &task, err);
    if (code < 0) {
        return code;
    }
    struct group *group = replay_open(dispatch->replay, step, kind, ROLE_SOLVE, slot);
    group->task = task;
    group_expect(group, dispatch->config->azr.solver_rollouts == ROLLOUTS_REUSE
                            ? (int32_t)dispatch->config->azr.samples
                            : 1);
    player_solve(&dispatch->player, group);
    return 0;
}

// Draws the stored tasks of one kind to solve in a step. With reused estimates only what the
// proposals of the step leave open is filled up, from older tasks, and azr.old_tasks of those come
// beside them.
static int32_t draw_tasks(struct dispatch *dispatch, const struct cohort *cohort,
                          enum task_kind kind, uint64_t *ids)
{
    const struct run_config *config = dispatch->config;
    const struct task_index *index = tasks_index(dispatch->tasks, kind);
    struct rng rng = {.key = (uint64_t)config->seed,
                      .stream =
                          draw_group_stream(cohort->step, kind, ROLE_SOLVE, 0, DRAW_SOLVER_TASKS)};
    int32_t batch = (int32_t)config->azr.batch;
    enum solver_data mode = (enum solver_data)config->azr.solver_data;
    if (config->azr.solver_rollouts == ROLLOUTS_REUSE && cohort->proposal_count > 0) {
        int32_t open = batch - cohort->estimated[kind];
        int32_t old = (open > 0 ? open : 0) + (int32_t)config->azr.old_tasks;
        return task_index_fill(index, ids, old, mode, cohort->step, &rng);
    }
    return task_index_select(index, ids, batch, mode, cohort->step, &rng);
}

// The proposals of a cohort are stored: the rest of its work can be opened.
static void open_solves(struct dispatch *dispatch, struct cohort *cohort)
{
    int64_t step = cohort->step;
    size_t most = (size_t)(dispatch->config->azr.batch + dispatch->config->azr.old_tasks);
    uint64_t *ids = calloc(most, sizeof(*ids));
    CHECK(ids != NULL);
    struct error err = {0};
    int code = 0;
    for (int kind = 0; kind < KINDS && code == 0; kind++) {
        if (!dispatch_plays(dispatch->config, (enum task_kind)kind)) {
            continue;
        }
        int32_t count = draw_tasks(dispatch, cohort, (enum task_kind)kind, ids);
        for (int32_t i = 0; i < count && code == 0; i++) {
            code = start_solve(dispatch, step, (enum task_kind)kind, i, ids[i], &err);
        }
    }
    free(ids);
    free(cohort->proposals);
    *cohort = (struct cohort){0};
    replay_seal(dispatch->replay, step);
    if (code < 0) {
        fail(dispatch, &err);
    }
}

// All proposals of a cohort have come to the point at which their tasks are stored.
static void settle_all(struct dispatch *dispatch, struct cohort *cohort)
{
    for (int32_t i = 0; synchronous(dispatch) && i < cohort->proposal_count; i++) {
        settle(dispatch, cohort->proposals[i]);
    }
    if (!dispatch->dead) {
        open_solves(dispatch, cohort);
    }
}

static void try_batch(struct dispatch *dispatch)
{
    if (dispatch->busy || dispatch->dead || !replay_ready(dispatch->replay, dispatch->step)) {
        return;
    }
    struct group **groups = NULL;
    int32_t count = replay_take(dispatch->replay, dispatch->step, &groups);
    dispatch->busy = true;
    dispatch->events.batch(dispatch->events.context, dispatch->step, groups, count);
}

static bool on_validated(void *context, struct group *group)
{
    struct dispatch *dispatch = context;
    struct cohort *cohort = find_cohort(dispatch, group->step);
    CHECK(cohort != NULL && group->role == ROLE_PROPOSE);
    bool estimate = group->valid;
    if (group->valid && tasks_has(dispatch->tasks, group->task)) {
        group->duplicate = true;
        estimate = dispatch->config->azr.duplicate_reward >= 1.0; // else its reward is known
    }
    cohort->estimated[group->kind] += estimate;
    if (!synchronous(dispatch) && !filtered(dispatch)) {
        settle(dispatch, group);
    }
    cohort->unvalidated--;
    if (cohort->unvalidated == 0 && !filtered(dispatch)) {
        settle_all(dispatch, cohort);
    }
    return estimate;
}

static void close_proposal(struct dispatch *dispatch, struct group *group)
{
    if (filtered(dispatch)) {
        struct cohort *cohort = find_cohort(dispatch, group->step);
        CHECK(cohort != NULL);
        if (!synchronous(dispatch)) {
            settle(dispatch, group);
        }
        if (--cohort->unclosed == 0) {
            settle_all(dispatch, cohort);
        }
        return;
    }
    struct error err = {0};
    if (group->state == GROUP_FINISHED && group->answer_count > 0 && group->task->id != 0 &&
        tasks_set_accuracy(dispatch->tasks, group->task->id, group->accuracy, &err) < 0) {
        fail(dispatch, &err);
    }
}

static void on_closed(void *context, struct group *group)
{
    struct dispatch *dispatch = context;
    dispatch->stats.dropped += group->state == GROUP_DROPPED;
    if (group->role == ROLE_PROPOSE) {
        close_proposal(dispatch, group);
    }
    try_batch(dispatch);
}

static void open_proposals(struct dispatch *dispatch, struct cohort *cohort)
{
    int32_t batch = (int32_t)dispatch->config->azr.batch;
    cohort->proposals = calloc((size_t)batch * KINDS, sizeof(void *));
    CHECK(cohort->proposals != NULL);
    for (int kind = 0; kind < KINDS; kind++) {
        for (int32_t slot = 0;
             dispatch_plays(dispatch->config, (enum task_kind)kind) && slot < batch; slot++) {
            cohort->proposals[cohort->proposal_count++] = replay_open(
                dispatch->replay, cohort->step, (enum task_kind)kind, ROLE_PROPOSE, slot);
        }
    }
    cohort->unvalidated = cohort->unclosed = cohort->proposal_count;
}

static void admit(struct dispatch *dispatch, int64_t step)
{
    struct cohort *cohort = find_cohort(dispatch, 0);
    CHECK(cohort != NULL);
    *cohort = (struct cohort){.step = step};
    if (step <= dispatch->config->azr.warmup_solver_steps) {
        open_solves(dispatch, cohort);
        return;
    }
    open_proposals(dispatch, cohort);
    // The cohort may be gone before the loop ends: a proposal can be dropped at once.
    int32_t count = cohort->proposal_count;
    struct group **proposals = calloc((size_t)count, sizeof(void *));
    CHECK(proposals != NULL);
    for (int32_t i = 0; i < count; i++) {
        proposals[i] = cohort->proposals[i];
    }
    for (int32_t i = 0; i < count && !dispatch->dead; i++) {
        player_propose(&dispatch->player, proposals[i]);
    }
    free(proposals);
}

static void admit_all(struct dispatch *dispatch)
{
    int64_t last = dispatch->step + dispatch->config->azr.staleness;
    last = last < dispatch->config->steps ? last : dispatch->config->steps;
    while (dispatch->admitted < last && !dispatch->dead) {
        admit(dispatch, ++dispatch->admitted);
    }
    try_batch(dispatch);
}

// Asks again for what of a restored queue was under way.
static void ask_again(struct dispatch *dispatch)
{
    int32_t count = 0;
    int32_t running = replay_running(dispatch->replay);
    struct group **groups = calloc((size_t)running + 1, sizeof(void *));
    CHECK(groups != NULL);
    struct group *group = replay_first(dispatch->replay);
    for (; group != NULL; group = group->next) {
        if (group->state == GROUP_RUNNING) {
            groups[count++] = group;
        }
    }
    for (int32_t i = 0; i < count && !dispatch->dead; i++) {
        if (groups[i]->role == ROLE_PROPOSE && groups[i]->proposal.verdict == NULL) {
            player_propose(&dispatch->player, groups[i]);
        } else {
            player_solve(&dispatch->player, groups[i]);
        }
    }
    free(groups);
}

static void on_seeded(void *context)
{
    struct dispatch *dispatch = context;
    dispatch->events.seeded(dispatch->events.context);
    ask_again(dispatch);
    admit_all(dispatch);
}

void dispatch_destroy(struct dispatch *dispatch)
{
    if (dispatch == NULL) {
        return;
    }
    for (int i = 0; i <= STALENESS_MAX; i++) {
        free(dispatch->cohorts[i].proposals);
    }
    replay_destroy(dispatch->replay);
    seeding_destroy(dispatch->seeding);
    free(dispatch);
}

CLEANUP_FUNCTION(struct dispatch, dispatch_destroy)

int dispatch_create(struct dispatch **out, struct hub *hub, struct tasks *tasks,
                    const struct run_config *config, int32_t vocab,
                    const struct dispatch_events *events, struct error *err)
{
    CLEANUP(dispatch_destroyp) struct dispatch *dispatch = calloc(1, sizeof(*dispatch));
    if (dispatch == NULL) {
        return error_set(err, -ENOMEM, "dispatch: out of memory");
    }
    dispatch->tasks = tasks;
    dispatch->hub = hub;
    dispatch->config = config;
    dispatch->events = *events;
    player_init(&dispatch->player, hub, tasks, config, vocab);
    dispatch->player.context = dispatch;
    dispatch->player.validated = on_validated;
    dispatch->player.closed = on_closed;
    dispatch->player.failed = on_failed;
    int code = replay_create(&dispatch->replay, (int32_t)config->azr.staleness, err);
    if (code < 0) {
        return code;
    }
    *out = TAKE(dispatch);
    return 0;
}

void dispatch_start(struct dispatch *dispatch, int64_t step)
{
    CHECK(step > 0 && dispatch->step == 0);
    dispatch->step = step;
    dispatch->admitted = dispatch->admitted < step - 1 ? step - 1 : dispatch->admitted;
    struct seeding_events events = {.context = dispatch, .done = on_seeded, .failed = on_failed};
    struct error err = {0};
    if (seeding_create(&dispatch->seeding, dispatch->hub, dispatch->tasks, dispatch->config,
                       dispatch->player.vocab, &events, &err) < 0) {
        fail(dispatch, &err);
        return;
    }
    seeding_start(dispatch->seeding);
}

void dispatch_save(const struct dispatch *dispatch, uint8_t **bytes, size_t *size)
{
    CHECK(dispatch->busy);
    queue_pack(bytes, size, dispatch->replay, dispatch->cohorts, STALENESS_MAX + 1);
}

int dispatch_restore(struct dispatch *dispatch, const uint8_t *bytes, size_t size,
                     struct error *err)
{
    CHECK(dispatch->step == 0);
    if (synchronous(dispatch)) {
        return error_set(err, -EINVAL,
                         "the checkpoint holds work of several steps at once, which azr.staleness: "
                         "0 does not know; go on with azr.staleness as it was");
    }
    int code =
        queue_unpack(dispatch->replay, dispatch->cohorts, STALENESS_MAX + 1, bytes, size, err);
    for (int i = 0; code == 0 && i < QUOTAS; i++) {
        int64_t step = replay_quota(dispatch->replay, i)->step;
        dispatch->admitted = step > dispatch->admitted ? step : dispatch->admitted;
    }
    return code;
}

void dispatch_published(struct dispatch *dispatch, uint64_t version)
{
    CHECK(dispatch->busy);
    dispatch->busy = false;
    dispatch->step = (int64_t)version;
    admit_all(dispatch);
}

struct dispatch_stats dispatch_stats(const struct dispatch *dispatch)
{
    struct dispatch_stats stats = dispatch->stats;
    stats.running = replay_running(dispatch->replay);
    return stats;
}
