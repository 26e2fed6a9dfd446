#include "learner/tasks.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/json.h"
#include "learner/statements.h"
#include "learner/task_digest.h"
#include "learner/task_row.h"

#include <errno.h>
#include <sqlite3.h>
#include <string.h>
#include <unistd.h>

enum { APPLICATION_ID = 0x4b454c56, SCHEMA_VERSION = 2, BUSY_MS = 5000 };

static const char schema[] =
    "PRAGMA application_id=1262832726; PRAGMA user_version=2;"
    "CREATE TABLE tasks(id INTEGER PRIMARY KEY, kind TEXT NOT NULL, step INTEGER NOT NULL,"
    " stored INTEGER NOT NULL, left_step INTEGER, digest INTEGER NOT NULL, accuracy REAL, program "
    "TEXT NOT NULL,"
    " inputs TEXT NOT NULL, outputs TEXT NOT NULL, message TEXT NOT NULL, parents TEXT NOT NULL);"
    "CREATE INDEX tasks_by_stored ON tasks(stored);"
    "CREATE TABLE rollouts(id INTEGER PRIMARY KEY, step INTEGER NOT NULL, kind TEXT NOT NULL,"
    " role TEXT NOT NULL, slot INTEGER NOT NULL, sample INTEGER NOT NULL, task INTEGER,"
    " seed INTEGER NOT NULL, trained INTEGER NOT NULL, reward REAL, advantage REAL,"
    " finish TEXT NOT NULL, text TEXT NOT NULL, prompt BLOB, tokens BLOB, logprobs BLOB,"
    " versions TEXT NOT NULL, numerics TEXT NOT NULL);"
    "CREATE INDEX rollouts_by_step ON rollouts(step);"
    "CREATE INDEX rollouts_by_task ON rollouts(task);"
    "CREATE TABLE verdicts(rollout INTEGER PRIMARY KEY, outcome TEXT NOT NULL,"
    " formatted INTEGER NOT NULL, score REAL NOT NULL, answer TEXT NOT NULL,"
    " exception TEXT NOT NULL, detail TEXT NOT NULL, scratchpad INTEGER NOT NULL,"
    " wall_us INTEGER NOT NULL, cpu_us INTEGER NOT NULL);";

enum statement { ADD_TASK, LEAVE_TASK, GET_TASK, SET_ACCURACY, STATEMENTS };

static const char *const statement_texts[STATEMENTS] = {
    [ADD_TASK] = TASK_ROW_INSERT,
    [LEAVE_TASK] = "UPDATE tasks SET left_step=?2 WHERE id=?1",
    [SET_ACCURACY] = "UPDATE tasks SET accuracy=?2 WHERE id=?1",
    [GET_TASK] = TASK_ROW_SELECT,
};

struct tasks {
    sqlite3 *db;
    sqlite3_stmt *statements[STATEMENTS];
    char *path;
    struct task_index index[KINDS];
    struct counts inputs[KINDS], outputs[KINDS], lines[KINDS];
    uint64_t next_task;
    bool open_transaction;
};

static int store_error(const struct tasks *tasks, struct error *err)
{
    int code = sqlite3_errcode(tasks->db) == SQLITE_FULL ? -ENOSPC : -EIO;
    return error_set(err, code, "%s: %s", tasks->path, sqlite3_errmsg(tasks->db));
}

static int run(struct tasks *tasks, const char *sql, struct error *err)
{
    if (sqlite3_exec(tasks->db, sql, NULL, NULL, NULL) != SQLITE_OK) {
        return store_error(tasks, err);
    }
    return 0;
}

// The single integer that a query gives.
static int query_integer(struct tasks *tasks, const char *sql, int64_t *out, struct error *err)
{
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v2(tasks->db, sql, -1, &statement, NULL) != SQLITE_OK) {
        return store_error(tasks, err);
    }
    int code = sqlite3_step(statement);
    *out = code == SQLITE_ROW ? sqlite3_column_int64(statement, 0) : 0;
    (void)sqlite3_finalize(statement);
    return code == SQLITE_ROW || code == SQLITE_DONE ? 0 : store_error(tasks, err);
}

// The file must be a store, of a schema that this program knows.
static int check_version(struct tasks *tasks, struct error *err)
{
    int64_t application = 0;
    int64_t version = 0;
    int code = query_integer(tasks, "PRAGMA application_id", &application, err);
    code = code < 0 ? code : query_integer(tasks, "PRAGMA user_version", &version, err);
    if (code < 0) {
        return code;
    }
    if (application != APPLICATION_ID) {
        return error_set(err, -EINVAL,
                         "%s is an SQLite file but not a task store of Kelvin; choose another "
                         "run_dir",
                         tasks->path);
    }
    if (version != SCHEMA_VERSION) {
        return error_set(err, -EINVAL,
                         "%s has schema %lld and this program knows schema %d; use the Kelvin that "
                         "wrote it",
                         tasks->path, (long long)version, SCHEMA_VERSION);
    }
    return 0;
}

// An empty file becomes a store; anything else must be one.
static int check_schema(struct tasks *tasks, struct error *err)
{
    int64_t application = 0;
    int64_t tables = 0;
    int code = query_integer(tasks, "PRAGMA application_id", &application, err);
    code =
        code < 0 ? code : query_integer(tasks, "SELECT count(*) FROM sqlite_master", &tables, err);
    if (code < 0) {
        return code;
    }
    if (tables == 0 && application == 0) {
        code = run(tasks, "BEGIN IMMEDIATE", err);
        code = code < 0 ? code : run(tasks, schema, err);
        return code < 0 ? code : run(tasks, "COMMIT", err);
    }
    return check_version(tasks, err);
}

// Counts the strings of a stored JSON array.
static void count_texts(struct counts *counts, const char *text, int by)
{
    CLEANUP(json_decrefp) json_t *list = NULL;
    if (text == NULL || json_parse(&list, text, strlen(text), "the store", NULL) < 0) {
        return;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *item = json_string_value(json_array_get(list, i));
        if (item != NULL) {
            counts_add(counts, item, by);
        }
    }
}

static int load_indexes(struct tasks *tasks, struct error *err)
{
    for (int kind = 0; kind < KINDS; kind++) {
        tasks->index[kind].count = 0;
        counts_finish(&tasks->inputs[kind]);
        counts_finish(&tasks->outputs[kind]);
        counts_finish(&tasks->lines[kind]);
    }
    sqlite3_stmt *rows = NULL;
    if (sqlite3_prepare_v2(
            tasks->db,
            "SELECT id,kind,step,digest,inputs,outputs,program FROM tasks WHERE left_step IS NULL"
            " ORDER BY id",
            -1, &rows, NULL) != SQLITE_OK) {
        return store_error(tasks, err);
    }
    int code = 0;
    while (code == 0 && sqlite3_step(rows) == SQLITE_ROW) {
        int kind = task_kind_find((const char *)sqlite3_column_text(rows, 1));
        if (kind < 0) {
            code = error_set(err, -EINVAL, "%s: task %lld is of an unknown kind", tasks->path,
                             (long long)sqlite3_column_int64(rows, 0));
            break;
        }
        const char *program = (const char *)sqlite3_column_text(rows, 6);
        struct task_entry entry = {.id = (uint64_t)sqlite3_column_int64(rows, 0),
                                   .step = sqlite3_column_int64(rows, 2),
                                   .digest = (uint64_t)sqlite3_column_int64(rows, 3),
                                   .size = (uint32_t)strlen(program)};
        (void)task_index_add(&tasks->index[kind], entry);
        count_texts(&tasks->inputs[kind], (const char *)sqlite3_column_text(rows, 4), 1);
        count_texts(&tasks->outputs[kind], (const char *)sqlite3_column_text(rows, 5), 1);
        statements_add(&tasks->lines[kind], program, 1);
    }
    (void)sqlite3_finalize(rows);
    int64_t task = 0;
    code = code < 0 ? code : query_integer(tasks, "SELECT max(id) FROM tasks", &task, err);
    tasks->next_task = (uint64_t)task + 1;
    return code;
}

static int prepare(struct tasks *tasks, struct error *err)
{
    for (int i = 0; i < STATEMENTS; i++) {
        if (sqlite3_prepare_v3(tasks->db, statement_texts[i], -1, SQLITE_PREPARE_PERSISTENT,
                               &tasks->statements[i], NULL) != SQLITE_OK) {
            return store_error(tasks, err);
        }
    }
    return 0;
}

void tasks_close(struct tasks *tasks)
{
    if (tasks == NULL) {
        return;
    }
    for (int i = 0; i < STATEMENTS; i++) {
        (void)sqlite3_finalize(tasks->statements[i]);
    }
    if (tasks->open_transaction) {
        (void)sqlite3_exec(tasks->db, "ROLLBACK", NULL, NULL, NULL);
    }
    (void)sqlite3_close(tasks->db);
    for (int kind = 0; kind < KINDS; kind++) {
        task_index_finish(&tasks->index[kind]);
        counts_finish(&tasks->inputs[kind]);
        counts_finish(&tasks->outputs[kind]);
        counts_finish(&tasks->lines[kind]);
    }
    free(tasks->path);
    free(tasks);
}

CLEANUP_FUNCTION(struct tasks, tasks_close)

int tasks_open(struct tasks **out, const char *path, int32_t tasks_max, struct error *err)
{
    CLEANUP(tasks_closep) struct tasks *tasks = calloc(1, sizeof(*tasks));
    if (tasks == NULL || (tasks->path = strdup(path)) == NULL) {
        return error_set(err, -ENOMEM, "%s: out of memory", path);
    }
    int code = 0;
    for (int kind = 0; kind < KINDS && code == 0; kind++) {
        code = task_index_init(&tasks->index[kind], tasks_max, err);
    }
    if (code < 0) {
        return code;
    }
    if (sqlite3_open_v2(path, &tasks->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) !=
        SQLITE_OK) {
        return error_set(err, -EIO, "%s: %s; check the path and its permissions", path,
                         sqlite3_errmsg(tasks->db));
    }
    (void)sqlite3_busy_timeout(tasks->db, BUSY_MS);
    code = check_schema(tasks, err);
    code = code < 0 ? code : run(tasks, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL", err);
    code = code < 0 ? code : prepare(tasks, err);
    code = code < 0 ? code : load_indexes(tasks, err);
    if (code < 0) {
        return code;
    }
    *out = TAKE(tasks);
    return 0;
}

int tasks_open_reader(sqlite3 **out, const char *path, struct error *err)
{
    struct tasks reader = {.path = without_const(path)};
    int code = 0;
    // Not read-only: a reader of a write-ahead log may have to make its index.
    if (access(path, F_OK) != 0) {
        return error_set(err, -ENOENT, "%s is not there; name a run folder", path);
    }
    if (sqlite3_open_v2(path, &reader.db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK &&
        sqlite3_open_v2(path, &reader.db, SQLITE_OPEN_READONLY, NULL) != SQLITE_OK) {
        code = error_set(err, -EIO, "%s: %s; check the path and its permissions", path,
                         sqlite3_errmsg(reader.db));
    }
    (void)sqlite3_busy_timeout(reader.db, BUSY_MS);
    code = code < 0 ? code : check_version(&reader, err);
    if (code < 0) {
        (void)sqlite3_close(reader.db);
        return code;
    }
    *out = reader.db;
    return 0;
}

sqlite3 *tasks_db(struct tasks *tasks)
{
    return tasks->db;
}

const char *tasks_path(const struct tasks *tasks)
{
    return tasks->path;
}

int tasks_begin(struct tasks *tasks, struct error *err)
{
    CHECK(!tasks->open_transaction);
    int code = run(tasks, "BEGIN IMMEDIATE", err);
    tasks->open_transaction = code == 0;
    return code;
}

int tasks_commit(struct tasks *tasks, struct error *err)
{
    CHECK(tasks->open_transaction);
    int code = run(tasks, "COMMIT", err);
    tasks->open_transaction = code < 0;
    return code;
}

int tasks_forget(struct tasks *tasks, int64_t step, struct error *err)
{
    char sql[512];
    (void)snprintf(
        sql, sizeof(sql),
        "BEGIN IMMEDIATE;"
        "DELETE FROM verdicts WHERE rollout IN (SELECT id FROM rollouts WHERE step>%lld);"
        "DELETE FROM rollouts WHERE step>%lld;"
        "DELETE FROM tasks WHERE stored>%lld;"
        "UPDATE tasks SET left_step=NULL WHERE left_step>%lld;"
        "COMMIT",
        (long long)step, (long long)step, (long long)step, (long long)step);
    int code = run(tasks, sql, err);
    if (code < 0) {
        (void)sqlite3_exec(tasks->db, "ROLLBACK", NULL, NULL, NULL);
        return code;
    }
    return load_indexes(tasks, err);
}

int tasks_position(struct tasks *tasks, int64_t step, int64_t *task, int64_t *rollout,
                   struct error *err)
{
    char sql[96];
    (void)snprintf(sql, sizeof(sql), "SELECT max(id) FROM tasks WHERE stored<=%lld",
                   (long long)step);
    int code = query_integer(tasks, sql, task, err);
    (void)snprintf(sql, sizeof(sql), "SELECT max(id) FROM rollouts WHERE step<=%lld",
                   (long long)step);
    return code < 0 ? code : query_integer(tasks, sql, rollout, err);
}

static void close_db(sqlite3 **db)
{
    (void)sqlite3_close(*db);
}

int tasks_copy(const char *to, const char *from, struct error *err)
{
    CLEANUP(close_db) sqlite3 *source = NULL;
    CLEANUP(close_db) sqlite3 *copy = NULL;
    if (sqlite3_open_v2(from, &source, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK) {
        return error_set(err, -EIO, "%s: %s", from, sqlite3_errmsg(source));
    }
    if (sqlite3_open_v2(to, &copy, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK) {
        return error_set(err, -EIO, "%s: %s", to, sqlite3_errmsg(copy));
    }
    (void)sqlite3_busy_timeout(source, BUSY_MS);
    sqlite3_backup *backup = sqlite3_backup_init(copy, "main", source, "main");
    if (backup != NULL) {
        (void)sqlite3_backup_step(backup, -1);
        (void)sqlite3_backup_finish(backup);
    }
    return sqlite3_errcode(copy) == SQLITE_OK
               ? 0
               : error_set(err, -EIO, "cannot copy %s to %s: %s", from, to, sqlite3_errmsg(copy));
}

bool tasks_has(const struct tasks *tasks, const Kelvin__Task *task)
{
    return task_index_has(&tasks->index[task->kind], task_digest(task));
}

const struct task_index *tasks_index(const struct tasks *tasks, enum task_kind kind)
{
    return &tasks->index[kind];
}

const struct counts *tasks_inputs(const struct tasks *tasks, enum task_kind kind)
{
    return &tasks->inputs[kind];
}

const struct counts *tasks_outputs(const struct tasks *tasks, enum task_kind kind)
{
    return &tasks->outputs[kind];
}

const struct counts *tasks_statements(const struct tasks *tasks, enum task_kind kind)
{
    return &tasks->lines[kind];
}

// draw_candidate draws one entry of both kinds that have a program of their own; NULL when none has
// come yet.
static const struct task_entry *draw_candidate(const struct tasks *tasks,
                                               enum reference_sampling mode, struct rng *rng)
{
    const struct task_index *deduction = &tasks->index[KIND_DEDUCTION];
    const struct task_index *abduction = &tasks->index[KIND_ABDUCTION];
    uint64_t both = (uint64_t)deduction->count + (uint64_t)abduction->count;
    if (both == 0) {
        return NULL;
    }
    // Uniform over the concatenation; `recent` keeps the split and weighs inside the half.
    bool first = rng_below(rng, both) < (uint64_t)deduction->count;
    return task_index_draw(first ? deduction : abduction, mode, rng);
}

uint64_t tasks_draw_program(const struct tasks *tasks, enum reference_sampling mode,
                            int64_t candidates, struct rng *rng)
{
    const struct task_entry *best = NULL;
    for (int64_t i = 0; i < candidates; i++) {
        const struct task_entry *entry = draw_candidate(tasks, mode, rng);
        if (entry != NULL && (best == NULL || entry->size < best->size)) {
            best = entry;
        }
    }
    return best != NULL ? best->id : 0;
}

// Runs a statement that gives no rows and makes it ready for the next time.
static int finish(struct tasks *tasks, sqlite3_stmt *row, struct error *err)
{
    int code = sqlite3_step(row) == SQLITE_DONE ? 0 : store_error(tasks, err);
    (void)sqlite3_reset(row);
    (void)sqlite3_clear_bindings(row);
    return code;
}

static void count_task(struct tasks *tasks, const Kelvin__Task *task, int by)
{
    for (size_t i = 0; i < task->n_inputs; i++) {
        counts_add(&tasks->inputs[task->kind], task->inputs[i], by);
    }
    for (size_t i = 0; i < task->n_outputs; i++) {
        counts_add(&tasks->outputs[task->kind], task->outputs[i], by);
    }
    statements_add(&tasks->lines[task->kind], task->program, by);
}

// Takes the values of a task that leaves out of the counts.
static int uncount(struct tasks *tasks, uint64_t id, struct error *err)
{
    Kelvin__Task *task = NULL;
    int code = tasks_get(tasks, id, &task, err);
    if (code < 0) {
        return code;
    }
    CHECK(task != NULL);
    count_task(tasks, task, -1);
    kelvin__task__free_unpacked(task, NULL);
    return 0;
}

int tasks_add(struct tasks *tasks, Kelvin__Task *task, double accuracy, int64_t now,
              bool *duplicate, struct error *err)
{
    enum task_kind kind = (enum task_kind)task->kind;
    uint64_t digest = task_digest(task);
    if (task_index_has(&tasks->index[kind], digest)) {
        task->id = 0;
        *duplicate = true;
        return 0;
    }
    sqlite3_stmt *row = tasks->statements[ADD_TASK];
    task_row_bind(row, task, tasks->next_task, digest, accuracy);
    (void)sqlite3_bind_int64(row, TASK_ROW_STORED, now);
    int code = finish(tasks, row, err);
    if (code < 0) {
        return code;
    }
    task->id = tasks->next_task++;
    *duplicate = false;
    struct task_entry entry = {.id = task->id,
                               .step = (int64_t)task->step,
                               .digest = digest,
                               .size = (uint32_t)strlen(task->program)};
    uint64_t left = task_index_add(&tasks->index[kind], entry);
    count_task(tasks, task, 1);
    if (left == 0) {
        return 0;
    }
    code = uncount(tasks, left, err);
    if (code < 0) {
        return code;
    }
    row = tasks->statements[LEAVE_TASK];
    (void)sqlite3_bind_int64(row, 1, (int64_t)left);
    (void)sqlite3_bind_int64(row, 2, now);
    return finish(tasks, row, err);
}

int tasks_set_accuracy(struct tasks *tasks, uint64_t id, double accuracy, struct error *err)
{
    sqlite3_stmt *row = tasks->statements[SET_ACCURACY];
    (void)sqlite3_bind_int64(row, 1, (int64_t)id);
    (void)sqlite3_bind_double(row, 2, accuracy);
    return finish(tasks, row, err);
}

int tasks_get(struct tasks *tasks, uint64_t id, Kelvin__Task **out, struct error *err)
{
    sqlite3_stmt *row = tasks->statements[GET_TASK];
    (void)sqlite3_bind_int64(row, 1, (int64_t)id);
    int code = 0;
    switch (sqlite3_step(row)) {
    case SQLITE_ROW:
        code = task_row_read(row, id, out, tasks->path, err);
        break;
    case SQLITE_DONE:
        code = error_set(err, -ENOENT, "%s: there is no task %llu", tasks->path,
                         (unsigned long long)id);
        break;
    default:
        code = store_error(tasks, err);
        break;
    }
    (void)sqlite3_reset(row);
    return code;
}
