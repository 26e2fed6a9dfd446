// kelvin pretrain: a small model from random weights, trained on generated programs.
#include "common/base/run_config.h"
#include "deploy/cli/cli.h"
#include "deploy/cli/job.h"

#include <stdio.h>

static void print_help(void)
{
    (void)printf(
        "Usage: kelvin pretrain --config FILE [key=value ...]\n"
        "       kelvin pretrain --resume RUN [key=value ...]\n\n"
        "Makes a small model for self-play: next-token training from random weights on programs\n"
        "that a built-in generator writes and the verifier's interpreter runs, in the prompt\n"
        "forms of self-play. Ends in the model folder `pretrain.out`, which `kelvin train` takes\n"
        "as `model`. Ctrl-C saves and stops; --resume goes on, and gives the same model.\n\n"
        "The run folder holds config.yaml, metrics.jsonl (a line a step), checkpoints/ and "
        "log/.\n\n"
        "Exit code: 0 all steps done, 2 bad input, 128+N stopped by signal N, 1 otherwise.\n\n"
        "Keys that matter here: pretrain.*, steps, seed, optimizer.*, learner.*, checkpoint.*,\n"
        "verifier.*, verifiers, run_dir. All keys, in the file or as key=value:\n");
    config_help(&run_options, stdout);
}

int command_pretrain(int argc, char **argv)
{
    if (cli_wants_help(argc, argv)) {
        print_help();
        return 0;
    }
    struct job job = {.command = argv[0], .learner_word = "--pretrain"};
    struct error err = {0};
    if (job_read(&job, argc, argv, &err) < 0) {
        return cli_fail(argv[0], "%s", err.text);
    }
    job.config.actors = 0; // nothing is generated
    int code = job_run(&job);
    if (code == 0) {
        (void)printf("done: %lld steps; the model: %s\n", (long long)job.config.steps,
                     job.config.pretrain.out);
    }
    return code;
}
