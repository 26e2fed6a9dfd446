// kelvin bench: how fast each part is on this machine. One row per benchmark.
#include "common/base/cleanup.h"
#include "deploy/cli/bench.h"
#include "deploy/cli/cli.h"

#include <stdio.h>
#include <string.h>

struct benchmark {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *title; // what it calls itself in messages
    const char *help;
};

static const struct benchmark benchmarks[] = {
    {"decode", bench_decode, "bench decode", "sampled tokens a second, by the actor's scheduler"},
    {"prefill", bench_prefill, "bench prefill", "prompt tokens a second, likewise"},
    {"dispatch", bench_dispatch, "bench dispatch", "rollouts a second through rank 0's loop"},
    {"train", bench_train, "bench train", "tokens a second of a training step"},
    {"tokenize", bench_tokenize, "bench tokenize", "bytes of text that become ids in a second"},
    {"verifier", bench_verifier, "bench verifier", "sandboxed runs and checks a second, latency"},
};

enum { BENCHMARKS = sizeof(benchmarks) / sizeof(*benchmarks) };

static void print_help(FILE *file)
{
    (void)fprintf(file, "usage: kelvin bench WHAT [OPTION...]\n\n"
                        "Measures one part on this machine and prints one JSON object.\n\n");
    for (int i = 0; i < BENCHMARKS; i++) {
        (void)fprintf(file, "  %-10s %s\n", benchmarks[i].name, benchmarks[i].help);
    }
    (void)fprintf(file, "\n`kelvin bench WHAT --help` explains its options.\n");
}

int command_bench(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return CLI_BAD_INPUT;
    }
    for (int i = 0; i < BENCHMARKS; i++) {
        if (strcmp(argv[1], benchmarks[i].name) == 0) {
            argv[1] = without_const(benchmarks[i].title);
            return benchmarks[i].run(argc - 1, argv + 1);
        }
    }
    if (cli_wants_help(argc, argv)) {
        print_help(stdout);
        return 0;
    }
    return cli_fail(argv[0], "there is no benchmark \"%s\"; `kelvin bench --help` lists them",
                    argv[1]);
}
