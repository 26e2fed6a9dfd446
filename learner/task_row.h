// task_row.h: a task as a row of the table `tasks` (tasks.h): its lists are JSON arrays.
#ifndef LEARNER_TASK_ROW_H
#define LEARNER_TASK_ROW_H

#include "common/base/error.h"
#include "common/base/task.h"

#include "proto/task.pb-c.h"

#include <sqlite3.h>
#include <stdint.h>

// The statement that task_row_bind fills in, but for the step that stores the task, and the one
// whose rows task_row_read reads (?1: the id).
#define TASK_ROW_INSERT "INSERT INTO tasks VALUES(?1,?2,?3,?12,?4,?5,?6,?7,?8,?9,?10,?11)"
#define TASK_ROW_SELECT                                                                            \
    "SELECT kind,step,program,inputs,outputs,message,parents FROM tasks WHERE id=?1"
enum { TASK_ROW_STORED = 12 };

// task_kind_find is the kind of a name, -1 when it is none (NULL neither).
int task_kind_find(const char *name);

// task_row_bind fills in a task; `accuracy` may be NaN. The texts of the task are borrowed until
// the statement is reset.
void task_row_bind(sqlite3_stmt *row, const Kelvin__Task *task, uint64_t id, uint64_t digest,
                   double accuracy);

// task_row_read makes the task of a row; the caller frees it. `path` is the store's, for errors.
int task_row_read(sqlite3_stmt *row, uint64_t id, Kelvin__Task **out, const char *path,
                  struct error *err);

#endif
