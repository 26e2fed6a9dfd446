// A safetensors file is 8 bytes of header length (little-endian), a JSON header {name: {dtype,
// shape, data_offsets}}, then the data. Files are mapped; a tensor is looked up by the parameter
// table's name, checked, and widened into place.
#include "common/model/safetensors.h"

#include "common/base/check.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/base/limits.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHARDS_MAX = 512, NAME_MAX_BYTES = 128, PATH_BYTES = 4096 };

struct shard {
    struct file_map map;
    json_t *header;
    const char *data; // behind the header
    size_t data_size;
    char path[PATH_BYTES];
};

struct shards {
    struct shard *items;
    int count;
};

static void shards_finishp(struct shards *shards)
{
    for (int i = 0; i < shards->count; i++) {
        json_decref(shards->items[i].header);
        file_unmap(&shards->items[i].map);
    }
    free(shards->items);
}

static int shard_open(struct shards *shards, const char *dir, const char *name, struct error *err)
{
    struct shard *shard = &shards->items[shards->count];
    int length = snprintf(shard->path, sizeof(shard->path), "%s/%s", dir, name);
    if (length < 0 || (size_t)length >= sizeof(shard->path)) {
        return error_set(err, -ENAMETOOLONG, "the model folder's name is too long");
    }
    int code = file_map(&shard->map, shard->path, err);
    if (code < 0) {
        return code;
    }
    shards->count++; // from here on finish() releases it
    uint64_t size = 0;
    if (shard->map.size >= sizeof(size)) {
        memcpy(&size, shard->map.data, sizeof(size));
    }
    if (size == 0 || size > JSON_BYTES_MAX || size > shard->map.size - sizeof(size)) {
        return error_set(err, -EINVAL, "%s: cut short or no safetensors file", shard->path);
    }
    const char *text = (const char *)shard->map.data + sizeof(size);
    code = json_parse(&shard->header, text, size, shard->path, err);
    if (code == 0 && !json_is_object(shard->header)) {
        code = error_set(err, -EINVAL, "%s: the header is not a JSON object", shard->path);
    }
    shard->data = text + size;
    shard->data_size = shard->map.size - sizeof(size) - size;
    return code;
}

static int open_index(struct shards *shards, const json_t *index, const char *path, const char *dir,
                      struct error *err)
{
    const json_t *map = json_object_get(index, "weight_map");
    const char *key = NULL;
    json_t *value = NULL;
    if (!json_is_object(map)) {
        return error_set(err, -EINVAL, "%s: there is no \"weight_map\"", path);
    }
    json_object_foreach(without_const(map), key, value)
    {
        const char *name = json_string_value(value);
        bool known = false;
        if (name == NULL || strchr(name, '/') != NULL) {
            return error_set(err, -EINVAL, "%s: %s names no file of the folder", path, key);
        }
        for (int i = 0; i < shards->count; i++) {
            known = known || strcmp(strrchr(shards->items[i].path, '/') + 1, name) == 0;
        }
        if (!known && shards->count == SHARDS_MAX) {
            return error_set(err, -EINVAL, "%s: more than %d files", path, SHARDS_MAX);
        }
        int code = known ? 0 : shard_open(shards, dir, name, err);
        if (code < 0) {
            return code;
        }
    }
    return 0;
}

static int shards_open(struct shards *shards, const char *dir, struct error *err)
{
    shards->items = calloc(SHARDS_MAX, sizeof(*shards->items));
    if (shards->items == NULL) {
        return error_set(err, -ENOMEM, "%s: out of memory", dir);
    }
    char path[PATH_BYTES];
    (void)snprintf(path, sizeof(path), "%s/model.safetensors.index.json", dir);
    CLEANUP(json_decrefp) json_t *index = NULL;
    int code = json_read_file(&index, path, err);
    if (code == -ENOENT) {
        return shard_open(shards, dir, "model.safetensors", err);
    }
    return code < 0 ? code : open_index(shards, index, path, dir, err);
}

// struct stored is one tensor of a file, checked against the file's size.
struct stored {
    const struct shard *shard;
    const char *name;
    const char *data;
    enum dtype type;
    int rank;
    int64_t shape[2];
    int64_t count;
};

static int bad(const struct stored *t, struct error *err, const char *problem)
{
    return error_set(err, -EINVAL, "%s: tensor %.100s: %s", t->shard->path, t->name, problem);
}

// struct range is where a tensor's data lie in its file.
struct range {
    const char *name;
    int64_t from, to;
};

static int read_range(struct range *range, const struct shard *shard, const char *name,
                      const json_t *entry, struct error *err)
{
    const struct stored tensor = {.shard = shard, .name = name};
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *from = json_array_get(offsets, 0), *to = json_array_get(offsets, 1);
    *range = (struct range){name, json_integer_value(from), json_integer_value(to)};
    if (json_array_size(offsets) != 2 || !json_is_integer(from) || !json_is_integer(to) ||
        range->from < 0 || range->to < range->from || (uint64_t)range->to > shard->data_size) {
        return bad(&tensor, err, "its data lie outside the file, which may be cut short");
    }
    return 0;
}

static int by_place(const void *a, const void *b)
{
    const struct range *left = a, *right = b;
    return left->from != right->from ? (left->from < right->from ? -1 : 1)
                                     : (left->to > right->to) - (left->to < right->to);
}

// check_ranges holds all tensors of a file, wanted or not, against its size and each other.
static int check_ranges(const struct shard *shard, struct error *err)
{
    size_t count = 0;
    CLEANUP(freep)
    struct range *ranges = calloc(json_object_size(shard->header) + 1, sizeof(*ranges));
    const char *key = NULL;
    json_t *value = NULL;
    if (ranges == NULL) {
        return error_set(err, -ENOMEM, "%s: out of memory", shard->path);
    }
    json_object_foreach(shard->header, key, value)
    {
        if (strcmp(key, "__metadata__") != 0) {
            int code = read_range(&ranges[count++], shard, key, value, err);
            if (code < 0) {
                return code;
            }
        }
    }
    qsort(ranges, count, sizeof(*ranges), by_place);
    for (size_t i = 1; i < count; i++) {
        if (ranges[i - 1].to > ranges[i].from) {
            const struct stored tensor = {.shard = shard, .name = ranges[i].name};
            return bad(&tensor, err, "its data overlap another tensor's");
        }
    }
    return 0;
}

static int read_type(struct stored *t, const json_t *entry, struct error *err)
{
    static const struct {
        const char *name;
        enum dtype type;
    } types[] = {{"F32", DTYPE_F32}, {"BF16", DTYPE_BF16}, {"F16", DTYPE_F16}};
    const char *name = json_string_value(json_object_get(entry, "dtype"));
    for (size_t i = 0; name != NULL && i < sizeof(types) / sizeof(*types); i++) {
        if (strcmp(types[i].name, name) == 0) {
            t->type = types[i].type;
            return 0;
        }
    }
    return bad(t, err, "its type is not F32, BF16 or F16");
}

static int read_entry(struct stored *t, const json_t *entry, struct error *err)
{
    const json_t *shape = json_object_get(entry, "shape");
    int code = read_type(t, entry, err);
    if (code < 0) {
        return code;
    }
    t->rank = (int)json_array_size(shape);
    if (!json_is_array(shape) || t->rank < 1 || t->rank > 2) {
        return bad(t, err, "it is neither a vector nor a matrix");
    }
    t->count = 1;
    t->shape[1] = 1;
    for (int i = 0; i < t->rank; i++) {
        const json_t *dim = json_array_get(shape, (size_t)i);
        t->shape[i] = json_integer_value(dim);
        if (!json_is_integer(dim) || t->shape[i] < 1 || t->shape[i] > INT32_MAX) {
            return bad(t, err, "its shape is not made of positive numbers");
        }
        t->count *= t->shape[i];
    }
    struct range range = {0};
    code = read_range(&range, t->shard, t->name, entry, err);
    if (code < 0) {
        return code;
    }
    int64_t from = range.from, to = range.to;
    if ((to - from) / (int64_t)dtype_size(t->type) != t->count ||
        (to - from) % (int64_t)dtype_size(t->type) != 0) {
        return bad(t, err, "its data do not have the size of its shape");
    }
    t->data = t->shard->data + from;
    return 0;
}

// find looks for `name`, with and without GPT-2's prefix "transformer.". 1 found, 0 not there.
static int find(struct stored *t, const struct shards *shards, const char *name, struct error *err)
{
    static const char prefix[] = "transformer.";
    const char *names[2] = {name, NULL};
    if (strncmp(name, prefix, sizeof(prefix) - 1) == 0) {
        names[1] = name + sizeof(prefix) - 1;
    }
    for (int i = 0; i < 2 * shards->count; i++) {
        const char *key = names[i % 2];
        const struct shard *shard = &shards->items[i / 2];
        const json_t *entry = key == NULL ? NULL : json_object_get(shard->header, key);
        if (entry != NULL) {
            *t = (struct stored){.shard = shard, .name = key};
            int code = read_entry(t, entry, err);
            return code < 0 ? code : 1;
        }
    }
    return 0;
}

static float element(const struct stored *t, int64_t i)
{
    uint16_t half = 0;
    float full = 0.0f;
    CHECK(t->data != NULL); // read_entry has set it
    if (t->type == DTYPE_F32) {
        memcpy(&full, t->data + i * 4, sizeof(full));
        return full;
    }
    memcpy(&half, t->data + i * 2, sizeof(half));
    return t->type == DTYPE_BF16 ? bf16_to_float(half) : half_to_float(half);
}

// struct place says which part of a file tensor a parameter is: `rows` rows (or elements of a
// vector) from row `from` in our orientation; a transposed tensor is [in, out] in the file.
struct place {
    char name[NAME_MAX_BYTES];
    int64_t from;
    int64_t file_rows; // of the whole file tensor, in our orientation
    bool transposed;
};

// GPT-2's q, k and v are thirds of c_attn: their table names end in ".q", ".k", ".v".
static struct place place_of(const struct param *param, const struct shape *shape)
{
    struct place place = {.file_rows = param->shape[0]};
    size_t length = strlen(param->name);
    if (shape->family == FAMILY_GPT2 && param->role >= PARAM_Q && param->role <= PARAM_V_BIAS) {
        place.from = param->shape[0] * (((int)param->role - PARAM_Q) / 2);
        place.file_rows = 3 * param->shape[0];
        length -= 2;
    }
    place.transposed = shape->transposed && param->rank == 2 && param->layer >= 0;
    CHECK(length < sizeof(place.name));
    memcpy(place.name, param->name, length);
    place.name[length] = '\0';
    return place;
}

// find_param finds the file tensor that holds a parameter and checks its shape.
static int find_param(struct stored *t, const struct place *place, const struct param *param,
                      const struct shards *shards, struct error *err)
{
    int found = find(t, shards, place->name, err);
    if (found < 0) {
        return found;
    }
    if (found == 0) {
        return error_set(err, -EINVAL, "%s: there is no tensor %s", shards->items[0].path,
                         place->name);
    }
    int64_t columns = param->shape[1];
    int64_t wanted[2] = {place->transposed ? columns : place->file_rows,
                         place->transposed ? place->file_rows : columns};
    if (t->rank != param->rank || t->shape[0] != wanted[0] || t->shape[1] != wanted[1]) {
        return error_set(err, -EINVAL,
                         "%s: tensor %.100s is [%lld, %lld]; config.json asks for [%lld, %lld]",
                         t->shard->path, t->name, (long long)t->shape[0], (long long)t->shape[1],
                         (long long)wanted[0], (long long)wanted[1]);
    }
    return 0;
}

static int read_param(float *out, enum dtype *stored, const struct param *param,
                      const struct shape *shape, const struct shards *shards, struct error *err)
{
    struct place place = place_of(param, shape);
    struct stored t = {0};
    int code = find_param(&t, &place, param, shards, err);
    if (code < 0) {
        return code;
    }
    int64_t columns = param->shape[1];
    for (int64_t r = 0; r < param->shape[0]; r++) {
        for (int64_t c = 0; c < columns; c++) {
            int64_t row = place.from + r;
            float value =
                element(&t, place.transposed ? c * place.file_rows + row : row * columns + c);
            if (!isfinite(value)) {
                return bad(&t, err, "it holds NaN or infinity");
            }
            out[r * columns + c] = value;
        }
    }
    if (t.type == DTYPE_F32 || (t.type == DTYPE_F16 && *stored == DTYPE_BF16)) {
        *stored = t.type;
    }
    return 0;
}

static bool known_name(const char *key, const struct params *params, const struct shape *shape)
{
    static const char *const ignored[] = {"__metadata__", ".attn.bias", ".attn.masked_bias",
                                          "lm_head.weight", ".rotary_emb.inv_freq"};
    for (size_t i = 0; i < sizeof(ignored) / sizeof(*ignored); i++) {
        const char *at = strstr(key, ignored[i]);
        if (at != NULL && strlen(at) == strlen(ignored[i])) {
            return true; // buffers of older files, and the copy of a tied head
        }
    }
    for (int32_t i = 0; i < params->count; i++) {
        struct place place = place_of(&params->items[i], shape);
        const char *bare = strncmp(place.name, "transformer.", 12) == 0 ? place.name + 12 : NULL;
        if (strcmp(place.name, key) == 0 || (bare != NULL && strcmp(bare, key) == 0)) {
            return true;
        }
    }
    return false;
}

static int check_names(const struct shards *shards, const struct params *params,
                       const struct shape *shape, struct error *err)
{
    for (int i = 0; i < shards->count; i++) {
        const char *key = NULL;
        json_t *value = NULL;
        json_object_foreach(shards->items[i].header, key, value)
        {
            if (!known_name(key, params, shape)) {
                return error_set(err, -EINVAL, "%s: tensor %.100s has no place in this model",
                                 shards->items[i].path, key);
            }
        }
    }
    return 0;
}

// open_checked opens a folder's files and holds them against the parameter table.
static int open_checked(struct shards *shards, const struct params *params,
                        const struct shape *shape, const char *dir, struct error *err)
{
    int code = shards_open(shards, dir, err);
    for (int i = 0; code == 0 && i < shards->count; i++) {
        code = check_ranges(&shards->items[i], err);
    }
    code = code < 0 ? code : check_names(shards, params, shape, err);
    for (int32_t i = 0; code == 0 && i < params->count; i++) {
        struct place place = place_of(&params->items[i], shape);
        struct stored t = {0};
        code = find_param(&t, &place, &params->items[i], shards, err);
    }
    return code;
}

int safetensors_check(const struct params *params, const struct shape *shape, const char *dir,
                      struct error *err)
{
    CLEANUP(shards_finishp) struct shards shards = {0};
    return open_checked(&shards, params, shape, dir, err);
}

int safetensors_read(float *weights, enum dtype *stored, const struct params *params,
                     const struct shape *shape, const char *dir, struct error *err)
{
    CLEANUP(shards_finishp) struct shards shards = {0};
    int code = open_checked(&shards, params, shape, dir, err);
    if (code < 0) {
        return code;
    }
    enum dtype widest = DTYPE_BF16;
    memset(weights, 0, params->elements * sizeof(*weights));
    for (int32_t i = 0; code == 0 && i < params->count; i++) {
        const struct param *param = &params->items[i];
        code = read_param(weights + param->offset, &widest, param, shape, &shards, err);
    }
    if (code == 0) {
        *stored = widest;
    }
    return code;
}

// entry_size is the bytes that a parameter takes in the file; the parts of c_attn are written
// together with q.
static int64_t file_elements(const struct param *param, const struct shape *shape)
{
    struct place place = place_of(param, shape);
    return place.from > 0 ? 0 : place.file_rows * param->shape[1];
}

static json_t *header_of(const struct params *params, const struct shape *shape, enum dtype type,
                         int64_t *data_size)
{
    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    json_int_t offset = 0;
    for (int32_t i = 0; i < params->count; i++) {
        const struct param *param = &params->items[i];
        json_int_t size = file_elements(param, shape) * (int64_t)dtype_size(type);
        if (size == 0) {
            continue;
        }
        struct place place = place_of(param, shape);
        json_int_t rows = place.transposed ? param->shape[1] : place.file_rows;
        json_int_t columns = place.transposed ? place.file_rows : param->shape[1];
        json_t *dims =
            param->rank == 1 ? json_pack("[I]", rows) : json_pack("[I,I]", rows, columns);
        json_t *entry =
            json_pack("{s:s, s:o, s:[I,I]}", "dtype", type == DTYPE_F32 ? "F32" : "BF16", "shape",
                      dims, "data_offsets", (json_int_t)offset, (json_int_t)(offset + size));
        CHECK(entry != NULL && json_object_set_new(header, place.name, entry) == 0);
        offset += size;
    }
    *data_size = offset;
    return header;
}

static void put(char *data, int64_t i, float value, enum dtype type)
{
    if (type == DTYPE_F32) {
        memcpy(data + i * 4, &value, sizeof(value));
    } else {
        uint16_t half = bf16_from_float(value);
        memcpy(data + i * 2, &half, sizeof(half));
    }
}

// put_param writes one parameter into its file tensor, which begins at `data`.
static void put_param(char *data, const float *weights, const struct param *param,
                      const struct shape *shape, enum dtype type)
{
    struct place place = place_of(param, shape);
    const int64_t columns = param->shape[1];
    for (int64_t r = 0; r < param->shape[0]; r++) {
        for (int64_t c = 0; c < columns; c++) {
            int64_t row = place.from + r;
            int64_t at = place.transposed ? c * place.file_rows + row : row * columns + c;
            put(data, at, weights[param->offset + (size_t)(r * columns + c)], type);
        }
    }
}

int safetensors_write(const char *path, const float *weights, const struct params *params,
                      const struct shape *shape, enum dtype type, struct error *err)
{
    int64_t data_size = 0;
    CLEANUP(json_decrefp) json_t *header = header_of(params, shape, type, &data_size);
    CLEANUP(freep) char *text = json_dumps(header, JSON_COMPACT);
    CHECK(text != NULL);
    size_t text_size = strlen(text);
    uint64_t length = (text_size + 7) / 8 * 8; // padded with spaces so that the data are aligned
    size_t size = sizeof(length) + length + (size_t)data_size;
    CLEANUP(freep) char *file = malloc(size);
    if (file == NULL) {
        return error_set(err, -ENOMEM, "cannot write %s: no memory for %zu bytes", path, size);
    }
    memset(file, ' ', sizeof(length) + length);
    memcpy(file, &length, sizeof(length));
    memcpy(file + sizeof(length), text, text_size); // NOLINT(bugprone-not-null-terminated-result)
    char *data = file + sizeof(length) + length;
    for (int32_t i = 0; i < params->count; i++) {
        const struct param *param = &params->items[i];
        const json_t *entry = json_object_get(header, place_of(param, shape).name);
        int64_t from =
            json_integer_value(json_array_get(json_object_get(entry, "data_offsets"), 0));
        put_param(data + from, weights, param, shape, type);
    }
    return file_write(path, file, size, err);
}
