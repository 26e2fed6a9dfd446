#include "learner/report.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/base/metrics.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

METRIC(steps, METRIC_GAUGE, "kelvin_learner_step", "Optimizer steps done.");
METRIC(sampled, METRIC_COUNTER, "kelvin_learner_sampled_tokens_total",
       "Response tokens generated for the steps.");
METRIC(trained, METRIC_COUNTER, "kelvin_learner_trained_tokens_total",
       "Response tokens trained on.");
METRIC(step_seconds, METRIC_HISTOGRAM, "kelvin_learner_step_seconds", "Wall time of a step.");
METRIC(mismatch, METRIC_GAUGE, "kelvin_learner_mismatch_max",
       "Largest difference between the log-probabilities of actor and learner: 0.");
METRIC(skipped, METRIC_COUNTER, "kelvin_learner_skipped_total",
       "Steps that changed nothing, since the gradient was not finite.");
METRIC(staleness, METRIC_GAUGE, "kelvin_learner_staleness", "Mean age of the data, in versions.");
METRIC(actors_alive, METRIC_GAUGE, "kelvin_learner_workers{kind=\"actor\"}", "Workers alive.");
METRIC(verifiers_alive, METRIC_GAUGE, "kelvin_learner_workers{kind=\"verifier\"}",
       "Workers alive.");
METRIC(returned, METRIC_GAUGE, "kelvin_learner_leases_returned",
       "Leases that went back to the queue.");

enum { METRICS_BYTES_MAX = 1 << 30 };

static void put_real(json_t *line, const char *key, double value)
{
    (void)json_object_set_new(line, key, isfinite(value) ? json_real(value) : json_null());
}

static void put_integer(json_t *line, const char *key, int64_t value)
{
    (void)json_object_set_new(line, key, json_integer(value));
}

static void put_kind(json_t *line, const char *prefix, enum task_kind kind, double value)
{
    char key[96];
    (void)snprintf(key, sizeof(key), "%s/%s", prefix, task_kind_name(kind));
    put_real(line, key, value);
}

static double share(double part, double whole)
{
    return whole > 0.0 ? part / whole : 0.0;
}

static void put_kind_numbers(json_t *line, enum task_kind kind, const struct batch_kind *numbers)
{
    if (numbers->proposer_rows > 0) {
        put_kind(line, "reward/propose", kind, numbers->proposer_reward);
        put_kind(line, "length/propose", kind,
                 share((double)numbers->proposer_tokens, numbers->proposer_rows));
    }
    if (numbers->solver_rows > 0) {
        put_kind(line, "reward/solve", kind, numbers->solver_reward);
        put_kind(line, "length/solve", kind,
                 share((double)numbers->solver_tokens, numbers->solver_rows));
    }
    if (numbers->proposals > 0) {
        put_kind(line, "valid", kind, share(numbers->valid, numbers->proposals));
        put_kind(line, "formatted", kind, share(numbers->formatted, numbers->proposals));
        put_kind(line, "duplicates", kind, share(numbers->duplicates, numbers->proposals));
        put_kind(line, "learnability", kind, numbers->learnability);
    }
    for (int term = 0; term < INTRINSIC_TERMS; term++) {
        char key[48];
        (void)snprintf(key, sizeof(key), "intrinsic/%s", intrinsic_name(term));
        if (numbers->intrinsic_counts[term] > 0) {
            put_kind(line, key, kind, numbers->intrinsic[term]);
        }
    }
    if (numbers->answers > 0) {
        put_kind(line, "accuracy", kind, numbers->accuracy);
        put_kind(line, "scratchpad", kind, share(numbers->scratchpads, numbers->answers));
    }
    put_kind(line, "dropped", kind, numbers->dropped);
    put_kind(line, "withheld", kind, numbers->withheld);
    put_kind(line, "answers/withheld", kind, numbers->answers_withheld);
}

static void put_step(json_t *line, const struct report_input *input)
{
    const struct step_job *job = input->job;
    const struct batch *batch = job->batch;
    put_integer(line, "step", job->step);
    put_integer(line, "version", job->step + 1);
    put_real(line, "seconds", input->seconds);
    put_real(line, "seconds/train", job->seconds);
    put_integer(line, "tokens/sampled", batch->tokens_sampled);
    put_integer(line, "tokens/trained", batch->tokens_trained);
    put_integer(line, "tokens/run", job->report.tokens);
    put_real(line, "tokens/s", share((double)batch->tokens_sampled, input->seconds));
    put_integer(line, "rows", batch->row_count);
    put_integer(line, "rows/run", batch->count);
    put_real(line, "staleness", batch->staleness);
}

static void put_update(json_t *line, const struct step_job *job)
{
    const struct step_report *report = &job->report;
    put_real(line, "loss", report->loss);
    put_real(line, "grad_norm", report->grad_norm);
    put_real(line, "entropy", report->entropy);
    put_real(line, "kl", report->kl);
    put_real(line, "ratio_mean", report->ratio_mean);
    put_real(line, "ratio_max", report->ratio_max);
    put_real(line, "clipped", report->clipped);
    put_real(line, "mismatch_max", report->mismatch_max);
    (void)json_object_set_new(line, "skipped", json_boolean(report->skipped));
    put_integer(line, "updates", report->updates);
    put_real(line, "lr", job->lr);
}

static void put_pool(json_t *line, const char *name, const struct hub_stats *stats)
{
    char key[64];
    (void)snprintf(key, sizeof(key), "%s", name);
    put_integer(line, key, stats->workers);
    (void)snprintf(key, sizeof(key), "%s/busy", name);
    put_real(line, key, stats->busy);
    (void)snprintf(key, sizeof(key), "%s/returned", name);
    put_integer(line, key, (int64_t)stats->returned);
    (void)snprintf(key, sizeof(key), "%s/late", name);
    put_integer(line, key, (int64_t)stats->late);
    (void)snprintf(key, sizeof(key), "%s/lost", name);
    put_integer(line, key, (int64_t)stats->lost);
}

static void set_metrics(const struct report_input *input)
{
    const struct step_job *job = input->job;
    metric_set(&steps, (double)job->step);
    metric_add(&sampled, (double)job->batch->tokens_sampled);
    metric_add(&trained, (double)job->batch->tokens_trained);
    metric_observe(&step_seconds, input->seconds);
    metric_set(&mismatch, job->report.mismatch_max);
    metric_add(&skipped, job->report.skipped);
    metric_set(&staleness, job->batch->staleness);
    metric_set(&actors_alive, input->actors.workers);
    metric_set(&verifiers_alive, input->verifiers.workers);
    metric_set(&returned, (double)(input->actors.returned + input->verifiers.returned));
}

char *report_line(const struct report_input *input)
{
    CLEANUP(json_decrefp) json_t *line = json_object();
    put_step(line, input);
    for (int kind = 0; kind < KINDS; kind++) {
        if (dispatch_plays(input->config, (enum task_kind)kind)) {
            put_kind_numbers(line, (enum task_kind)kind, &input->job->batch->kinds[kind]);
            put_kind(line, "tasks", (enum task_kind)kind,
                     tasks_index(input->tasks, (enum task_kind)kind)->count);
        }
    }
    put_update(line, input->job);
    put_pool(line, "actors", &input->actors);
    put_pool(line, "verifiers", &input->verifiers);
    set_metrics(input);
    char *text = json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(9));
    CHECK(text != NULL);
    return text;
}

// How many bytes of `text` are lines of steps up to `step`.
static size_t lines_up_to(const char *text, size_t size, int64_t step)
{
    size_t kept = 0;
    while (kept < size) {
        const char *end = memchr(text + kept, '\n', size - kept);
        CLEANUP(json_decrefp) json_t *line = NULL;
        if (end == NULL ||
            json_parse(&line, text + kept, (size_t)(end - text) - kept, "metrics", NULL) < 0 ||
            json_integer_value(json_object_get(line, "step")) > step) {
            break; // a later step, or a line that a kill cut short
        }
        kept = (size_t)(end - text) + 1;
    }
    return kept;
}

int report_copy(const char *to, const char *from, int64_t step, struct error *err)
{
    CLEANUP(freep) char *text = NULL;
    size_t size = 0;
    int code = file_read(&text, &size, from, METRICS_BYTES_MAX, err);
    return code < 0 ? code : file_write(to, text, lines_up_to(text, size, step), err);
}

int report_truncate(const char *path, int64_t step, struct error *err)
{
    CLEANUP(freep) char *text = NULL;
    size_t size = 0;
    int code = file_read(&text, &size, path, METRICS_BYTES_MAX, err);
    if (code < 0) {
        return code == -ENOENT ? 0 : code;
    }
    size_t kept = lines_up_to(text, size, step);
    return kept == size ? 0 : file_write(path, text, kept, err);
}
