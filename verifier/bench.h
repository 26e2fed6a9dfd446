// bench.h: how fast this host verifies. One process, the service as a run would start it without
// its caches, and a workload that is played over and over: single runs from source, single runs
// from known bytecode, whole requests through the judge, and both again one at a time for their
// latency.
#ifndef VERIFIER_BENCH_H
#define VERIFIER_BENCH_H

#include "common/base/error.h"
#include "common/base/run_config.h"

#include <stddef.h>
#include <stdint.h>

struct bench_config {
    const char *file; // JSON lines: requests as lines.h describes, or seed tasks (snippet, input or
                      // inputs); NULL: the tasks that are built in
    double seconds;   // of each measurement
    const struct run_config *run; // outlives the call
};

struct bench_latency {
    double p50_ms;
    double p99_ms;
    double max_ms;
};

struct bench_result {
    char engine[96]; // back-end, isolation, workers
    int workers;
    size_t programs; // runs of the workload that end with a value
    size_t skipped;  // the others: they import what the sandbox lacks, raise, ...
    size_t requests;
    double start_s;             // until the first images could run
    double runs_per_s;          // fresh state, from source
    double code_runs_per_s;     // fresh state, from bytecode
    double checks_per_s;        // requests through the judge
    struct bench_latency run;   // one in flight, from source
    struct bench_latency check; // one in flight
    double image_cpu_us;        // of a run from source, in the image
    double daemon_cpu_us;       // and in the daemon
    uint64_t runs;              // of all measurements
    uint64_t images;            // at the end
    uint64_t images_lost;
    double images_mb; // memory of all images, shared pages in proportion
    double daemon_mb; // and of the daemon
};

// bench_run measures for about five times `seconds`. -EINVAL names what is wrong with the file.
int bench_run(struct bench_result *out, const struct bench_config *config, struct error *err);

#endif
