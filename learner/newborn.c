#include "learner/newborn.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/rng.h"
#include "common/model/safetensors.h"
#include "common/text/compact_vocab.h"
#include "common/text/tokenizer.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PATH_BYTES = 4096 };

static const double rope_theta = 10000.0;
static const float norm_eps = 1e-6f;

// What transformers needs to know beside tokenizer.json.
static const char tokenizer_config[] = "{\n"
                                       "  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n"
                                       "  \"eos_token\": \"" COMPACT_END "\",\n"
                                       "  \"pad_token\": \"" COMPACT_END "\",\n"
                                       "  \"clean_up_tokenization_spaces\": false\n"
                                       "}\n";

static int compact_ids(int32_t *vocab, int32_t *end, struct error *err)
{
    CLEANUP(freep) char *json = compact_tokenizer_json();
    CHECK(json != NULL);
    struct tokenizer *tokenizer = NULL;
    int code = tokenizer_parse(&tokenizer, json, strlen(json), "the compact tokenizer", err);
    if (code == 0) {
        *vocab = tokenizer_vocab(tokenizer);
        *end = tokenizer_find(tokenizer, COMPACT_END);
        tokenizer_destroy(tokenizer);
    }
    return code;
}

int newborn_shape(struct shape *out, const struct run_config *config, struct error *err)
{
    const int64_t width = config->pretrain.width, heads = config->pretrain.heads;
    if (width % (2 * heads) != 0) {
        return error_set(err, -EINVAL,
                         "pretrain.width %lld: must be a multiple of twice pretrain.heads (%lld)",
                         (long long)width, (long long)heads);
    }
    if (heads % config->pretrain.kv_heads != 0) {
        return error_set(err, -EINVAL, "pretrain.kv_heads %lld does not divide pretrain.heads %lld",
                         (long long)config->pretrain.kv_heads, (long long)heads);
    }
    int32_t vocab = 0, end = 0;
    int code = compact_ids(&vocab, &end, err);
    if (code < 0) {
        return code;
    }
    *out = (struct shape){.family = FAMILY_QWEN2,
                          .L = (int32_t)config->pretrain.layers,
                          .C = (int32_t)width,
                          .H = (int32_t)heads,
                          .KV = (int32_t)config->pretrain.kv_heads,
                          .D = (int32_t)(width / heads),
                          .F = (int32_t)config->pretrain.ffn,
                          .V = vocab,
                          .T = (int32_t)config->pretrain.positions,
                          .norm_eps = norm_eps,
                          .tied = true,
                          .gated = true,
                          .qkv_bias = true,
                          .rope_theta = rope_theta,
                          .bos_token = -1,
                          .eos_token = end};
    return 0;
}

static bool is_gain(enum param_role role)
{
    return role == PARAM_NORM1 || role == PARAM_NORM2 || role == PARAM_FINAL_NORM;
}

void newborn_weights(float *weights, const struct params *params, const struct shape *shape,
                     double std, uint64_t seed)
{
    memset(weights, 0, params->elements * sizeof(*weights));
    for (int32_t i = 0; i < params->count; i++) {
        const struct param *param = &params->items[i];
        bool writes = param->role == PARAM_O || param->role == PARAM_DOWN;
        double deviation = writes ? std / sqrt(2.0 * shape->L) : std;
        struct rng rng = {.key = seed, .stream = (uint64_t)i};
        for (size_t k = 0; k < param->count; k++) {
            float *weight = &weights[param->offset + k];
            *weight = is_gain(param->role) ? 1.0f
                      : param->rank == 2   ? (float)(deviation * rng_normal(&rng))
                                           : 0.0f;
        }
    }
}

static int write_text(const char *dir, const char *name, const char *text, struct error *err)
{
    char path[PATH_BYTES];
    int code = file_join(path, sizeof(path), dir, name, err);
    if (text == NULL) {
        return error_set(err, -ENOMEM, "%s: out of memory", dir);
    }
    return code < 0 ? code : file_write(path, text, strlen(text), err);
}

static int write_files(const char *dir, const float *weights, const struct params *params,
                       const struct shape *shape, enum dtype type, struct error *err)
{
    CLEANUP(freep)
    char *config = shape_write_json(shape, type == DTYPE_BF16 ? "bfloat16" : "float32");
    CLEANUP(freep) char *tokenizer = compact_tokenizer_json();
    char path[PATH_BYTES];
    int code = file_join(path, sizeof(path), dir, "model.safetensors", err);
    code = code < 0 ? code : file_make_dirs(dir, err);
    code = code < 0 ? code : write_text(dir, "config.json", config, err);
    code = code < 0 ? code : write_text(dir, "tokenizer.json", tokenizer, err);
    code = code < 0 ? code : write_text(dir, "tokenizer_config.json", tokenizer_config, err);
    return code < 0 ? code : safetensors_write(path, weights, params, shape, type, err);
}

int newborn_write(const char *dir, const float *weights, const struct params *params,
                  const struct shape *shape, enum dtype type, struct error *err)
{
    char beside[PATH_BYTES];
    int length = snprintf(beside, sizeof(beside), "%s.tmp", dir);
    if (length < 0 || length >= PATH_BYTES) {
        return error_set(err, -ENAMETOOLONG, "%s: the name is too long", dir);
    }
    if (access(dir, F_OK) == 0) {
        return error_set(err, -EEXIST, "%s is there already; remove it or choose another folder",
                         dir);
    }
    int code = file_remove_tree(beside, err); // of a run that was killed
    code = code < 0 ? code : write_files(beside, weights, params, shape, type, err);
    if (code == 0 && rename(beside, dir) != 0) {
        code = error_set(err, -errno, "cannot rename %s to %s: %s", beside, dir,
                         strerrordesc_np(errno));
    }
    if (code < 0) {
        (void)file_remove_tree(beside, NULL);
    }
    return code;
}
