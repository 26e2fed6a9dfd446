#include "actor/engine.h"
#include "actor/role.h"
#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/model/safetensors.h"
#include "common/text/tokenizer.h"
#include "deploy/cli/cli.h"
#include "deploy/cli/plan.h"
#include "learner/dispatch.h"
#include "learner/generator.h"
#include "learner/rank.h"

#include <errno.h>
#include <sodium.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WAIT_MS = 1000,
    TOKENS_MAX = 300000, // response tokens of a calibration at most; more are scaled up
    CHECKS = 384,        // programs that the verifier checks
    FEW = 8,             // sequences of a step that only warms up
    ROUNDS = 3,          // of a calibration; the median of each part counts
    ROUND_S_MAX = 20,    // a round that takes longer stays the only one
    INPUTS_MAX = 16,
    PLAN_PATH_MAX = 4096,
};

static double now_s(void)
{
    return (double)clock_ns() / 1e9;
}

// struct rehearsal is a step's rollouts, sampled for their time.
struct rehearsal {
    struct plan *plan;
    struct tokenizer *tokenizer;
    struct engine *engine;
    int32_t stop_token;
    float *weights;          // [parameters]
    struct generated *tasks; // [task_count]
    int task_count;
    struct generation *generations; // [generation_count], proposals first
    int generation_count;
    struct completion **completions; // of the last round
    int completion_count;
    double prompt_tokens;
    struct trainer *trainer;
    struct sequence *sequences; // [sequence_count] what a step trains on
    int sequence_count;
    int32_t *ids;
    float *floats; // what the sequences point into
};

// struct round is one measurement of everything, in seconds.
struct round {
    double propose, solve, train, sync, checks_s;
};

static const char *token_bytes(const void *context, int32_t id, size_t *size)
{
    return tokenizer_token(context, id, size);
}

static int open_engine(struct rehearsal *rehearsal, struct error *err)
{
    struct plan *plan = rehearsal->plan;
    const struct run_config *config = &plan->config;
    enum dtype stored = DTYPE_F32;
    CLEANUP(model_destroyp) struct model *model = NULL;
    int code = model_create(&model, &plan->shape, (enum compute)config->learner.compute, err);
    code = code < 0 ? code
                    : safetensors_read(rehearsal->weights, &stored, &model->params, &plan->shape,
                                       config->model, err);
    if (code < 0) {
        return code;
    }
    model_set(model, rehearsal->weights,
              config->learner.published == PUBLISH_BF16 ? DTYPE_BF16 : DTYPE_F32);
    rehearsal->stop_token = plan->shape.eos_token;
    int64_t rows = config->actor.prefill_rows > config->actor.rows ? config->actor.prefill_rows
                                                                   : config->actor.rows;
    const struct engine_config parts = {
        .threads = plan->actor_threads,
        .slots = (int32_t)config->actor.rows,
        .call_rows = (int32_t)rows,
        .kv_tokens = config->actor.kv_tokens,
        .swap = SWAP_PINNED,
        .vocabulary = {.bytes = token_bytes,
                       .context = rehearsal->tokenizer,
                       .stops = &rehearsal->stop_token,
                       .stop_count = rehearsal->stop_token >= 0 ? 1 : 0}};
    code = engine_create(&rehearsal->engine, &parts, model, 1, err);
    if (code == 0) {
        (void)TAKE(model); // it is the engine's
    }
    return code;
}

// --- prompts ---

// The generator's programs stand for the tasks of the run. Their outputs are not known here; an
// input in their place has about their length.
static void fill_task(Kelvin__Task *task, const struct generated *from, enum task_kind kind,
                      char **texts, int inputs)
{
    kelvin__task__init(task);
    task->kind = (Kelvin__TaskKind)kind;
    task->program = without_const(from->program);
    task->message = without_const(kind == KIND_INDUCTION ? "apply the same steps" : "");
    int count = kind == KIND_INDUCTION ? inputs : 1;
    for (int i = 0; i < count; i++) {
        texts[i] = without_const(from->inputs[i % from->input_count]);
    }
    task->n_inputs = task->n_outputs = (size_t)count;
    task->inputs = task->outputs = texts;
}

static int render(struct rehearsal *rehearsal, enum task_kind kind, enum role role, int slot,
                  struct error *err)
{
    const struct run_config *config = &rehearsal->plan->config;
    int inputs =
        (int)(config->azr.inputs > 0 && config->azr.inputs < INPUTS_MAX ? config->azr.inputs
                                                                        : INPUTS_MAX);
    Kelvin__Task tasks[TASK_REFERENCES_MAX + 1];
    Kelvin__Task *references[TASK_REFERENCES_MAX];
    char *texts[TASK_REFERENCES_MAX + 1][INPUTS_MAX];
    int shown = (int)config->azr.references;
    for (int i = 0; i <= shown; i++) {
        const struct generated *from =
            &rehearsal->tasks[(slot * (shown + 1) + i) % rehearsal->task_count];
        fill_task(&tasks[i], from, kind, texts[i], inputs);
        if (i > 0) {
            references[i - 1] = &tasks[i];
        }
    }
    Kelvin__Prompt prompt = KELVIN__PROMPT__INIT;
    prompt.kind = (Kelvin__TaskKind)kind;
    prompt.role = (Kelvin__Role)role;
    if (role == ROLE_SOLVE || kind == KIND_INDUCTION) {
        prompt.task = &tasks[0];
        prompt.inputs_count = (uint32_t)inputs;
    } else {
        prompt.n_references = (size_t)shown;
        prompt.references = references;
    }
    struct generation *generation = &rehearsal->generations[rehearsal->generation_count];
    int style = prompt_style_find(config->azr.style, err);
    int code = style < 0 ? style
                         : role_tokens(&generation->prompt, &generation->prompt_count, &prompt,
                                       (enum prompt_style)style, rehearsal->tokenizer,
                                       (int32_t)config->rollout.prompt_tokens_max, err);
    if (code < 0) {
        return code;
    }
    generation->samples = role == ROLE_SOLVE ? (int32_t)config->azr.samples : 1;
    generation->tokens_max = (int32_t)config->rollout.response_tokens_max;
    generation->sampling = (struct sampling){.temperature = (float)config->rollout.temperature,
                                             .top_p = (float)config->rollout.top_p,
                                             .top_k = (int32_t)config->rollout.top_k,
                                             .min_p = (float)config->rollout.min_p};
    generation->seed = (uint64_t)rehearsal->generation_count + 1;
    generation->stop = prompt_stop((enum prompt_style)style);
    rehearsal->prompt_tokens += (double)generation->prompt_count * generation->samples;
    rehearsal->generation_count++;
    return 0;
}

static int render_all(struct rehearsal *rehearsal, enum role role, int batch, struct error *err)
{
    const struct run_config *config = &rehearsal->plan->config;
    int code = 0;
    for (int kind = 0; kind < KINDS; kind++) {
        for (int slot = 0;
             dispatch_plays(config, (enum task_kind)kind) && slot < batch && code == 0; slot++) {
            code = render(rehearsal, (enum task_kind)kind, role, slot, err);
        }
    }
    return code;
}

static int draw_tasks(struct rehearsal *rehearsal, int batch, struct error *err)
{
    static const double lengths[GENERATED_LENGTHS] = {0.4, 0.3, 0.2, 0.07, 0.03};
    struct rng rng = {.key = 1};
    rehearsal->task_count = batch + TASK_REFERENCES_MAX;
    rehearsal->tasks = calloc((size_t)rehearsal->task_count, sizeof(*rehearsal->tasks));
    if (rehearsal->tasks == NULL) {
        return error_set(err, -ENOMEM, "plan: no memory for tasks");
    }
    for (int i = 0; i < rehearsal->task_count; i++) {
        generate(&rehearsal->tasks[i], &rng, lengths, INPUTS_MAX / 4, false);
    }
    return 0;
}

// --- sampling ---

static void on_complete(void *context, struct completion *completion)
{
    struct rehearsal *rehearsal = context;
    rehearsal->completions[rehearsal->completion_count++] = completion;
}

// Samples the generations [from, to).
static double sample(struct rehearsal *rehearsal, int from, int to)
{
    double start = now_s();
    int wanted = rehearsal->completion_count;
    for (int i = from; i < to; i++) {
        wanted += rehearsal->generations[i].samples;
        engine_submit(rehearsal->engine, &rehearsal->generations[i]);
    }
    (void)engine_poll(rehearsal->engine, on_complete, rehearsal);
    while (rehearsal->completion_count < wanted) {
        engine_wait(rehearsal->engine, WAIT_MS);
        (void)engine_poll(rehearsal->engine, on_complete, rehearsal);
    }
    return now_s() - start;
}

static void forget_completions(struct rehearsal *rehearsal)
{
    for (int i = 0; i < rehearsal->completion_count; i++) {
        free(rehearsal->completions[i]);
    }
    rehearsal->completion_count = 0;
}

static double sampled_tokens(const struct rehearsal *rehearsal)
{
    double tokens = 0.0;
    for (int i = 0; i < rehearsal->completion_count; i++) {
        tokens += rehearsal->completions[i]->count;
    }
    return tokens;
}

// --- training ---

// Whether completion `i` is one before it of the same prompt: a step trains on both as one. They
// stand in order (arrange).
static bool is_repeated(const struct rehearsal *rehearsal, int i)
{
    struct completion *const *list = rehearsal->completions;
    for (int k = i - 1; k >= 0 && list[k]->generation == list[i]->generation; k--) {
        if (list[k]->count == list[i]->count &&
            memcmp(list[k]->tokens, list[i]->tokens,
                   (size_t)list[i]->count * sizeof(*list[i]->tokens)) == 0) {
            return true;
        }
    }
    return false;
}

// Makes the sequences of a step of the completions.
static void lay_out(struct rehearsal *rehearsal)
{
    size_t count = (size_t)rehearsal->completion_count;
    size_t all = 0;
    for (size_t i = 0; i < count; i++) {
        const struct completion *completion = rehearsal->completions[i];
        all += (size_t)completion->generation->prompt_count + (size_t)completion->count;
    }
    rehearsal->sequences = calloc(count, sizeof(*rehearsal->sequences));
    int32_t *ids = rehearsal->ids = calloc(all + 1, sizeof(*ids));
    float *floats = rehearsal->floats = calloc(2 * all + 1, sizeof(*floats));
    CHECK(rehearsal->sequences != NULL && ids != NULL && floats != NULL);
    size_t at = 0;
    for (int i = 0; i < rehearsal->completion_count; i++) {
        const struct completion *completion = rehearsal->completions[i];
        size_t prompt = (size_t)completion->generation->prompt_count;
        size_t response = (size_t)completion->count;
        if (is_repeated(rehearsal, i)) {
            continue;
        }
        memcpy(ids + at, completion->generation->prompt, prompt * sizeof(*ids));
        memcpy(ids + at + prompt, completion->tokens, response * sizeof(*ids));
        memcpy(floats + all + at + prompt, completion->logprobs, response * sizeof(*floats));
        for (size_t k = 0; k < response; k++) {
            floats[at + prompt + k] = 1e-3F;
        }
        rehearsal->sequences[rehearsal->sequence_count++] =
            (struct sequence){.count = (int32_t)(prompt + response),
                              .ids = ids + at,
                              .weight = floats + at,
                              .behaviour = floats + all + at,
                              .advantage = i % 2 == 0 ? 1.0F : -1.0F};
        at += prompt + response;
    }
}

static int train(struct rehearsal *rehearsal, int count, double *seconds, double *tokens,
                 struct error *err)
{
    const struct objective objective = {.clip_low = 0.2F, .clip_high = 0.2F};
    const struct optimizer optimizer = {
        .lr = 1e-6F, .beta1 = 0.9F, .beta2 = 0.999F, .epsilon = 1e-8F, .grad_norm_max = 1.0F};
    struct step_report report = {0};
    double start = now_s();
    int code = trainer_step(rehearsal->trainer, rehearsal->sequences, count, &objective, &optimizer,
                            NULL, &report, err);
    *seconds = now_s() - start;
    *tokens = (double)report.tokens;
    return code;
}

// Makes the trainer and lets it make room.
static int open_trainer(struct rehearsal *rehearsal, struct error *err)
{
    const struct plan *plan = rehearsal->plan;
    int few = rehearsal->sequence_count < FEW ? rehearsal->sequence_count : FEW;
    double unused = 0.0;
    int code = rank_trainer(&rehearsal->trainer, &plan->config, &plan->shape, rehearsal->weights,
                            NULL, err);
    return code < 0 ? code : train(rehearsal, few, &unused, &unused, err);
}

// --- the verifier ---

static void put_check(FILE *file, const struct generated *task, int id, bool validate)
{
    CLEANUP(json_decrefp)
    json_t *line =
        validate ? json_pack("{s:i,s:s,s:s,s:s}", "id", id, "kind", "validate", "program",
                             task->program, "input", task->inputs[0])
                 : json_pack("{s:i,s:s,s:s,s:s,s:s}", "id", id, "kind", "abduction", "program",
                             task->program, "gold", "0", "answer", task->inputs[0]);
    CLEANUP(freep) char *text = json_dumps(line, JSON_COMPACT);
    (void)fprintf(file, "%s\n", text != NULL ? text : "");
}

// Checks programs as `kelvin verify` does and times them from the first verdict to the last.
static int time_checks(const struct rehearsal *rehearsal, double *checks_s, struct error *err)
{
    char program[PLAN_PATH_MAX];
    char command[2 * PLAN_PATH_MAX];
    char path[] = "/tmp/kelvin-plan-XXXXXX";
    int code = cli_sibling(program, sizeof(program), "kelvin-verifier", err);
    int fd = code < 0 ? -1 : mkstemp(path);
    FILE *lines = fd < 0 ? NULL : fdopen(fd, "w");
    if (lines == NULL) {
        return code < 0 ? code : error_set(err, -errno, "cannot write in /tmp");
    }
    for (int i = 0; i < CHECKS; i++) {
        put_check(lines, &rehearsal->tasks[i % rehearsal->task_count], i, i % 2 == 0);
    }
    (void)fclose(lines);
    (void)snprintf(command, sizeof(command),
                   "'%s' --stdin --no-cache --workers %lld --images %lld < %s 2>/dev/null", program,
                   (long long)(rehearsal->plan->config.verifier.workers > 0
                                   ? rehearsal->plan->config.verifier.workers
                                   : rehearsal->plan->actor_threads),
                   (long long)rehearsal->plan->config.verifier.images, path);
    FILE *verdicts = popen(command, "re"); // NOLINT(cert-env33-c): our own program and paths
    char line[1 << 14];
    double first = 0.0;
    int count = 0;
    while (verdicts != NULL && fgets(line, sizeof(line), verdicts) != NULL) {
        first = count++ == 0 ? now_s() : first;
    }
    double span = now_s() - first;
    int status = verdicts == NULL ? -1 : pclose(verdicts);
    (void)remove(path);
    if (status != 0 || count < 2) {
        return error_set(err, -EIO, "the verifier does not run here; kelvin verify says why");
    }
    *checks_s = (count - 1) / (span > 1e-6 ? span : 1e-6);
    return 0;
}

// --- the sum ---

static double time_sync(struct rehearsal *rehearsal, uint64_t version, struct error *err)
{
    const struct plan *plan = rehearsal->plan;
    bool bf16 = plan->config.learner.published == PUBLISH_BF16;
    double start = now_s();
    if (engine_load(rehearsal->engine, rehearsal->weights, bf16 ? DTYPE_BF16 : DTYPE_F32, version,
                    err) < 0) {
        return -1.0;
    }
    unsigned char hash[32]; // of the blob, at the learner and at the actor
    for (int side = 0; side < 2; side++) {
        (void)crypto_generichash(hash, sizeof(hash), (const unsigned char *)rehearsal->weights,
                                 plan->parameters * (bf16 ? 2 : 4), NULL, 0);
    }
    return now_s() - start;
}

static int by_order(const void *left, const void *right)
{
    const struct completion *a = *(struct completion *const *)left;
    const struct completion *b = *(struct completion *const *)right;
    if (a->generation != b->generation) {
        return a->generation < b->generation ? -1 : 1;
    }
    return a->sample < b->sample ? -1 : 1;
}

// Puts the rollouts in the order of a batch, and returns the share of them that differ from the one
// before: equal answers are checked once.
static double arrange(struct rehearsal *rehearsal)
{
    struct completion **list = rehearsal->completions;
    int differ = 0;
    qsort(list, (size_t)rehearsal->completion_count, sizeof(struct completion *), by_order);
    for (int i = 0; i < rehearsal->completion_count; i++) {
        bool same = false;
        for (int k = i - 1; k >= 0 && list[k]->generation == list[i]->generation && !same; k--) {
            same = strcmp(list[k]->text, list[i]->text) == 0;
        }
        differ += !same;
    }
    return (double)differ / rehearsal->completion_count;
}

// The tasks of a kind that a step solves. Old ones are rehearsed as if they had been proposed, too:
// a proposal costs little beside the answers to it.
static int64_t tasks_of_step(const struct run_config *config)
{
    bool reuse = config->azr.solver_rollouts == ROLLOUTS_REUSE;
    return config->azr.batch + (reuse ? config->azr.old_tasks : 0);
}

// What of a step is rehearsed: all, or as many prompts as keep it within TOKENS_MAX.
static int choose_batch(const struct plan *plan)
{
    const struct run_config *config = &plan->config;
    double worst = (double)(plan->proposals * (config->azr.samples + 1)) *
                   (double)config->rollout.response_tokens_max;
    double share = worst > TOKENS_MAX ? TOKENS_MAX / worst : 1.0;
    int batch = (int)((double)tasks_of_step(config) * share);
    return batch > 0 ? batch : 1;
}

static int render_step(struct rehearsal *rehearsal, int batch, int *proposed, struct error *err)
{
    size_t prompts = (size_t)KINDS * 2 * (size_t)batch;
    rehearsal->generations = calloc(prompts, sizeof(*rehearsal->generations));
    rehearsal->completions =
        calloc(prompts * (size_t)rehearsal->plan->config.azr.samples, sizeof(struct completion *));
    CHECK(rehearsal->generations != NULL && rehearsal->completions != NULL);
    int code = draw_tasks(rehearsal, batch, err);
    code = code < 0 ? code : render_all(rehearsal, ROLE_PROPOSE, batch, err);
    *proposed = rehearsal->generation_count;
    return code < 0 ? code : render_all(rehearsal, ROLE_SOLVE, batch, err);
}

// What the first round tells besides its times; the others sample the same tokens.
static int look_at_step(struct rehearsal *rehearsal, double resident, double *distinct,
                        struct error *err)
{
    struct plan *plan = rehearsal->plan;
    struct plan_time *time = &plan->time;
    double sampled = sampled_tokens(rehearsal);
    time->tokens_sampled = sampled / time->share;
    time->response = sampled / rehearsal->completion_count;
    time->prompt = rehearsal->prompt_tokens / rehearsal->completion_count;
    plan->memory.actor += plan_resident() - resident - plan->memory.model - plan->memory.kv;
    *distinct = arrange(rehearsal);
    lay_out(rehearsal);
    return open_trainer(rehearsal, err);
}

static int run_round(struct rehearsal *rehearsal, struct round *round, int number, double resident,
                     double *distinct, int proposed, struct error *err)
{
    double run = 0.0;
    forget_completions(rehearsal);
    round->propose = sample(rehearsal, 0, proposed);
    round->solve = sample(rehearsal, proposed, rehearsal->generation_count);
    int code = number == 0 ? look_at_step(rehearsal, resident, distinct, err) : 0;
    code = code < 0 ? code : train(rehearsal, rehearsal->sequence_count, &round->train, &run, err);
    code = code < 0 ? code : time_checks(rehearsal, &round->checks_s, err);
    round->sync = code < 0 ? 0.0 : time_sync(rehearsal, (uint64_t)number + 2, err);
    rehearsal->plan->time.tokens_run = run / rehearsal->plan->time.share;
    return round->sync < 0.0 ? -EIO : code;
}

static int by_size(const void *left, const void *right)
{
    double a = *(const double *)left;
    double b = *(const double *)right;
    return (a > b) - (a < b);
}

// The median of one part; `at` is its place in struct round.
static double median(const struct round *rounds, int count, size_t at)
{
    double values[ROUNDS];
    for (int i = 0; i < count; i++) {
        memcpy(&values[i], (const char *)&rounds[i] + at, sizeof(double));
    }
    qsort(values, (size_t)count, sizeof(*values), by_size);
    return values[count / 2];
}

static void sum_up(struct plan *plan, const struct round *rounds, int count, double distinct)
{
    struct plan_time *time = &plan->time;
    const struct run_config *config = &plan->config;
    time->propose = median(rounds, count, offsetof(struct round, propose)) / time->share;
    time->solve = median(rounds, count, offsetof(struct round, solve)) / time->share;
    time->train = median(rounds, count, offsetof(struct round, train)) / time->share;
    time->sync = median(rounds, count, offsetof(struct round, sync));
    time->checks_s = median(rounds, count, offsetof(struct round, checks_s));
    time->sampled_tokens_s = time->tokens_sampled / (time->propose + time->solve);
    time->trained_tokens_s = time->tokens_run / time->train;
    // A deduction answer is compared, every other one is run.
    double runs = (double)plan->proposals;
    runs += distinct * (double)plan->answers *
            (dispatch_plays(config, KIND_DEDUCTION) ? 2.0 / 3.0 : 1.0);
    time->verify =
        runs / (time->checks_s * (double)(config->verifiers > 0 ? config->verifiers : 1));
    int64_t actors = config->actors > 0 ? config->actors : 1;
    time->step =
        (time->propose + time->solve) / (double)actors + time->verify + time->train + time->sync;
    plan->timed = true;
}

static int calibrate(struct rehearsal *rehearsal, double resident, struct error *err)
{
    struct plan *plan = rehearsal->plan;
    struct round rounds[ROUNDS] = {0};
    int batch = choose_batch(plan);
    int proposed = 0;
    int count = 0;
    double distinct = 1.0;
    double start = now_s();
    plan->time.share = (double)batch / (double)tasks_of_step(&plan->config);
    int code = render_step(rehearsal, batch, &proposed, err);
    while (code == 0 && count < ROUNDS && (count == 0 || now_s() - start < ROUND_S_MAX)) {
        code = run_round(rehearsal, &rounds[count], count, resident, &distinct, proposed, err);
        count++;
    }
    if (code == 0) {
        sum_up(plan, rounds, count, distinct);
    }
    return code;
}

static void finish(struct rehearsal *rehearsal)
{
    engine_destroy(rehearsal->engine);
    tokenizer_destroy(rehearsal->tokenizer);
    trainer_destroy(rehearsal->trainer);
    forget_completions(rehearsal);
    free(rehearsal->sequences);
    free(rehearsal->ids);
    free(rehearsal->floats);
    for (int i = 0; i < rehearsal->generation_count; i++) {
        free(rehearsal->generations[i].prompt);
    }
    free(rehearsal->generations);
    free(rehearsal->completions);
    free(rehearsal->tasks);
    free(rehearsal->weights);
}

int plan_time_calibrate(struct plan *plan, struct error *err)
{
    struct rehearsal rehearsal = {.plan = plan};
    char path[PLAN_PATH_MAX];
    rehearsal.weights = calloc(plan->parameters, sizeof(float));
    CHECK(rehearsal.weights != NULL);
    int code = file_join(path, sizeof(path), plan->config.model, "tokenizer.json", err);
    code = code < 0 ? code : tokenizer_create(&rehearsal.tokenizer, path, err);
    double resident = plan_resident();
    code = code < 0 ? code : open_engine(&rehearsal, err);
    code = code < 0 ? code : calibrate(&rehearsal, resident, err);
    finish(&rehearsal);
    return code;
}
