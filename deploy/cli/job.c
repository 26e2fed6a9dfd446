#include "deploy/cli/job.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "deploy/cli/cli.h"
#include "deploy/cli/progress.h"
#include "deploy/cli/supervisor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { JOB_PATH_MAX = 4096, JOB_LOG_BYTES_MAX = 64 << 20 };

// struct launch is one program's command line, with the storage of its words.
struct launch {
    char program[JOB_PATH_MAX];
    char log_path[JOB_PATH_MAX];
    char name[32];
    char *words[JOB_WORDS_MAX + 3];
    struct child_spec spec;
};

static int launch_init(struct launch *launch, const struct job *job, const char *program,
                       const char *name, int number, struct error *err)
{
    int code = cli_sibling(launch->program, sizeof(launch->program), program, err);
    if (code < 0) {
        return code;
    }
    (void)snprintf(launch->name, sizeof(launch->name), number < 0 ? "%s" : "%s-%d", name, number);
    int length = snprintf(launch->log_path, sizeof(launch->log_path), "%s/log/%s.log", job->run_dir,
                          launch->name);
    if (length < 0 || (size_t)length >= sizeof(launch->log_path)) {
        return error_set(err, -ENAMETOOLONG, "run_dir %s is too long", job->run_dir);
    }
    int count = 0;
    launch->words[count++] = launch->program;
    if (number < 0 && job->learner_word != NULL) {
        launch->words[count++] = without_const(job->learner_word);
    }
    for (int i = 0; i < job->word_count; i++) {
        launch->words[count++] = job->words[i];
    }
    launch->words[count] = NULL;
    launch->spec = (struct child_spec){
        .name = launch->name, .words = launch->words, .log_path = launch->log_path};
    return 0;
}

// show_errors prints the error lines that the learner logged from byte `from` on, without their
// prefix; the front is where a person looks.
static void show_errors(const char *command, const char *log_path, size_t from)
{
    CLEANUP(freep) char *text = NULL;
    size_t size = 0;
    if (file_read(&text, &size, log_path, JOB_LOG_BYTES_MAX, NULL) < 0 || size <= from) {
        return;
    }
    char *rest = text + from;
    char *line = NULL;
    while ((line = strsep(&rest, "\n")) != NULL) {
        if (strncmp(line, "error ", 6) == 0) {
            const char *sentence = strstr(line, ": ");
            (void)cli_fail(command, "%s", sentence != NULL ? sentence + 2 : line);
        }
    }
}

static size_t file_size(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (size_t)st.st_size : 0;
}

static int job_launch(const struct job *job, struct launch *launches, struct child_spec *workers,
                      struct error *err)
{
    int count = 0;
    int code = launch_init(&launches[0], job, "kelvin-learner", "learner", -1, err);
    for (int i = 0; code == 0 && i < job->verifiers; i++, count++) {
        code = launch_init(&launches[count + 1], job, "kelvin-verifier", "verifier", i, err);
        workers[count] = launches[count + 1].spec;
    }
    for (int i = 0; code == 0 && i < job->actors; i++, count++) {
        code = launch_init(&launches[count + 1], job, "kelvin-actor", "actor", i, err);
        workers[count] = launches[count + 1].spec;
    }
    return code < 0 ? code : count;
}

int job_run(const struct job *job)
{
    struct error err = {0};
    if (job->actors + job->verifiers > SUPERVISOR_WORKERS_MAX) {
        return cli_fail(job->command, "at most %d workers run on one machine; start more by hand",
                        SUPERVISOR_WORKERS_MAX);
    }
    bool made_here = access(job->run_dir, F_OK) != 0;
    char log_dir[JOB_PATH_MAX];
    (void)snprintf(log_dir, sizeof(log_dir), "%s/log", job->run_dir);
    if (file_make_dirs(log_dir, &err) < 0) {
        return cli_fail(job->command, "%s", err.text);
    }
    size_t count_max = (size_t)(job->actors + job->verifiers + 1);
    CLEANUP(freep) struct launch *launches = calloc(count_max, sizeof(*launches));
    CLEANUP(freep) struct child_spec *workers = calloc(count_max, sizeof(*workers));
    CHECK(launches != NULL && workers != NULL);
    int count = job_launch(job, launches, workers, &err);
    if (count < 0) {
        return cli_fail(job->command, "%s", err.text);
    }
    size_t log_start = file_size(launches[0].log_path);
    struct progress progress;
    progress_init(&progress, stdout, job->steps);
    int code = supervisor_run(&launches[0].spec, workers, count, progress_event, &progress, &err);
    progress_finish(&progress);
    if (code < 0) {
        return cli_fail(job->command, "%s", err.text), 1;
    }
    if (code != 0) {
        show_errors(job->command, launches[0].log_path, log_start);
    }
    if (code == CLI_BAD_INPUT && made_here) {
        (void)file_remove_tree(job->run_dir, NULL); // nothing began: leave nothing
    }
    return code;
}
