// plan.h: what a run will need and how fast it will be, before it starts. Memory is measured: the
// parts that hold it (trainer, engine) are made as the run makes them and do once what fills them;
// what is only bytes on their way is added. Time is calibrated: one step's prompts, drawn from the
// generator's programs, are sampled with the real model and engine, the samples are trained on and
// the verifier checks programs, each as the run does it; three times, and the median counts.
#ifndef DEPLOY_CLI_PLAN_H
#define DEPLOY_CLI_PLAN_H

#include "common/base/run_config.h"
#include "common/model/model.h"

#include <stdbool.h>

struct plan_memory { // bytes
    double weights;  // f32 master weights, moments, gradients
    double trainer;  // all of a rank's trainer, `weights` included
    double publish;  // versions held for actors
    double save;     // the copy that a checkpoint is written from
    double learner;  // rank 0 altogether
    double kv;       // an actor's KV cache, reserved: it fills with the tokens of a step
    double model;    // weights in compute form
    double actor;    // an actor altogether, two models included; the KV cache as a step fills it,
                     // or all of it when no step was rehearsed
    double disk;     // of one checkpoint
};

struct plan_time { // seconds, of one step
    double propose, solve, verify, train, sync, step;
    double sampled_tokens_s;           // of the actor's engine
    double trained_tokens_s;           // of the learner
    double prompt, response;           // mean tokens
    double tokens_sampled, tokens_run; // of a step
    double checks_s;                   // of a verifier
    double share;                      // of a step's rollouts that were sampled to find out
};

struct plan {
    struct run_config config;
    struct shape shape;
    size_t parameters;
    int64_t kv_pages;           // of an actor thread
    int64_t longest;            // rollouts of the longest kind that fit an actor's cache at once
    int64_t proposals, answers; // rollouts of a step
    int32_t actor_threads, learner_threads;
    struct plan_memory memory;
    struct plan_time time;
    bool timed;
};

// plan_memory_count fills in shape, counts and memory. -ENOMEM, with what it would take, when this
// host is too small to make the parts.
int plan_memory_count(struct plan *plan, struct error *err);

// plan_resident is the memory of this process that is in use, in bytes.
double plan_resident(void);

// plan_time_calibrate fills in the time, and the actor's memory as it was used. It takes about as
// long as three steps, or one where that is long.
int plan_time_calibrate(struct plan *plan, struct error *err);

#endif
