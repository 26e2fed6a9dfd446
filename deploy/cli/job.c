#include "deploy/cli/job.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/run_check.h"
#include "deploy/cli/cli.h"
#include "deploy/cli/progress.h"
#include "deploy/cli/supervisor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    JOB_LOG_BYTES_MAX = 64 << 20,
    PROGRAM_WORDS = 6, // its path, --pretrain, --resume RUN or --config FILE, the end
};

// struct launch is one program's command line, with the storage of its words.
struct launch {
    char program[JOB_PATH_MAX];
    char log_path[JOB_PATH_MAX];
    char name[32];
    char *words[JOB_WORDS_MAX + PROGRAM_WORDS];
    char *words_again[JOB_WORDS_MAX + PROGRAM_WORDS];
    struct child_spec spec;
};

// write_words writes a program's command line. Workers read the file; the learner begins as `start`
// says.
static void write_words(char **words, struct launch *launch, const struct job *job, bool learner,
                        enum job_start start)
{
    static const char *const options[] = {"--config", "--resume", "--fork"};
    int count = 0;
    words[count++] = launch->program;
    if (learner && job->learner_word != NULL) {
        words[count++] = without_const(job->learner_word);
    }
    words[count++] = without_const(options[start]);
    words[count++] = without_const(start == JOB_FRESH    ? job->config_path
                                   : start == JOB_RESUME ? job->config.run_dir
                                                         : job->from);
    for (int i = 0; i < job->word_count; i++) {
        words[count++] = job->words[i];
    }
    words[count] = NULL;
}

static int launch_init(struct launch *launch, const struct job *job, const char *program,
                       const char *name, int number, struct error *err)
{
    int code = cli_sibling(launch->program, sizeof(launch->program), program, err);
    if (code < 0) {
        return code;
    }
    (void)snprintf(launch->name, sizeof(launch->name), number < 0 ? "%s" : "%s-%d", name, number);
    (void)snprintf(launch->log_path, sizeof(launch->log_path), "%s/log/%s.log", job->config.run_dir,
                   launch->name);
    bool learner = number < 0;
    write_words(launch->words, launch, job, learner, learner ? job->start : JOB_FRESH);
    write_words(launch->words_again, launch, job, learner, JOB_RESUME);
    launch->spec = (struct child_spec){.name = launch->name,
                                       .words = launch->words,
                                       .words_again = learner ? launch->words_again : NULL,
                                       .log_path = launch->log_path};
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
    for (int i = 0; code == 0 && i < job->config.verifiers; i++, count++) {
        code = launch_init(&launches[count + 1], job, "kelvin-verifier", "verifier", i, err);
        workers[count] = launches[count + 1].spec;
    }
    for (int i = 0; code == 0 && i < job->config.actors; i++, count++) {
        code = launch_init(&launches[count + 1], job, "kelvin-actor", "actor", i, err);
        workers[count] = launches[count + 1].spec;
    }
    return code < 0 ? code : count;
}

// run_dir_default names a folder by the time: runs/20260131-235959.
static void run_dir_default(char *out, size_t size)
{
    time_t now = time(NULL);
    struct tm local;
    (void)localtime_r(&now, &local);
    (void)strftime(out, size, "runs/%Y%m%d-%H%M%S", &local);
}

// The folder whose config.yaml is read: RUN of --resume RUN and of --fork RUN@STEP.
static int config_path_of(struct job *job, struct error *err)
{
    const char *at = job->start == JOB_FORK ? strrchr(job->from, '@') : NULL;
    size_t size = at != NULL ? (size_t)(at - job->from) : strlen(job->from);
    int length =
        snprintf(job->config_path, sizeof(job->config_path),
                 job->start == JOB_FRESH ? "%.*s" : "%.*s/config.yaml", (int)size, job->from);
    return length < 0 || (size_t)length >= sizeof(job->config_path)
               ? error_set(err, -ENAMETOOLONG, "%s: the name is too long", job->from)
               : 0;
}

static int read_config(struct job *job, char **words, int count, struct error *err)
{
    struct run_config *config = &job->config;
    int code = config_path_of(job, err);
    code = code < 0 ? code : run_config_read(config, job->config_path, words, count, err);
    if (code < 0) {
        return code;
    }
    bool named = false;
    for (int i = 0; i < count; i++) {
        named = named || strncmp(words[i], "run_dir=", 8) == 0;
    }
    if (job->start == JOB_RESUME) {
        (void)snprintf(config->run_dir, sizeof(config->run_dir), "%s", job->from);
    } else if (config->run_dir[0] == '\0' || (job->start == JOB_FORK && !named)) {
        run_dir_default(config->run_dir, sizeof(config->run_dir));
    }
    return run_config_check(config, err);
}

static int read_start(struct job *job, int argc, char **argv, struct error *err)
{
    static const char *const options[] = {"--config", "--resume", "--fork"};
    int known = job->forks ? 3 : 2;
    for (int i = 0; argc >= 3 && i < known; i++) {
        if (strcmp(argv[1], options[i]) == 0) {
            job->start = (enum job_start)i;
            job->from = argv[2];
            return 0;
        }
    }
    return error_set(err, -EINVAL, "--config FILE, --resume RUN%s is needed; see kelvin %s --help",
                     job->forks ? " or --fork RUN@STEP" : "", job->command);
}

int job_read(struct job *job, int argc, char **argv, struct error *err)
{
    int code = read_start(job, argc, argv, err);
    if (code < 0) {
        return code;
    }
    if (argc - 3 >= JOB_WORDS_MAX) {
        return error_set(err, -E2BIG, "at most %d key=value words are read; use the file",
                         JOB_WORDS_MAX - 1);
    }
    code = read_config(job, argv + 3, argc - 3, err);
    if (code < 0) {
        return code;
    }
    for (int i = 3; i < argc; i++) {
        job->words[job->word_count++] = argv[i];
    }
    (void)snprintf(job->run_dir_word, sizeof(job->run_dir_word), "run_dir=%s", job->config.run_dir);
    job->words[job->word_count++] = job->run_dir_word;
    struct run_config resolved = job->config; // the programs do the same, each for itself
    return run_config_endpoints(&resolved, err);
}

// A folder that holds a run is left alone, down to its logs, when another one is to begin there.
static int check_folder(const struct job *job, struct error *err)
{
    static const char *const signs[] = {"tasks.db", "metrics.jsonl"};
    for (size_t i = 0; job->start != JOB_RESUME && i < sizeof(signs) / sizeof(*signs); i++) {
        char path[JOB_PATH_MAX];
        int code = file_join(path, sizeof(path), job->config.run_dir, signs[i], err);
        if (code < 0) {
            return code;
        }
        if (access(path, F_OK) == 0) {
            return error_set(err, -EEXIST,
                             "%s holds a run already; choose another run_dir, or continue it with "
                             "--resume %s",
                             job->config.run_dir, job->config.run_dir);
        }
    }
    if (job->start == JOB_RESUME && access(job->config.run_dir, F_OK) != 0) {
        return error_set(err, -ENOENT, "%s: there is no such run folder", job->config.run_dir);
    }
    return 0;
}

static void say_end(const struct job *job, int code)
{
    if (code > CLI_BAD_INPUT) { // stopped or killed: the folder says how far it came
        (void)printf("to go on: kelvin %s --resume %s\n", job->command, job->config.run_dir);
    }
}

int job_run(const struct job *job)
{
    struct error err = {0};
    if (check_folder(job, &err) < 0) {
        return cli_fail(job->command, "%s", err.text);
    }
    (void)printf("run folder: %s\n", job->config.run_dir);
    (void)fflush(stdout);
    if (job->config.actors + job->config.verifiers > SUPERVISOR_WORKERS_MAX) {
        return cli_fail(job->command, "at most %d workers run on one machine; start more by hand",
                        SUPERVISOR_WORKERS_MAX);
    }
    bool made_here = access(job->config.run_dir, F_OK) != 0;
    char log_dir[JOB_PATH_MAX];
    (void)snprintf(log_dir, sizeof(log_dir), "%s/log", job->config.run_dir);
    if (file_make_dirs(log_dir, &err) < 0) {
        return cli_fail(job->command, "%s", err.text);
    }
    size_t count_max = (size_t)(job->config.actors + job->config.verifiers + 1);
    CLEANUP(freep) struct launch *launches = calloc(count_max, sizeof(*launches));
    CLEANUP(freep) struct child_spec *workers = calloc(count_max, sizeof(*workers));
    CHECK(launches != NULL && workers != NULL);
    int count = job_launch(job, launches, workers, &err);
    if (count < 0) {
        return cli_fail(job->command, "%s", err.text);
    }
    size_t log_start = file_size(launches[0].log_path);
    struct progress progress;
    progress_init(&progress, stdout, job->config.steps);
    int code = supervisor_run(&launches[0].spec, workers, count, progress_event, &progress, &err);
    progress_finish(&progress);
    if (code < 0) {
        return cli_fail(job->command, "%s", err.text), 1;
    }
    if (code != 0) {
        show_errors(job->command, launches[0].log_path, log_start);
    }
    if (code == CLI_BAD_INPUT && made_here) {
        (void)file_remove_tree(job->config.run_dir, NULL); // nothing began: leave nothing
    }
    say_end(job, code);
    return code;
}
