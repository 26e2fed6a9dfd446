#include "tests/support.h"

#include "learner/seeds.h"

#include "common/base/file.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char folder[64];

static int setup(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/kelvin-seeds-XXXXXX");
    assert_non_null(mkdtemp(folder));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return file_remove_tree(folder, NULL);
}

static const char *path_of(const char *name)
{
    static char path[128];
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

static int read_text(struct seed_list *list, const char *text, struct error *err)
{
    assert_int_equal(file_write(path_of("seeds.jsonl"), text, strlen(text), NULL), 0);
    return seeds_read(list, path_of("seeds.jsonl"), err);
}

// Rows in the shape of the original load: both kinds, imports put in front only where they lack,
// members that we do not know ignored.
static void test_original_shape(void **state)
{
    (void)state;
    static const char text[] =
        "{\"snippet\":\"def f(a):\\n    return a\",\"input\":\"'x'\",\"output\":\"'x'\","
        "\"imports\":[],\"original_snippet\":\"\",\"composite_functions\":[]}\n"
        "\n"
        "{\"snippet\":\"import math\\ndef f(a):\\n    return gcd(a, 2)\",\"inputs\":[\"1\",\"2\"],"
        "\"outputs\":[\"1\",\"2\"],\"message\":\"hint\","
        "\"imports\":[\"import math\",\"from math import gcd\"]}";
    struct seed_list list = {0};
    assert_int_equal(read_text(&list, text, NULL), 0);
    assert_int_equal(list.count, 2);
    assert_int_equal(list.items[0]->kind, KIND_DEDUCTION);
    assert_string_equal(list.items[0]->inputs[0], "'x'");
    assert_int_equal(list.items[1]->kind, KIND_INDUCTION);
    assert_int_equal(list.items[1]->n_inputs, 2);
    assert_string_equal(list.items[1]->message, "hint");
    assert_string_equal(list.items[1]->program,
                        "from math import gcd\nimport math\ndef f(a):\n    return gcd(a, 2)");
    seeds_free(&list);
}

// A broken row is refused with file and line.
static void test_broken_rows(void **state)
{
    (void)state;
    struct seed_list list = {0};
    struct error err = {0};
    assert_int_equal(
        read_text(&list, "{\"snippet\":\"x\",\"input\":\"1\",\"output\":\"1\"}\n{\n", &err),
        -EINVAL);
    assert_non_null(strstr(err.text, "seeds.jsonl:2"));
    assert_int_equal(read_text(&list, "{\"snippet\":\"x\",\"inputs\":[\"1\"]}", &err), -EINVAL);
    assert_non_null(strstr(err.text, "seeds.jsonl:1"));
    assert_int_equal(seeds_read(&list, path_of("none.jsonl"), &err), -ENOENT);
    assert_int_equal(list.count, 0);
}

// What is written reads back to the same tasks; only seeds are written.
static void test_write(void **state)
{
    (void)state;
    struct tasks *tasks = NULL;
    assert_int_equal(tasks_open(&tasks, path_of("tasks.db"), 64, NULL), 0);
    static const char *const inputs[] = {"1", "2"};
    static const char *const outputs[] = {"2", "3"};
    bool duplicate = false;
    for (uint64_t step = 0; step < 2; step++) {
        Kelvin__Task *task =
            task_create(KIND_INDUCTION, step == 0 ? "import re\ndef f(a):\n    return a + 1" : "x",
                        inputs, outputs, 2, "add one");
        task->step = step;
        assert_int_equal(tasks_add(tasks, task, NAN, 0, &duplicate, NULL), 0);
        kelvin__task__free_unpacked(task, NULL);
    }
    assert_int_equal(seeds_write(path_of("out.jsonl"), tasks, NULL), 0);
    tasks_close(tasks);
    struct seed_list list = {0};
    assert_int_equal(seeds_read(&list, path_of("out.jsonl"), NULL), 0);
    assert_int_equal(list.count, 1);
    assert_string_equal(list.items[0]->program, "import re\ndef f(a):\n    return a + 1");
    assert_string_equal(list.items[0]->outputs[1], "3");
    assert_string_equal(list.items[0]->message, "add one");
    seeds_free(&list);
    char both[300]; // the same file twice, as two files
    (void)snprintf(both, sizeof(both), "%s, ", path_of("out.jsonl"));
    (void)strncat(both, path_of("out.jsonl"), 128);
    assert_int_equal(seeds_read(&list, both, NULL), 0);
    assert_int_equal(list.count, 2);
    assert_string_equal(list.items[1]->message, "add one");
    seeds_free(&list);
    (void)strncat(both, ",none.jsonl", 16);
    assert_int_equal(seeds_read(&list, both, NULL), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_original_shape),
        cmocka_unit_test(test_broken_rows),
        cmocka_unit_test(test_write),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
