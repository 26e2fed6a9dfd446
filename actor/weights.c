#include "actor/weights.h"

#include "actor/weights_version.h"
#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/base/metrics.h"
#include "common/wire/codec.h"
#include "common/wire/delta.h"
#include "common/wire/loop.h"
#include "common/wire/message.h"
#include "common/wire/zsock.h"

#include <errno.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

enum { FETCH_TICK_MS = 50 };

METRIC(received, METRIC_COUNTER, "kelvin_actor_weight_bytes_total",
       "Bytes of weight chunks received.");

enum chunk_state { CHUNK_WANTED, CHUNK_ASKED, CHUNK_DONE };

struct chunk {
    uint8_t state;
    uint64_t asked_ms;
};

// struct fetch is the version on its way. Its outcome is noted where it happens and acted on in
// settle, at the end of each call from outside.
enum fetch_outcome { FETCH_RUNS, FETCH_COMPLETE, FETCH_FAILED };

struct fetch {
    enum fetch_outcome outcome;
    struct error failure;
    struct weights_version *version;
    uint8_t *blob;
    struct chunk *chunks; // [count]
    uint32_t count;
    uint32_t done;
    uint32_t asked;       // in state CHUNK_ASKED
    uint32_t first;       // all before it are done or asked
    uint32_t bad;         // wrong hashes
    uint32_t stalls;      // connections made anew
    uint64_t progress_ms; // when the last right chunk came
};

struct weights {
    struct weights_events events;
    struct zsock *sock;
    struct codec *codec;
    struct loop_timer *tick;
    char control_endpoint[ENDPOINT_BYTES_MAX + 1];
    char endpoint[ENDPOINT_BYTES_MAX + 1]; // connected to; empty before the first manifest
    struct weights_version *held;
    struct fetch *fetch;
    Kelvin__WeightsManifest *waiting; // the newest that came during a fetch
    struct weights_stats stats;
    uint64_t sequence;
    bool closing;
    int calls; // callbacks in progress: memory stays until they return
};

static void fetch_destroy(struct fetch *fetch)
{
    if (fetch != NULL) {
        weights_version_unref(fetch->version);
        free(fetch->chunks);
        free(fetch);
    }
}

static void manifest_destroy(Kelvin__WeightsManifest *manifest)
{
    if (manifest != NULL) {
        kelvin__weights_manifest__free_unpacked(manifest, NULL);
    }
}

static void weights_free(struct weights *weights)
{
    fetch_destroy(weights->fetch);
    manifest_destroy(weights->waiting);
    weights_version_unref(weights->held);
    codec_destroy(weights->codec);
    free(weights);
}

static size_t chunk_bytes(const Kelvin__WeightsManifest *manifest, uint32_t chunk)
{
    uint64_t start = (uint64_t)chunk * manifest->chunk_size;
    uint64_t left = manifest->size - start;
    return left < manifest->chunk_size ? (size_t)left : manifest->chunk_size;
}

// comparable: the two versions have the same chunks, so one can be the base of the other.
static bool comparable(const struct weights_version *a, const struct weights_version *b)
{
    return a != NULL && b != NULL && a->manifest->size == b->manifest->size &&
           a->manifest->chunk_size == b->manifest->chunk_size && a->type == b->type;
}

static bool same_hash(const Kelvin__WeightsManifest *a, const Kelvin__WeightsManifest *b,
                      uint32_t chunk)
{
    return memcmp(a->hashes[chunk].data, b->hashes[chunk].data, WEIGHTS_HASH_BYTES) == 0;
}

static bool same_content(const struct weights_version *version,
                         const Kelvin__WeightsManifest *manifest)
{
    const Kelvin__WeightsManifest *mine = version->manifest;
    bool same = mine->version == manifest->version && mine->size == manifest->size &&
                mine->chunk_size == manifest->chunk_size;
    for (uint32_t i = 0; same && i < mine->n_hashes; i++) {
        same = same_hash(mine, manifest, i);
    }
    return same;
}

static int ask(struct weights *weights, uint32_t chunk)
{
    struct fetch *fetch = weights->fetch;
    Kelvin__WeightsRequest request = KELVIN__WEIGHTS_REQUEST__INIT;
    request.version = fetch->version->version;
    request.chunk = chunk;
    if (comparable(weights->held, fetch->version) && fetch->bad == 0) {
        request.base_version = weights->held->version;
    }
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.sequence = ++weights->sequence;
    envelope.body_case = KELVIN__ENVELOPE__BODY_WEIGHTS_REQUEST;
    envelope.weights_request = &request;
    struct zframes frames = {0};
    struct error err = {0};
    CHECK(codec_encode(weights->codec, &frames.body, &envelope, &err) == 0);
    return zsock_send(weights->sock, &frames);
}

// ask_more fills the window. A socket that takes nothing yet is tried again at the next tick.
static void ask_more(struct weights *weights)
{
    struct fetch *fetch = weights->fetch;
    uint64_t now_ms = clock_ms();
    for (uint32_t i = fetch->first; i < fetch->count && fetch->asked < WEIGHTS_WINDOW; i++) {
        if (fetch->chunks[i].state != CHUNK_WANTED) {
            continue;
        }
        if (ask(weights, i) < 0) {
            return;
        }
        fetch->chunks[i] = (struct chunk){.state = CHUNK_ASKED, .asked_ms = now_ms};
        fetch->asked++;
        fetch->first = i + 1;
    }
}

static void want_again(struct weights *weights, uint32_t chunk)
{
    struct fetch *fetch = weights->fetch;
    fetch->chunks[chunk].state = CHUNK_WANTED;
    fetch->asked--;
    fetch->first = chunk < fetch->first ? chunk : fetch->first;
    weights->stats.again++;
}

// reuse copies what the held version has already.
static void reuse(struct weights *weights, struct fetch *fetch)
{
    if (!comparable(weights->held, fetch->version)) {
        return;
    }
    const Kelvin__WeightsManifest *manifest = fetch->version->manifest;
    for (uint32_t i = 0; i < fetch->count; i++) {
        size_t start = (size_t)i * manifest->chunk_size;
        if (same_hash(manifest, weights->held->manifest, i)) {
            memcpy(fetch->blob + start, weights->held->blob + start, chunk_bytes(manifest, i));
            fetch->chunks[i].state = CHUNK_DONE;
            fetch->done++;
            weights->stats.reused++;
        }
    }
}

// resolve writes the address that a manifest means.
static void resolve(char *out, size_t size, const char *endpoint, const char *control_endpoint)
{
    static const char *const anywhere[] = {"tcp://0.0.0.0:", "tcp://*:", "tcp://[::]:"};
    const char *colon = strrchr(control_endpoint, ':');
    for (size_t i = 0; i < sizeof(anywhere) / sizeof(*anywhere); i++) {
        size_t length = strlen(anywhere[i]);
        if (strncmp(endpoint, anywhere[i], length) == 0 &&
            strncmp(control_endpoint, "tcp://", 6) == 0 && colon != NULL) {
            (void)snprintf(out, size, "%.*s:%s", (int)(colon - control_endpoint), control_endpoint,
                           endpoint + length);
            return;
        }
    }
    (void)snprintf(out, size, "%s", endpoint);
}

// connect_to connects to where a manifest says that the chunks are. A connection that is there is
// kept: a request that meets one which is being replaced would be lost.
static int connect_to(struct weights *weights, const char *endpoint, struct error *err)
{
    char wanted[ENDPOINT_BYTES_MAX + 1];
    resolve(wanted, sizeof(wanted), endpoint, weights->control_endpoint);
    if (strcmp(wanted, weights->endpoint) == 0) {
        return 0;
    }
    if (weights->endpoint[0] != '\0') {
        zsock_disconnect(weights->sock, weights->endpoint);
    }
    memcpy(weights->endpoint, wanted, sizeof(wanted));
    return zsock_connect(weights->sock, weights->endpoint, err);
}

static int fetch_create(struct fetch **out, const Kelvin__WeightsManifest *manifest,
                        struct error *err)
{
    struct fetch *fetch = calloc(1, sizeof(*fetch));
    struct chunk *chunks = calloc(manifest->n_hashes, sizeof(*chunks));
    if (fetch == NULL || chunks == NULL) {
        free(fetch);
        free(chunks);
        return error_set(err, -ENOMEM, "no memory for a list of %zu chunks", manifest->n_hashes);
    }
    fetch->chunks = chunks;
    fetch->count = (uint32_t)manifest->n_hashes;
    fetch->progress_ms = clock_ms();
    int code = weights_version_create(&fetch->version, &fetch->blob, manifest, err);
    if (code < 0) {
        fetch_destroy(fetch);
        return code;
    }
    *out = fetch;
    return 0;
}

// begin starts to fetch a version, unless it is held already.
static void begin(struct weights *weights, const Kelvin__WeightsManifest *manifest)
{
    if (weights->held != NULL && same_content(weights->held, manifest)) {
        return;
    }
    struct error err = {0};
    struct fetch *fetch = NULL;
    if (connect_to(weights, manifest->endpoint, &err) < 0 ||
        fetch_create(&fetch, manifest, &err) < 0 || fetch == NULL) {
        log_warn("weights", "version %" PRIu64 ": %s", manifest->version, err.text);
        if (weights->events.on_failure != NULL) {
            weights->events.on_failure(weights->events.context, manifest->version, &err);
        }
        return;
    }
    weights->fetch = fetch;
    reuse(weights, fetch);
    if (fetch->done == fetch->count) {
        fetch->outcome = FETCH_COMPLETE;
        return;
    }
    loop_timer_start(weights->tick, 0, FETCH_TICK_MS);
}

// finish takes the fetch away and tells the owner how it ended.
static void finish(struct weights *weights)
{
    struct fetch *fetch = weights->fetch;
    weights->fetch = NULL;
    loop_timer_stop(weights->tick);
    if (fetch->outcome == FETCH_COMPLETE) {
        weights_version_unref(weights->held);
        weights->held = weights_version_ref(fetch->version);
        log_debug("weights", "version %" PRIu64 " is here", fetch->version->version);
        weights->events.on_version(weights->events.context, weights->held);
    } else {
        uint64_t version = fetch->version->version;
        log_warn("weights", "version %" PRIu64 " is given up: %s", version, fetch->failure.text);
        if (weights->events.on_failure != NULL) {
            weights->events.on_failure(weights->events.context, version, &fetch->failure);
        }
    }
    fetch_destroy(fetch);
}

// settle acts on the outcome of the fetch, if it has one, and goes on with what waits.
static void settle(struct weights *weights)
{
    weights->calls++;
    while (!weights->closing && weights->fetch != NULL && weights->fetch->outcome != FETCH_RUNS) {
        finish(weights);
        Kelvin__WeightsManifest *waiting = weights->waiting;
        if (!weights->closing && weights->fetch == NULL && waiting != NULL) {
            weights->waiting = NULL;
            begin(weights, waiting);
            manifest_destroy(waiting);
        }
    }
    if (--weights->calls == 0 && weights->closing) {
        weights_free(weights);
    }
}

// fill writes a chunk's bytes in their place: as they came, or the base with its changes.
static int fill(struct weights *weights, const Kelvin__WeightsChunk *chunk, struct zframe raw)
{
    const struct fetch *fetch = weights->fetch;
    size_t size = chunk_bytes(fetch->version->manifest, chunk->chunk);
    size_t start = (size_t)chunk->chunk * fetch->version->manifest->chunk_size;
    if (chunk->kind == KELVIN__WEIGHTS_KIND__FULL) {
        if (raw.size != size) {
            return -EBADMSG;
        }
        memcpy(fetch->blob + start, raw.data, size);
        return 0;
    }
    if (!comparable(weights->held, fetch->version) ||
        weights->held->version != chunk->base_version) {
        return -EBADMSG;
    }
    memcpy(fetch->blob + start, weights->held->blob + start, size);
    return delta_apply(fetch->blob + start, size, dtype_size(fetch->version->type), raw.data,
                       raw.size);
}

static bool hash_is_right(const struct fetch *fetch, uint32_t chunk)
{
    const Kelvin__WeightsManifest *manifest = fetch->version->manifest;
    uint8_t hash[WEIGHTS_HASH_BYTES];
    CHECK(crypto_generichash(hash, sizeof(hash), fetch->blob + (size_t)chunk * manifest->chunk_size,
                             chunk_bytes(manifest, chunk), NULL, 0) == 0);
    return memcmp(hash, manifest->hashes[chunk].data, sizeof(hash)) == 0;
}

static void on_right_chunk(struct weights *weights, const Kelvin__WeightsChunk *chunk, size_t size)
{
    struct fetch *fetch = weights->fetch;
    fetch->asked -= fetch->chunks[chunk->chunk].state == CHUNK_ASKED;
    fetch->chunks[chunk->chunk].state = CHUNK_DONE;
    fetch->done++;
    fetch->progress_ms = clock_ms();
    weights->stats.chunks++;
    weights->stats.deltas += chunk->kind == KELVIN__WEIGHTS_KIND__DELTA;
    weights->stats.bytes += size;
    metric_add(&received, (double)size);
    if (fetch->done == fetch->count) {
        fetch->outcome = FETCH_COMPLETE;
    }
}

static void on_wrong_chunk(struct weights *weights, const Kelvin__WeightsChunk *chunk)
{
    struct fetch *fetch = weights->fetch;
    weights->stats.bad++;
    if (++fetch->bad >= WEIGHTS_BAD_MAX) {
        fetch->outcome = FETCH_FAILED;
        (void)error_set(&fetch->failure, -EBADMSG,
                        "%d chunks from %.150s had a wrong hash; is another learner there?",
                        WEIGHTS_BAD_MAX, weights->endpoint);
    } else if (fetch->chunks[chunk->chunk].state == CHUNK_ASKED) {
        want_again(weights, chunk->chunk);
    }
}

static void on_chunk(struct weights *weights, const Kelvin__WeightsChunk *chunk, struct zframe raw)
{
    struct fetch *fetch = weights->fetch;
    if (fetch == NULL || fetch->outcome != FETCH_RUNS ||
        chunk->version != fetch->version->version || chunk->chunk >= fetch->count ||
        fetch->chunks[chunk->chunk].state == CHUNK_DONE) {
        return; // late, or asked for twice
    }
    if (chunk->gone) {
        fetch->outcome = FETCH_FAILED;
        (void)error_set(&fetch->failure, -ENOENT, "%.150s no longer holds it", weights->endpoint);
    } else if (raw.data != NULL && fill(weights, chunk, raw) == 0 &&
               hash_is_right(fetch, chunk->chunk)) {
        on_right_chunk(weights, chunk, raw.size);
    } else {
        on_wrong_chunk(weights, chunk);
    }
    if (fetch->outcome == FETCH_RUNS) {
        ask_more(weights);
    }
}

static void on_message(struct zsock *sock, const struct zframes *frames, void *context)
{
    (void)sock;
    struct weights *weights = context;
    const Kelvin__Envelope *envelope = NULL;
    struct error err = {0};
    if (codec_decode(weights->codec, &envelope, frames->body, &err) < 0) {
        log_warn("weights", "from %s: %s", weights->endpoint, err.text);
    } else if (envelope->body_case == KELVIN__ENVELOPE__BODY_WEIGHTS_CHUNK) {
        on_chunk(weights, envelope->weights_chunk, frames->raw);
        settle(weights);
    }
}

// on_stall: nothing came for a long time.
static void on_stall(struct weights *weights, uint64_t now_ms)
{
    struct fetch *fetch = weights->fetch;
    if (++fetch->stalls > WEIGHTS_STALLS_MAX) {
        fetch->outcome = FETCH_FAILED;
        (void)error_set(&fetch->failure, -ETIMEDOUT,
                        "no weights came from %.120s for %d s; is its port open between these "
                        "hosts? (weights_endpoint sets the address)",
                        weights->endpoint, WEIGHTS_STALL_MS / 1000 * (WEIGHTS_STALLS_MAX + 1));
        return;
    }
    fetch->progress_ms = now_ms;
    log_warn("weights", "nothing came from %s for %d s; connecting again", weights->endpoint,
             WEIGHTS_STALL_MS / 1000);
    struct error err = {0};
    zsock_disconnect(weights->sock, weights->endpoint); // it may be half open
    if (zsock_connect(weights->sock, weights->endpoint, &err) < 0) {
        fetch->outcome = FETCH_FAILED;
        fetch->failure = err;
    }
}

static void on_tick(void *context)
{
    struct weights *weights = context;
    struct fetch *fetch = weights->fetch;
    uint64_t now_ms = clock_ms();
    if (now_ms - fetch->progress_ms >= WEIGHTS_STALL_MS) {
        on_stall(weights, now_ms);
    }
    for (uint32_t i = 0; i < fetch->count && fetch->asked > 0; i++) {
        struct chunk *chunk = &fetch->chunks[i];
        if (chunk->state == CHUNK_ASKED && now_ms - chunk->asked_ms >= WEIGHTS_RETRY_MS) {
            want_again(weights, i);
        }
    }
    if (fetch->outcome == FETCH_RUNS) {
        ask_more(weights);
    }
    settle(weights);
}

int weights_create(struct weights **out, uv_loop_t *loop, void *zmq, const char *control_endpoint,
                   const struct weights_events *events, struct error *err)
{
    CHECK(events->on_version != NULL && sodium_init() >= 0);
    CLEANUP(weights_closep) struct weights *weights = calloc(1, sizeof(*weights));
    if (weights == NULL) {
        return error_set(err, -ENOMEM, "weights: out of memory");
    }
    weights->events = *events;
    (void)snprintf(weights->control_endpoint, sizeof(weights->control_endpoint), "%s",
                   control_endpoint);
    int code = codec_create(&weights->codec, err);
    if (code == 0) {
        code = loop_timer_create(&weights->tick, loop, on_tick, weights, err);
    }
    if (code == 0) {
        code = zsock_create(&weights->sock, loop, zmq, ZMQ_DEALER, on_message, weights, err);
    }
    if (code == 0) {
        *out = TAKE(weights);
    }
    return code;
}

void weights_offer(struct weights *weights, const Kelvin__WeightsManifest *manifest)
{
    manifest_destroy(weights->waiting);
    weights->waiting = NULL;
    if (weights->fetch == NULL) {
        begin(weights, manifest);
        settle(weights);
    } else if (!same_content(weights->fetch->version, manifest)) {
        weights->waiting = message_copy(&manifest->base);
    }
}

struct weights_version *weights_held(const struct weights *weights)
{
    return weights->held;
}

struct weights_stats weights_stats(const struct weights *weights)
{
    return weights->stats;
}

void weights_close(struct weights *weights)
{
    if (weights == NULL || weights->closing) {
        return;
    }
    weights->closing = true;
    loop_timer_close(weights->tick);
    zsock_close(weights->sock);
    if (weights->calls == 0) {
        weights_free(weights);
    }
}
