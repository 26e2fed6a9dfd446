// weights_version.h: how weights.c makes a version; its users see weights.h.
#ifndef ACTOR_WEIGHTS_VERSION_H
#define ACTOR_WEIGHTS_VERSION_H

#include "actor/weights.h"

struct version_memory {
    struct weights_version version; // first: a pointer to it is a pointer to this
    Kelvin__WeightsManifest *manifest;
    uint8_t *blob;
    int references;
};

// weights_version_create copies the manifest and makes room for the blob, which *blob lets the
// fetcher write; the caller has the one reference.
int weights_version_create(struct weights_version **out, uint8_t **blob,
                           const Kelvin__WeightsManifest *manifest, struct error *err);

#endif
