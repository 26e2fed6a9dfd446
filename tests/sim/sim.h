// sim.h: a whole run in one process: the learner (run.h: hub, dispatch, engine, store, checkpoints)
// and scripted actors and verifiers on the real wire, over inproc://, in virtual time.
//
// An actor's rollout is a function of its prompt and sample, a verifier's verdict one of its
// request, so a run's outcome is a function of its configuration. Faults are drawn from a seed:
// answers that are late, lost or failed, workers that die or say goodbye, learners that die and
// are resumed. Time is virtual: a loop turn in which nothing is due moves the clock on, so hours of
// deadlines pass in seconds and nothing sleeps.
#ifndef TESTS_SIM_SIM_H
#define TESTS_SIM_SIM_H

#include "common/base/run_config.h"

#include <stdint.h>

struct sim_faults {
    uint64_t seed;
    double lost;         // share of answers that are never sent
    double failed;       // share of requests answered `infrastructure`
    double late;         // share of answers that come after up to late_ms instead of up to 20 ms
    uint64_t late_ms;    //
    double deaths_per_s; // of workers: killed without a word, or gone with a goodbye
    double learner_deaths_per_s;
};

struct sim_result {
    bool ended; // the run came to its end within the time that it has
    int exit_code;
    uint64_t virtual_ms;
    int worker_deaths, goodbyes, learner_deaths, answers, lost;
};

// sim_play plays the run of `config` with `actors` and `verifiers` workers (of the config) and the
// faults, for at most `limit_ms` of virtual time. The run folder is the caller's.
struct sim_result sim_play(const struct run_config *config, const struct sim_faults *faults,
                           uint64_t limit_ms);

#endif
