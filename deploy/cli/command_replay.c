// kelvin replay: a stored rollout sampled once more, to the bit.
#include "actor/engine.h"
#include "common/base/check.h"
#include "common/base/file.h"
#include "common/base/run_config.h"
#include "common/model/safetensors.h"
#include "common/text/prompt.h"
#include "common/text/tokenizer.h"
#include "common/text/utf8.h"
#include "deploy/cli/cli.h"
#include "deploy/cli/rows.h"
#include "learner/checkpoint.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REPLAY_PATH_MAX = 4096, WAIT_MS = 1000 };

static void print_help(void)
{
    (void)printf(
        "Usage: kelvin replay RUN ID [--json]\n\n"
        "Samples rollout ID of a run again, from its version of the weights, its prompt and its\n"
        "seed, and compares tokens and log-probabilities bit for bit. `kelvin tasks RUN\n"
        "--rollouts` lists the ids. The weights of version V are those of checkpoint step-(V-1):\n"
        "version 1 is always there, of the others the newest checkpoint.keep and every\n"
        "checkpoint.keep_every-th.\n\n"
        "Exit code: 0 equal, 1 different, 2 it cannot be replayed (the line says why).\n");
}

// struct stored is a rollout as the store has it.
struct stored {
    int64_t id;
    uint64_t seed;
    uint32_t sample;
    int64_t version;
    char numerics[64];
    int32_t *prompt; // [prompt_count]
    int32_t prompt_count;
    int32_t *tokens; // [count]
    float *logprobs; // [count]
    int32_t count;
};

static void stored_finish(struct stored *stored)
{
    free(stored->prompt);
    free(stored->tokens);
    free(stored->logprobs);
}

// A copy of a column's 4-byte numbers.
static void *take_blob(sqlite3_stmt *row, int column, int32_t *count)
{
    int bytes = sqlite3_column_bytes(row, column);
    const void *blob = sqlite3_column_blob(row, column);
    void *copy = malloc((size_t)bytes + 1);
    CHECK(copy != NULL);
    if (bytes > 0) {
        memcpy(copy, blob, (size_t)bytes);
    }
    *count = bytes / 4;
    return copy;
}

// The one version of "VxN"; 0 when several sampled it.
static int64_t only_version(const char *runs)
{
    return runs == NULL || strchr(runs, ' ') != NULL ? 0 : strtoll(runs, NULL, 10);
}

static int read_row(struct stored *out, sqlite3_stmt *row, const char *run_dir, struct error *err)
{
    if (sqlite3_step(row) != SQLITE_ROW) {
        return error_set(err, -ENOENT,
                         "%s has no rollout %lld; kelvin tasks %s --rollouts lists them", run_dir,
                         (long long)out->id, run_dir);
    }
    int32_t logprobs = 0;
    out->seed = (uint64_t)sqlite3_column_int64(row, 0);
    out->sample = (uint32_t)sqlite3_column_int(row, 1);
    out->version = only_version((const char *)sqlite3_column_text(row, 2));
    (void)snprintf(out->numerics, sizeof(out->numerics), "%s", sqlite3_column_text(row, 3));
    out->prompt = take_blob(row, 4, &out->prompt_count);
    out->tokens = take_blob(row, 5, &out->count);
    out->logprobs = take_blob(row, 6, &logprobs);
    if (out->version <= 0) {
        return error_set(err, -EINVAL, "rollout %lld was sampled by several versions: %s",
                         (long long)out->id, sqlite3_column_text(row, 2));
    }
    return out->prompt_count > 0 && out->count > 0 && logprobs == out->count
               ? 0
               : error_set(err, -EINVAL, "%s/tasks.db: rollout %lld is damaged", run_dir,
                           (long long)out->id);
}

static int read_stored(struct stored *out, const char *run_dir, struct error *err)
{
    CLEANUP(rows_closep) sqlite3 *db = NULL;
    sqlite3_stmt *row = NULL;
    int code = rows_open(&db, run_dir, err);
    code = code < 0 ? code
                    : rows_prepare(&row, db,
                                   "SELECT seed,sample,versions,numerics,prompt,tokens,logprobs"
                                   " FROM rollouts WHERE id=?1",
                                   err);
    if (code < 0) {
        return code;
    }
    (void)sqlite3_bind_int64(row, 1, out->id);
    code = read_row(out, row, run_dir, err);
    (void)sqlite3_finalize(row);
    return code;
}

// struct scene is what a rollout is sampled with.
struct scene {
    struct run_config config;
    struct tokenizer *tokenizer;
    struct engine *engine;
    int32_t stop_token;
};

static const char *token_bytes(const void *context, int32_t id, size_t *size)
{
    return tokenizer_token(context, id, size);
}

static int load_model(struct model **out, const struct run_config *config, enum compute compute,
                      const char *dir, struct error *err)
{
    struct shape shape;
    enum dtype stored = DTYPE_F32;
    CLEANUP(model_destroyp) struct model *model = NULL;
    int code = shape_read(&shape, dir, err);
    code = code < 0 ? code : model_create(&model, &shape, compute, err);
    if (code < 0) {
        return code;
    }
    CLEANUP(freep) float *weights = calloc(model->params.elements, sizeof(*weights));
    if (weights == NULL) {
        return error_set(err, -ENOMEM, "%s: no memory for its weights", dir);
    }
    code = safetensors_read(weights, &stored, &model->params, &shape, dir, err);
    if (code == 0) {
        model_set(model, weights,
                  config->learner.published == PUBLISH_BF16 ? DTYPE_BF16 : DTYPE_F32);
        *out = TAKE(model);
    }
    return code;
}

static int64_t needed_tokens(const struct stored *stored, const struct run_config *config)
{
    int64_t longest = stored->prompt_count + config->rollout.response_tokens_max + 1024;
    return longest * ((int64_t)stored->sample + 2);
}

static int open_scene(struct scene *scene, const struct stored *stored, const char *dir,
                      struct error *err)
{
    char path[REPLAY_PATH_MAX];
    CLEANUP(model_destroyp) struct model *model = NULL;
    const enum compute compute = numerics_compute(stored->numerics);
    if (compute == COMPUTE_AUTO) {
        return error_set(err, -EINVAL,
                         "rollout %lld was sampled under numerics id %s, which this build does not "
                         "compute under: the bits need not be equal",
                         (long long)stored->id, stored->numerics);
    }
    int code = file_join(path, sizeof(path), dir, "tokenizer.json", err);
    code = code < 0 ? code : tokenizer_create(&scene->tokenizer, path, err);
    code = code < 0 ? code : load_model(&model, &scene->config, compute, dir, err);
    if (code < 0) {
        return code;
    }
    CHECK(model != NULL);
    scene->stop_token = model->shape.eos_token;
    int64_t samples = (int64_t)stored->sample + 1;
    const struct engine_config engine = {
        .threads = 1,
        .slots = (int32_t)(samples < scene->config.actor.rows ? samples : scene->config.actor.rows),
        .call_rows = (int32_t)(scene->config.actor.prefill_rows > scene->config.actor.rows
                                   ? scene->config.actor.prefill_rows
                                   : scene->config.actor.rows),
        .kv_tokens = needed_tokens(stored, &scene->config),
        .swap = SWAP_PINNED,
        .vocabulary = {.bytes = token_bytes,
                       .context = scene->tokenizer,
                       .stops = &scene->stop_token,
                       .stop_count = scene->stop_token >= 0 ? 1 : 0}};
    code = engine_create(&scene->engine, &engine, model, (uint64_t)stored->version, err);
    if (code == 0) {
        (void)TAKE(model); // it is the engine's
    }
    return code;
}

static void close_scene(struct scene *scene)
{
    engine_destroy(scene->engine);
    tokenizer_destroy(scene->tokenizer);
}

// struct catch keeps the one sample that is wanted.
struct catch
{
    uint32_t sample;
    struct completion *completion;
};

static void on_complete(void *context, struct completion *completion)
{
    struct catch *wanted = context;
    if (completion->sample == wanted->sample) {
        wanted->completion = completion;
    } else {
        free(completion);
    }
}

// Samples the prompt with its samples up to the wanted one: its random numbers are keyed by its
// number, and the others do not touch it.
static struct completion *sample(struct scene *scene, const struct stored *stored,
                                 enum prompt_style style)
{
    const struct run_config *config = &scene->config;
    struct generation generation = {.prompt = stored->prompt,
                                    .prompt_count = stored->prompt_count,
                                    .samples = (int32_t)stored->sample + 1,
                                    .tokens_max = (int32_t)config->rollout.response_tokens_max,
                                    .sampling = {.temperature = (float)config->rollout.temperature,
                                                 .top_p = (float)config->rollout.top_p,
                                                 .top_k = (int32_t)config->rollout.top_k,
                                                 .min_p = (float)config->rollout.min_p},
                                    .seed = stored->seed,
                                    .stop = prompt_stop(style),
                                    .version_min = (uint64_t)stored->version};
    struct catch wanted = {.sample = stored->sample};
    engine_submit(scene->engine, &generation);
    (void)engine_poll(scene->engine, on_complete, &wanted);
    while (generation.missing > 0) {
        engine_wait(scene->engine, WAIT_MS);
        (void)engine_poll(scene->engine, on_complete, &wanted);
    }
    return wanted.completion;
}

static uint32_t bits_of(float number)
{
    uint32_t bits = 0;
    memcpy(&bits, &number, sizeof(bits));
    return bits;
}

// The first position at which the two differ, or -1.
static int32_t first_difference(const struct stored *stored, const struct completion *completion)
{
    int32_t both = stored->count < completion->count ? stored->count : completion->count;
    for (int32_t i = 0; i < both; i++) {
        if (stored->tokens[i] != completion->tokens[i] ||
            bits_of(stored->logprobs[i]) != bits_of(completion->logprobs[i])) {
            return i;
        }
    }
    return stored->count == completion->count ? -1 : both;
}

static void print_result(const struct stored *stored, const struct completion *completion,
                         int32_t difference, bool json)
{
    struct words words = {0}; // a model's bytes need not be UTF-8
    utf8_add_lossy(&words, completion->text, completion->text_size);
    CLEANUP(freep) char *said = words_take(&words);
    CHECK(said != NULL);
    if (json) {
        CLEANUP(json_decrefp)
        json_t *line = json_pack(
            "{s:I,s:I,s:i,s:b,s:o,s:s*}", "rollout", (json_int_t)stored->id, "version",
            (json_int_t)stored->version, "tokens", (int)stored->count, "equal", difference < 0,
            "difference", difference < 0 ? json_null() : json_integer(difference), "text", said);
        CLEANUP(freep) char *text = json_dumps(line, JSON_COMPACT);
        (void)printf("%s\n", text != NULL ? text : "{}");
    } else if (difference < 0) {
        (void)printf("rollout %lld: %d tokens and log-probabilities of version %lld, equal bit for "
                     "bit\n%s\n",
                     (long long)stored->id, (int)stored->count, (long long)stored->version, said);
    } else {
        (void)printf("rollout %lld: DIFFERENT at token %d of %d (version %lld)\n%s\n",
                     (long long)stored->id, (int)difference, (int)stored->count,
                     (long long)stored->version, said);
    }
}

static int check_kept(const struct stored *stored, const char *run_dir, struct error *err)
{
    struct error missing = {0};
    if (checkpoint_find(run_dir, stored->version - 1, &missing) == 0) {
        return 0;
    }
    return error_set(err, -ENOENT,
                     "rollout %lld was sampled by version %lld, whose weights are not kept any "
                     "more: %s; checkpoint.keep_every keeps more of them",
                     (long long)stored->id, (long long)stored->version, missing.text);
}

static int replay(const char *run_dir, struct stored *stored, bool json, struct error *err)
{
    struct scene scene = {0};
    char dir[REPLAY_PATH_MAX];
    int code = read_stored(stored, run_dir, err);
    code = code < 0 ? code : check_kept(stored, run_dir, err);
    code = code < 0 ? code : run_config_read_folder(&scene.config, run_dir, NULL, 0, err);
    int style = code < 0 ? code : prompt_style_find(scene.config.azr.style, err);
    checkpoint_path(dir, sizeof(dir), run_dir, stored->version - 1);
    code = style < 0 ? style : open_scene(&scene, stored, dir, err);
    if (code == 0) {
        CLEANUP(freep)
        struct completion *completion = sample(&scene, stored, (enum prompt_style)style);
        CHECK(completion != NULL);
        int32_t difference = first_difference(stored, completion);
        print_result(stored, completion, difference, json);
        code = difference >= 0;
    }
    close_scene(&scene);
    return code;
}

int command_replay(int argc, char **argv)
{
    if (cli_wants_help(argc, argv)) {
        print_help();
        return 0;
    }
    char *end = NULL;
    bool json = argc == 4 && strcmp(argv[3], "--json") == 0;
    struct stored stored = {.id = argc >= 3 ? strtoll(argv[2], &end, 10) : 0};
    if (argc < 3 || argc > 4 || (argc == 4 && !json) || *end != '\0' || stored.id <= 0) {
        return cli_fail(argv[0],
                        "RUN and the ID of a rollout are needed; see kelvin replay --help");
    }
    struct error err = {0};
    int code = replay(argv[1], &stored, json, &err);
    stored_finish(&stored);
    return code < 0 ? cli_fail(argv[0], "%s", err.text) : code;
}
