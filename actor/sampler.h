// sampler.h: draws a token from a row of logits.
//
// The draw is a pure function of (logits, settings, seed, sample, position): one counter-based
// random number and an inverse cumulative sum in id order. So a rollout comes out the same wherever
// and with whatever neighbours it runs. The settings apply in this order: temperature, top-k, top-p
// (over what top-k left), min-p. Equal logits rank by id, the lower first.
#ifndef ACTOR_SAMPLER_H
#define ACTOR_SAMPLER_H

#include "common/base/error.h"

#include <stdint.h>

struct sampling {
    float temperature; // 0: the largest logit, the lowest id of equals
    float top_p;       // keep the likeliest tokens up to this share; 1 (or 0): all
    int32_t top_k;     // keep so many of the likeliest; 0: all
    float min_p;       // keep tokens with this share of the best one's probability; 0: all
};

struct sampler; // one thread's workspace

int sampler_create(struct sampler **out, int32_t V, struct error *err);
void sampler_destroy(struct sampler *sampler);

// sampler_draw returns a token id, 0 .. V-1, for `position` (of the drawn token in its sequence).
// logits [V] are read only.
int32_t sampler_draw(struct sampler *sampler, const float *logits, const struct sampling *sampling,
                     uint64_t seed, uint32_t sample, uint32_t position);

#endif
