// kelvin tasks: what a run proposed, stored, solved and was told, from its store.
#include "common/base/check.h"
#include "common/base/task.h"
#include "deploy/cli/cli.h"
#include "deploy/cli/rows.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LIMIT = 50, CELL = 60 };

struct query {
    const char *run_dir;
    int64_t id; // 0: list
    bool rollouts, json;
    const char *type, *verdict;
    double step[2], accuracy[2]; // NaN: no such filter
    int64_t limit;
};

static void print_help(void)
{
    (void)printf(
        "Usage: kelvin tasks RUN [filter ...]              the tasks of a run\n"
        "       kelvin tasks RUN --rollouts [filter ...]   its rollouts, also of proposals that\n"
        "                                                  became no task\n"
        "       kelvin tasks RUN ID                        one task with its rollouts\n\n"
        "RUN is a run folder; the run may go on meanwhile.\n\n"
        "  --type NAME       deduction, abduction, induction, error\n"
        "  --step N|A..B     proposed in step N (rollouts: played in it); 0 is the seeds\n"
        "  --accuracy A..B   mean accuracy of its estimate; with --rollouts the score of the "
        "verdict\n"
        "  --verdict NAME    some rollout of it has this verdict: ok wrong syntax-error forbidden "
        "...\n"
        "  --limit N         lines at most (%d); 0: all\n"
        "  --json            an object a line, with everything\n",
        LIMIT);
}

static bool read_real(double *out, const char *text, size_t size, double missing)
{
    char copy[64];
    char *end = NULL;
    if (size == 0 || size >= sizeof(copy)) {
        *out = missing;
        return size == 0;
    }
    memcpy(copy, text, size);
    copy[size] = '\0';
    *out = strtod(copy, &end);
    return *end == '\0';
}

// Reads "A..B", "A..", "..B" or "A".
static bool read_range(double out[2], const char *text)
{
    const char *dots = strstr(text, "..");
    size_t size = strlen(text);
    if (dots == NULL) {
        bool good = size > 0 && read_real(&out[0], text, size, 0.0);
        out[1] = out[0];
        return good;
    }
    return read_real(&out[0], text, (size_t)(dots - text), -HUGE_VAL) &&
           read_real(&out[1], dots + 2, strlen(dots + 2), HUGE_VAL);
}

static bool read_count(int64_t *out, const char *text)
{
    char *end = NULL;
    errno = 0;
    *out = strtoll(text, &end, 10);
    return end != text && *end == '\0' && errno == 0 && *out >= 0;
}

static bool known_type(const char *name)
{
    for (int kind = 0; kind < KINDS; kind++) {
        if (strcmp(name, task_kind_name((enum task_kind)kind)) == 0) {
            return true;
        }
    }
    return false;
}

static bool known_verdict(const char *name)
{
    for (int outcome = 0; outcome < OUTCOMES; outcome++) {
        if (strcmp(name, outcome_name((enum outcome)outcome)) == 0) {
            return true;
        }
    }
    return false;
}

// Reads an option with its value. 0: it is none of them.
static int read_filter(struct query *query, const char *option, const char *value,
                       struct error *err)
{
    bool good = false;
    if (strcmp(option, "--type") == 0) {
        query->type = value;
        good = known_type(value);
    } else if (strcmp(option, "--verdict") == 0) {
        query->verdict = value;
        good = known_verdict(value);
    } else if (strcmp(option, "--step") == 0) {
        good = read_range(query->step, value);
    } else if (strcmp(option, "--accuracy") == 0) {
        good = read_range(query->accuracy, value);
    } else if (strcmp(option, "--limit") == 0) {
        good = read_count(&query->limit, value);
    } else {
        return 0;
    }
    return good ? 1
                : error_set(err, -EINVAL, "%s %s is not understood; see kelvin tasks --help",
                            option, value);
}

static int read_words(struct query *query, int argc, char **argv, struct error *err)
{
    for (int i = 1; i < argc; i++) {
        int filter = i + 1 < argc ? read_filter(query, argv[i], argv[i + 1], err) : 0;
        if (filter < 0) {
            return filter;
        }
        if (filter > 0) {
            i++;
        } else if (strcmp(argv[i], "--rollouts") == 0) {
            query->rollouts = true;
        } else if (strcmp(argv[i], "--json") == 0) {
            query->json = true;
        } else if (query->run_dir == NULL && argv[i][0] != '-') {
            query->run_dir = argv[i];
        } else if (query->id != 0 || !read_count(&query->id, argv[i]) || query->id == 0) {
            return error_set(err, -EINVAL, "%s is not understood; see kelvin tasks --help",
                             argv[i]);
        }
    }
    return query->run_dir != NULL ? 0 : error_set(err, -EINVAL, "which run? kelvin tasks RUN");
}

// --- queries ---

static const char task_sql[] =
    "SELECT id,kind AS type,step,left_step,accuracy,program,inputs,outputs,message,parents,"
    " (SELECT count(*) FROM rollouts r WHERE r.task=tasks.id AND r.role='solve') AS answers"
    " FROM tasks WHERE (?1 IS NULL OR kind=?1)"
    " AND (?2 IS NULL OR step BETWEEN ?2 AND ?3)"
    " AND (?4 IS NULL OR accuracy BETWEEN ?4 AND ?5)"
    " AND (?6 IS NULL OR EXISTS(SELECT 1 FROM rollouts r JOIN verdicts v ON v.rollout=r.id"
    " WHERE r.task=tasks.id AND v.outcome=?6))"
    " AND (?8 IS NULL OR id=?8) ORDER BY id LIMIT ?7";

static const char rollout_sql[] =
    "SELECT r.id,r.kind AS type,r.role,r.step,r.slot,r.sample,r.task,r.trained,r.reward,"
    " r.advantage,r.finish,length(r.tokens)/4 AS tokens,r.versions,r.numerics,r.text,"
    " v.outcome AS verdict,v.formatted,v.score,v.answer,v.exception,v.detail,v.scratchpad,"
    " v.wall_us,v.cpu_us"
    " FROM rollouts r LEFT JOIN verdicts v ON v.rollout=r.id WHERE (?1 IS NULL OR r.kind=?1)"
    " AND (?2 IS NULL OR r.step BETWEEN ?2 AND ?3)"
    " AND (?4 IS NULL OR v.score BETWEEN ?4 AND ?5)"
    " AND (?6 IS NULL OR v.outcome=?6)"
    " AND (?8 IS NULL OR r.task=?8) ORDER BY r.id LIMIT ?7";

static void bind_range(sqlite3_stmt *rows, int first, const double range[2])
{
    if (!isnan(range[0])) {
        (void)sqlite3_bind_double(rows, first, range[0]);
        (void)sqlite3_bind_double(rows, first + 1, range[1]);
    }
}

static int start(sqlite3_stmt **out, sqlite3 *db, const char *sql, const struct query *query,
                 struct error *err)
{
    int code = rows_prepare(out, db, sql, err);
    if (code < 0) {
        return code;
    }
    (void)sqlite3_bind_text(*out, 1, query->type, -1, SQLITE_STATIC); // NULL is NULL
    bind_range(*out, 2, query->step);
    bind_range(*out, 4, query->accuracy);
    (void)sqlite3_bind_text(*out, 6, query->verdict, -1, SQLITE_STATIC);
    (void)sqlite3_bind_int64(*out, 7, query->limit > 0 ? query->limit : -1);
    if (query->id != 0) {
        (void)sqlite3_bind_int64(*out, 8, query->id);
    }
    return 0;
}

// --- printing ---

static const char *text_of(const json_t *row, const char *key)
{
    const char *text = json_string_value(json_object_get(row, key));
    return text != NULL ? text : "";
}

static long long number_of(const json_t *row, const char *key)
{
    return json_integer_value(json_object_get(row, key));
}

static void print_real(const json_t *row, const char *key, int width)
{
    const json_t *value = json_object_get(row, key);
    if (json_is_number(value)) {
        (void)printf("%*.2f", width, json_number_value(value));
    } else {
        (void)printf("%*s", width, "-");
    }
}

// One line of at most CELL bytes, whatever the text.
static void print_cell(const char *text)
{
    int used = 0;
    for (; *text != '\0' && (used < CELL || (*text & 0xC0) == 0x80); text++, used++) {
        bool plain = (unsigned char)*text >= 0x20;
        (void)fputs(plain ? (char[]){*text, '\0'} : " ", stdout);
    }
    (void)fputs(*text != '\0' ? "…" : "", stdout);
}

static const char *item_of(const json_t *row, const char *key)
{
    const char *text = json_string_value(json_array_get(json_object_get(row, key), 0));
    return text != NULL ? text : "";
}

static void print_task_line(const json_t *row)
{
    (void)printf("%7lld  %-9s  %5lld  ", number_of(row, "id"), text_of(row, "type"),
                 number_of(row, "step"));
    print_real(row, "accuracy", 8);
    (void)printf("  %7lld  f(", number_of(row, "answers"));
    print_cell(item_of(row, "inputs"));
    (void)printf(") → ");
    print_cell(item_of(row, "outputs"));
    (void)printf("\n");
}

static void print_rollout_line(const json_t *row)
{
    const json_t *task = json_object_get(row, "task");
    (void)printf("%7lld  %-9s  %-7s  %5lld  %4lld.%-3lld ", number_of(row, "id"),
                 text_of(row, "type"), text_of(row, "role"), number_of(row, "step"),
                 number_of(row, "slot"), number_of(row, "sample"));
    if (json_is_integer(task)) {
        (void)printf("%7lld  ", (long long)json_integer_value(task));
    } else {
        (void)printf("%7s  ", "-");
    }
    (void)printf("%-17s", text_of(row, "verdict")[0] != '\0' ? text_of(row, "verdict") : "-");
    print_real(row, "score", 6);
    print_real(row, "reward", 8);
    print_real(row, "advantage", 8);
    (void)printf("  ");
    print_cell(text_of(row, "text"));
    (void)printf("\n");
}

static void print_task(const json_t *row)
{
    (void)printf("task %lld  %s  step %lld  accuracy ", number_of(row, "id"), text_of(row, "type"),
                 number_of(row, "step"));
    print_real(row, "accuracy", 0);
    const json_t *left = json_object_get(row, "left_step");
    if (json_is_integer(left)) {
        (void)printf("  left the store at step %lld", (long long)json_integer_value(left));
    }
    CLEANUP(freep) char *parents = json_dumps(json_object_get(row, "parents"), JSON_COMPACT);
    (void)printf("  shown %s\n\n%s\n\n", parents != NULL ? parents : "[]", text_of(row, "program"));
    const json_t *inputs = json_object_get(row, "inputs");
    for (size_t i = 0; i < json_array_size(inputs); i++) {
        const char *input = json_string_value(json_array_get(inputs, i));
        const char *output = json_string_value(json_array_get(json_object_get(row, "outputs"), i));
        (void)printf("f(%s) → %s\n", input != NULL ? input : "", output != NULL ? output : "");
    }
    if (text_of(row, "message")[0] != '\0') {
        (void)printf("message: %s\n", text_of(row, "message"));
    }
}

static void print_rollout(const json_t *row)
{
    (void)printf("\nrollout %lld  %s  step %lld  sample %lld  %s", number_of(row, "id"),
                 text_of(row, "role"), number_of(row, "step"), number_of(row, "sample"),
                 text_of(row, "verdict")[0] != '\0' ? text_of(row, "verdict") : "no verdict");
    (void)printf("  score ");
    print_real(row, "score", 0);
    (void)printf("  reward ");
    print_real(row, "reward", 0);
    (void)printf("  advantage ");
    print_real(row, "advantage", 0);
    (void)printf("  %lld tokens of version×count %s\n", number_of(row, "tokens"),
                 text_of(row, "versions"));
    if (text_of(row, "detail")[0] != '\0' || text_of(row, "exception")[0] != '\0') {
        (void)printf("(%s %s)\n", text_of(row, "exception"), text_of(row, "detail"));
    }
    (void)printf("%s\n", text_of(row, "text"));
}

static void print_json(const json_t *row)
{
    CLEANUP(freep) char *text = json_dumps(row, JSON_COMPACT | JSON_REAL_PRECISION(17));
    CHECK(text != NULL);
    (void)printf("%s\n", text);
}

// --- the command ---

static int list(sqlite3 *db, const struct query *query, struct error *err)
{
    sqlite3_stmt *rows = NULL;
    int code = start(&rows, db, query->rollouts ? rollout_sql : task_sql, query, err);
    if (code < 0) {
        return code;
    }
    if (!query->json) {
        (void)printf("%s\n", query->rollouts
                                 ? "     id  type       role      step  slot        task  verdict"
                                   "           score  reward  advant.  text"
                                 : "     id  type        step  accuracy  answers  task");
    }
    json_t *row = NULL;
    int64_t count = 0;
    for (; (row = rows_next(rows)) != NULL; json_decref(row), count++) {
        (query->json ? print_json : query->rollouts ? print_rollout_line : print_task_line)(row);
    }
    (void)sqlite3_finalize(rows);
    if (count == query->limit && query->limit > 0 && !query->json) {
        (void)printf("(the first %lld; --limit 0 shows all)\n", (long long)count);
    }
    return 0;
}

static int show(sqlite3 *db, const struct query *query, struct error *err)
{
    struct query one = {
        .id = query->id, .step = {NAN, NAN}, .accuracy = {NAN, NAN}, .json = query->json};
    sqlite3_stmt *rows = NULL;
    int code = start(&rows, db, task_sql, &one, err);
    if (code < 0) {
        return code;
    }
    CLEANUP(json_decrefp) json_t *task = rows_next(rows);
    (void)sqlite3_finalize(rows);
    if (task == NULL) {
        return error_set(err, -ENOENT, "%s has no task %lld", query->run_dir, (long long)query->id);
    }
    code = start(&rows, db, rollout_sql, &one, err);
    if (code < 0) {
        return code;
    }
    json_t *list = json_array();
    for (json_t *row = NULL; (row = rows_next(rows)) != NULL;) {
        (void)json_array_append_new(list, row);
    }
    (void)sqlite3_finalize(rows);
    (void)json_object_set_new(task, "rollouts", list);
    if (query->json) {
        print_json(task);
        return 0;
    }
    print_task(task);
    for (size_t i = 0; i < json_array_size(list); i++) {
        print_rollout(json_array_get(list, i));
    }
    return 0;
}

int command_tasks(int argc, char **argv)
{
    if (cli_wants_help(argc, argv)) {
        print_help();
        return 0;
    }
    struct query query = {.step = {NAN, NAN}, .accuracy = {NAN, NAN}, .limit = LIMIT};
    struct error err = {0};
    CLEANUP(rows_closep) sqlite3 *db = NULL;
    int code = read_words(&query, argc, argv, &err);
    code = code < 0 ? code : rows_open(&db, query.run_dir, &err);
    code = code < 0 ? code : (query.id != 0 ? show : list)(db, &query, &err);
    return code < 0 ? cli_fail(argv[0], "%s", err.text) : 0;
}
