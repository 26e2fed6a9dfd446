#include "tests/support.h"

#include "common/base/file.h"
#include "deploy/cli/supervisor.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    WAIT_TURNS = 400
}; // of 50 ms: a bound on every wait below, never a duration that a result depends on

struct folder {
    char path[64];
};

static int setup(void **state)
{
    struct folder *folder = calloc(1, sizeof(*folder));
    (void)snprintf(folder->path, sizeof(folder->path), "/tmp/kelvin-supervisor-XXXXXX");
    assert_non_null(mkdtemp(folder->path));
    *state = folder;
    return 0;
}

static int teardown(void **state)
{
    struct folder *folder = *state;
    assert_int_equal(file_remove_tree(folder->path, NULL), 0);
    free(folder);
    return 0;
}

struct shell { // `sh -c SCRIPT` with the folder as $0
    char log[128];
    char *words[5];
    struct child_spec spec;
};

static void shell_init(struct shell *shell, struct folder *folder, const char *name, char *script)
{
    static char sh[] = "/bin/sh", option[] = "-c";
    (void)snprintf(shell->log, sizeof(shell->log), "%s/%s.log", folder->path, name);
    shell->words[0] = sh;
    shell->words[1] = option;
    shell->words[2] = script;
    shell->words[3] = folder->path;
    shell->words[4] = NULL;
    shell->spec = (struct child_spec){.name = name, .words = shell->words, .log_path = shell->log};
}

struct lines {
    int count;
    char last[64];
};

static void on_line(void *context, const char *line)
{
    struct lines *lines = context;
    lines->count++;
    (void)snprintf(lines->last, sizeof(lines->last), "%s", line);
}

// The learner's lines arrive whole, its exit code is the job's, and the worker that would run for
// ever is gone.
static void test_learner_ends_the_job(void **state)
{
    char learner_script[] = "printf 'one\\ntw'; printf 'o\\nthree'; echo; exit 7";
    char worker_script[] = "echo $$ > $0/pid; exec sleep 1000";
    struct shell learner, worker;
    shell_init(&learner, *state, "learner", learner_script);
    shell_init(&worker, *state, "worker", worker_script);
    struct lines lines = {0};
    struct error err = {0};
    assert_int_equal(supervisor_run(&learner.spec, &worker.spec, 1, on_line, &lines, &err), 7);
    assert_int_equal(lines.count, 3);
    assert_string_equal(lines.last, "three");
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
}

// A worker that dies is started again, also after kill -9: the learner waits until it has come up
// three times.
static void test_dead_worker_is_restarted(void **state)
{
    char learner_script[] =
        "i=0; while [ $i -lt 400 ]; do [ \"$(cat $0/starts 2>/dev/null | wc -l)\" -ge 3 ] "
        "&& exit 0; sleep 0.05; i=$((i+1)); done; exit 1";
    char worker_script[] = "echo up >> $0/starts; kill -9 $$";
    struct shell learner, worker;
    shell_init(&learner, *state, "learner", learner_script);
    shell_init(&worker, *state, "worker", worker_script);
    struct lines lines = {0};
    struct error err = {0};
    assert_int_equal(supervisor_run(&learner.spec, &worker.spec, 1, on_line, &lines, &err), 0);
}

// A learner that is killed is started with its other words, at most SUPERVISOR_LEARNER_RESTARTS_MAX
// times without having come further; then the job ends with its signal. One that exits is not.
static void test_killed_learner_goes_on(void **state)
{
    char dies[] = "echo first; kill -9 $$";
    char goes_on[] = "echo again; exit 0";
    char worker_script[] = "exec sleep 1000";
    struct shell learner, again, worker;
    shell_init(&learner, *state, "learner", dies);
    shell_init(&again, *state, "learner", goes_on);
    shell_init(&worker, *state, "worker", worker_script);
    learner.spec.words_again = again.words;
    struct lines lines = {0};
    struct error err = {0};
    assert_int_equal(supervisor_run(&learner.spec, &worker.spec, 1, on_line, &lines, &err), 0);
    assert_int_equal(lines.count, 2);
    assert_string_equal(lines.last, "again");
}

static void test_hopeless_learner_ends(void **state)
{
    char dies[] = "echo x >> $0/starts; kill -9 $$";
    char worker_script[] = "exec sleep 1000";
    struct shell learner, worker;
    shell_init(&learner, *state, "learner", dies);
    shell_init(&worker, *state, "worker", worker_script);
    learner.spec.words_again = learner.words;
    struct lines lines = {0};
    struct error err = {0};
    assert_int_equal(supervisor_run(&learner.spec, &worker.spec, 1, on_line, &lines, &err),
                     128 + SIGKILL);
    struct folder *folder = *state;
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/starts", folder->path);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 2 * (SUPERVISOR_LEARNER_RESTARTS_MAX + 1));
}

static pid_t read_pid(const char *folder)
{
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/pid", folder);
    for (int turn = 0; turn < WAIT_TURNS; turn++) {
        FILE *file = fopen(path, "r");
        int pid = 0;
        if (file != NULL) {
            int found = fscanf(file, "%d", &pid); // NOLINT(cert-err34-c): our own shell wrote it
            (void)fclose(file);
            if (found == 1) {
                return pid;
            }
        }
        (void)usleep(50000);
    }
    fail_msg("the worker did not start");
    return 0;
}

// kill -9 of the supervising process takes its children with it.
static void test_no_child_outlives_a_killed_parent(void **state)
{
    struct folder *folder = *state;
    char learner_script[] = "exec sleep 1000";
    char worker_script[] = "echo $$ > $0/pid; exec sleep 1000";
    struct shell learner, worker;
    shell_init(&learner, folder, "learner", learner_script);
    shell_init(&worker, folder, "worker", worker_script);
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
    pid_t front = fork();
    if (front == 0) {
        struct lines lines = {0};
        _exit(supervisor_run(&learner.spec, &worker.spec, 1, on_line, &lines, NULL) == 0 ? 0 : 1);
    }
    pid_t grandchild = read_pid(folder->path);
    assert_int_equal(kill(front, SIGKILL), 0);
    assert_int_equal(waitpid(front, NULL, 0), front);
    int status = 0; // as a subreaper we inherit the orphan, and CTest's time-out bounds the wait
    assert_int_equal(waitpid(grandchild, &status, 0), grandchild);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_learner_ends_the_job, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dead_worker_is_restarted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_killed_learner_goes_on, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hopeless_learner_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_child_outlives_a_killed_parent, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
