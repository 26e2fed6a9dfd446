// toy.h: a small model with random weights, and generations for it, for the tests of the actor.
#ifndef TESTS_TOY_H
#define TESTS_TOY_H

#include "actor/generation.h"
#include "common/base/check.h"
#include "common/base/rng.h"
#include "common/model/model.h"

#include <stdlib.h>

enum { TOY_V = 50, TOY_T = 256 };

// toy_weights writes the weights of toy_model(seed); the caller frees them.
static inline float *toy_weights(const struct model *model, uint64_t seed)
{
    float *weights = malloc((size_t)model->params.elements * sizeof(*weights));
    CHECK(weights != NULL);
    struct rng rng = {.key = seed};
    for (size_t i = 0; i < model->params.elements; i++) {
        weights[i] = (float)(0.4 * rng_normal(&rng));
    }
    return weights;
}

// toy_model has weights that are a function of `seed`.
static inline struct model *toy_model(uint64_t seed)
{
    struct shape shape = {.family = FAMILY_QWEN2,
                          .L = 2,
                          .C = 32,
                          .H = 4,
                          .KV = 2,
                          .D = 8,
                          .F = 48,
                          .V = TOY_V,
                          .T = TOY_T,
                          .norm_eps = 1e-6f,
                          .tied = true,
                          .gated = true,
                          .qkv_bias = true,
                          .rope_theta = 10000,
                          .bos_token = -1,
                          .eos_token = -1};
    struct model *model = NULL;
    CHECK(model_create(&model, &shape, COMPUTE_AUTO, NULL) == 0);
    float *weights = toy_weights(model, seed);
    model_set(model, weights, DTYPE_BF16);
    free(weights);
    return model;
}

// toy_generation is a random prompt, settings and limit, a function of `seed`.
static inline struct generation *toy_generation(uint64_t seed)
{
    struct rng rng = {.key = seed, .stream = 1};
    struct generation *generation = calloc(1, sizeof(*generation));
    CHECK(generation != NULL);
    generation->prompt_count = 1 + (int32_t)rng_below(&rng, 100);
    generation->prompt = calloc((size_t)generation->prompt_count, sizeof(int32_t));
    CHECK(generation->prompt != NULL);
    for (int32_t i = 0; i < generation->prompt_count; i++) {
        generation->prompt[i] = (int32_t)rng_below(&rng, TOY_V);
    }
    generation->samples = 1 + (int32_t)rng_below(&rng, 6);
    generation->tokens_max = 1 + (int32_t)rng_below(&rng, 60);
    generation->seed = seed;
    generation->sampling = (struct sampling){.temperature = 1, .top_p = 1};
    if (rng_below(&rng, 3) == 0) {
        generation->sampling =
            (struct sampling){.temperature = 0.7f, .top_p = 0.9f, .top_k = 20, .min_p = 0.01f};
    }
    return generation;
}

static inline void toy_generation_free(struct generation *generation)
{
    free(generation->prompt);
    free(generation);
}

// toy_bytes: token i is one letter, so that any stop text of several letters crosses tokens.
static inline const char *toy_bytes(const void *context, int32_t id, size_t *size)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWX";
    (void)context;
    *size = 1;
    return &letters[id];
}

#endif
