#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/parallel.h"
#include "common/text/tokenizer.h"
#include "deploy/cli/plan.h"
#include "learner/dispatch.h"
#include "learner/loss.h"
#include "learner/rank.h"
#include "learner/settle.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    PLAN_PATH_MAX = 4096,
    KV_BLOCK_TOKENS = 32,     // of a page (kv_cache.h)
    PROCESS_BYTES = 12 << 20, // code, libraries, sockets of a process that holds nothing yet
    TRAINER_ARRAYS = 4,       // weights, two moments, gradients
    HOST_SHARE_PERCENT = 80,  // of the memory that is free, to make the parts in
};

double plan_resident(void)
{
    FILE *file = fopen("/proc/self/statm", "re");
    unsigned long long pages = 0;
    if (file != NULL) {
        if (fscanf(file, "%*s %llu", &pages) != 1) { // NOLINT(cert-err34-c): the kernel's
            pages = 0;
        }
        (void)fclose(file);
    }
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

static double available_bytes(void)
{
    FILE *file = fopen("/proc/meminfo", "re");
    char line[128];
    double kb = 0.0;
    while (file != NULL && kb == 0.0 && fgets(line, sizeof(line), file) != NULL) {
        unsigned long long value = 0;
        if (sscanf(line, "MemAvailable: %llu", &value) == 1) { // NOLINT(cert-err34-c): the kernel's
            kb = (double)value;
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return kb * 1024.0;
}

static double blob_bytes(const struct plan *plan)
{
    bool bf16 = plan->config.learner.published == PUBLISH_BF16;
    return (double)plan->parameters * (bf16 ? 2.0 : 4.0);
}

// A trainer makes room for micro-batches with its first step: it trains a full one a thread here,
// with logits enough for a whole chunk.
static int step_once(struct trainer *trainer, const struct plan *plan, struct error *err)
{
    int64_t rows = plan->config.learner.micro_tokens;
    int32_t count = (int32_t)(rows < plan->shape.T ? rows : plan->shape.T);
    int32_t each = (int32_t)((rows + count - 1) / count);
    int32_t all = each * plan->learner_threads;
    CLEANUP(freep) int32_t *ids = calloc((size_t)count * (size_t)all, sizeof(*ids));
    CLEANUP(freep) float *weight = calloc((size_t)count, sizeof(*weight));
    CLEANUP(freep) struct sequence *sequences = calloc((size_t)all, sizeof(*sequences));
    if (ids == NULL || weight == NULL || sequences == NULL) {
        return error_set(err, -ENOMEM, "plan: no memory for a micro-batch");
    }
    for (int32_t i = count > LOSS_CHUNK_ROWS ? count - LOSS_CHUNK_ROWS : 1; i < count; i++) {
        weight[i] = 1.0F;
    }
    for (ptrdiff_t k = 0; k < all; k++) {
        sequences[k] = (struct sequence){.count = count, .ids = ids + k * count, .weight = weight};
        sequences[k].advantage = 1.0F;
        ids[k * count] = (int32_t)k % plan->shape.V; // no two are equal
    }
    const struct objective objective = {0};
    const struct optimizer optimizer = {.beta1 = 0.9F, .beta2 = 0.999F, .epsilon = 1e-8F};
    struct step_report report;
    return trainer_step(trainer, sequences, all, &objective, &optimizer, NULL, &report, err);
}

static int count_trainer(struct plan *plan, const float *weights, struct error *err)
{
    CLEANUP(trainer_destroyp) struct trainer *trainer = NULL;
    double before = plan_resident();
    int code = rank_trainer(&trainer, &plan->config, &plan->shape, weights, NULL, err);
    code = code < 0 ? code : step_once(trainer, plan, err);
    plan->memory.trainer = plan_resident() - before;
    return code;
}

static int count_model(struct plan *plan, const float *weights, struct error *err)
{
    CLEANUP(model_destroyp) struct model *model = NULL;
    double before = plan_resident();
    int code = model_create(&model, &plan->shape, (enum compute)plan->config.learner.compute, err);
    if (code == 0) {
        model_set(model, weights, DTYPE_F32);
        plan->memory.model = plan_resident() - before;
        double widened = (double)plan->parameters * sizeof(float);
        plan->memory.actor = PROCESS_BYTES + 2 * plan->memory.model + widened +
                             2 * blob_bytes(plan) + plan->memory.kv;
    }
    return code;
}

static void count_kv(struct plan *plan)
{
    const struct shape *s = &plan->shape;
    const struct run_config *config = &plan->config;
    plan->kv_pages = config->actor.kv_tokens / KV_BLOCK_TOKENS;
    double token = 2.0 * s->L * s->KV * s->D * sizeof(float);
    plan->memory.kv = (double)plan->actor_threads * (double)config->actor.kv_tokens * token;
    int64_t tokens = config->rollout.prompt_tokens_max + config->rollout.response_tokens_max;
    int64_t pages = (tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    plan->longest = plan->actor_threads * (plan->kv_pages / pages);
}

static void count_rollouts(struct plan *plan)
{
    const struct run_config *config = &plan->config;
    int64_t kinds = 0;
    for (int kind = 0; kind < KINDS; kind++) {
        kinds += dispatch_plays(config, (enum task_kind)kind);
    }
    bool reuse = config->azr.solver_rollouts == ROLLOUTS_REUSE;
    plan->proposals = kinds * config->azr.batch;
    // Every proposal counted as valid: estimates, and fresh answers where those train.
    plan->answers = plan->proposals * (config->azr.samples + !reuse) +
                    (reuse ? kinds * config->azr.old_tasks * config->azr.samples : 0);
}

// What the model decides of the configuration.
static int settle(struct plan *plan, struct error *err)
{
    char path[PLAN_PATH_MAX];
    struct tokenizer *tokenizer = NULL;
    int code = file_join(path, sizeof(path), plan->config.model, "tokenizer.json", err);
    code = code < 0 ? code : shape_read(&plan->shape, plan->config.model, err);
    code = code < 0 ? code : tokenizer_create(&tokenizer, path, err);
    code = code < 0 ? code : settle_config(&plan->config, &plan->shape, tokenizer, err);
    tokenizer_destroy(tokenizer);
    return code;
}

int plan_memory_count(struct plan *plan, struct error *err)
{
    const struct run_config *config = &plan->config;
    struct params params;
    int code = settle(plan, err);
    code = code < 0 ? code : params_init(&params, &plan->shape, err);
    if (code < 0) {
        return code;
    }
    plan->parameters = params.elements;
    params_finish(&params);
    plan->actor_threads =
        config->actor.threads > 0 ? (int32_t)config->actor.threads : parallel_cores();
    plan->learner_threads =
        config->learner.threads > 0 ? (int32_t)config->learner.threads : parallel_cores();
    count_kv(plan);
    count_rollouts(plan);
    double arrays = (double)plan->parameters * sizeof(float);
    double rough = (TRAINER_ARRAYS + 3) * arrays + plan->memory.kv;
    double room = available_bytes() * HOST_SHARE_PERCENT / 100.0;
    if (rough > room) {
        return error_set(err, -ENOMEM,
                         "%s: its trainer and an actor take more than %.1f GB and %.1f GB are free "
                         "here; run the plan on a host like those of the run",
                         config->model, rough / 1e9, room / 1e9);
    }
    plan->memory.weights = TRAINER_ARRAYS * arrays;
    plan->memory.save = 3 * arrays;
    plan->memory.disk = 3 * arrays + blob_bytes(plan);
    plan->memory.publish = (WEIGHTS_HELD + 1) * blob_bytes(plan);
    CLEANUP(freep) float *weights = calloc(plan->parameters, sizeof(float));
    if (weights == NULL) {
        return error_set(err, -ENOMEM, "%s: no memory for its weights", config->model);
    }
    // NOLINTNEXTLINE(concurrency-mt-unsafe): there is no other thread yet
    (void)mallopt(M_MMAP_THRESHOLD, 1 << 17); // large blocks go back when they are freed
    code = count_trainer(plan, weights, err);
    code = code < 0 ? code : count_model(plan, weights, err);
    plan->memory.learner =
        PROCESS_BYTES + plan->memory.trainer + plan->memory.publish + plan->memory.save;
    return code;
}
