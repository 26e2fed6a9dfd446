// weights.h: receive a version of the weights, verify it, hand it to the engine.
//
// Manifests come over the control socket; this module fetches their chunks over a connection of its
// own, a window of WEIGHTS_WINDOW at a time, into a second buffer. A chunk whose hash the held
// version has is copied from there; of the others the learner may send only what changed. Every
// chunk's hash is checked as a whole. A lost chunk is asked for again, a wrong one too, both with
// bounds; then the version is given up and the next manifest awaited. While one version is fetched
// the newest further manifest waits; those between are skipped.
//
// Everything happens on the loop's thread.
#ifndef ACTOR_WEIGHTS_H
#define ACTOR_WEIGHTS_H

#include "common/base/cleanup.h"
#include "common/base/error.h"
#include "common/model/params.h"
#include "common/tensor/tensor.h"

#include "proto/weights.pb-c.h"

#include <stddef.h>
#include <stdint.h>
#include <uv.h>

// struct weights_version is a complete, checked version. It is shared: whoever keeps it beyond a
// call takes a reference on the loop's thread. Its bytes never change and may be read on any.
struct weights_version {
    uint64_t version;
    enum dtype type; // BF16 or F32
    const Kelvin__WeightsManifest *manifest;
    const uint8_t *blob; // [manifest->size]
};

struct weights_version *weights_version_ref(struct weights_version *version);
void weights_version_unref(struct weights_version *version); // NULL is allowed

// weights_version_read widens all parameters to `weights` [params->elements]. -EINVAL when the
// manifest's tensors are not those of the parameter table. Any thread.
int weights_version_read(float *weights, const struct weights_version *version,
                         const struct params *params, struct error *err);

// weights_version_save_files writes config.json, tokenizer.json and what else came into the folder
// `dir`, which exists.
int weights_version_save_files(const struct weights_version *version, const char *dir,
                               struct error *err);

struct weights_events {
    void *context;
    // on_version: `version` is complete. It may be the second with the same number, when another
    // learner has begun.
    void (*on_version)(void *context, struct weights_version *version);
    // on_failure: a version was given up; `err` says why and names the address. The next manifest
    // is awaited. NULL is allowed.
    void (*on_failure)(void *context, uint64_t version, const struct error *err);
};

struct weights;

// weights_create prepares to fetch. Where a manifest's endpoint names no host (tcp://0.0.0.0:PORT)
// that of `control_endpoint` is meant.
int weights_create(struct weights **out, uv_loop_t *loop, void *zmq, const char *control_endpoint,
                   const struct weights_events *events, struct error *err);

// weights_offer takes a manifest, which is copied. What is held or being fetched already is not
// fetched again.
void weights_offer(struct weights *weights, const Kelvin__WeightsManifest *manifest);

// weights_held is the newest complete version, or NULL. Borrowed.
struct weights_version *weights_held(const struct weights *weights);

struct weights_stats {
    uint64_t bytes;  // received, of chunks
    uint64_t chunks; // received and right
    uint64_t deltas; // of them as differences
    uint64_t reused; // copied from the version before
    uint64_t bad;    // with a wrong hash
    uint64_t again;  // asked for again
};
struct weights_stats weights_stats(const struct weights *weights);

// weights_close stops; frees on a later turn of the loop. NULL is allowed.
void weights_close(struct weights *weights);
CLEANUP_FUNCTION(struct weights, weights_close)

#endif
