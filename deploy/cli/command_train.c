// kelvin train: self-play on this machine. Starts one learner, A actors and V verifiers over
// ipc://, shows the progress and keeps them running until the steps are done.
#include "common/base/run_config.h"
#include "deploy/cli/cli.h"
#include "deploy/cli/job.h"

#include <stdio.h>

static void print_help(void)
{
    (void)printf(
        "Usage: kelvin train --config FILE [key=value ...]\n"
        "       kelvin train --resume RUN [key=value ...]\n"
        "       kelvin train --fork RUN@STEP [key=value ...]\n\n"
        "Runs self-play: one learner, `actors` actors and `verifiers` verifiers on this\n"
        "machine. The run folder holds config.yaml, metrics.jsonl (a line a step), tasks.db,\n"
        "checkpoints/ and log/. Ctrl-C saves and stops, a second one stops at once; --resume goes\n"
        "on from the newest checkpoint. --fork makes a new run folder of a checkpoint of another\n"
        "run and goes on there, with other keys if some are given.\n\n"
        "SIGUSR1 and SIGTERM (Slurm's warning, its time limit) save and stop too, with exit code\n"
        "75: a job script requeues on it and starts --resume. A learner that dies is started\n"
        "again at its newest checkpoint, workers that die are started again.\n\n"
        "Exit code: 0 all steps done, 2 bad input, 75 saved and stopped, 130 stopped by Ctrl-C,\n"
        "128+N killed by signal N, 1 otherwise.\n\n"
        "Configurations that ship, each line explained, in deploy/config:\n"
        "  laptop.yaml                the small model that ships, on one CPU, within minutes\n"
        "  paper-3b.yaml, paper-7b.yaml, paper-14b.yaml, paper-llama-8b.yaml,\n"
        "  paper-qwen3-4b.yaml        the runs of the paper\n\n"
        "Keys, in the file or as key=value:\n");
    config_help(&run_options, stdout);
}

int command_train(int argc, char **argv)
{
    if (cli_wants_help(argc, argv)) {
        print_help();
        return 0;
    }
    struct job job = {.command = argv[0], .forks = true};
    struct error err = {0};
    if (job_read(&job, argc, argv, &err) < 0) {
        return cli_fail(argv[0], "%s", err.text);
    }
    const struct run_config *config = &job.config;
    if (config->actors == 0 || config->verifiers == 0) {
        (void)fprintf(stderr, "kelvin train: %s is 0; the run waits for workers at %s\n",
                      config->actors == 0 ? "actors" : "verifiers",
                      config->endpoint[0] != '\0' ? config->endpoint : config->run_dir);
    }
    int code = job_run(&job);
    if (code == 0) {
        (void)printf("done: %lld steps; run folder: %s\n", (long long)config->steps,
                     config->run_dir);
    }
    return code;
}
