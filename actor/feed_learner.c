#include "actor/feed.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/metrics.h"
#include "common/text/utf8.h"
#include "common/wire/message.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

// struct job is one prompt at work.
struct job {
    struct generation generation;
    uint64_t lease;
    uint64_t era;
    struct job *next;       // while it waits for the engine
    Kelvin__Prompt *prompt; // likewise; a copy
};

METRIC(sampled, METRIC_GAUGE, "kelvin_actor_sampled_tokens", "Tokens sampled since the start.");
METRIC(version, METRIC_GAUGE, "kelvin_actor_version", "Version of the weights in use.");
METRIC(waiting, METRIC_GAUGE, "kelvin_actor_waiting", "Sequences that wait for room.");
METRIC(busy, METRIC_GAUGE, "kelvin_actor_busy", "Share of its time that the engine computes.");

struct feed {
    struct worker *worker;
    struct engine *engine; // NULL until feed_start
    const struct tokenizer *tokenizer;
    const struct run_config *config;
    struct feed_events events;
    enum prompt_style style;
    uint64_t era; // counts the learner's forgets: results of before are dropped
    struct job *waiting, **waiting_end;
    int32_t jobs;
    uint64_t busy_ns, beat_ns; // at the last heartbeat
    bool draining;
};

static void job_destroy(struct feed *feed, struct job *job)
{
    if (job->prompt != NULL) {
        kelvin__prompt__free_unpacked(job->prompt, NULL);
    }
    free(job->generation.prompt);
    free(job);
    feed->jobs--;
}

static void leave_when_idle(struct feed *feed)
{
    if (feed->draining && feed->jobs == 0) {
        worker_leave(feed->worker, "drained");
    }
}

static void send_rollout(struct feed *feed, const Kelvin__Rollout *rollout)
{
    struct error err = {0};
    if (worker_send_rollout(feed->worker, rollout, &err) < 0) {
        log_warn("feed", "a rollout is lost, its lease will run out: %s", err.text);
    }
}

static void send_rejected(struct feed *feed, const struct job *job, const char *note)
{
    Kelvin__Rollout rollout = KELVIN__ROLLOUT__INIT;
    rollout.lease = job->lease;
    rollout.finish = KELVIN__FINISH__REJECTED;
    rollout.note = without_const(note);
    send_rollout(feed, &rollout);
}

enum { VERSION_RUNS_MAX = 64 };

// send_completion sends one sample. The text may hold any bytes, but a message holds UTF-8.
static void send_completion(struct feed *feed, const struct job *job,
                            const struct completion *completion)
{
    struct words words = {0};
    utf8_add_lossy(&words, completion->text, completion->text_size);
    CLEANUP(freep) char *text = words_take(&words);
    CHECK(text != NULL && completion->version_count <= VERSION_RUNS_MAX);
    Kelvin__VersionRun runs[VERSION_RUNS_MAX];
    Kelvin__VersionRun *run_list[VERSION_RUNS_MAX];
    for (int32_t i = 0; i < completion->version_count; i++) {
        kelvin__version_run__init(&runs[i]);
        runs[i].version = completion->versions[i].version;
        runs[i].count = completion->versions[i].count;
        run_list[i] = &runs[i];
    }
    Kelvin__Rollout rollout = KELVIN__ROLLOUT__INIT;
    rollout.lease = job->lease;
    rollout.sample = completion->sample;
    rollout.finish = (Kelvin__Finish)completion->finish;
    rollout.n_prompt = (size_t)job->generation.prompt_count;
    rollout.prompt = (uint32_t *)job->generation.prompt; // ids are not negative
    rollout.n_tokens = (size_t)completion->count;
    rollout.tokens = (uint32_t *)completion->tokens;
    rollout.n_logprobs = (size_t)completion->count;
    rollout.logprobs = completion->logprobs;
    rollout.text = text;
    rollout.n_versions = (size_t)completion->version_count;
    rollout.versions = run_list;
    rollout.numerics = without_const(engine_model(feed->engine)->numerics);
    send_rollout(feed, &rollout);
}

static void on_complete(void *context, struct completion *completion)
{
    struct feed *feed = context;
    struct job *job = completion->generation->tag;
    if (job->era == feed->era) {
        if (completion->finish == FINISH_REJECTED) {
            send_rejected(feed, job, completion->note);
        } else if (completion->finish != FINISH_CANCELLED) {
            send_completion(feed, job, completion);
        }
    }
    if (job->generation.missing == 0) {
        job_destroy(feed, job);
    }
    free(completion);
}

static void job_begin(struct feed *feed, struct job *job)
{
    const Kelvin__Prompt *prompt = job->prompt;
    struct generation *generation = &job->generation;
    struct error err = {0};
    const Kelvin__Sampling *sampling = prompt->sampling;
    if (sampling == NULL ||
        role_tokens(&generation->prompt, &generation->prompt_count, prompt, feed->style,
                    feed->tokenizer, (int32_t)prompt->prompt_tokens_max, &err) < 0) {
        send_rejected(feed, job, sampling == NULL ? "the prompt has no sampling" : err.text);
        job_destroy(feed, job);
        return;
    }
    generation->samples = (int32_t)prompt->samples;
    generation->tokens_max = (int32_t)sampling->tokens_max;
    generation->sampling = (struct sampling){.temperature = sampling->temperature,
                                             .top_p = sampling->top_p,
                                             .top_k = (int32_t)sampling->top_k,
                                             .min_p = sampling->min_p};
    generation->seed = prompt->seed;
    generation->stop = prompt_stop(feed->style);
    generation->version_min = prompt->version_min;
    generation->tag = job;
    kelvin__prompt__free_unpacked(job->prompt, NULL);
    job->prompt = NULL;
    engine_submit(feed->engine, generation);
}

static void on_prompt(void *context, const Kelvin__Prompt *prompt)
{
    struct feed *feed = context;
    struct job *job = calloc(1, sizeof(*job));
    CHECK(job != NULL);
    job->lease = prompt->lease;
    job->era = feed->era;
    job->prompt = message_copy(&prompt->base);
    feed->jobs++;
    if (feed->engine != NULL) {
        job_begin(feed, job);
        feed_poll(feed);
    } else {
        *feed->waiting_end = job;
        feed->waiting_end = &job->next;
    }
}

static void on_welcome(void *context, const Kelvin__Welcome *welcome)
{
    struct feed *feed = context;
    struct error err = {0};
    int style = prompt_style_find(welcome->style, &err);
    if (style < 0) {
        log_error("feed", "the learner asks for a style unknown here: %s", err.text);
        worker_leave(feed->worker, "unknown prompt style");
        return;
    }
    feed->style = (enum prompt_style)style;
    log_info("feed", "joined the learner incarnation=%llu version=%llu",
             (unsigned long long)welcome->incarnation, (unsigned long long)welcome->version);
}

static void drop_waiting(struct feed *feed)
{
    while (feed->waiting != NULL) {
        struct job *job = feed->waiting;
        feed->waiting = job->next;
        job_destroy(feed, job);
    }
    feed->waiting_end = &feed->waiting;
}

static void on_forget(void *context)
{
    struct feed *feed = context;
    feed->era++;
    drop_waiting(feed);
    if (feed->engine != NULL) {
        engine_cancel(feed->engine);
        feed_poll(feed);
    }
}

static void on_manifest(void *context, const Kelvin__WeightsManifest *manifest)
{
    struct feed *feed = context;
    feed->events.on_manifest(feed->events.context, manifest);
}

static void on_drain(void *context, const char *reason)
{
    struct feed *feed = context;
    log_info("feed", "draining: %s", reason);
    feed->draining = true;
    leave_when_idle(feed);
}

static void on_beat(void *context, Kelvin__Heartbeat *beat)
{
    struct feed *feed = context;
    if (feed->engine == NULL) {
        return;
    }
    struct engine_stats stats = engine_stats(feed->engine);
    uint64_t now = clock_ns();
    double threads = engine_threads(feed->engine);
    beat->version = stats.version;
    beat->tokens = stats.sampled;
    beat->queued = (uint32_t)(stats.outstanding - stats.running);
    beat->free = (uint32_t)(feed->config->actor.capacity > stats.outstanding
                                ? feed->config->actor.capacity - stats.outstanding
                                : 0);
    if (feed->beat_ns != 0 && now > feed->beat_ns) {
        double share = (double)(stats.busy_ns - feed->busy_ns) / (double)(now - feed->beat_ns);
        beat->busy = share < threads ? share / threads : 1.0;
    }
    feed->busy_ns = stats.busy_ns;
    feed->beat_ns = now;
    metric_set(&sampled, (double)stats.sampled);
    metric_set(&version, (double)stats.version);
    metric_set(&waiting, beat->queued);
    metric_set(&busy, beat->busy);
}

static void on_end(void *context, int code, const char *sentence)
{
    struct feed *feed = context;
    feed->events.on_end(feed->events.context, code, sentence);
}

int feed_open(struct feed **out, uv_loop_t *loop, void *zmq, const struct run_config *config,
              const struct feed_events *events, struct error *err)
{
    CLEANUP(freep) struct feed *feed = calloc(1, sizeof(*feed));
    if (feed == NULL) {
        return error_set(err, -ENOMEM, "feed: out of memory");
    }
    feed->config = config;
    feed->events = *events;
    feed->waiting_end = &feed->waiting;
    const struct worker_config worker = {.endpoint = config->endpoint,
                                         .kind = KELVIN__WORKER_KIND__ACTOR,
                                         .capacity = (uint32_t)config->actor.capacity,
                                         .engine = kernels_best(COMPUTE_F32)->name,
                                         .connect_timeout_ms =
                                             (uint32_t)(config->connect_timeout_s * 1000)};
    const struct worker_events callbacks = {.context = feed,
                                            .on_welcome = on_welcome,
                                            .on_forget = on_forget,
                                            .on_prompt = on_prompt,
                                            .on_manifest = on_manifest,
                                            .on_drain = on_drain,
                                            .on_beat = on_beat,
                                            .on_end = on_end};
    int code = worker_create(&feed->worker, loop, zmq, &worker, &callbacks, err);
    if (code == 0) {
        *out = TAKE(feed);
    }
    return code;
}

void feed_start(struct feed *feed, struct engine *engine, const struct tokenizer *tokenizer)
{
    CHECK(feed->engine == NULL);
    feed->engine = engine;
    feed->tokenizer = tokenizer;
    while (feed->waiting != NULL) {
        struct job *job = feed->waiting;
        feed->waiting = job->next;
        job_begin(feed, job);
    }
    feed->waiting_end = &feed->waiting;
    feed_poll(feed);
}

void feed_poll(struct feed *feed)
{
    if (feed->engine != NULL) {
        (void)engine_poll(feed->engine, on_complete, feed);
    }
    leave_when_idle(feed);
}

void feed_leave(struct feed *feed, const char *reason)
{
    worker_leave(feed->worker, reason);
}

void feed_close(struct feed *feed)
{
    if (feed != NULL) {
        worker_close(feed->worker);
        drop_waiting(feed);
        free(feed);
    }
}
