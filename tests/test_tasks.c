#include "tests/support.h"

#include "learner/rollouts.h"
#include "learner/tasks.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct folder {
    char path[64];
    char store[96];
};

static int setup(void **state)
{
    struct folder *folder = calloc(1, sizeof(*folder));
    strcpy(folder->path, "/tmp/kelvin-tasks-XXXXXX");
    assert_non_null(mkdtemp(folder->path));
    (void)snprintf(folder->store, sizeof(folder->store), "%s/tasks.db", folder->path);
    *state = folder;
    return 0;
}

static int teardown(void **state)
{
    struct folder *folder = *state;
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", folder->path);
    assert_int_equal(system(command), 0);
    free(folder);
    return 0;
}

static struct tasks *open_store(const struct folder *folder)
{
    struct tasks *tasks = NULL;
    struct error err = {0};
    assert_int_equal(tasks_open(&tasks, folder->store, 64, &err), 0);
    return tasks;
}

// Stores f(a)=a+C with input `C` as a task of `step`; returns its id, 0 for a duplicate.
static uint64_t add(struct tasks *tasks, enum task_kind kind, int constant, int64_t step)
{
    char program[64];
    char input[16];
    char output[16];
    (void)snprintf(program, sizeof(program), "def f(a):\n    return a + %d\n", constant);
    (void)snprintf(input, sizeof(input), "%d", constant);
    (void)snprintf(output, sizeof(output), "%d", 2 * constant);
    char *inputs[] = {input};
    char *outputs[] = {output};
    Kelvin__Task task = KELVIN__TASK__INIT;
    task.kind = (Kelvin__TaskKind)kind;
    task.step = (uint64_t)step;
    task.program = program;
    task.n_inputs = task.n_outputs = 1;
    task.inputs = inputs;
    task.outputs = outputs;
    uint64_t parents[] = {7, 9};
    task.n_parents = 2;
    task.parents = parents;
    bool duplicate = false;
    assert_int_equal(tasks_add(tasks, &task, NAN, step, &duplicate, NULL), 0);
    assert_int_equal(duplicate, task.id == 0);
    return task.id;
}

// A stored task comes back as it was, also after the store was closed.
static void test_round_trip(void **state)
{
    struct tasks *tasks = open_store(*state);
    uint64_t id = add(tasks, KIND_ABDUCTION, 3, 5);
    assert_int_equal(id, 1);
    tasks_close(tasks);

    tasks = open_store(*state);
    Kelvin__Task *task = NULL;
    assert_int_equal(tasks_get(tasks, id, &task, NULL), 0);
    assert_int_equal(task->kind, KIND_ABDUCTION);
    assert_int_equal(task->step, 5);
    assert_string_equal(task->program, "def f(a):\n    return a + 3\n");
    assert_int_equal(task->n_inputs, 1);
    assert_string_equal(task->inputs[0], "3");
    assert_string_equal(task->outputs[0], "6");
    assert_int_equal(task->n_parents, 2);
    assert_int_equal(task->parents[1], 9);
    kelvin__task__free_unpacked(task, NULL);
    assert_int_equal(tasks_index(tasks, KIND_ABDUCTION)->count, 1);

    struct error err = {0};
    assert_int_equal(tasks_get(tasks, 99, &task, &err), -ENOENT);
    assert_non_null(strstr(err.text, "there is no task 99"));
    tasks_close(tasks);
}

// The same program and input is a duplicate whatever its layout; another kind's is not.
static void test_duplicates(void **state)
{
    struct tasks *tasks = open_store(*state);
    assert_int_equal(add(tasks, KIND_DEDUCTION, 1, 1), 1);
    assert_int_equal(add(tasks, KIND_DEDUCTION, 1, 2), 0);
    assert_int_equal(add(tasks, KIND_ABDUCTION, 1, 2), 2);

    char text[] = " 1 \n";
    char *spaced[] = {text};
    char same[] = "def f(a):  \n\n    return a + 1";
    char other[] = "def f(a):\n  return a + 1";
    Kelvin__Task task = KELVIN__TASK__INIT;
    task.program = same;
    task.n_inputs = 1;
    task.inputs = spaced;
    assert_true(tasks_has(tasks, &task));
    task.program = other;
    assert_false(tasks_has(tasks, &task));
    tasks_close(tasks);
}

// Forgetting goes back to the end of a step: later tasks vanish, those that left come back, ids
// continue as they did.
static void test_forget(void **state)
{
    struct folder *folder = *state;
    struct tasks *tasks = NULL;
    assert_int_equal(tasks_open(&tasks, folder->store, 3, NULL), 0);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(add(tasks, KIND_DEDUCTION, i, i), i + 1); // ids 2 and 3 leave at 3 and 4
    }
    assert_int_equal(tasks_index(tasks, KIND_DEDUCTION)->entries[1].id, 4);
    assert_int_equal(tasks_forget(tasks, 2, NULL), 0);
    const struct task_index *index = tasks_index(tasks, KIND_DEDUCTION);
    assert_int_equal(index->count, 3);
    assert_int_equal(index->entries[0].id, 1);
    assert_int_equal(index->entries[1].id, 2);
    assert_int_equal(index->entries[2].id, 3);
    assert_int_equal(add(tasks, KIND_DEDUCTION, 10, 3), 4);
    tasks_close(tasks);
}

// What was not committed is gone after a close, as after a kill.
static void test_transaction(void **state)
{
    struct tasks *tasks = open_store(*state);
    assert_int_equal(tasks_begin(tasks, NULL), 0);
    (void)add(tasks, KIND_DEDUCTION, 1, 1);
    assert_int_equal(tasks_commit(tasks, NULL), 0);
    assert_int_equal(tasks_begin(tasks, NULL), 0);
    (void)add(tasks, KIND_DEDUCTION, 2, 2);
    tasks_close(tasks);
    tasks = open_store(*state);
    assert_int_equal(tasks_index(tasks, KIND_DEDUCTION)->count, 1);
    tasks_close(tasks);
}

// Rollouts and verdicts land in their tables and are forgotten with their step.
static void test_rollouts(void **state)
{
    struct tasks *tasks = open_store(*state);
    struct rollouts *rollouts = NULL;
    assert_int_equal(rollouts_open(&rollouts, tasks, NULL), 0);
    uint32_t tokens[] = {5, 6, 7};
    float logprobs[] = {-1.0F, -2.0F, -3.0F};
    Kelvin__Rollout rollout = KELVIN__ROLLOUT__INIT;
    char text[] = "<answer>4</answer>";
    rollout.text = text;
    rollout.n_tokens = rollout.n_logprobs = 3;
    rollout.tokens = tokens;
    rollout.logprobs = logprobs;
    Kelvin__Verdict verdict = KELVIN__VERDICT__INIT;
    verdict.outcome = KELVIN__OUTCOME__WRONG;
    verdict.formatted = 1;
    for (int64_t step = 1; step <= 2; step++) {
        struct rollout_record record = {.step = step,
                                        .kind = KIND_DEDUCTION,
                                        .role = ROLE_SOLVE,
                                        .task = 3,
                                        .reward = -0.5,
                                        .rollout = &rollout,
                                        .verdict = &verdict};
        assert_int_equal(rollouts_add(rollouts, &record, NULL), 0);
    }
    rollouts_close(rollouts);
    assert_int_equal(tasks_forget(tasks, 1, NULL), 0);
    sqlite3_stmt *row = NULL;
    assert_int_equal(sqlite3_prepare_v2(tasks_db(tasks),
                                        "SELECT r.id, r.step, length(r.tokens), v.outcome FROM "
                                        "rollouts r JOIN verdicts v ON v.rollout = r.id",
                                        -1, &row, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    assert_int_equal(sqlite3_column_int(row, 0), 1);
    assert_int_equal(sqlite3_column_int(row, 1), 1);
    assert_int_equal(sqlite3_column_int(row, 2), 12);
    assert_string_equal((const char *)sqlite3_column_text(row, 3), "wrong");
    assert_int_equal(sqlite3_step(row), SQLITE_DONE);
    (void)sqlite3_finalize(row);
    tasks_close(tasks);
}

// A foreign SQLite file, a file that is none, and a store of a newer schema are refused and left
// as they were.
static void test_foreign_files(void **state)
{
    struct folder *folder = *state;
    struct error err = {0};
    struct tasks *tasks = NULL;
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(folder->store, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "CREATE TABLE cats(name)", NULL, NULL, NULL), SQLITE_OK);
    (void)sqlite3_close(db);
    assert_int_equal(tasks_open(&tasks, folder->store, 8, &err), -EINVAL);
    assert_non_null(strstr(err.text, "not a task store"));
    assert_int_equal(unlink(folder->store), 0);

    tasks_close(open_store(folder));
    assert_int_equal(sqlite3_open(folder->store, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version=99", NULL, NULL, NULL), SQLITE_OK);
    (void)sqlite3_close(db);
    assert_int_equal(tasks_open(&tasks, folder->store, 8, &err), -EINVAL);
    assert_non_null(strstr(err.text, "schema 99"));
    assert_int_equal(unlink(folder->store), 0);

    FILE *file = fopen(folder->store, "w");
    assert_non_null(file);
    for (int i = 0; i < 200; i++) {
        assert_true(fputs("this is no database\n", file) >= 0);
    }
    assert_int_equal(fclose(file), 0);
    assert_true(tasks_open(&tasks, folder->store, 8, &err) < 0);
    assert_non_null(strstr(err.text, folder->store));
    assert_null(tasks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(test_duplicates, setup, teardown),
        cmocka_unit_test_setup_teardown(test_forget, setup, teardown),
        cmocka_unit_test_setup_teardown(test_transaction, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rollouts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_foreign_files, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
