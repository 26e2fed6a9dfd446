// kelvin bench dispatch: the control plane of the learner's rank 0, with rollouts that nobody has
// to sample. A process of its own is the actor: it answers every prompt at once with rollouts of
// --tokens tokens. Rank 0's loop leases prompts, unpacks, acknowledges and keeps the rollouts, as
// training does, and notes each in an index of tasks; it does nothing else.
#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/rng.h"
#include "common/wire/loop.h"
#include "common/wire/message.h"
#include "common/wire/worker.h"
#include "deploy/cli/bench.h"
#include "deploy/cli/cli.h"
#include "learner/hub.h"
#include "learner/replay.h"
#include "learner/task_index.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    SAMPLES = 8,
    PROMPTS = 256,      // that are out at once
    PROMPT_TOKENS = 64, // of each
    KEPT = 4096,        // rollouts that wait for their batch
    LAG_MS = 1,         // how often the loop's lag is looked at
    LAGS_MAX = 1 << 16,
    WARM_MS = 500,
    CONNECT_MS = 10000,
};

struct options {
    int64_t tokens, seconds;
};

// --- the actor ---

struct actor {
    struct worker *worker;
    Kelvin__Rollout rollout;
    struct loop *loop;
};

static void on_prompt(void *context, const Kelvin__Prompt *prompt)
{
    struct actor *actor = context;
    actor->rollout.lease = prompt->lease;
    for (uint32_t i = 0; i < prompt->samples; i++) {
        actor->rollout.sample = i;
        (void)worker_send_rollout(actor->worker, &actor->rollout, NULL); // full: the lease runs out
    }
}

static void on_welcome(void *context, const Kelvin__Welcome *welcome)
{
    (void)context;
    (void)welcome;
}

static void on_forget(void *context)
{
    (void)context;
}

static void on_drain(void *context, const char *reason)
{
    (void)context;
    (void)reason;
}

static void on_actor_end(void *context, int code, const char *sentence)
{
    (void)code;
    (void)sentence;
    struct actor *actor = context;
    loop_stop(actor->loop);
}

static void fill_rollout(Kelvin__Rollout *rollout, size_t tokens)
{
    static Kelvin__VersionRun run;
    static Kelvin__VersionRun *runs[] = {&run};
    static char numerics[] = "bench";
    struct rng rng = {.key = 1};
    kelvin__rollout__init(rollout);
    kelvin__version_run__init(&run);
    run.version = 1;
    run.count = (uint32_t)tokens;
    rollout->versions = runs;
    rollout->n_versions = 1;
    rollout->numerics = numerics;
    rollout->n_prompt = PROMPT_TOKENS;
    rollout->prompt = calloc(PROMPT_TOKENS, sizeof(uint32_t));
    rollout->n_tokens = rollout->n_logprobs = tokens;
    rollout->tokens = calloc(tokens, sizeof(uint32_t));
    rollout->logprobs = calloc(tokens, sizeof(float));
    rollout->text = calloc(3 * tokens + 1, 1);
    CHECK(rollout->prompt != NULL && rollout->tokens != NULL && rollout->logprobs != NULL &&
          rollout->text != NULL);
    for (size_t i = 0; i < tokens; i++) {
        rollout->tokens[i] = (uint32_t)rng_below(&rng, 32000);
        rollout->logprobs[i] = -(float)rng_uniform(&rng);
        memcpy(rollout->text + 3 * i, "ab ", 3);
    }
}

static int run_actor(const char *endpoint, size_t tokens)
{
    struct actor actor = {0};
    const struct loop_events none = {0};
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    fill_rollout(&actor.rollout, tokens);
    const struct worker_config config = {.endpoint = endpoint,
                                         .kind = KELVIN__WORKER_KIND__ACTOR,
                                         .capacity = PROMPTS * SAMPLES,
                                         .engine = "bench",
                                         .connect_timeout_ms = CONNECT_MS};
    const struct worker_events events = {.context = &actor,
                                         .on_welcome = on_welcome,
                                         .on_forget = on_forget,
                                         .on_prompt = on_prompt,
                                         .on_drain = on_drain,
                                         .on_end = on_actor_end};
    if (loop_create(&actor.loop, &none, NULL) < 0 ||
        worker_create(&actor.worker, loop_uv(actor.loop), loop_zmq(actor.loop), &config, &events,
                      NULL) < 0) {
        return 1;
    }
    loop_run(actor.loop);
    return 0;
}

// --- rank 0 ---

struct plane {
    struct loop *loop;
    struct hub *hub;
    uv_timer_t ticks;
    struct task_index index;
    Kelvin__Rollout *kept[KEPT];
    int32_t missing[PROMPTS]; // samples of each prompt that have not come
    uint64_t received;
    uint64_t bytes;          // of a rollout: they differ by their ids only
    uint64_t from_ns, to_ns; // the measured time; 0: no rollout has come yet
    uint64_t from_received;  // when it began
    double from_cpu, cpu;    // seconds of this process, then of the measured time
    uint64_t tick_ns;        // when the timer last called
    uint64_t began_ns;
    bool failed;           // the actor sent nothing
    double seconds;        // of options
    double lags[LAGS_MAX]; // ms
    double own[LAGS_MAX];  // of these, without the wait for a processor
    int lag_count;
    int schedstat;     // of the loop's thread; -1: the host does not say
    uint64_t wait_ns;  // for a processor, when the timer last called
    uint64_t waits_ns; // in the measured time
};

static void on_rollout(void *context, uint64_t tag, const Kelvin__Rollout *rollout);

static void ask(struct plane *plane, uint64_t tag)
{
    static uint64_t seed;
    Kelvin__Sampling sampling = KELVIN__SAMPLING__INIT;
    sampling.temperature = sampling.top_p = 1.0F;
    Kelvin__Prompt prompt = KELVIN__PROMPT__INIT;
    prompt.role = KELVIN__ROLE__PROPOSE;
    prompt.samples = SAMPLES;
    prompt.seed = ++seed;
    prompt.sampling = &sampling;
    plane->missing[tag] = SAMPLES;
    CHECK(hub_rollout(plane->hub, &prompt, on_rollout, plane, tag) == 0);
}

static void on_rollout(void *context, uint64_t tag, const Kelvin__Rollout *rollout)
{
    struct plane *plane = context;
    Kelvin__Rollout **slot = &plane->kept[plane->received % KEPT];
    if (plane->received == 0) {
        plane->bytes = kelvin__rollout__get_packed_size(rollout);
    }
    message_free(*slot);
    *slot = message_copy(&rollout->base);
    plane->received++;
    if (--plane->missing[tag] == 0) { // a proposal and its answers: a task enters the index
        struct task_entry entry = {
            .id = plane->received, .step = 1, .digest = rng_mix(rollout->lease, 1)};
        if (!task_index_has(&plane->index, entry.digest)) {
            (void)task_index_add(&plane->index, entry);
        }
        ask(plane, tag);
    }
}

static double cpu_seconds(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void end(struct plane *plane)
{
    if (uv_is_closing((uv_handle_t *)&plane->ticks)) {
        return;
    }
    uv_close((uv_handle_t *)&plane->ticks, NULL);
    hub_close(plane->hub);
    loop_stop(plane->loop);
}

// Begins to measure WARM_MS after the first rollout.
static void wait_for_work(struct plane *plane, uint64_t now)
{
    if (plane->from_ns == 0 && plane->received > 0) {
        plane->from_ns = now + (uint64_t)WARM_MS * 1000000;
        plane->to_ns = plane->from_ns + (uint64_t)(plane->seconds * 1e9);
    }
    plane->from_received = plane->received;
    plane->from_cpu = cpu_seconds();
    if (plane->from_ns == 0 && now - plane->began_ns > (uint64_t)CONNECT_MS * 1000000) {
        plane->failed = true;
        end(plane);
    }
}

// How long the loop's thread has been ready to run while others ran: on a busy host that is most of
// the lag, and no doing of the loop.
static uint64_t waited_ns(const struct plane *plane)
{
    char text[96] = "";
    unsigned long long ran = 0;
    unsigned long long waited = 0;
    ssize_t size = pread(plane->schedstat, text, sizeof(text) - 1, 0);
    bool read = size > 0 && sscanf(text, "%llu %llu", &ran, &waited) == 2; // NOLINT(cert-err34-c)
    return read ? waited : 0;
}

// How much later than due the timer is: so long would any other event have waited.
static void on_tick(uv_timer_t *timer)
{
    struct plane *plane = timer->data;
    uint64_t now = clock_ns();
    double lag = (double)(now - plane->tick_ns) / 1e6 - LAG_MS;
    uint64_t waited = waited_ns(plane);
    double wait = (double)(waited - plane->wait_ns) / 1e6;
    plane->tick_ns = now;
    plane->wait_ns = waited;
    if (plane->from_ns == 0 || now < plane->from_ns) {
        wait_for_work(plane, now);
        return;
    }
    if (plane->lag_count < LAGS_MAX) {
        plane->own[plane->lag_count] = lag > wait ? lag - wait : 0.0;
        plane->lags[plane->lag_count++] = lag > 0.0 ? lag : 0.0;
    }
    plane->waits_ns += (uint64_t)(wait * 1e6);
    if (now >= plane->to_ns) {
        plane->seconds = (double)(now - plane->from_ns) / 1e9;
        plane->cpu = cpu_seconds() - plane->from_cpu;
        end(plane);
    }
}

static int by_size(const void *left, const void *right)
{
    double a = *(const double *)left;
    double b = *(const double *)right;
    return (a > b) - (a < b);
}

// What of `lags` [count] is not exceeded by this share of them; they are in order.
static double lag_at(const double *lags, int count, double share)
{
    int at = (int)(share * (double)(count - 1));
    return count > 0 ? lags[at] : 0.0;
}

static void print_result(struct plane *plane, const struct options *options)
{
    double rollouts = (double)(plane->received - plane->from_received);
    double bytes = rollouts * (double)plane->bytes;
    int count = plane->lag_count;
    qsort(plane->lags, (size_t)count, sizeof(double), by_size);
    qsort(plane->own, (size_t)count, sizeof(double), by_size);
    (void)printf("{\"bench\": \"dispatch\", \"tokens\": %lld, \"seconds\": %.3f, "
                 "\"rollouts_per_s\": %.0f, \"megabytes_per_s\": %.1f, "
                 "\"rollouts_per_cpu_s\": %.0f, "
                 "\"loop_lag_ms_p50\": %.3f, \"loop_lag_ms_p99\": %.3f, "
                 "\"loop_lag_ms_max\": %.3f, \"own_lag_ms_p99\": %.3f, "
                 "\"wait_share\": %.3f}\n",
                 (long long)options->tokens, plane->seconds, rollouts / plane->seconds,
                 bytes / plane->seconds / 1e6, rollouts / plane->cpu,
                 lag_at(plane->lags, count, 0.5), lag_at(plane->lags, count, 0.99),
                 lag_at(plane->lags, count, 1.0), lag_at(plane->own, count, 0.99),
                 (double)plane->waits_ns / 1e9 / plane->seconds);
}

static void on_stop(void *context, int signal)
{
    (void)signal;
    struct plane *plane = context;
    plane->failed = plane->from_ns == 0;
    end(plane);
}

static int open_plane(struct plane *plane, const char *endpoint, struct error *err)
{
    const struct loop_events stop = {.context = plane, .on_stop = on_stop};
    const struct hub_config hub = {.endpoint = endpoint,
                                   .style = "compact",
                                   .incarnation = 1,
                                   .lease_ms = 60000,
                                   .requests_max = 2 * PROMPTS * SAMPLES};
    int code = loop_create(&plane->loop, &stop, err);
    code = code < 0 ? code : task_index_init(&plane->index, 16384, err);
    return code < 0
               ? code
               : hub_create(&plane->hub, loop_uv(plane->loop), loop_zmq(plane->loop), &hub, err);
}

static int run_plane(struct plane *plane, const char *endpoint, struct error *err)
{
    int code = open_plane(plane, endpoint, err);
    if (code < 0) {
        loop_stop(plane->loop);
        return code;
    }
    plane->schedstat = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    CHECK(uv_timer_init(loop_uv(plane->loop), &plane->ticks) == 0);
    plane->ticks.data = plane;
    plane->began_ns = clock_ns();
    CHECK(uv_timer_start(&plane->ticks, on_tick, LAG_MS, LAG_MS) == 0);
    for (uint64_t tag = 0; tag < PROMPTS; tag++) {
        ask(plane, tag);
    }
    loop_run(plane->loop);
    if (plane->schedstat >= 0) {
        (void)close(plane->schedstat);
    }
    return plane->failed ? error_set(err, -ETIMEDOUT, "the actor process sent nothing within %d s",
                                     CONNECT_MS / 1000)
                         : 0;
}

static int measure(const struct options *options, struct error *err)
{
    char dir[] = "/tmp/kelvin-bench-XXXXXX";
    char endpoint[64];
    CLEANUP(freep) struct plane *plane = calloc(1, sizeof(*plane));
    if (plane == NULL || mkdtemp(dir) == NULL) {
        return error_set(err, -ENOMEM, "no memory, or no folder in /tmp");
    }
    (void)snprintf(endpoint, sizeof(endpoint), "ipc://%s/socket", dir);
    pid_t actor = fork();
    if (actor == 0) {
        _exit(run_actor(endpoint, (size_t)options->tokens));
    }
    plane->seconds = (double)options->seconds;
    int code = actor < 0
                   ? error_set(err, -errno, "cannot start a process: %s", strerrordesc_np(errno))
                   : run_plane(plane, endpoint, err);
    if (actor > 0) {
        (void)kill(actor, SIGKILL);
        (void)waitpid(actor, NULL, 0);
    }
    if (code == 0) {
        print_result(plane, options);
    }
    loop_destroy(plane->loop);
    task_index_finish(&plane->index);
    for (int i = 0; i < KEPT; i++) {
        message_free(plane->kept[i]);
    }
    (void)unlink(endpoint + strlen("ipc://"));
    (void)rmdir(dir);
    return code;
}

static void print_help(void)
{
    (void)puts(
        "Usage: kelvin bench dispatch [--tokens N] [--seconds S]\n\n"
        "Measures the control plane of the learner's rank 0: leases prompts of 8 samples to\n"
        "one actor process, which answers at once, and unpacks, acknowledges, keeps and\n"
        "indexes what comes back, on one thread. Prints one JSON object: rollouts a second,\n"
        "and by how many milliseconds the loop is late (loop_lag); own_lag leaves out what it\n"
        "waited for a processor that others used, wait_share is how much of the time that was.\n\n"
        "  --tokens N    tokens of a rollout, each with its log-probability (512)\n"
        "  --seconds S   how long to measure (5)");
}

static int parse_options(struct options *options, int argc, char **argv, struct error *err)
{
    for (int i = 1; i < argc; i += 2) {
        int64_t *out = strcmp(argv[i], "--tokens") == 0    ? &options->tokens
                       : strcmp(argv[i], "--seconds") == 0 ? &options->seconds
                                                           : NULL;
        int64_t max = out == &options->tokens ? 32768 : 600;
        char *stop = NULL;
        if (out == NULL || i + 1 == argc) {
            return error_set(err, -EINVAL,
                             "\"%s\" is not understood, or lacks its value; see --help", argv[i]);
        }
        *out = strtoll(argv[i + 1], &stop, 10);
        if (*stop != '\0' || *out < 1 || *out > max) {
            return error_set(err, -EINVAL, "%s is a whole number from 1 to %lld", argv[i],
                             (long long)max);
        }
    }
    return 0;
}

int bench_dispatch(int argc, char **argv)
{
    if (cli_wants_help(argc, argv)) {
        print_help();
        return 0;
    }
    struct options options = {.tokens = 512, .seconds = 5};
    struct error err = {0};
    int code = parse_options(&options, argc, argv, &err);
    code = code < 0 ? code : measure(&options, &err);
    return code == 0 ? 0 : cli_fail(argv[0], "%s", err.text);
}
