// rows.h: rows of a run's store as JSON objects, for the commands that show it.
#ifndef DEPLOY_CLI_ROWS_H
#define DEPLOY_CLI_ROWS_H

#include "common/base/error.h"
#include "common/base/json.h"

#include <sqlite3.h>

// rows_open opens RUN/tasks.db for reading, also while the run goes on; rows_close accepts NULL.
int rows_open(sqlite3 **out, const char *run_dir, struct error *err);
void rows_close(sqlite3 *db);

static inline void rows_closep(sqlite3 **db)
{
    rows_close(*db);
}

// rows_prepare prepares a query; the caller binds, reads with rows_next and ends it with
// sqlite3_finalize.
int rows_prepare(sqlite3_stmt **out, sqlite3 *db, const char *sql, struct error *err);

// rows_next gives the next row as an object with the columns' names, which the caller owns, or NULL
// after the last. Columns that hold JSON (inputs, outputs, parents) are parsed, blobs left out.
json_t *rows_next(sqlite3_stmt *rows);

#endif
