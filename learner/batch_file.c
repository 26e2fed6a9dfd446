#include "learner/batch_file.h"

#include "common/base/cleanup.h"
#include "common/base/json.h"
#include "common/base/limits.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_BLOCKS_MAX = 1024, FILE_SEQUENCES_MAX = 1 << 20 };

// struct reader is one file being read; `at` is where the next sequence's arrays go.
struct reader {
    const char *path;
    struct batch_file *file;
    int32_t *ids_at;
    float *floats_at;
    struct error *err;
};

void batch_file_finish(struct batch_file *file)
{
    free(file->sequences);
    free(file->block);
    free(file->ids);
    free(file->floats);
    *file = (struct batch_file){0};
}

static int unknown_member(const struct reader *reader, const json_t *object, const char *where,
                          const char *const *known)
{
    json_t *members = without_const(object);
    for (void *at = json_object_iter(members); at != NULL;
         at = json_object_iter_next(members, at)) {
        const char *key = json_object_iter_key(at);
        bool found = false;
        for (int i = 0; known[i] != NULL && !found; i++) {
            found = strcmp(known[i], key) == 0;
        }
        if (!found) {
            return error_set(reader->err, -EINVAL,
                             "%s: %s\"%.60s\" is not a member of a batch; kelvin step --help lists "
                             "them",
                             reader->path, where, key);
        }
    }
    return 0;
}

static int read_real(const struct reader *reader, float *out, const json_t *object,
                     const char *where, const char *key, double min, double max)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL) {
        return 0;
    }
    double number = json_is_number(value) ? json_number_value(value) : NAN;
    if (!(number >= min && number <= max)) {
        return error_set(reader->err, -EINVAL, "%s: %s%s must be a number from %g to %g",
                         reader->path, where, key, min, max);
    }
    *out = (float)number;
    return 0;
}

// The member `key` of a sequence, an array of `count` items.
static int find_array(const struct reader *reader, const json_t **out, const json_t *sequence,
                      int32_t k, const char *key, size_t count)
{
    *out = json_object_get(sequence, key);
    if (!json_is_array(*out) || json_array_size(*out) != count) {
        return error_set(reader->err, -EINVAL,
                         "%s: sequences[%d].%s must be an array of %zu items, one per id",
                         reader->path, k, key, count);
    }
    return 0;
}

static int read_ids(const struct reader *reader, const json_t *ids, int32_t k, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        const json_t *id = json_array_get(ids, (size_t)i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= VOCAB_MAX) {
            return error_set(reader->err, -EINVAL,
                             "%s: sequences[%d].ids[%d] is not a token id (0 to %d)", reader->path,
                             k, i, VOCAB_MAX - 1);
        }
        reader->ids_at[i] = (int32_t)json_integer_value(id);
    }
    return 0;
}

// Masks become weights of 0 and 1; set_weights scales them.
static int read_mask(const struct reader *reader, const json_t *mask, int32_t k, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(mask, (size_t)i);
        json_int_t value = json_is_integer(item) ? json_integer_value(item) : -1;
        if ((value != 0 && value != 1) || (i == 0 && value != 0)) {
            return error_set(reader->err, -EINVAL, "%s: sequences[%d].mask[%d] must be %s",
                             reader->path, k, i,
                             i == 0 ? "0: nothing predicts the first id" : "0 or 1");
        }
        reader->floats_at[i] = (float)value;
    }
    return 0;
}

static int read_behaviour(const struct reader *reader, const json_t *list, int32_t k, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(list, (size_t)i);
        double value = json_is_number(item) ? json_number_value(item) : NAN;
        if (!(value <= 0.0 && value >= -1e4)) {
            return error_set(reader->err, -EINVAL,
                             "%s: sequences[%d].behaviour[%d] must be a log-probability, from "
                             "-10000 to 0",
                             reader->path, k, i);
        }
        reader->floats_at[count + i] = (float)value;
    }
    return 0;
}

static int read_flags(const struct reader *reader, struct sequence *sequence, const json_t *object,
                      int32_t k)
{
    static const char *const known[] = {"ids",       "mask",      "advantage", "block",
                                        "behaviour", "corrected", NULL};
    struct batch_file *file = reader->file;
    char where[48];
    (void)snprintf(where, sizeof(where), "sequences[%d].", k);
    int code = unknown_member(reader, object, where, known);
    if (code == 0 && json_object_get(object, "advantage") == NULL) {
        code = error_set(reader->err, -EINVAL, "%s: %sadvantage is missing", reader->path, where);
    }
    code = code < 0
               ? code
               : read_real(reader, &sequence->advantage, object, where, "advantage", -1e6, 1e6);
    int64_t block = 0;
    struct error inner = {0};
    if (code == 0 && (json_get_int(&block, object, "block", 0, file->blocks - 1, &inner) < 0 ||
                      json_get_bool(&sequence->corrected, object, "corrected", &inner) < 0)) {
        code =
            error_set(reader->err, -EINVAL, "%s: sequences[%d]: %s", reader->path, k, inner.text);
    }
    file->block[k] = (int32_t)block;
    return code;
}

static int read_sequence(struct reader *reader, const json_t *object, int32_t k)
{
    struct sequence *sequence = &reader->file->sequences[k];
    const json_t *ids = json_object_get(object, "ids");
    size_t size = json_array_size(ids);
    if (size == 0 || size > PROMPT_TOKENS_MAX + RESPONSE_TOKENS_MAX) {
        return error_set(reader->err, -EINVAL,
                         "%s: sequences[%d].ids must be an array of 1 to %d token ids",
                         reader->path, k, PROMPT_TOKENS_MAX + RESPONSE_TOKENS_MAX);
    }
    const int32_t count = (int32_t)size;
    const json_t *mask = NULL;
    const json_t *behaviour = NULL;
    int code = find_array(reader, &mask, object, k, "mask", size);
    code = code < 0 ? code : find_array(reader, &behaviour, object, k, "behaviour", size);
    code = code < 0 ? code : read_ids(reader, ids, k, count);
    code = code < 0 ? code : read_mask(reader, mask, k, count);
    code = code < 0 ? code : read_behaviour(reader, behaviour, k, count);
    code = code < 0 ? code : read_flags(reader, sequence, object, k);
    sequence->count = count;
    sequence->ids = reader->ids_at;
    sequence->weight = reader->floats_at;
    sequence->behaviour = reader->floats_at + count;
    reader->ids_at += count;
    reader->floats_at += (ptrdiff_t)2 * count;
    return code;
}

static int read_betas(const struct reader *reader, const json_t *root)
{
    const json_t *betas = json_object_get(root, "betas");
    struct optimizer *optimizer = &reader->file->optimizer;
    float *const out[] = {&optimizer->beta1, &optimizer->beta2};
    for (size_t i = 0; betas != NULL && i < 2; i++) {
        const json_t *item = json_array_get(betas, i);
        double value = json_is_number(item) ? json_number_value(item) : NAN;
        if (json_array_size(betas) != 2 || !(value >= 0.0 && value < 1.0)) {
            return error_set(reader->err, -EINVAL,
                             "%s: betas must be two numbers of at least 0 and below 1",
                             reader->path);
        }
        *out[i] = (float)value;
    }
    return 0;
}

static int read_settings(const struct reader *reader, const json_t *root)
{
    struct objective *objective = &reader->file->objective;
    struct optimizer *optimizer = &reader->file->optimizer;
    *objective = (struct objective){.clip_low = 0.2f, .clip_high = 0.2f, .is_cap = 2.0f};
    *optimizer = (struct optimizer){
        .lr = 1e-6f, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f, .grad_norm_max = 1.0f};
    const struct {
        const char *key;
        float *out;
        double min, max;
    } rows[] = {
        {"clip", &objective->clip_low, 0, 1},
        {"clip", &objective->clip_high, 0, 1},
        {"clip_low", &objective->clip_low, 0, 1},
        {"clip_high", &objective->clip_high, 0, 10},
        {"dual_clip", &objective->dual_clip, 0, 100},
        {"is_cap", &objective->is_cap, 1, 100},
        {"entropy_coef", &objective->entropy_coef, 0, 1},
        {"kl_coef", &objective->kl_coef, 0, 100},
        {"lr", &optimizer->lr, 0, 1},
        {"eps", &optimizer->epsilon, 1e-16, 1},
        {"weight_decay", &optimizer->weight_decay, 0, 1},
        {"max_grad_norm", &optimizer->grad_norm_max, 0, 1e9},
    };
    int code = 0;
    for (size_t i = 0; code == 0 && i < sizeof(rows) / sizeof(*rows); i++) {
        code = read_real(reader, rows[i].out, root, "", rows[i].key, rows[i].min, rows[i].max);
    }
    return code < 0 ? code : read_betas(reader, root);
}

// A block weighs 1 / blocks and its tokens share that evenly; or every token weighs the same.
static int set_weights(const struct reader *reader, bool by_token)
{
    struct batch_file *file = reader->file;
    CLEANUP(freep) int64_t *tokens = calloc((size_t)file->blocks + 1, sizeof(*tokens));
    if (tokens == NULL) {
        return error_set(reader->err, -ENOMEM, "%s: out of memory", reader->path);
    }
    int64_t all = 0;
    int filled = 0;
    float *weight = file->floats;
    for (int32_t k = 0; k < file->count; k++) {
        for (int32_t i = 0; i < file->sequences[k].count; i++) {
            int64_t one = weight[i] != 0.0f;
            filled += one != 0 && tokens[file->block[k]] == 0;
            tokens[file->block[k]] += one;
            all += one;
        }
        weight += (ptrdiff_t)2 * file->sequences[k].count;
    }
    if (all == 0) {
        return error_set(reader->err, -EINVAL, "%s: no mask holds a 1: nothing is trained on",
                         reader->path);
    }
    weight = file->floats;
    for (int32_t k = 0; k < file->count; k++) {
        double divisor = by_token ? (double)all : (double)filled * (double)tokens[file->block[k]];
        for (int32_t i = 0; i < file->sequences[k].count; i++) {
            weight[i] = weight[i] != 0.0f ? (float)(1.0 / divisor) : 0.0f;
        }
        weight += (ptrdiff_t)2 * file->sequences[k].count;
    }
    return 0;
}

static int alloc_arrays(const struct reader *reader, const json_t *list)
{
    struct batch_file *file = reader->file;
    size_t count = json_array_size(list);
    size_t tokens = 0;
    for (size_t k = 0; k < count; k++) {
        tokens += json_array_size(json_object_get(json_array_get(list, k), "ids"));
    }
    file->count = (int32_t)count;
    file->sequences = calloc(count + 1, sizeof(*file->sequences));
    file->block = calloc(count + 1, sizeof(*file->block));
    file->ids = calloc(tokens + 1, sizeof(*file->ids));
    file->floats = calloc(2 * tokens + 1, sizeof(*file->floats));
    bool failed =
        file->sequences == NULL || file->block == NULL || file->ids == NULL || file->floats == NULL;
    return failed ? error_set(reader->err, -ENOMEM, "%s: out of memory", reader->path) : 0;
}

static int read_shape(const struct reader *reader, const json_t *root, bool *by_token)
{
    static const char *const known[] = {
        "sequences",     "blocks", "aggregate", "clip", "clip_low",     "clip_high",    "dual_clip",
        "is_cap",        "lr",     "betas",     "eps",  "entropy_coef", "weight_decay", "kl_coef",
        "max_grad_norm", NULL};
    if (!json_is_object(root)) {
        return error_set(reader->err, -EINVAL, "%s: a batch is a JSON object", reader->path);
    }
    int code = unknown_member(reader, root, "", known);
    if (code < 0) {
        return code;
    }
    struct error inner = {0};
    int64_t blocks = 6;
    const char *aggregate = "block";
    if (json_get_int(&blocks, root, "blocks", 1, FILE_BLOCKS_MAX, &inner) < 0 ||
        json_get_string(&aggregate, root, "aggregate", &inner) < 0) {
        return error_set(reader->err, -EINVAL, "%s: %s", reader->path, inner.text);
    }
    *by_token = strcmp(aggregate, "token") == 0;
    if (!*by_token && strcmp(aggregate, "block") != 0) {
        return error_set(reader->err, -EINVAL, "%s: aggregate must be \"block\" or \"token\"",
                         reader->path);
    }
    reader->file->blocks = (int32_t)blocks;
    const json_t *list = json_object_get(root, "sequences");
    if (json_array_size(list) == 0 || json_array_size(list) > FILE_SEQUENCES_MAX) {
        return error_set(reader->err, -EINVAL, "%s: sequences must be an array of 1 to %d",
                         reader->path, FILE_SEQUENCES_MAX);
    }
    return 0;
}

int batch_file_read(struct batch_file *out, const char *path, struct error *err)
{
    CLEANUP(json_decrefp) json_t *root = NULL;
    struct batch_file file = {0};
    struct reader reader = {.path = path, .file = &file, .err = err};
    bool by_token = false;
    int code = json_read_file(&root, path, err);
    code = code < 0 ? code : read_shape(&reader, root, &by_token);
    code = code < 0 ? code : read_settings(&reader, root);
    const json_t *list = json_object_get(root, "sequences");
    code = code < 0 ? code : alloc_arrays(&reader, list);
    reader.ids_at = file.ids;
    reader.floats_at = file.floats;
    for (int32_t k = 0; code == 0 && k < file.count; k++) {
        code = read_sequence(&reader, json_array_get(list, (size_t)k), k);
    }
    code = code < 0 ? code : set_weights(&reader, by_token);
    if (code < 0) {
        batch_file_finish(&file);
        return code;
    }
    *out = file;
    return 0;
}
