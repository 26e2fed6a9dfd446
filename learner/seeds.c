#include "learner/seeds.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/base/limits.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *copy_text(const char *text)
{
    char *copy = strdup(text);
    CHECK(copy != NULL);
    return copy;
}

static char **copy_texts(const char *const *texts, int32_t count)
{
    char **copies = calloc((size_t)count + 1, sizeof(void *));
    CHECK(copies != NULL);
    for (int32_t i = 0; i < count; i++) {
        copies[i] = copy_text(texts[i]);
    }
    return copies;
}

Kelvin__Task *task_create(enum task_kind kind, const char *program, const char *const *inputs,
                          const char *const *outputs, int32_t pairs, const char *message)
{
    Kelvin__Task *task = calloc(1, sizeof(*task));
    CHECK(task != NULL);
    kelvin__task__init(task);
    task->kind = (Kelvin__TaskKind)kind;
    task->program = copy_text(program);
    task->inputs = copy_texts(inputs, pairs);
    task->n_inputs = (size_t)pairs;
    if (outputs != NULL) {
        task->outputs = copy_texts(outputs, pairs);
        task->n_outputs = (size_t)pairs;
    }
    task->message = copy_text(message);
    return task;
}

void seeds_free(struct seed_list *list)
{
    for (int32_t i = 0; i < list->count; i++) {
        kelvin__task__free_unpacked(list->items[i], NULL);
    }
    free(list->items);
    *list = (struct seed_list){0};
}

// Strings of a JSON array into `out` [TASK_INPUTS_MAX]; -1 when it is not such an array.
static int32_t strings_of(const json_t *array, const char **out)
{
    size_t count = json_array_size(array);
    if (count == 0 || count > TASK_INPUTS_MAX) {
        return -1;
    }
    for (size_t i = 0; i < count; i++) {
        out[i] = json_string_value(json_array_get(array, i));
        if (out[i] == NULL) {
            return -1;
        }
    }
    return (int32_t)count;
}

// The snippet with those of its imports in front that do not stand in it. The caller frees it.
static char *whole_program(const json_t *row, const char *snippet)
{
    const json_t *imports = json_object_get(row, "imports");
    char *program = NULL;
    size_t size = 0;
    FILE *text = open_memstream(&program, &size);
    CHECK(text != NULL);
    for (size_t i = 0; i < json_array_size(imports); i++) {
        const char *line = json_string_value(json_array_get(imports, i));
        if (line != NULL && strstr(snippet, line) == NULL) {
            (void)fprintf(text, "%s\n", line);
        }
    }
    (void)fputs(snippet, text);
    CHECK(fclose(text) == 0);
    return program;
}

static Kelvin__Task *task_of(const json_t *row)
{
    const char *snippet = json_string_value(json_object_get(row, "snippet"));
    const char *inputs[TASK_INPUTS_MAX];
    const char *outputs[TASK_INPUTS_MAX];
    const json_t *many = json_object_get(row, "inputs");
    const char *message = json_string_value(json_object_get(row, "message"));
    int32_t pairs = 1;
    if (many != NULL) {
        pairs = strings_of(many, inputs);
        if (pairs < 2 || strings_of(json_object_get(row, "outputs"), outputs) != pairs) {
            return NULL;
        }
    } else {
        inputs[0] = json_string_value(json_object_get(row, "input"));
        outputs[0] = json_string_value(json_object_get(row, "output"));
    }
    if (snippet == NULL || inputs[0] == NULL || outputs[0] == NULL ||
        strlen(snippet) > PROGRAM_BYTES_MAX) {
        return NULL;
    }
    CLEANUP(freep) char *program = whole_program(row, snippet);
    return task_create(many != NULL ? KIND_INDUCTION : KIND_DEDUCTION, program, inputs, outputs,
                       pairs, message == NULL ? "" : message);
}

static int read_lines(struct seed_list *list, char *text, const char *path, struct error *err)
{
    int32_t room = 1;
    for (const char *at = text; *at != '\0'; at++) {
        room += *at == '\n';
    }
    list->items = reallocarray(list->items, (size_t)list->count + (size_t)room, sizeof(void *));
    CHECK(list->items != NULL);
    int line = 0;
    for (char *rest = text; rest != NULL;) {
        const char *row = strsep(&rest, "\n");
        line++;
        if (row[strspn(row, " \t\r")] == '\0') {
            continue;
        }
        char where[512];
        (void)snprintf(where, sizeof(where), "%s:%d", path, line);
        CLEANUP(json_decrefp) json_t *object = NULL;
        int code = json_parse(&object, row, strlen(row), where, err);
        if (code < 0) {
            return code;
        }
        Kelvin__Task *task = task_of(object);
        if (task == NULL) {
            return error_set(err, -EINVAL,
                             "%s: a seed has snippet, input, output, or snippet, inputs, outputs, "
                             "message",
                             where);
        }
        list->items[list->count++] = task;
    }
    return 0;
}

static int read_file(struct seed_list *list, const char *path, struct error *err)
{
    CLEANUP(freep) char *text = NULL;
    size_t size = 0;
    int code = file_read(&text, &size, path, JSON_BYTES_MAX, err);
    return code < 0 ? code : read_lines(list, text, path, err);
}

int seeds_read(struct seed_list *out, const char *paths, struct error *err)
{
    struct seed_list list = {0};
    CLEANUP(freep) char *names = copy_text(paths);
    int code = 0;
    for (char *rest = names; code == 0 && rest != NULL;) {
        const char *path = strsep(&rest, ",");
        code = read_file(&list, path + strspn(path, " "), err);
    }
    if (code < 0) {
        seeds_free(&list);
        return code;
    }
    *out = list;
    return 0;
}

static json_t *strings(char **texts, size_t count)
{
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++) {
        (void)json_array_append_new(array, json_string(texts[i]));
    }
    return array;
}

static json_t *imports_of(const char *program)
{
    json_t *array = json_array();
    while (*program != '\0') {
        size_t length = strcspn(program, "\n");
        if (strncmp(program, "import ", 7) == 0 || strncmp(program, "from ", 5) == 0) {
            (void)json_array_append_new(array, json_stringn(program, length));
        }
        program += length + (program[length] == '\n');
    }
    return array;
}

static void write_seed(FILE *file, const Kelvin__Task *task)
{
    CLEANUP(json_decrefp) json_t *row = json_object();
    (void)json_object_set_new(row, "snippet", json_string(task->program));
    if (task->kind == KELVIN__TASK_KIND__INDUCTION) {
        (void)json_object_set_new(row, "inputs", strings(task->inputs, task->n_inputs));
        (void)json_object_set_new(row, "outputs", strings(task->outputs, task->n_outputs));
        (void)json_object_set_new(row, "message", json_string(task->message));
    } else {
        (void)json_object_set_new(row, "input", json_string(task->inputs[0]));
        (void)json_object_set_new(row, "output", json_string(task->outputs[0]));
    }
    (void)json_object_set_new(row, "imports", imports_of(task->program));
    (void)json_dumpf(row, file, JSON_COMPACT);
    (void)fputc('\n', file);
}

int seeds_write(const char *path, struct tasks *tasks, struct error *err)
{
    CLEANUP(freep) char *text = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&text, &size);
    CHECK(file != NULL);
    static const enum task_kind kinds[] = {KIND_DEDUCTION, KIND_INDUCTION};
    int code = 0;
    for (int k = 0; k < 2; k++) {
        const struct task_index *index = tasks_index(tasks, kinds[k]);
        for (int32_t i = 0; i < index->count && index->entries[i].step == 0 && code == 0; i++) {
            Kelvin__Task *task = NULL;
            code = tasks_get(tasks, index->entries[i].id, &task, err);
            if (code == 0) {
                write_seed(file, task);
                kelvin__task__free_unpacked(task, NULL);
            }
        }
    }
    CHECK(fclose(file) == 0);
    return code < 0 ? code : file_write(path, text, size, err);
}
