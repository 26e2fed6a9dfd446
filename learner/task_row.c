#include "learner/task_row.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/json.h"
#include "common/wire/message.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

int task_kind_find(const char *name)
{
    for (int kind = 0; kind < KINDS; kind++) {
        if (name != NULL && strcmp(name, task_kind_name((enum task_kind)kind)) == 0) {
            return kind;
        }
    }
    return -1;
}

static void bind_text(sqlite3_stmt *row, int column, const char *text)
{
    (void)sqlite3_bind_text(row, column, text, -1, SQLITE_STATIC);
}

// Binds a list of strings as a JSON array.
static void bind_texts(sqlite3_stmt *row, int column, char **texts, size_t count)
{
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++) {
        // Bytes that are no UTF-8 cannot occur: the codec refuses such strings.
        (void)json_array_append_new(array, json_string(texts[i]));
    }
    char *text = json_dumps(array, JSON_COMPACT | JSON_ENSURE_ASCII);
    json_decref(array);
    CHECK(text != NULL);
    (void)sqlite3_bind_text(row, column, text, -1, free);
}

static void bind_numbers(sqlite3_stmt *row, int column, const uint64_t *numbers, size_t count)
{
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++) {
        (void)json_array_append_new(array, json_integer((json_int_t)numbers[i]));
    }
    char *text = json_dumps(array, JSON_COMPACT);
    json_decref(array);
    CHECK(text != NULL);
    (void)sqlite3_bind_text(row, column, text, -1, free);
}

void task_row_bind(sqlite3_stmt *row, const Kelvin__Task *task, uint64_t id, uint64_t digest,
                   double accuracy)
{
    (void)sqlite3_bind_int64(row, 1, (int64_t)id);
    bind_text(row, 2, task_kind_name((enum task_kind)task->kind));
    (void)sqlite3_bind_int64(row, 3, (int64_t)task->step);
    (void)sqlite3_bind_int64(row, 5, (int64_t)digest);
    if (!isnan(accuracy)) {
        (void)sqlite3_bind_double(row, 6, accuracy);
    }
    bind_text(row, 7, task->program);
    bind_texts(row, 8, task->inputs, task->n_inputs);
    bind_texts(row, 9, task->outputs, task->n_outputs);
    bind_text(row, 10, task->message);
    bind_numbers(row, 11, task->parents, task->n_parents);
}

static char *column_copy(sqlite3_stmt *row, int column)
{
    const unsigned char *text = sqlite3_column_text(row, column);
    char *copy = strdup(text == NULL ? "" : (const char *)text);
    CHECK(copy != NULL);
    return copy;
}

// The JSON array of strings in a column, as protobuf-c wants it.
static int read_texts(sqlite3_stmt *row, int column, char ***out, size_t *count, const char *path,
                      struct error *err)
{
    const char *text = (const char *)sqlite3_column_text(row, column);
    json_t *array = text == NULL ? NULL : json_loads(text, 0, NULL);
    size_t size = json_array_size(array);
    char **texts = calloc(size + 1, sizeof(*texts));
    CHECK(texts != NULL);
    for (size_t i = 0; i < size; i++) {
        const char *item = json_string_value(json_array_get(array, i));
        texts[i] = strdup(item == NULL ? "" : item);
        CHECK(texts[i] != NULL);
    }
    bool broken = array == NULL || !json_is_array(array);
    json_decref(array);
    *out = texts;
    *count = size;
    return broken ? error_set(err, -EINVAL, "%s: a task's inputs are no JSON array", path) : 0;
}

static void read_parents(sqlite3_stmt *row, int column, Kelvin__Task *task)
{
    const char *text = (const char *)sqlite3_column_text(row, column);
    json_t *array = text == NULL ? NULL : json_loads(text, 0, NULL);
    task->n_parents = json_array_size(array);
    task->parents = calloc(task->n_parents + 1, sizeof(*task->parents));
    CHECK(task->parents != NULL);
    for (size_t i = 0; i < task->n_parents; i++) {
        task->parents[i] = (uint64_t)json_integer_value(json_array_get(array, i));
    }
    json_decref(array);
}

static void free_task(Kelvin__Task **task)
{
    message_free(*task);
}

int task_row_read(sqlite3_stmt *row, uint64_t id, Kelvin__Task **out, const char *path,
                  struct error *err)
{
    CLEANUP(free_task) Kelvin__Task *task = calloc(1, sizeof(*task));
    CHECK(task != NULL);
    kelvin__task__init(task);
    int kind = task_kind_find((const char *)sqlite3_column_text(row, 0));
    if (kind < 0) {
        return error_set(err, -EINVAL, "%s: task %llu is of an unknown kind", path,
                         (unsigned long long)id);
    }
    task->id = id;
    task->kind = (Kelvin__TaskKind)kind;
    task->step = (uint64_t)sqlite3_column_int64(row, 1);
    task->program = column_copy(row, 2);
    task->message = column_copy(row, 5);
    int code = read_texts(row, 3, &task->inputs, &task->n_inputs, path, err);
    code = code < 0 ? code : read_texts(row, 4, &task->outputs, &task->n_outputs, path, err);
    read_parents(row, 6, task);
    if (code == 0) {
        *out = TAKE(task);
    }
    return code;
}
