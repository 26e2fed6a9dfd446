#include "learner/seeding.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/log.h"
#include "learner/seeds.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

// Rounds in a row without a new seed after which the model is told to be unable.
enum { BARREN_ROUNDS_MAX = 64 };

enum phase { PHASE_FILE, PHASE_PROGRAMS, PHASE_ERROR, PHASE_INDUCTION, PHASE_DONE };

struct seeding {
    struct player player;
    struct tasks *tasks;
    const struct run_config *config;
    struct seeding_events events;
    enum phase phase;
    struct seed_list file;
    int32_t file_next;
    struct group **groups; // of the round, [count]
    int32_t count;
    int32_t closed;
    int32_t round;
    int32_t barren; // rounds in a row that brought nothing
    bool dead;
};

static void fail(struct seeding *seeding, const struct error *err)
{
    if (!seeding->dead) {
        seeding->dead = true;
        seeding->events.failed(seeding->events.context, err);
    }
}

static void on_failed(void *context, const struct error *err)
{
    fail(context, err);
}

static bool plays(const struct seeding *seeding, enum task_kind kind)
{
    return (seeding->config->azr.types >> kind & 1) != 0;
}

static enum task_kind kind_of_phase(const struct seeding *seeding)
{
    switch (seeding->phase) {
    case PHASE_ERROR:
        return KIND_ERROR;
    case PHASE_INDUCTION:
        return KIND_INDUCTION;
    default: // both kinds propose in turn, as far as they are played
        if (!plays(seeding, KIND_DEDUCTION) && plays(seeding, KIND_ABDUCTION)) {
            return KIND_ABDUCTION;
        }
        return plays(seeding, KIND_ABDUCTION) && seeding->round % 2 == 1 ? KIND_ABDUCTION
                                                                         : KIND_DEDUCTION;
    }
}

// Stores one seed; deduction and abduction share theirs. Returns whether it was new.
static bool store(struct seeding *seeding, Kelvin__Task *task)
{
    bool shared =
        task->kind == KELVIN__TASK_KIND__DEDUCTION || task->kind == KELVIN__TASK_KIND__ABDUCTION;
    bool duplicate = true;
    struct error err = {0};
    task->step = 0;
    if (shared) {
        task->kind = KELVIN__TASK_KIND__ABDUCTION;
        if (tasks_add(seeding->tasks, task, NAN, 0, &duplicate, &err) < 0) {
            fail(seeding, &err);
            return false;
        }
        task->kind = KELVIN__TASK_KIND__DEDUCTION;
    }
    if (tasks_add(seeding->tasks, task, NAN, 0, &duplicate, &err) < 0) {
        fail(seeding, &err);
        return false;
    }
    return !duplicate;
}

static int32_t stored(const struct seeding *seeding)
{
    enum task_kind kind = kind_of_phase(seeding);
    return tasks_index(seeding->tasks, kind == KIND_ABDUCTION ? KIND_DEDUCTION : kind)->count;
}

static int32_t wanted(const struct seeding *seeding)
{
    int64_t count = seeding->config->azr.batch * seeding->config->azr.seed_factor;
    int64_t max = seeding->config->azr.tasks_max;
    return (int32_t)(count < max ? count : max);
}

// The zero triplet: the program that returns its only argument.
static void store_zero(struct seeding *seeding, enum task_kind kind)
{
    static const char program[] = "def f(a):\n    return a";
    static const char *const inputs[] = {"\"Hello world\"",
                                         "1",
                                         "dict(a=1, b=2)",
                                         "(1.1, 1.2, 1.3)",
                                         "'[[1, 0, 0], [0, 0, 0], [0, 0, 0]]'",
                                         "1001101100010001"};
    static const char *const outputs[] = {"'Hello world'",
                                          "1",
                                          "{'a': 1, 'b': 2}",
                                          "(1.1, 1.2, 1.3)",
                                          "'[[1, 0, 0], [0, 0, 0], [0, 0, 0]]'",
                                          "1001101100010001"};
    static const char *const no_error[] = {"NoError"};
    Kelvin__Task *task = task_create(kind, program, inputs, kind == KIND_ERROR ? no_error : outputs,
                                     kind == KIND_INDUCTION ? 6 : 1,
                                     kind == KIND_INDUCTION ? "Return what is given." : "");
    (void)store(seeding, task);
    kelvin__task__free_unpacked(task, NULL);
}

static void end_round(struct seeding *seeding);

static bool on_validated(void *context, struct group *group)
{
    (void)context;
    (void)group;
    return false; // seeds are not estimated
}

static void on_closed(void *context, struct group *group)
{
    (void)group;
    struct seeding *seeding = context;
    if (++seeding->closed == seeding->count) {
        end_round(seeding);
    }
}

// Opens a round of `count` groups; the caller starts them.
static void open_round(struct seeding *seeding, int32_t count)
{
    seeding->groups = calloc((size_t)count, sizeof(void *));
    CHECK(seeding->groups != NULL);
    for (int32_t i = 0; i < count; i++) {
        struct group *group = calloc(1, sizeof(*group));
        CHECK(group != NULL);
        group->kind = kind_of_phase(seeding);
        group->role = ROLE_PROPOSE;
        group->slot = seeding->round * (int32_t)seeding->config->azr.batch + i;
        seeding->groups[i] = group;
    }
    seeding->count = count;
    seeding->closed = 0;
    seeding->round++;
}

static void close_round(struct seeding *seeding)
{
    for (int32_t i = 0; i < seeding->count; i++) {
        group_destroy(seeding->groups[i]);
    }
    free(seeding->groups);
    seeding->groups = NULL;
    seeding->count = seeding->closed = 0;
}

static void start_round(struct seeding *seeding)
{
    int32_t batch = (int32_t)seeding->config->azr.batch;
    int32_t left = seeding->file.count - seeding->file_next;
    int32_t count = seeding->phase == PHASE_FILE && left < batch ? left : batch;
    open_round(seeding, count);
    for (int32_t i = 0; i < count; i++) { // the last one to close may end the round at once
        struct group *group = seeding->groups[i];
        if (seeding->phase == PHASE_FILE) {
            Kelvin__Task *task = seeding->file.items[seeding->file_next + i];
            group->kind = (enum task_kind)task->kind;
            player_check(&seeding->player, group, task);
        } else {
            player_propose(&seeding->player, group);
        }
    }
}

// Says whether the phase has what it wants; begins it with the zero triplet.
static bool phase_is_over(struct seeding *seeding)
{
    switch (seeding->phase) {
    case PHASE_FILE:
        return seeding->file_next == seeding->file.count;
    case PHASE_ERROR:
        if (!plays(seeding, KIND_ERROR)) {
            return true;
        }
        break;
    case PHASE_INDUCTION:
        if (!plays(seeding, KIND_INDUCTION)) {
            return true;
        }
        break;
    default:
        break;
    }
    if (stored(seeding) == 0) {
        store_zero(seeding, kind_of_phase(seeding));
    }
    return stored(seeding) >= wanted(seeding);
}

static void next_round(struct seeding *seeding)
{
    while (!seeding->dead && seeding->phase != PHASE_DONE && phase_is_over(seeding)) {
        seeding->phase++;
        seeding->barren = 0;
    }
    if (seeding->dead) {
        return;
    }
    if (seeding->phase == PHASE_DONE) {
        seeding->events.done(seeding->events.context);
        return;
    }
    start_round(seeding);
}

// A person gave the file: each task in it that is not valid is named.
static void log_invalid(const struct seeding *seeding, int32_t i)
{
    const struct group *group = seeding->groups[i];
    const Kelvin__Verdict *verdict = group->proposal.verdict;
    log_warn("seeding", "seed file: task %d is not valid: %s %s %s", seeding->file_next + i + 1,
             verdict == NULL ? "no verdict" : outcome_name((enum outcome)verdict->outcome),
             verdict == NULL ? "" : verdict->exception, verdict == NULL ? "" : verdict->detail);
}

static void end_round(struct seeding *seeding)
{
    int32_t added = 0;
    int32_t valid = 0;
    for (int32_t i = 0; i < seeding->count && !seeding->dead; i++) {
        struct group *group = seeding->groups[i];
        bool full = seeding->phase != PHASE_FILE && stored(seeding) >= wanted(seeding);
        valid += group->valid;
        if (seeding->phase == PHASE_FILE && !group->valid) {
            log_invalid(seeding, i);
        }
        if (group->valid && !full) {
            added += store(seeding, group->task);
        }
    }
    if (seeding->phase == PHASE_FILE) {
        seeding->file_next += seeding->count;
        log_info("seeding", "seed file: checked=%d of=%d valid=%d", seeding->file_next,
                 seeding->file.count, valid);
    } else {
        log_info("seeding", "kind=%s round=%d valid=%d of=%d new=%d stored=%d wanted=%d",
                 task_kind_name(seeding->groups[0]->kind), seeding->round, valid, seeding->count,
                 added, stored(seeding), wanted(seeding));
    }
    seeding->barren = added > 0 || seeding->phase == PHASE_FILE ? 0 : seeding->barren + 1;
    enum task_kind kind = seeding->groups[0]->kind;
    close_round(seeding);
    if (seeding->barren >= BARREN_ROUNDS_MAX) {
        struct error err = {0};
        (void)error_set(&err, -ENODATA,
                        "seeding: no new valid %s task in %d rounds of %d proposals (%d of %d "
                        "stored); the model cannot propose in style %s: choose another model, "
                        "style, or azr.seed_file",
                        task_kind_name(kind), BARREN_ROUNDS_MAX, (int)seeding->config->azr.batch,
                        stored(seeding), wanted(seeding), seeding->config->azr.style);
        fail(seeding, &err);
        return;
    }
    next_round(seeding);
}

void seeding_destroy(struct seeding *seeding)
{
    if (seeding != NULL) {
        close_round(seeding);
        seeds_free(&seeding->file);
        free(seeding);
    }
}

CLEANUP_FUNCTION(struct seeding, seeding_destroy)

int seeding_create(struct seeding **out, struct hub *hub, struct tasks *tasks,
                   const struct run_config *config, int32_t vocab,
                   const struct seeding_events *events, struct error *err)
{
    CLEANUP(seeding_destroyp) struct seeding *seeding = calloc(1, sizeof(*seeding));
    if (seeding == NULL) {
        return error_set(err, -ENOMEM, "seeding: out of memory");
    }
    seeding->tasks = tasks;
    seeding->config = config;
    seeding->events = *events;
    player_init(&seeding->player, hub, tasks, config, vocab);
    seeding->player.context = seeding;
    seeding->player.validated = on_validated;
    seeding->player.closed = on_closed;
    seeding->player.failed = on_failed;
    seeding->player.strip = true;
    bool fresh = tasks_index(tasks, KIND_DEDUCTION)->count == 0;
    if (fresh && config->azr.seed_file[0] != '\0') {
        int code = seeds_read(&seeding->file, config->azr.seed_file, err);
        if (code < 0) {
            return code;
        }
    }
    *out = TAKE(seeding);
    return 0;
}

void seeding_start(struct seeding *seeding)
{
    next_round(seeding);
}
