// kelvin train: self-play on this machine. Starts one learner, A actors and V verifiers over
// ipc://, shows the progress and keeps them running until the steps are done.
#include "common/base/run_config.h"
#include "deploy/cli/cli.h"
#include "deploy/cli/job.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void print_help(void)
{
    (void)printf(
        "Usage: kelvin train --config FILE [key=value ...]\n\n"
        "Runs self-play: one learner, `actors` actors and `verifiers` verifiers on this\n"
        "machine. The run folder holds config.yaml, metrics.jsonl (a line a step), tasks.db,\n"
        "checkpoints/ and log/. Ctrl-C saves and stops; a second one stops at once.\n\n"
        "Exit code: 0 all steps done, 2 bad input, 128+N stopped by signal N, 1 otherwise.\n\n"
        "Keys, in the file or as key=value:\n");
    config_help(&run_options, stdout);
}

// run_dir_default names a folder by the time: runs/20260131-235959.
static void run_dir_default(char *out, size_t size)
{
    time_t now = time(NULL);
    struct tm local;
    (void)localtime_r(&now, &local);
    (void)strftime(out, size, "runs/%Y%m%d-%H%M%S", &local);
}

int command_train(int argc, char **argv)
{
    if (cli_wants_help(argc, argv)) {
        print_help();
        return 0;
    }
    if (argc < 3 || strcmp(argv[1], "--config") != 0) {
        return cli_fail(argv[0], "--config FILE is needed; for example deploy/config/laptop.yaml");
    }
    if (argc > JOB_WORDS_MAX - 4) {
        return cli_fail(argv[0], "at most %d key=value words are read; use the file",
                        JOB_WORDS_MAX - 7);
    }
    struct run_config config;
    struct error err = {0};
    if (run_config_read(&config, argv[2], argv + 3, argc - 3, &err) < 0) {
        return cli_fail(argv[0], "%s", err.text);
    }
    if (config.run_dir[0] == '\0') {
        run_dir_default(config.run_dir, sizeof(config.run_dir));
    }
    if (run_config_endpoints(&config, &err) < 0) {
        return cli_fail(argv[0], "%s", err.text);
    }
    if (config.actors == 0 || config.verifiers == 0) {
        (void)fprintf(stderr, "kelvin train: %s is 0; the run waits for workers at %s\n",
                      config.actors == 0 ? "actors" : "verifiers", config.endpoint);
    }
    struct job job = {.command = argv[0],
                      .run_dir = config.run_dir,
                      .steps = config.steps,
                      .actors = config.actors,
                      .verifiers = config.verifiers};
    for (int i = 1; i < argc; i++) {
        job.words[job.word_count++] = argv[i];
    }
    char run_dir_word[CONFIG_STRING_MAX + 16];
    (void)snprintf(run_dir_word, sizeof(run_dir_word), "run_dir=%s", config.run_dir);
    job.words[job.word_count++] = run_dir_word;
    (void)printf("run folder: %s\n", config.run_dir);
    (void)fflush(stdout);
    int code = job_run(&job);
    if (code == 0) {
        (void)printf("done: %lld steps; run folder: %s\n", (long long)config.steps, config.run_dir);
    }
    return code;
}
