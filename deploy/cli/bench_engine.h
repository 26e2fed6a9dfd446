// bench_engine.h: what the benchmarks of the engine share: the model and the amounts of one run,
// the peak that this machine reaches at that moment, and the JSON object that says it all.
#ifndef DEPLOY_CLI_BENCH_ENGINE_H
#define DEPLOY_CLI_BENCH_ENGINE_H

#include "common/base/json.h"
#include "common/model/model.h"

// struct bench_options is one run. The defaults suit the benchmark.
struct bench_options {
    const char *model;      // a folder, or NULL
    const char *shape;      // a name in the table of shapes, or NULL
    enum compute compute;   // of the model
    int64_t batch;          // sequences
    int64_t prompt, tokens; // of each sequence
    int64_t samples;        // sequences of one prompt
    int64_t threads;        // 0: every core
    int64_t rows;           // of one engine call, or of a micro-batch
    int64_t repeats;        // runs; the fastest counts
    int64_t deterministic;  // of training; 1: sums have one order whatever the threads
    int64_t positions;      // what the model must hold
};

// bench_model makes the model: loaded, or of a named shape with random weights that are exact in
// bf16.
int bench_model(struct model **out, const struct bench_options *options, struct error *err);

// bench_weights is a fresh array of random weights of `params`, freed by the caller; NULL: no
// memory.
float *bench_weights(const struct params *params);

// bench_ids fills `ids` [count] with random tokens below V that depend on `seed` only.
void bench_ids(int32_t *ids, int64_t count, int32_t V, uint64_t seed);

// bench_parameters is how many weights the model has, padding not counted.
double bench_parameters(const struct model *model);

// struct bench_result is what one benchmark measured.
struct bench_result {
    const char *name;
    double seconds;     // of the fastest run
    double tokens;      // in it
    double operations;  // multiplications and additions in it
    double bytes;       // of weights and KV cache read in it; 0: not counted
    double cpu_seconds; // processor time of the fastest run
};

// bench_print measures the peak and prints the object on standard output; `extra` (taken) adds
// fields, may be NULL.
int bench_print(const struct bench_options *options, const struct model *model,
                const struct bench_result *result, json_t *extra, struct error *err);

// struct engine_bench is a benchmark of the engine.
struct engine_bench {
    const char *what; // it does, for its help
    bool trains;      // so it has the options of training
    struct bench_options defaults;
    int (*measure)(const struct bench_options *options, struct error *err);
};

// bench_engine_run is all of it: help, options over the defaults, the measuring.
int bench_engine_run(int argc, char **argv, const struct engine_bench *bench);

// bench_cpu_seconds is the processor time that this process has used.
double bench_cpu_seconds(void);

#endif
