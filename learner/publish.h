// publish.h: new weights to all actors.
//
// A version is one blob: every parameter in the order and at the offsets of the parameter table, as
// bf16 or f32, and behind them the files that an actor needs (config.json, tokenizer.json). Its
// manifest, with a BLAKE2b-256 hash of every chunk, goes out through the hub; the chunks are
// fetched from this module's own socket, so bulk never stands in the way of control. The newest
// WEIGHTS_HELD versions are held. An actor that holds one of them is sent what changed since.
//
// Packing is arithmetic and may run on the engine's thread; everything else on the loop's.
#ifndef LEARNER_PUBLISH_H
#define LEARNER_PUBLISH_H

#include "common/base/error.h"
#include "common/model/params.h"
#include "common/tensor/tensor.h"

#include "proto/weights.pb-c.h"

#include <uv.h>

struct publish;

struct publish_config {
    const char *endpoint;        // where actors fetch; "tcp://*:0" and the like let 0MQ choose
    const char *model_dir;       // config.json and tokenizer.json must be there
    const struct params *params; // borrowed for life
    enum dtype type;             // DTYPE_BF16 or DTYPE_F32
};

int publish_create(struct publish **out, uv_loop_t *loop, void *zmq,
                   const struct publish_config *config, struct error *err);

// publish_close stops serving; frees on a later turn of the loop. NULL is allowed.
void publish_close(struct publish *publish);

// publish_pack makes version `version` of `weights` [params->elements]. Any thread, several at
// once. The caller owns *out until publish_offer.
struct weights_packed;
int publish_pack(struct weights_packed **out, const struct publish *publish, uint64_t version,
                 const float *weights, struct error *err);
void weights_packed_destroy(struct weights_packed *packed); // NULL is allowed

// publish_offer takes a packed version over and serves it; the oldest held one is gone. The
// manifest is for hub_announce and valid until WEIGHTS_HELD newer ones are offered.
const Kelvin__WeightsManifest *publish_offer(struct publish *publish,
                                             struct weights_packed *packed);

struct publish_stats {
    uint64_t version;    // newest
    uint64_t blob_bytes; // of one version
    uint64_t chunks;     // sent
    uint64_t deltas;     // of them as differences
    uint64_t bytes;      // sent, of chunks
    uint64_t gone;       // requests for a version that was no longer held
};
struct publish_stats publish_stats(const struct publish *publish);

#endif
