#include "learner/rollouts.h"

#include "common/base/cleanup.h"

#include <errno.h>
#include <stdio.h>

struct rollouts {
    struct tasks *tasks; // borrowed
    sqlite3_stmt *add_rollout;
    sqlite3_stmt *add_verdict;
};

static int store_error(const struct rollouts *rollouts, struct error *err)
{
    sqlite3 *db = tasks_db(rollouts->tasks);
    int code = sqlite3_errcode(db) == SQLITE_FULL ? -ENOSPC : -EIO;
    return error_set(err, code, "%s: %s", tasks_path(rollouts->tasks), sqlite3_errmsg(db));
}

void rollouts_close(struct rollouts *rollouts)
{
    if (rollouts != NULL) {
        (void)sqlite3_finalize(rollouts->add_rollout);
        (void)sqlite3_finalize(rollouts->add_verdict);
        free(rollouts);
    }
}

CLEANUP_FUNCTION(struct rollouts, rollouts_close)

int rollouts_open(struct rollouts **out, struct tasks *tasks, struct error *err)
{
    CLEANUP(rollouts_closep) struct rollouts *rollouts = calloc(1, sizeof(*rollouts));
    if (rollouts == NULL) {
        return error_set(err, -ENOMEM, "rollouts: out of memory");
    }
    rollouts->tasks = tasks;
    // The id is left to SQLite: one more than the largest there is.
    static const char rollout_sql[] =
        "INSERT INTO rollouts VALUES(NULL,?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,"
        "?17)";
    static const char verdict_sql[] = "INSERT INTO verdicts VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)";
    if (sqlite3_prepare_v2(tasks_db(tasks), rollout_sql, -1, &rollouts->add_rollout, NULL) !=
            SQLITE_OK ||
        sqlite3_prepare_v2(tasks_db(tasks), verdict_sql, -1, &rollouts->add_verdict, NULL) !=
            SQLITE_OK) {
        return store_error(rollouts, err);
    }
    *out = TAKE(rollouts);
    return 0;
}

static void bind_text(sqlite3_stmt *row, int column, const char *text)
{
    (void)sqlite3_bind_text(row, column, text, -1, SQLITE_STATIC);
}

// "version×count" runs, for example "7x120 8x3".
static void bind_versions(sqlite3_stmt *row, int column, const Kelvin__Rollout *rollout)
{
    char text[1024] = "";
    size_t used = 0;
    for (size_t i = 0; i < rollout->n_versions && used + 48 < sizeof(text); i++) {
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%llux%u", i == 0 ? "" : " ",
                                 (unsigned long long)rollout->versions[i]->version,
                                 rollout->versions[i]->count);
    }
    (void)sqlite3_bind_text(row, column, text, -1, SQLITE_TRANSIENT);
}

static const char *finish_name(Kelvin__Finish finish)
{
    switch (finish) {
    case KELVIN__FINISH__STOPPED:
        return "stopped";
    case KELVIN__FINISH__LENGTH:
        return "length";
    default:
        return "rejected";
    }
}

static int run(struct rollouts *rollouts, sqlite3_stmt *row, struct error *err)
{
    int code = sqlite3_step(row) == SQLITE_DONE ? 0 : store_error(rollouts, err);
    (void)sqlite3_reset(row);
    (void)sqlite3_clear_bindings(row);
    return code;
}

static int add_verdict(struct rollouts *rollouts, const Kelvin__Verdict *verdict, struct error *err)
{
    sqlite3_stmt *row = rollouts->add_verdict;
    (void)sqlite3_bind_int64(row, 1, sqlite3_last_insert_rowid(tasks_db(rollouts->tasks)));
    bind_text(row, 2, outcome_name((enum outcome)verdict->outcome));
    (void)sqlite3_bind_int(row, 3, verdict->formatted);
    (void)sqlite3_bind_double(row, 4, (double)verdict->score);
    bind_text(row, 5, verdict->answer);
    bind_text(row, 6, verdict->exception);
    bind_text(row, 7, verdict->detail);
    (void)sqlite3_bind_int(row, 8, verdict->scratchpad);
    (void)sqlite3_bind_int64(row, 9, (int64_t)verdict->wall_us);
    (void)sqlite3_bind_int64(row, 10, (int64_t)verdict->cpu_us);
    return run(rollouts, row, err);
}

int rollouts_add(struct rollouts *rollouts, const struct rollout_record *record, struct error *err)
{
    const Kelvin__Rollout *rollout = record->rollout;
    sqlite3_stmt *row = rollouts->add_rollout;
    (void)sqlite3_bind_int64(row, 1, record->step);
    bind_text(row, 2, task_kind_name(record->kind));
    bind_text(row, 3, role_name(record->role));
    (void)sqlite3_bind_int(row, 4, record->slot);
    (void)sqlite3_bind_int64(row, 5, rollout->sample);
    if (record->task != 0) {
        (void)sqlite3_bind_int64(row, 6, (int64_t)record->task);
    }
    (void)sqlite3_bind_int64(row, 7, (int64_t)record->seed);
    (void)sqlite3_bind_int(row, 8, record->trained);
    (void)sqlite3_bind_double(row, 9, record->reward);
    (void)sqlite3_bind_double(row, 10, record->advantage);
    bind_text(row, 11, finish_name(rollout->finish));
    bind_text(row, 12, rollout->text);
    (void)sqlite3_bind_blob64(row, 13, rollout->prompt, rollout->n_prompt * sizeof(uint32_t),
                              SQLITE_STATIC);
    (void)sqlite3_bind_blob64(row, 14, rollout->tokens, rollout->n_tokens * sizeof(uint32_t),
                              SQLITE_STATIC);
    (void)sqlite3_bind_blob64(row, 15, rollout->logprobs, rollout->n_logprobs * sizeof(float),
                              SQLITE_STATIC);
    bind_versions(row, 16, rollout);
    bind_text(row, 17, rollout->numerics);
    int code = run(rollouts, row, err);
    if (code < 0 || record->verdict == NULL) {
        return code;
    }
    return add_verdict(rollouts, record->verdict, err);
}
