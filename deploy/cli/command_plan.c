// kelvin plan: what a run will need, and how fast it will be, before it starts.
#include "common/base/run_check.h"
#include "deploy/cli/cli.h"
#include "deploy/cli/plan.h"
#include "learner/rank.h"

#include "common/base/json.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void print_help(void)
{
    (void)printf(
        "Usage: kelvin plan --config FILE [--json] [--memory] [key=value ...]\n\n"
        "Says what a run of this configuration will take on this host: memory of a learner rank\n"
        "and of an actor, KV pages, tokens and seconds of a step. Memory is measured by making\n"
        "the parts as the run makes them. Time is calibrated with the model's own kernels: one\n"
        "step's prompts are sampled (scaled up when they are many) and trained on, and the\n"
        "verifier checks programs; three times, and the median of each counts. What else runs on\n"
        "the host makes the plan slower as it makes the run. --memory leaves the time out.\n"
        "Nothing is written.\n\n"
        "Exit code: 0, or 2 with the line that the run would be refused with.\n");
}

static json_t *memory_json(const struct plan *plan)
{
    const struct plan_memory *m = &plan->memory;
    return json_pack("{s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f}", "rank0_bytes", m->learner,
                     "trainer_bytes", m->trainer, "trainer_arrays_bytes", m->weights,
                     "published_bytes", m->publish, "checkpoint_copy_bytes", m->save, "actor_bytes",
                     m->actor, "actor_kv_bytes", m->kv, "checkpoint_disk_bytes", m->disk);
}

static json_t *time_json(const struct plan *plan)
{
    const struct plan_time *t = &plan->time;
    return json_pack("{s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f}", "step_s", t->step,
                     "propose_s", t->propose, "solve_s", t->solve, "verify_s", t->verify, "train_s",
                     t->train, "sync_s", t->sync, "sampled_tokens_s", t->sampled_tokens_s,
                     "trained_tokens_s", t->trained_tokens_s, "prompt_tokens_mean", t->prompt,
                     "response_tokens_mean", t->response, "tokens_sampled", t->tokens_sampled,
                     "tokens_run", t->tokens_run, "checks_s", t->checks_s, "calibrated_share",
                     t->share);
}

static void print_json(const struct plan *plan)
{
    CLEANUP(json_decrefp)
    json_t *all =
        json_pack("{s:s,s:I,s:I,s:I,s:I,s:I,s:i,s:i,s:o}", "model", plan->config.model,
                  "parameters", (json_int_t)plan->parameters, "kv_pages_per_thread",
                  (json_int_t)plan->kv_pages, "longest_rollouts_at_once", (json_int_t)plan->longest,
                  "proposals", (json_int_t)plan->proposals, "answers", (json_int_t)plan->answers,
                  "actor_threads", (int)plan->actor_threads, "learner_threads",
                  (int)plan->learner_threads, "memory", memory_json(plan));
    if (plan->timed) {
        (void)json_object_set_new(all, "time", time_json(plan));
    }
    CLEANUP(freep) char *text = json_dumps(all, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    (void)printf("%s\n", text != NULL ? text : "{}");
}

static void print_size(const char *what, double bytes, const char *note)
{
    if (bytes >= 1e9) {
        (void)printf("  %-28s %8.2f GB  %s\n", what, bytes / 1e9, note);
    } else {
        (void)printf("  %-28s %8.1f MB  %s\n", what, bytes / 1e6, note);
    }
}

static void print_memory(const struct plan *plan)
{
    const struct plan_memory *m = &plan->memory;
    const struct run_config *config = &plan->config;
    (void)printf("memory in use\n");
    print_size("learner, rank 0", m->learner, "");
    print_size("  trainer", m->trainer, "weights, moments, gradients, model, activations");
    print_size("  published versions", m->publish, "");
    print_size("  copy for a checkpoint", m->save, "");
    print_size("actor", m->actor,
               plan->timed ? "two models, activations, versions on their way, KV of a step"
                           : "two models, versions on their way, the whole KV cache");
    print_size("  KV cache, reserved", m->kv, "");
    (void)printf("  %lld pages of 32 tokens in each of %d threads: %lld of the longest rollouts at "
                 "once\n",
                 (long long)plan->kv_pages, (int)plan->actor_threads, (long long)plan->longest);
    print_size("disk, a checkpoint", m->disk, "");
    (void)printf("  kept: step-0 and the newest %lld%s\n", (long long)config->checkpoint.keep,
                 config->checkpoint.keep_every > 0 ? ", and milestones" : "");
}

static void print_time(const struct plan *plan)
{
    const struct plan_time *t = &plan->time;
    (void)printf("\ntime of a step, calibrated on this host");
    if (t->share < 1.0) {
        (void)printf(" with %.0f%% of its rollouts", 100.0 * t->share);
    }
    (void)printf("\n  propose %8.2f s  %lld prompts\n", t->propose, (long long)plan->proposals);
    (void)printf("  solve   %8.2f s  %lld answers; an actor samples %.1fk tokens/s\n", t->solve,
                 (long long)plan->answers, t->sampled_tokens_s / 1e3);
    (void)printf("  verify  %8.2f s  %.0f checks/s a verifier\n", t->verify, t->checks_s);
    (void)printf("  train   %8.2f s  %.1fk tokens/s\n", t->train, t->trained_tokens_s / 1e3);
    (void)printf("  sync    %8.3f s\n", t->sync);
    (void)printf("  step    %8.2f s  %.1fk tokens sampled, %.1fk run; %lld steps: %.1f h\n",
                 t->step, t->tokens_sampled / 1e3, t->tokens_run / 1e3,
                 (long long)plan->config.steps, t->step * (double)plan->config.steps / 3600.0);
    (void)printf("  (prompts of %.0f tokens and responses of %.0f on average, of the starting "
                 "model)\n",
                 t->prompt, t->response);
}

static int read_words(struct plan *plan, bool *json, bool *memory, int argc, char **argv,
                      struct error *err)
{
    char *words[256];
    int count = 0;
    const char *path = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            *json = true;
        } else if (strcmp(argv[i], "--memory") == 0) {
            *memory = true;
        } else if (strcmp(argv[i], "--config") == 0 && i + 1 < argc) {
            path = argv[++i];
        } else if (count < (int)(sizeof(words) / sizeof(*words))) {
            words[count++] = argv[i];
        }
    }
    if (path == NULL) {
        return error_set(err, -EINVAL, "--config FILE is needed; see kelvin plan --help");
    }
    int code = run_config_read(&plan->config, path, words, count, err);
    code = code < 0 ? code : run_config_check(&plan->config, err);
    return code < 0 ? code : rank_group_check(&plan->config, err);
}

int command_plan(int argc, char **argv)
{
    if (cli_wants_help(argc, argv)) {
        print_help();
        return 0;
    }
    struct plan plan = {0};
    struct error err = {0};
    bool json = false;
    bool memory = false;
    int code = read_words(&plan, &json, &memory, argc, argv, &err);
    code = code < 0 ? code : plan_memory_count(&plan, &err);
    code = code < 0 || memory ? code : plan_time_calibrate(&plan, &err);
    if (code < 0) {
        return cli_fail(argv[0], "%s", err.text);
    }
    if (json) {
        print_json(&plan);
        return 0;
    }
    (void)printf("%s: %.2fM parameters\n\n", plan.config.model, (double)plan.parameters / 1e6);
    print_memory(&plan);
    if (plan.timed) {
        print_time(&plan);
    }
    return 0;
}
