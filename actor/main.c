// kelvin-actor: joins a learner, receives its weights, generates rollouts. It needs no model
// folder: config.json and tokenizer.json travel with the weights.
#include "actor/feed.h"
#include "actor/weights.h"
#include "common/base/check.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/parallel.h"
#include "common/wire/http.h"
#include "common/wire/loop.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_BAD_INPUT = 2, FOLDER_MAX = 64 };

struct actor {
    struct run_config config;
    struct loop *loop;
    struct http *http;
    struct loop_wake *wake; // the engine's shards → feed_poll
    struct feed *feed;
    struct weights *weights;
    struct engine *engine;
    struct tokenizer *tokenizer;
    struct vocabulary vocabulary;
    int32_t stop_token;
    struct weights_version *pending; // not yet loaded: two models were in use
    float *buffer;                   // [params.elements] for widening a version
    int exit_code;
    bool leaving, stopping;
};

static void stop(struct actor *actor, int exit_code)
{
    if (actor->stopping) {
        return;
    }
    actor->stopping = true;
    actor->exit_code = exit_code;
    engine_destroy(actor->engine); // before the wake-up that its shards use
    actor->engine = NULL;
    weights_version_unref(actor->pending);
    actor->pending = NULL;
    http_close(actor->http);
    weights_close(actor->weights);
    feed_close(actor->feed);
    loop_wake_close(actor->wake);
    loop_stop(actor->loop);
}

static void fail(struct actor *actor, const struct error *err)
{
    log_error("actor", "%s", err->text);
    stop(actor, EXIT_BAD_INPUT);
}

static void on_stop(void *context, int signal)
{
    (void)signal;
    struct actor *actor = context;
    if (actor->leaving) {
        stop(actor, 0);
    } else if (!actor->stopping) {
        actor->leaving = true;
        feed_leave(actor->feed, "stopped by a signal");
    }
}

static void notify(void *context)
{
    struct actor *actor = context;
    loop_wake_send(actor->wake);
}

static const char *token_bytes(const void *context, int32_t id, size_t *size)
{
    return tokenizer_token(context, id, size);
}

// read_files makes shape and tokenizer of the files that came with a version, by way of a folder.
static int read_files(struct actor *actor, struct shape *shape,
                      const struct weights_version *version, struct error *err)
{
    char folder[FOLDER_MAX] = "/tmp/kelvin-actor-XXXXXX";
    char path[FOLDER_MAX + 32];
    if (mkdtemp(folder) == NULL) {
        return error_set(err, -errno, "cannot make a folder in /tmp for the tokenizer");
    }
    int code = weights_version_save_files(version, folder, err);
    if (code == 0) {
        code = shape_read(shape, folder, err);
    }
    if (code == 0) {
        (void)snprintf(path, sizeof(path), "%s/tokenizer.json", folder);
        code = tokenizer_create(&actor->tokenizer, path, err);
    }
    (void)file_remove_tree(folder, NULL);
    if (code == 0 && tokenizer_vocab(actor->tokenizer) > shape->V) {
        code = error_set(err, -EINVAL, "tokenizer.json has %d ids, the model %d",
                         tokenizer_vocab(actor->tokenizer), shape->V);
    }
    return code;
}

static int make_engine(struct actor *actor, struct model *model, uint64_t version,
                       struct error *err)
{
    const struct run_config *config = &actor->config;
    actor->stop_token = model->shape.eos_token;
    actor->vocabulary = (struct vocabulary){.bytes = token_bytes,
                                            .context = actor->tokenizer,
                                            .stops = &actor->stop_token,
                                            .stop_count = actor->stop_token >= 0 ? 1 : 0};
    const struct engine_config engine = {
        .threads = config->actor.threads > 0 ? (int32_t)config->actor.threads : parallel_cores(),
        .slots = (int32_t)config->actor.rows,
        .call_rows =
            (int32_t)(config->actor.prefill_rows > config->actor.rows ? config->actor.prefill_rows
                                                                      : config->actor.rows),
        .kv_tokens = config->actor.kv_tokens,
        .swap = SWAP_PINNED,
        .vocabulary = actor->vocabulary,
        .notify = notify,
        .notify_context = actor};
    return engine_create(&actor->engine, &engine, model, version, err);
}

// begin makes the engine of the first version.
static int begin(struct actor *actor, const struct weights_version *version, struct error *err)
{
    struct shape shape;
    int code = read_files(actor, &shape, version, err);
    if (code < 0) {
        return code;
    }
    CLEANUP(model_destroyp) struct model *model = NULL;
    code = model_create(&model, &shape, (enum compute)actor->config.learner.compute, err);
    if (code < 0) {
        return code;
    }
    actor->buffer = malloc(model->params.elements * sizeof(float));
    if (actor->buffer == NULL) {
        return error_set(err, -ENOMEM, "no memory for %zu weights", model->params.elements);
    }
    code = weights_version_read(actor->buffer, version, &model->params, err);
    if (code < 0) {
        return code;
    }
    model_set(model, actor->buffer, version->type);
    code = make_engine(actor, model, version->version, err);
    if (code < 0) {
        return code;
    }
    (void)TAKE(model); // it is the engine's
    log_info("actor", "engine ready version=%llu numerics=%s", (unsigned long long)version->version,
             engine_model(actor->engine)->numerics);
    feed_start(actor->feed, actor->engine, actor->tokenizer);
    return 0;
}

// load_pending swaps the newest version in, or leaves it for later while two models are in use.
static void load_pending(struct actor *actor)
{
    struct weights_version *version = actor->pending;
    struct error err = {0};
    if (version == NULL || actor->engine == NULL) {
        return;
    }
    int code =
        weights_version_read(actor->buffer, version, &engine_model(actor->engine)->params, &err);
    if (code == 0) {
        code = engine_load(actor->engine, actor->buffer, version->type, version->version, &err);
    }
    if (code == -EAGAIN) {
        return;
    }
    actor->pending = NULL;
    weights_version_unref(version);
    if (code < 0) {
        fail(actor, &err);
    }
}

static void on_version(void *context, struct weights_version *version)
{
    struct actor *actor = context;
    struct error err = {0};
    if (actor->engine == NULL) {
        if (begin(actor, version, &err) < 0) {
            fail(actor, &err);
        }
        return;
    }
    weights_version_unref(actor->pending);
    actor->pending = weights_version_ref(version);
    load_pending(actor);
}

static void on_failure(void *context, uint64_t version, const struct error *err)
{
    (void)context;
    log_warn("actor", "version %llu was not received: %s", (unsigned long long)version, err->text);
}

static void on_wake(void *context)
{
    struct actor *actor = context;
    if (!actor->stopping) {
        feed_poll(actor->feed);
        load_pending(actor);
    }
}

static void on_manifest(void *context, const Kelvin__WeightsManifest *manifest)
{
    struct actor *actor = context;
    weights_offer(actor->weights, manifest);
}

static void on_end(void *context, int code, const char *sentence)
{
    struct actor *actor = context;
    if (code < 0) {
        log_error("actor", "%s", sentence);
    }
    stop(actor, code < 0 ? EXIT_BAD_INPUT : 0);
}

static int open_parts(struct actor *actor, struct error *err)
{
    const struct loop_events loop_events = {.context = actor, .on_stop = on_stop};
    int code = loop_create(&actor->loop, &loop_events, err);
    if (code < 0) {
        return code;
    }
    const struct weights_events weights_events = {
        .context = actor, .on_version = on_version, .on_failure = on_failure};
    const struct feed_events feed_events = {
        .context = actor, .on_manifest = on_manifest, .on_end = on_end};
    uv_loop_t *loop = loop_uv(actor->loop);
    code = loop_wake_create(&actor->wake, loop, on_wake, actor, err);
    if (code == 0) {
        code = weights_create(&actor->weights, loop, loop_zmq(actor->loop), actor->config.endpoint,
                              &weights_events, err);
    }
    if (code == 0) {
        code = http_create(&actor->http, loop, actor->config.actor.http, err);
    }
    if (code == 0) {
        code =
            feed_open(&actor->feed, loop, loop_zmq(actor->loop), &actor->config, &feed_events, err);
    }
    return code;
}

static void print_help(void)
{
    (void)printf(
        "Usage: kelvin-actor --config FILE [key=value ...]\n\n"
        "Joins the learner at `endpoint`, receives weights and tokenizer from it, and samples\n"
        "rollouts until it is drained or stopped. Any number of actors may come and go.\n\n"
        "Keys, in the file or as key=value:\n");
    config_help(&run_options, stdout);
}

int main(int argc, char **argv)
{
    static struct actor actor;
    struct error err = {0};
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        print_help();
        return 0;
    }
    bool file = argc > 2 && strcmp(argv[1], "--config") == 0;
    int first = file ? 3 : 1;
    int code =
        run_config_read(&actor.config, file ? argv[2] : NULL, argv + first, argc - first, &err);
    if (code == 0) {
        code = run_config_endpoints(&actor.config, &err);
    }
    if (code == 0) {
        code = open_parts(&actor, &err);
    }
    if (code < 0) {
        if (actor.loop != NULL) {
            fail(&actor, &err);
        } else {
            log_error("actor", "%s", err.text);
            return EXIT_BAD_INPUT;
        }
    }
    loop_run(actor.loop);
    loop_destroy(actor.loop);
    tokenizer_destroy(actor.tokenizer);
    free(actor.buffer);
    return actor.exit_code;
}
