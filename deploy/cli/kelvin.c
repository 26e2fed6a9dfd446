// kelvin: the front. One row per command; each is a file command_NAME.c.
#include "deploy/cli/cli.h"

#include <stdio.h>
#include <string.h>

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
};

static const struct command commands[] = {
    {"train", command_train, "self-play on this machine: a learner, actors and verifiers"},
    {"import", command_import, "a GGUF file into a model folder"},
    {"eval", command_eval, "what a model can do, on held-out programs"},
    {"pretrain", command_pretrain, "a small model from generated programs, for self-play"},
    {"plan", command_plan, "memory, tokens and seconds of a run before it starts"},
    {"tasks", command_tasks, "what a run proposed and solved: list, filter, show"},
    {"replay", command_replay, "a stored rollout sampled once more, bit for bit"},
    {"export", command_export, "a checkpoint's model as a folder of its own"},
    {"logprobs", command_logprobs, "the log-probability that a model gives each token of a text"},
    {"step", command_step,
     "training steps on a given batch, to hold against other implementations"},
    {"tokenize", command_tokenize, "text to token ids and back, by a model's tokenizer"},
    {"bench", command_bench, "measure one part of the system on this machine"},
    {"verify", command_verify, "judge tasks from standard input in the sandbox"},
};

enum { COMMANDS = sizeof(commands) / sizeof(*commands) };

static void print_help(FILE *file)
{
    (void)fprintf(file, "Kelvin: Absolute Zero self-play training.\n\n"
                        "Usage: kelvin COMMAND [...]\n\n");
    for (int i = 0; i < COMMANDS; i++) {
        (void)fprintf(file, "  %-10s %s\n", commands[i].name, commands[i].help);
    }
    (void)fprintf(file, "\n`kelvin COMMAND --help` explains a command.\n");
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return CLI_BAD_INPUT;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_help(stdout);
        return 0;
    }
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(argv[1], commands[i].name) == 0) {
            return commands[i].run(argc - 1, argv + 1);
        }
    }
    (void)fprintf(stderr, "kelvin: there is no command \"%s\"; `kelvin --help` lists them\n",
                  argv[1]);
    return CLI_BAD_INPUT;
}
