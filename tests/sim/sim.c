#include "tests/sim/sim.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/rng.h"
#include "common/wire/message.h"
#include "common/wire/worker.h"
#include "learner/run.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { ANSWERS_MAX = 4096, WORKERS = 16, VOCAB = 256, TICK_US = 2000 };

// --- time: libuv, 0MQ and clock.h all ask this function ---

static atomic_uint_fast64_t virtual_ns; // 0: the real clock

// NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name): libc's names are reserved
int clock_gettime(clockid_t clock, struct timespec *now)
{
    uint64_t ns = atomic_load(&virtual_ns);
    if (ns == 0 || (clock != CLOCK_MONOTONIC && clock != CLOCK_MONOTONIC_COARSE)) {
        return (int)syscall(SYS_clock_gettime, clock, now);
    }
    *now = (struct timespec){.tv_sec = (time_t)(ns / 1000000000u),
                             .tv_nsec = (long)(ns % 1000000000u)};
    return 0;
}

static uint64_t now_ms(void)
{
    return atomic_load(&virtual_ns) / 1000000;
}

// --- workers ---

// struct answer waits in a worker until it is due.
struct answer {
    uint64_t due_ms;
    Kelvin__Envelope__BodyCase body;
    void *message; // Kelvin__Prompt or Kelvin__VerifyRequest, a copy
    uint32_t sample;
};

struct player_worker {
    struct sim *sim;
    struct worker *worker; // NULL: dead
    Kelvin__WorkerKind kind;
    uint64_t born_ms; // when it comes back
    struct answer answers[ANSWERS_MAX];
    int count;
};

struct sim {
    const struct run_config *config;
    const struct sim_faults *faults;
    struct rng rng;
    struct loop *loop;
    struct run *run;
    uint64_t learner_at_ms; // when a dead learner comes back
    struct player_worker workers[WORKERS];
    int worker_count;
    struct sim_result result;
};

static bool chance(struct sim *sim, double share)
{
    return rng_uniform(&sim->rng) < share;
}

static void forget(struct player_worker *worker)
{
    for (int i = 0; i < worker->count; i++) {
        message_free(worker->answers[i].message);
    }
    worker->count = 0;
}

static void keep(struct player_worker *worker, Kelvin__Envelope__BodyCase body, void *message,
                 uint32_t sample)
{
    struct sim *sim = worker->sim;
    uint64_t span = chance(sim, sim->faults->late) ? sim->faults->late_ms : 20;
    CHECK(worker->count < ANSWERS_MAX);
    worker->answers[worker->count++] = (struct answer){
        .due_ms = now_ms() + rng_below(&sim->rng, span + 1),
        .body = body,
        .message = message,
        .sample = sample,
    };
}

static void on_prompt(void *context, const Kelvin__Prompt *prompt)
{
    for (uint32_t i = 0; i < prompt->samples; i++) {
        keep(context, KELVIN__ENVELOPE__BODY_PROMPT, message_copy(&prompt->base), i);
    }
}

static void on_request(void *context, const Kelvin__VerifyRequest *request)
{
    keep(context, KELVIN__ENVELOPE__BODY_VERIFY_REQUEST, message_copy(&request->base), 0);
}

// What an actor would have sampled: a function of the prompt's seed and the sample.
static int answer_prompt(struct player_worker *worker, const Kelvin__Prompt *prompt,
                         uint32_t sample)
{
    enum { TOKENS = 12 };
    struct rng rng = {.key = prompt->seed, .stream = sample};
    uint32_t ids[4];
    uint32_t tokens[TOKENS];
    float logprobs[TOKENS];
    char text[32];
    for (size_t i = 0; i < 4; i++) {
        ids[i] = (uint32_t)rng_below(&rng, VOCAB);
    }
    for (size_t i = 0; i < TOKENS; i++) {
        tokens[i] = (uint32_t)rng_below(&rng, VOCAB);
        logprobs[i] = -(float)rng_uniform(&rng);
    }
    (void)snprintf(text, sizeof(text), "answer %llu", (unsigned long long)rng_next(&rng));
    Kelvin__VersionRun run = KELVIN__VERSION_RUN__INIT;
    Kelvin__VersionRun *runs[] = {&run};
    run.version = prompt->version_min;
    run.count = TOKENS;
    Kelvin__Rollout rollout = KELVIN__ROLLOUT__INIT;
    rollout.lease = prompt->lease;
    rollout.sample = sample;
    rollout.n_prompt = 4;
    rollout.prompt = ids;
    rollout.n_tokens = rollout.n_logprobs = 1 + rng_below(&rng, TOKENS);
    rollout.tokens = tokens;
    rollout.logprobs = logprobs;
    run.count = (uint32_t)rollout.n_tokens;
    rollout.text = text;
    rollout.n_versions = 1;
    rollout.versions = runs;
    rollout.numerics = without_const("sim");
    return worker_send_rollout(worker->worker, &rollout, NULL);
}

static uint64_t hash_of(const char *text, uint64_t hash)
{
    for (; *text != '\0'; text++) {
        hash = (hash ^ (uint64_t)(unsigned char)*text) * 1099511628211ULL;
    }
    return hash;
}

// Most proposals are valid and become one of 50 programs; an answer is right or wrong.
static int answer_request(struct player_worker *worker, const Kelvin__VerifyRequest *request)
{
    struct sim *sim = worker->sim;
    bool validate = request->check == KELVIN__CHECK__VALIDATE;
    struct rng rng = {.key = hash_of(request->response, hash_of(request->program, 1)),
                      .stream = (uint64_t)request->kind};
    char program[64];
    char input[] = "1";
    char output[] = "2";
    char *inputs[] = {input, input, input, input};
    char *outputs[] = {output, output, output, output};
    (void)snprintf(program, sizeof(program), "def f(a):\n    return a + %d",
                   (int)rng_below(&rng, 50));
    Kelvin__Verdict verdict = KELVIN__VERDICT__INIT;
    verdict.id = request->id;
    verdict.formatted = rng_below(&rng, 10) > 0;
    bool good = verdict.formatted && rng_below(&rng, 10) > 2;
    verdict.outcome = good ? KELVIN__OUTCOME__OK : KELVIN__OUTCOME__WRONG;
    if (!validate) {
        verdict.score = good ? 1.0F : 0.0F;
    } else if (good) {
        verdict.program = program;
        verdict.n_inputs = verdict.n_outputs =
            request->kind == KELVIN__TASK_KIND__INDUCTION ? 4 : 1;
        verdict.inputs = inputs;
        verdict.outputs = outputs;
    }
    if (chance(sim, sim->faults->failed)) {
        verdict.outcome = KELVIN__OUTCOME__INFRASTRUCTURE;
    }
    return worker_send_verdict(worker->worker, &verdict, NULL);
}

static void give_answer(struct player_worker *worker, const struct answer *answer)
{
    struct sim *sim = worker->sim;
    if (chance(sim, sim->faults->lost)) {
        sim->result.lost++;
        return;
    }
    sim->result.answers++;
    int code = answer->body == KELVIN__ENVELOPE__BODY_PROMPT
                   ? answer_prompt(worker, answer->message, answer->sample)
                   : answer_request(worker, answer->message);
    CHECK(code == 0);
}

static void send_due(struct player_worker *worker)
{
    for (int i = 0; i < worker->count; i++) {
        struct answer answer = worker->answers[i];
        if (answer.due_ms <= now_ms()) {
            worker->answers[i--] = worker->answers[--worker->count];
            give_answer(worker, &answer);
            message_free(answer.message);
        }
    }
}

static void on_welcome(void *context, const Kelvin__Welcome *welcome)
{
    (void)context, (void)welcome;
}

static void on_forget(void *context)
{
    forget(context);
}

static void on_drain(void *context, const char *reason)
{
    struct player_worker *worker = context;
    worker_leave(worker->worker, reason);
}

static void die(struct player_worker *worker)
{
    forget(worker);
    worker_close(worker->worker);
    worker->worker = NULL;
    worker->born_ms = now_ms() + rng_below(&worker->sim->rng, 8000);
}

static void on_end(void *context, int code, const char *sentence)
{
    (void)code, (void)sentence; // it left, or waited in vain for a dead learner
    die(context);
}

static void be_born(struct player_worker *worker)
{
    const struct worker_config config = {.endpoint = worker->sim->config->endpoint,
                                         .kind = worker->kind,
                                         .capacity = 8,
                                         .engine = "sim",
                                         .connect_timeout_ms = 60000};
    const struct worker_events events = {.context = worker,
                                         .on_welcome = on_welcome,
                                         .on_forget = on_forget,
                                         .on_prompt = on_prompt,
                                         .on_request = on_request,
                                         .on_drain = on_drain,
                                         .on_end = on_end};
    struct loop *loop = worker->sim->loop;
    CHECK(worker_create(&worker->worker, loop_uv(loop), loop_zmq(loop), &config, &events, NULL) ==
          0);
}

// --- the learner ---

static void on_line(void *context, const char *line)
{
    (void)context, (void)line;
}

static void on_ended(void *context, int exit_code)
{
    struct sim *sim = context;
    sim->result.ended = true;
    sim->result.exit_code = exit_code;
}

static void start_learner(struct sim *sim, bool resume)
{
    const struct run_events events = {.context = sim, .line = on_line, .ended = on_ended};
    struct error err = {0};
    if (run_open(&sim->run, sim->loop, sim->config, resume, &events, &err) < 0) {
        (void)fprintf(stderr, "the learner does not open: %s\n", err.text);
        sim->result.ended = true;
        sim->result.exit_code = -1;
        return;
    }
    run_start(sim->run);
}

// --- the play ---

// What dies in this tick, and what comes back.
static void play_fate(struct sim *sim)
{
    double tick_s = TICK_US / 1e6;
    for (int i = 0; i < sim->worker_count; i++) {
        struct player_worker *worker = &sim->workers[i];
        if (worker->worker == NULL) {
            if (now_ms() >= worker->born_ms) {
                be_born(worker);
            }
        } else if (!chance(sim, sim->faults->deaths_per_s * tick_s)) {
            send_due(worker);
        } else if (chance(sim, 0.3)) {
            worker_leave(worker->worker, "goes home");
            sim->result.goodbyes++;
        } else {
            die(worker);
            sim->result.worker_deaths++;
        }
    }
    if (sim->run != NULL && chance(sim, sim->faults->learner_deaths_per_s * tick_s)) {
        run_destroy(sim->run);
        sim->run = NULL;
        sim->learner_at_ms = now_ms() + 100 + rng_below(&sim->rng, 7000);
        sim->result.learner_deaths++;
    } else if (sim->run == NULL && now_ms() >= sim->learner_at_ms) {
        start_learner(sim, true);
    }
}

static void on_tick(uv_idle_t *idle)
{
    struct sim *sim = idle->data;
    atomic_fetch_add(&virtual_ns, (uint64_t)TICK_US * 1000);
    if (!sim->result.ended) {
        play_fate(sim);
    }
}

struct sim_result sim_play(const struct run_config *config, const struct sim_faults *faults,
                           uint64_t limit_ms)
{
    struct sim *sim = calloc(1, sizeof(*sim));
    CHECK(sim != NULL);
    sim->config = config;
    sim->faults = faults;
    sim->rng = (struct rng){.key = faults->seed};
    sim->worker_count = (int)(config->actors + config->verifiers);
    CHECK(sim->worker_count <= WORKERS);
    atomic_store(&virtual_ns, 1000000000u);
    const struct loop_events events = {.context = sim};
    CHECK(loop_create(&sim->loop, &events, NULL) == 0);
    start_learner(sim, false);
    for (int i = 0; i < sim->worker_count; i++) {
        sim->workers[i] =
            (struct player_worker){.sim = sim,
                                   .kind = i < config->actors ? KELVIN__WORKER_KIND__ACTOR
                                                              : KELVIN__WORKER_KIND__VERIFIER};
    }
    uv_idle_t idle; // while it is active the loop never sleeps
    CHECK(uv_idle_init(loop_uv(sim->loop), &idle) == 0);
    idle.data = sim;
    CHECK(uv_idle_start(&idle, on_tick) == 0);
    while (!sim->result.ended && now_ms() < limit_ms) {
        (void)uv_run(loop_uv(sim->loop), UV_RUN_NOWAIT);
    }
    sim->result.virtual_ms = now_ms();
    run_destroy(sim->run);
    for (int i = 0; i < sim->worker_count; i++) {
        forget(&sim->workers[i]);
        worker_close(sim->workers[i].worker);
    }
    uv_close((uv_handle_t *)&idle, NULL);
    loop_stop(sim->loop);
    loop_run(sim->loop);
    atomic_store(&virtual_ns, 0);
    loop_destroy(sim->loop);
    struct sim_result result = sim->result;
    free(sim);
    return result;
}
