// bench.h: the benchmarks of `kelvin bench`. Each is one file bench_NAME.c with a row in
// command_bench.c; it prints one JSON object on standard output and returns an exit code as cli.h
// says. argv[0] is "bench NAME", for messages.
#ifndef DEPLOY_CLI_BENCH_H
#define DEPLOY_CLI_BENCH_H

int bench_decode(int argc, char **argv);
int bench_dispatch(int argc, char **argv);
int bench_prefill(int argc, char **argv);
int bench_tokenize(int argc, char **argv);
int bench_train(int argc, char **argv);
int bench_verifier(int argc, char **argv);

#endif
