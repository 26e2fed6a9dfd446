// toy_folder.h: a model folder with random weights and the compact tokenizer, for tests that need a
// whole run but no skill.
#ifndef TESTS_TOY_FOLDER_H
#define TESTS_TOY_FOLDER_H

#include "common/base/check.h"
#include "common/base/file.h"
#include "common/base/rng.h"
#include "common/model/params.h"
#include "common/model/safetensors.h"
#include "common/model/shape.h"
#include "common/text/compact_vocab.h"
#include "common/text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline int32_t toy_folder_tokenizer(const char *dir)
{
    char path[4096];
    (void)snprintf(path, sizeof(path), "%s/tokenizer.json", dir);
    char *text = compact_tokenizer_json();
    CHECK(text != NULL && file_write(path, text, strlen(text), NULL) == 0);
    free(text);
    struct tokenizer *tokenizer = NULL;
    CHECK(tokenizer_create(&tokenizer, path, NULL) == 0);
    int32_t ids = tokenizer_vocab(tokenizer);
    tokenizer_destroy(tokenizer);
    return ids;
}

// toy_folder makes `dir` a model folder whose weights are a function of `seed`.
static inline void toy_folder(const char *dir, uint64_t seed)
{
    char path[4096];
    CHECK(file_make_dirs(dir, NULL) == 0);
    struct shape shape = {.family = FAMILY_QWEN2,
                          .L = 2,
                          .C = 32,
                          .H = 4,
                          .KV = 2,
                          .D = 8,
                          .F = 48,
                          .V = toy_folder_tokenizer(dir),
                          .T = 1024,
                          .norm_eps = 1e-6f,
                          .tied = true,
                          .gated = true,
                          .qkv_bias = true,
                          .rope_theta = 10000,
                          .bos_token = -1,
                          .eos_token = 0}; // a byte, so that random text ends now and then
    char *json = shape_write_json(&shape, "bfloat16");
    (void)snprintf(path, sizeof(path), "%s/config.json", dir);
    CHECK(file_write(path, json, strlen(json), NULL) == 0);
    free(json);
    struct params params;
    CHECK(params_init(&params, &shape, NULL) == 0);
    float *weights = calloc(params.elements, sizeof(*weights));
    CHECK(weights != NULL);
    struct rng rng = {.key = seed};
    for (size_t i = 0; i < params.elements; i++) {
        weights[i] = (float)(0.3 * rng_normal(&rng));
    }
    (void)snprintf(path, sizeof(path), "%s/model.safetensors", dir);
    CHECK(safetensors_write(path, weights, &params, &shape, DTYPE_BF16, NULL) == 0);
    free(weights);
    params_finish(&params);
}

#endif
