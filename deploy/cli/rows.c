#include "deploy/cli/rows.h"

#include "common/base/check.h"
#include "common/base/file.h"
#include "learner/tasks.h"

#include <errno.h>
#include <string.h>

int rows_open(sqlite3 **out, const char *run_dir, struct error *err)
{
    char path[4096];
    int code = file_join(path, sizeof(path), run_dir, "tasks.db", err);
    return code < 0 ? code : tasks_open_reader(out, path, err);
}

void rows_close(sqlite3 *db)
{
    (void)sqlite3_close(db);
}

int rows_prepare(sqlite3_stmt **out, sqlite3 *db, const char *sql, struct error *err)
{
    return sqlite3_prepare_v2(db, sql, -1, out, NULL) == SQLITE_OK
               ? 0
               : error_set(err, -EIO, "tasks.db: %s", sqlite3_errmsg(db));
}

static json_t *text_value(const char *name, const char *text)
{
    static const char *const parsed[] = {"inputs", "outputs", "parents"};
    for (size_t i = 0; i < sizeof(parsed) / sizeof(*parsed); i++) {
        if (strcmp(name, parsed[i]) == 0) {
            return json_loads(text, 0, NULL);
        }
    }
    return json_string(text);
}

static json_t *column_value(sqlite3_stmt *rows, int column)
{
    switch (sqlite3_column_type(rows, column)) {
    case SQLITE_INTEGER:
        return json_integer(sqlite3_column_int64(rows, column));
    case SQLITE_FLOAT:
        return json_real(sqlite3_column_double(rows, column));
    case SQLITE_TEXT:
        return text_value(sqlite3_column_name(rows, column),
                          (const char *)sqlite3_column_text(rows, column));
    default:
        return NULL;
    }
}

json_t *rows_next(sqlite3_stmt *rows)
{
    if (sqlite3_step(rows) != SQLITE_ROW) {
        return NULL;
    }
    json_t *object = json_object();
    CHECK(object != NULL);
    for (int i = 0; i < sqlite3_column_count(rows); i++) {
        if (sqlite3_column_type(rows, i) == SQLITE_BLOB) {
            continue;
        }
        json_t *value = column_value(rows, i);
        CHECK(json_object_set_new(object, sqlite3_column_name(rows, i),
                                  value != NULL ? value : json_null()) == 0);
    }
    return object;
}
