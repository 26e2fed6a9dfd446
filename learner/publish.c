#include "learner/publish.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/wire/codec.h"
#include "common/wire/delta.h"
#include "common/wire/zsock.h"

#include <errno.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

struct weights_packed {
    Kelvin__WeightsManifest manifest; // tensors, files and endpoint are the publisher's
    ProtobufCBinaryData *hashes;      // [n_hashes], into hash_bytes
    uint8_t *hash_bytes;
    uint8_t *blob; // [manifest.size]
};

struct file {
    char *bytes;
    size_t size;
};

struct publish {
    // Fixed after creation: publish_pack reads it on other threads.
    const struct params *params;
    enum dtype type;
    Kelvin__WeightsManifest plan; // of every version, without its number and hashes
    Kelvin__WeightsTensor *tensors;
    Kelvin__WeightsFile files[WEIGHTS_FILES_MAX];
    struct file contents[WEIGHTS_FILES_MAX];
    char endpoint[ENDPOINT_BYTES_MAX + 1];

    // The loop's.
    struct zsock *sock;
    struct codec *codec;
    struct weights_packed *held[WEIGHTS_HELD]; // newest first
    uint8_t *delta;                            // [WEIGHTS_CHUNK_BYTES]
    uint64_t sequence;
    struct publish_stats stats;
};

void weights_packed_destroy(struct weights_packed *packed)
{
    if (packed == NULL) {
        return;
    }
    free(packed->hashes);
    free(packed->hash_bytes);
    free(packed->blob);
    free(packed);
}

CLEANUP_FUNCTION(struct weights_packed, weights_packed_destroy)

static struct weights_packed *find(const struct publish *publish, uint64_t version)
{
    for (int i = 0; i < WEIGHTS_HELD; i++) {
        if (publish->held[i] != NULL && publish->held[i]->manifest.version == version) {
            return publish->held[i];
        }
    }
    return NULL;
}

static size_t chunk_bytes(const Kelvin__WeightsManifest *manifest, uint32_t chunk)
{
    uint64_t start = (uint64_t)chunk * manifest->chunk_size;
    uint64_t left = manifest->size - start;
    return left < manifest->chunk_size ? (size_t)left : manifest->chunk_size;
}

// chunk_content chooses what to send: the difference to `base` when there is one and it is shorter.
static struct zframe chunk_content(struct publish *publish, const struct weights_packed *packed,
                                   const struct weights_packed *base, Kelvin__WeightsChunk *chunk)
{
    size_t size = chunk_bytes(&packed->manifest, chunk->chunk);
    size_t start = (size_t)chunk->chunk * packed->manifest.chunk_size;
    size_t delta_size = 0;
    if (base != NULL && delta_encode(publish->delta, &delta_size, size, base->blob + start,
                                     packed->blob + start, size, dtype_size(publish->type)) == 0) {
        chunk->kind = KELVIN__WEIGHTS_KIND__DELTA;
        chunk->base_version = base->manifest.version;
        publish->stats.deltas++;
        return (struct zframe){publish->delta, delta_size};
    }
    return (struct zframe){packed->blob + start, size};
}

static void serve(struct publish *publish, const Kelvin__WeightsRequest *request,
                  struct zframe identity)
{
    Kelvin__WeightsChunk chunk = KELVIN__WEIGHTS_CHUNK__INIT;
    chunk.version = request->version;
    chunk.chunk = request->chunk;
    const struct weights_packed *packed = find(publish, request->version);
    struct zframes frames = {.identity = identity};
    if (packed == NULL || request->chunk >= packed->manifest.n_hashes) {
        chunk.gone = true;
        publish->stats.gone++;
    } else {
        frames.raw = chunk_content(publish, packed, find(publish, request->base_version), &chunk);
    }
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.sender = without_const("learner");
    envelope.sequence = ++publish->sequence;
    envelope.body_case = KELVIN__ENVELOPE__BODY_WEIGHTS_CHUNK;
    envelope.weights_chunk = &chunk;
    struct error err = {0};
    CHECK(codec_encode(publish->codec, &frames.body, &envelope, &err) == 0);
    if (zsock_send(publish->sock, &frames) == 0) { // else it is asked for again
        publish->stats.chunks += !chunk.gone;
        publish->stats.bytes += frames.raw.size;
    }
}

static void on_request(struct zsock *sock, const struct zframes *frames, void *context)
{
    (void)sock;
    struct publish *publish = context;
    const Kelvin__Envelope *envelope = NULL;
    struct error err = {0};
    int code = codec_decode(publish->codec, &envelope, frames->body, &err);
    if (code < 0) {
        log_warn("publish", "%s", err.text);
    } else if (envelope->body_case == KELVIN__ENVELOPE__BODY_WEIGHTS_REQUEST) {
        serve(publish, envelope->weights_request, frames->identity);
    } else {
        log_warn("publish", "a %s has no place at the weight socket",
                 codec_body_name(envelope->body_case));
    }
}

// plan_tensors lists the parameters: the flat array, padding included, is the head of the blob.
static int plan_tensors(struct publish *publish, struct error *err)
{
    const struct params *params = publish->params;
    size_t count = (size_t)params->count;
    publish->tensors = calloc(count, sizeof(*publish->tensors));
    publish->plan.tensors = calloc(count, sizeof(Kelvin__WeightsTensor *));
    uint64_t *shapes = calloc(count, 2 * sizeof(uint64_t));
    if (publish->tensors == NULL || publish->plan.tensors == NULL || shapes == NULL) {
        free(shapes);
        return error_set(err, -ENOMEM, "publish: no memory for %zu tensors", count);
    }
    size_t element = dtype_size(publish->type);
    for (size_t i = 0; i < count; i++) {
        const struct param *param = &params->items[i];
        Kelvin__WeightsTensor *tensor = &publish->tensors[i];
        kelvin__weights_tensor__init(tensor);
        tensor->name = without_const(param->name); // borrowed with params
        tensor->n_shape = (size_t)param->rank;
        tensor->shape = shapes + 2 * i; // shapes itself is the first tensor's
        for (int32_t d = 0; d < param->rank; d++) {
            tensor->shape[d] = (uint64_t)param->shape[d];
        }
        tensor->dtype = without_const(publish->type == DTYPE_BF16 ? "BF16" : "F32");
        tensor->offset = param->offset * element;
        tensor->size = param->count * element;
        publish->plan.tensors[i] = tensor;
    }
    publish->plan.n_tensors = count;
    publish->plan.size = params->elements * element;
    return 0;
}

static int plan_file(struct publish *publish, const char *dir, const char *name, bool needed,
                     struct error *err)
{
    char path[4096];
    size_t index = publish->plan.n_files;
    struct file *content = &publish->contents[index];
    int length = snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (length < 0 || (size_t)length >= sizeof(path)) {
        return error_set(err, -ENAMETOOLONG, "model folder %.100s: the name is too long", dir);
    }
    if (!needed && access(path, F_OK) != 0) {
        return 0;
    }
    int code = file_read(&content->bytes, &content->size, path, JSON_BYTES_MAX, err);
    if (code < 0) {
        return code;
    }
    Kelvin__WeightsFile *file = &publish->files[index];
    kelvin__weights_file__init(file);
    file->name = without_const(name); // a literal
    file->offset = publish->plan.size;
    file->size = content->size;
    publish->plan.files[index] = file;
    publish->plan.n_files++;
    publish->plan.size += content->size;
    return 0;
}

static int plan_files(struct publish *publish, const char *dir, struct error *err)
{
    static const struct {
        const char *name;
        bool needed;
    } files[] = {
        {"config.json", true},
        {"tokenizer.json", true},
        {"tokenizer_config.json", false},
        {"generation_config.json", false},
        {"special_tokens_map.json", false},
        {"kelvin.json", false},
    };
    _Static_assert(sizeof(files) / sizeof(*files) <= WEIGHTS_FILES_MAX, "there is room for all");
    publish->plan.files = calloc(WEIGHTS_FILES_MAX, sizeof(Kelvin__WeightsFile *));
    if (publish->plan.files == NULL) {
        return error_set(err, -ENOMEM, "publish: out of memory");
    }
    int code = 0;
    for (size_t i = 0; code == 0 && i < sizeof(files) / sizeof(*files); i++) {
        code = plan_file(publish, dir, files[i].name, files[i].needed, err);
    }
    return code;
}

static int open_socket(struct publish *publish, uv_loop_t *loop, void *zmq, const char *endpoint,
                       struct error *err)
{
    int code = zsock_create(&publish->sock, loop, zmq, ZMQ_ROUTER, on_request, publish, err);
    if (code == 0) {
        code = zsock_bind(publish->sock, endpoint, err);
    }
    if (code == 0) {
        code = zsock_endpoint(publish->sock, publish->endpoint, sizeof(publish->endpoint));
        publish->plan.endpoint = publish->endpoint;
    }
    return code;
}

static void publish_free(struct publish *publish)
{
    for (int i = 0; i < WEIGHTS_HELD; i++) {
        weights_packed_destroy(publish->held[i]);
    }
    for (int i = 0; i < WEIGHTS_FILES_MAX; i++) {
        free(publish->contents[i].bytes);
    }
    if (publish->tensors != NULL) {
        free(publish->tensors[0].shape);
    }
    free(publish->tensors);
    free(publish->plan.tensors);
    free(publish->plan.files);
    free(publish->delta);
    codec_destroy(publish->codec);
    free(publish);
}

void publish_close(struct publish *publish)
{
    if (publish != NULL) {
        zsock_close(publish->sock);
        publish_free(publish);
    }
}

CLEANUP_FUNCTION(struct publish, publish_close)

int publish_create(struct publish **out, uv_loop_t *loop, void *zmq,
                   const struct publish_config *config, struct error *err)
{
    CHECK(config->type == DTYPE_BF16 || config->type == DTYPE_F32);
    CHECK(sodium_init() >= 0);
    CLEANUP(publish_closep) struct publish *publish = calloc(1, sizeof(*publish));
    if (publish == NULL) {
        return error_set(err, -ENOMEM, "publish: out of memory");
    }
    publish->params = config->params;
    publish->type = config->type;
    kelvin__weights_manifest__init(&publish->plan);
    publish->plan.chunk_size = WEIGHTS_CHUNK_BYTES;
    publish->delta = malloc(WEIGHTS_CHUNK_BYTES);
    int code = publish->delta == NULL ? error_set(err, -ENOMEM, "publish: out of memory")
                                      : codec_create(&publish->codec, err);
    if (code == 0) {
        code = plan_tensors(publish, err);
    }
    if (code == 0) {
        code = plan_files(publish, config->model_dir, err);
    }
    if (code == 0) {
        code = open_socket(publish, loop, zmq, config->endpoint, err);
    }
    if (code < 0) {
        return code;
    }
    publish->stats.blob_bytes = publish->plan.size;
    *out = TAKE(publish);
    return 0;
}

static void fill_blob(uint8_t *blob, const struct publish *publish, const float *weights)
{
    size_t elements = publish->params->elements;
    if (publish->type == DTYPE_BF16) {
        uint16_t *bits = (uint16_t *)(void *)blob;
        for (size_t i = 0; i < elements; i++) {
            bits[i] = bf16_from_float(weights[i]);
        }
    } else {
        memcpy(blob, weights, elements * sizeof(float));
    }
    for (size_t i = 0; i < publish->plan.n_files; i++) {
        memcpy(blob + publish->files[i].offset, publish->contents[i].bytes,
               publish->contents[i].size);
    }
}

int publish_pack(struct weights_packed **out, const struct publish *publish, uint64_t version,
                 const float *weights, struct error *err)
{
    const Kelvin__WeightsManifest *plan = &publish->plan;
    size_t chunks = (size_t)((plan->size + plan->chunk_size - 1) / plan->chunk_size);
    CLEANUP(weights_packed_destroyp) struct weights_packed *packed = calloc(1, sizeof(*packed));
    if (packed != NULL) {
        packed->hashes = calloc(chunks, sizeof(*packed->hashes));
        packed->hash_bytes = calloc(chunks, WEIGHTS_HASH_BYTES);
        packed->blob = malloc(plan->size);
    }
    if (packed == NULL || packed->hashes == NULL || packed->hash_bytes == NULL ||
        packed->blob == NULL) {
        return error_set(err, -ENOMEM, "no memory for another version of the weights (%llu MB)",
                         (unsigned long long)plan->size >> 20);
    }
    fill_blob(packed->blob, publish, weights);
    packed->manifest = *plan;
    packed->manifest.version = version;
    packed->manifest.n_hashes = chunks;
    packed->manifest.hashes = packed->hashes;
    for (uint32_t i = 0; i < chunks; i++) {
        uint8_t *hash = packed->hash_bytes + (size_t)i * WEIGHTS_HASH_BYTES;
        CHECK(crypto_generichash(hash, WEIGHTS_HASH_BYTES,
                                 packed->blob + (size_t)i * plan->chunk_size, chunk_bytes(plan, i),
                                 NULL, 0) == 0);
        packed->hashes[i] = (ProtobufCBinaryData){.len = WEIGHTS_HASH_BYTES, .data = hash};
    }
    *out = TAKE(packed);
    return 0;
}

const Kelvin__WeightsManifest *publish_offer(struct publish *publish, struct weights_packed *packed)
{
    weights_packed_destroy(publish->held[WEIGHTS_HELD - 1]);
    for (int i = WEIGHTS_HELD - 1; i > 0; i--) {
        publish->held[i] = publish->held[i - 1];
    }
    publish->held[0] = packed;
    publish->stats.version = packed->manifest.version;
    return &packed->manifest;
}

struct publish_stats publish_stats(const struct publish *publish)
{
    return publish->stats;
}
