#include "learner/advantage.h"

#include "common/base/check.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

struct moments {
    double weight;  // Σ w
    double sum;     // Σ w·R
    double squares; // Σ w·(R - mean)²
    double first;   // reward of the first response, to see whether there is any spread
    int32_t responses;
    bool spread;
};

static double weight_of(const struct response *response, enum whitening whitening)
{
    CHECK(response->tokens > 0);
    return whitening == WHITEN_TOKEN ? (double)response->tokens : 1.0;
}

static void add(struct moments *moments, const struct response *response, double weight)
{
    if (moments->responses == 0) {
        moments->first = response->reward;
    }
    moments->spread = moments->spread || response->reward != moments->first;
    moments->responses++;
    moments->weight += weight;
    moments->sum += weight * response->reward;
}

static void gather_blocks(struct moments *block, const struct response *responses, int32_t count,
                          enum whitening whitening)
{
    for (int32_t i = 0; i < count; i++) {
        CHECK(responses[i].block >= 0 && responses[i].block < BLOCKS);
        add(&block[responses[i].block], &responses[i], weight_of(&responses[i], whitening));
    }
    for (int32_t i = 0; i < count; i++) {
        struct moments *own = &block[responses[i].block];
        double offset = responses[i].reward - own->sum / own->weight;
        own->squares += weight_of(&responses[i], whitening) * offset * offset;
    }
}

// One entry per baseline number; the caller frees them.
static struct moments *gather_baselines(const struct response *responses, int32_t count,
                                        enum whitening whitening)
{
    struct moments *shared = calloc((size_t)count + 1, sizeof(*shared));
    CHECK(shared != NULL);
    for (int32_t i = 0; i < count; i++) {
        CHECK(responses[i].baseline >= 0 && responses[i].baseline < count);
        add(&shared[responses[i].baseline], &responses[i], weight_of(&responses[i], whitening));
    }
    return shared;
}

// The scale of a block: 1/sqrt(unbiased variance + 1e-8), or 0 where there is no signal.
static double scale_of(const struct moments *moments)
{
    if (moments->responses < 2 || !moments->spread) {
        return 0.0;
    }
    double biased = moments->squares / moments->weight;
    double variance = biased * (moments->weight / (moments->weight - 1.0));
    return 1.0 / sqrt(variance + 1e-8);
}

void trr_advantage(float *advantage, const struct response *responses, int32_t count,
                   enum whitening whitening)
{
    struct moments block[BLOCKS] = {0};
    gather_blocks(block, responses, count, whitening);
    struct moments *shared = gather_baselines(responses, count, whitening);
    for (int32_t i = 0; i < count; i++) {
        const struct moments *own = &block[responses[i].block];
        const struct moments *base = &shared[responses[i].baseline];
        base = base->responses > 1 ? base : own;
        double centred = responses[i].reward - base->sum / base->weight;
        advantage[i] = (float)(centred * scale_of(own));
    }
    free(shared);
}
