// kelvin step: training steps on a batch that is given, so that anyone can hold Kelvin's forward
// pass, loss, gradients and optimizer against another implementation.
#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/model/safetensors.h"
#include "deploy/cli/cli.h"
#include "learner/batch_file.h"
#include "learner/collective.h"
#include "learner/loss.h"
#include "learner/step.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { UPDATES_MAX = 10000, PATH_BYTES = 4096, RANK_LIMIT_S = 600 };

struct options {
    const char *model, *batch, *out, *reference;
    int64_t updates, threads, micro_tokens, ranks;
    enum compute compute;
};

// struct work is what one call works with.
struct work {
    struct shape shape;
    struct params params;
    float *weights, *reference;
    struct batch_file batch;
    struct collective *collective; // or NULL
    pid_t children[RANKS_MAX];     // the other ranks; 0: none
    struct trainer *trainer;
    float **logprobs; // [batch.count], of the first update
    float *grads;     // of the first update
    json_t *report;
};

static void print_help(void)
{
    (void)puts(
        "Usage: kelvin step --model DIR --batch FILE --out DIR [--updates K] [--compute TYPE]\n"
        "                   [--micro-tokens N] [--threads N] [--ranks N] [--reference DIR]\n\n"
        "Runs K training steps on one batch and writes into the folder --out\n"
        "  loss.json          loss, gradient norm, per block and per token numbers of the first\n"
        "                     step, and loss and norm of every step under \"updates\"\n"
        "  grads.safetensors  the gradient of the first step, before the norm clip, in f32\n"
        "  model.safetensors  the weights after the last step, in f32\n\n"
        "  --model DIR        model folder (config.json, model.safetensors)\n"
        "  --batch FILE       the batch, as below\n"
        "  --updates K        steps on the same batch (1)\n"
        "  --compute TYPE     f32, bf16, bf16-amx, or auto: the fastest one of this host (auto)\n"
        "  --micro-tokens N   tokens of a micro-batch; changes rounding only (4096)\n"
        "  --threads N        of each rank; 0: the cores, shared out (0); changes nothing\n"
        "  --ranks N          processes that share the step, 1 to 8 (1); changes nothing\n"
        "  --reference DIR    model folder for kl_coef (the model itself)\n\n"
        "The batch is a JSON object. \"sequences\" is an array of objects with\n"
        "  ids        n token ids          mask  n times 0 or 1: 1 is sampled and trained on\n"
        "  behaviour  n log-probabilities of the sampling policy, 0 where the mask is\n"
        "  advantage  a number             block  0 .. blocks-1 (0)\n"
        "  corrected  true: truncated importance sampling instead of the clip (false)\n"
        "and these members may stand beside it, with their defaults:\n"
        "  blocks 6, aggregate \"block\" (every block weighs the same) or \"token\",\n"
        "  clip 0.2, or clip_low and clip_high, dual_clip 0, is_cap 2, entropy_coef 0, kl_coef 0,\n"
        "  lr 1e-6, betas [0.9, 0.999], eps 1e-8, weight_decay 0, max_grad_norm 1.");
}

static int read_count(int64_t *out, const char *name, const char *text, int64_t min, int64_t max,
                      struct error *err)
{
    char *end = NULL;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < min || value > max) {
        return error_set(err, -EINVAL, "%s must be a whole number from %lld to %lld", name,
                         (long long)min, (long long)max);
    }
    *out = value;
    return 0;
}

static int read_option(struct options *options, const char *name, const char *value,
                       struct error *err)
{
    const struct {
        const char *name;
        const char **out;
    } texts[] = {{"--model", &options->model},
                 {"--batch", &options->batch},
                 {"--out", &options->out},
                 {"--reference", &options->reference}};
    const struct {
        const char *name;
        int64_t *out;
        int64_t min, max;
    } counts[] = {{"--updates", &options->updates, 1, UPDATES_MAX},
                  {"--threads", &options->threads, 0, 256},
                  {"--ranks", &options->ranks, 1, RANKS_MAX},
                  {"--micro-tokens", &options->micro_tokens, 1, 1 << 20}};
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        if (strcmp(name, texts[i].name) == 0) {
            *texts[i].out = value;
            return 0;
        }
    }
    for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
        if (strcmp(name, counts[i].name) == 0) {
            return read_count(counts[i].out, name, value, counts[i].min, counts[i].max, err);
        }
    }
    return strcmp(name, "--compute") == 0
               ? cli_compute(&options->compute, value, err)
               : error_set(err, -EINVAL, "\"%s\" is not understood; see kelvin step --help", name);
}

static int parse_options(struct options *options, int argc, char **argv, struct error *err)
{
    *options = (struct options){.updates = 1, .micro_tokens = 4096, .ranks = 1};
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc) {
            return error_set(err, -EINVAL, "%s needs a value, or is not understood; see --help",
                             argv[i]);
        }
        int code = read_option(options, argv[i], argv[i + 1], err);
        if (code < 0) {
            return code;
        }
    }
    const char *missing = options->model == NULL   ? "--model DIR"
                          : options->batch == NULL ? "--batch FILE"
                          : options->out == NULL   ? "--out DIR"
                                                   : NULL;
    return missing == NULL ? 0 : error_set(err, -EINVAL, "%s is missing; see --help", missing);
}

static int read_weights(float **out, const struct work *work, const char *dir, struct error *err)
{
    enum dtype stored = DTYPE_F32;
    *out = calloc(work->params.elements, sizeof(float));
    return *out == NULL ? error_set(err, -ENOMEM, "%s: no memory for its weights", dir)
                        : safetensors_read(*out, &stored, &work->params, &work->shape, dir, err);
}

static int alloc_outputs(struct work *work, struct error *err)
{
    size_t count = (size_t)work->batch.count;
    work->logprobs = calloc(count, sizeof(float *));
    work->grads = calloc(work->params.elements, sizeof(float));
    work->report = json_object();
    bool failed = work->logprobs == NULL || work->grads == NULL || work->report == NULL;
    for (size_t k = 0; !failed && k < count; k++) {
        work->logprobs[k] = calloc((size_t)work->batch.sequences[k].count, sizeof(float));
        failed = work->logprobs[k] == NULL;
    }
    return failed ? error_set(err, -ENOMEM, "out of memory") : 0;
}

static int open_work(struct work *work, const struct options *options, struct error *err)
{
    int code = shape_read(&work->shape, options->model, err);
    code = code < 0 ? code : params_init(&work->params, &work->shape, err);
    code = code < 0 ? code : batch_file_read(&work->batch, options->batch, err);
    code = code < 0 ? code : read_weights(&work->weights, work, options->model, err);
    if (code == 0 && work->batch.objective.kl_coef > 0.0f) {
        const char *reference = options->reference != NULL ? options->reference : options->model;
        code = read_weights(&work->reference, work, reference, err);
    }
    return code < 0 ? code : alloc_outputs(work, err);
}

static int open_trainer(struct work *work, const struct options *options, struct error *err)
{
    const struct trainer_config config = {.compute = options->compute,
                                          .published = DTYPE_F32,
                                          .threads = (int32_t)options->threads,
                                          .micro_tokens = (int32_t)options->micro_tokens,
                                          .collective = work->collective,
                                          .reference = work->reference};
    return trainer_create(&work->trainer, &work->shape, work->weights, &config, err);
}

// The life of another rank, in a process of its own.
static int serve(struct work *work, const struct options *options, int32_t rank)
{
    struct error err = {0};
    int code = collective_host_fork(work->collective, rank, &err);
    code = code < 0 ? code : open_trainer(work, options, &err);
    code = code < 0 ? code : trainer_serve(work->trainer, &err);
    if (code < 0) {
        work->collective->ops->give_up(work->collective, err.text); // rank 0 says it
    }
    return code == 0 ? 0 : 1;
}

static int start_ranks(struct work *work, const struct options *options, struct error *err)
{
    if (options->ranks == 1) {
        return 0;
    }
    int code =
        collective_host_create(&work->collective, (int32_t)options->ranks, NULL, RANK_LIMIT_S, err);
    for (int32_t r = 1; code == 0 && r < options->ranks; r++) {
        work->children[r] = fork();
        if (work->children[r] == 0) {
            _exit(serve(work, options, r));
        }
        if (work->children[r] < 0) {
            code = error_set(err, -errno, "cannot start rank %d: %s", r, strerrordesc_np(errno));
            work->collective->ops->give_up(work->collective, err->text);
        }
    }
    return code;
}

static void stop_ranks(struct work *work)
{
    for (int32_t r = 1; r < RANKS_MAX; r++) {
        if (work->children[r] > 0) {
            (void)waitpid(work->children[r], NULL, 0); // it ends: rank 0 has told it so, or failed
        }
    }
    collective_close(work->collective);
}

// `failed`: why rank 0 cannot go on, or NULL.
static void close_work(struct work *work, const char *failed)
{
    if (work->collective != NULL && failed != NULL) {
        work->collective->ops->give_up(work->collective, failed);
    }
    for (int32_t k = 0; work->logprobs != NULL && k < work->batch.count; k++) {
        free(work->logprobs[k]);
    }
    free(work->logprobs);
    free(work->grads);
    json_decref(work->report);
    trainer_destroy(work->trainer);
    stop_ranks(work);
    batch_file_finish(&work->batch);
    free(work->weights);
    free(work->reference);
    params_finish(&work->params);
}

static void put_real(json_t *object, const char *key, double value)
{
    (void)json_object_set_new(object, key, isfinite(value) ? json_real(value) : json_null());
}

static void put_step(json_t *object, const struct work *work, const struct step_report *report)
{
    put_real(object, "loss", report->loss);
    put_real(object, "grad_norm", report->grad_norm);
    double max = (double)work->batch.optimizer.grad_norm_max;
    put_real(object, "clip_factor", fmin(1.0, max / (report->grad_norm + 1e-6)));
    put_real(object, "entropy", report->entropy);
    put_real(object, "kl", report->kl);
    (void)json_object_set_new(object, "skipped", json_boolean(report->skipped));
}

// struct tally is what the tokens of the first step say, by block.
struct tally {
    double *loss;
    int64_t *tokens;
    int64_t outside, clipped;
};

static void tally_sequence(struct tally *tally, const struct work *work, int32_t k)
{
    const struct sequence *sequence = &work->batch.sequences[k];
    struct objective objective = work->batch.objective;
    objective.kl_coef = 0.0f; // the blocks' losses are those of the policy
    for (int32_t i = 1; i < sequence->count; i++) {
        if (sequence->weight[i] == 0.0f) {
            continue;
        }
        struct token_loss token =
            loss_token(&objective, (double)sequence->advantage, sequence->corrected,
                       (double)work->logprobs[k][i], (double)sequence->behaviour[i], 0.0);
        int32_t block = work->batch.block[k];
        tally->loss[block] += token.value;
        tally->tokens[block]++;
        tally->outside += token.ratio < 1.0 - (double)objective.clip_low ||
                          token.ratio > 1.0 + (double)objective.clip_high;
        tally->clipped += token.clipped;
    }
}

static json_t *logprobs_json(const struct work *work)
{
    json_t *all = json_array();
    for (int32_t k = 0; k < work->batch.count; k++) {
        json_t *list = json_array();
        for (int32_t i = 1; i < work->batch.sequences[k].count; i++) {
            (void)json_array_append_new(list, json_real((double)work->logprobs[k][i]));
        }
        (void)json_array_append_new(all, list);
    }
    return all;
}

static void put_tokens(const struct work *work)
{
    size_t blocks = (size_t)work->batch.blocks;
    CLEANUP(freep) double *loss = calloc(blocks, sizeof(*loss));
    CLEANUP(freep) int64_t *tokens = calloc(blocks, sizeof(*tokens));
    struct tally tally = {.loss = loss, .tokens = tokens};
    json_t *losses = json_array();
    json_t *counts = json_array();
    if (loss != NULL && tokens != NULL) {
        for (int32_t k = 0; k < work->batch.count; k++) {
            tally_sequence(&tally, work, k);
        }
        for (size_t b = 0; b < blocks; b++) {
            double mean = tokens[b] > 0 ? loss[b] / (double)tokens[b] : 0.0;
            (void)json_array_append_new(losses, json_real(mean));
            (void)json_array_append_new(counts, json_integer(tokens[b]));
        }
    }
    (void)json_object_set_new(work->report, "block_loss", losses);
    (void)json_object_set_new(work->report, "block_tokens", counts);
    (void)json_object_set_new(work->report, "ratios_outside", json_integer(tally.outside));
    (void)json_object_set_new(work->report, "clipped_tokens", json_integer(tally.clipped));
    (void)json_object_set_new(work->report, "logprobs", logprobs_json(work));
}

static int run_steps(struct work *work, int64_t updates, struct error *err)
{
    json_t *list = json_array();
    (void)json_object_set_new(work->report, "updates", list);
    for (int64_t u = 0; u < updates; u++) {
        struct step_report report = {0};
        int code = trainer_step(work->trainer, work->batch.sequences, work->batch.count,
                                &work->batch.objective, &work->batch.optimizer,
                                u == 0 ? work->logprobs : NULL, &report, err);
        if (code < 0) {
            return code;
        }
        if (u == 0) {
            put_step(work->report, work, &report);
            put_tokens(work);
            memcpy(work->grads, trainer_gradients(work->trainer),
                   work->params.elements * sizeof(float));
        }
        json_t *entry = json_object();
        put_step(entry, work, &report);
        (void)json_array_append_new(list, entry);
    }
    return 0;
}

static int write_tensors(const struct work *work, const char *dir, const char *name,
                         const float *values, struct error *err)
{
    char path[PATH_BYTES];
    (void)snprintf(path, sizeof(path), "%s/%s.safetensors", dir, name);
    return safetensors_write(path, values, &work->params, &work->shape, DTYPE_F32, err);
}

static int write_outputs(const struct work *work, const char *dir, struct error *err)
{
    char path[PATH_BYTES];
    CLEANUP(freep) char *text = json_dumps(work->report, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    if (text == NULL || snprintf(path, sizeof(path), "%s/loss.json", dir) >= PATH_BYTES - 32) {
        return error_set(err, -EINVAL, "the name of the folder --out is too long");
    }
    int code = file_write(path, text, strlen(text), err);
    code = code < 0 ? code : write_tensors(work, dir, "grads", work->grads, err);
    return code < 0 ? code
                    : write_tensors(work, dir, "model", trainer_state(work->trainer).weights, err);
}

int command_step(int argc, char **argv)
{
    if (cli_wants_help(argc, argv)) {
        print_help();
        return 0;
    }
    struct options options;
    struct work work = {0};
    struct error err = {0};
    int code = parse_options(&options, argc, argv, &err);
    code = code < 0 ? code : open_work(&work, &options, &err);
    code = code < 0 ? code : file_make_dirs(options.out, &err);
    code = code < 0 ? code : start_ranks(&work, &options, &err);
    code = code < 0 ? code : open_trainer(&work, &options, &err);
    code = code < 0 ? code : run_steps(&work, options.updates, &err);
    code = code < 0 ? code : write_outputs(&work, options.out, &err);
    close_work(&work, code < 0 ? err.text : NULL);
    return code == 0 ? 0 : cli_fail(argv[0], "%s", err.text);
}
