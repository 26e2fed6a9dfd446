// A file is: "GGUF", version, number of tensors, number of keys; the keys (name, type, value); the
// tensors (name, dimensions, format, offset); then, aligned, the data.
#include "common/model/gguf.h"

#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/limits.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const int64_t elements_max = (int64_t)1 << 40; // of one tensor

struct key {
    struct gguf_text name;
    struct gguf_value value;
};

struct gguf {
    struct file_map map; // empty when parsed from memory
    char name[4096];
    struct key *keys;
    int key_count;
    struct gguf_tensor *tensors;
    int tensor_count;
};

static const size_t type_bytes[GGUF_TYPES] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
    [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8};

// struct reader walks through the file; what it takes lies within.
struct reader {
    const char *name;
    const char *at;
    size_t left;
    struct error *err;
};

static int cut_short(const struct reader *reader, const char *part)
{
    return error_set(reader->err, -EINVAL, "%s: %s: the file is cut short or damaged", reader->name,
                     part);
}

static const char *take(struct reader *reader, size_t size)
{
    if (size > reader->left) {
        return NULL;
    }
    const char *from = reader->at;
    reader->at += size;
    reader->left -= size;
    return from;
}

static bool take_u32(struct reader *reader, uint32_t *out)
{
    const char *from = take(reader, sizeof(*out));
    if (from != NULL) {
        memcpy(out, from, sizeof(*out));
    }
    return from != NULL;
}

static bool take_u64(struct reader *reader, uint64_t *out)
{
    const char *from = take(reader, sizeof(*out));
    if (from != NULL) {
        memcpy(out, from, sizeof(*out));
    }
    return from != NULL;
}

static bool take_text(struct reader *reader, struct gguf_text *out)
{
    uint64_t size = 0;
    if (!take_u64(reader, &size)) {
        return false;
    }
    *out = (struct gguf_text){.bytes = take(reader, size), .size = size};
    return out->bytes != NULL;
}

// --- keys

static bool take_items(struct reader *reader, const struct gguf_value *value)
{
    if (value->type != GGUF_STRING) {
        size_t bytes = type_bytes[value->type];
        return bytes > 0 && value->count <= reader->left / bytes &&
               take(reader, value->count * bytes) != NULL;
    }
    struct gguf_text text;
    for (uint64_t i = 0; i < value->count; i++) {
        if (!take_text(reader, &text)) { // each takes 8 bytes at least, so this ends
            return false;
        }
    }
    return true;
}

static int read_key(struct reader *reader, struct key *key)
{
    uint32_t type = 0;
    if (!take_text(reader, &key->name) || !take_u32(reader, &type)) {
        return cut_short(reader, "its keys");
    }
    key->value.count = 1;
    key->value.array = type == GGUF_ARRAY;
    char part[80];
    (void)snprintf(part, sizeof(part), "key %.*s", (int)(key->name.size < 60 ? key->name.size : 60),
                   key->name.bytes);
    if (key->value.array && (!take_u32(reader, &type) || !take_u64(reader, &key->value.count))) {
        return cut_short(reader, part);
    }
    if (type >= GGUF_TYPES || type == GGUF_ARRAY) {
        return error_set(reader->err, -EINVAL, "%s: %s: type %u is not known here", reader->name,
                         part, type);
    }
    key->value.type = (enum gguf_type)type;
    key->value.data = reader->at;
    if (!take_items(reader, &key->value)) {
        return cut_short(reader, part);
    }
    key->value.size = (size_t)(reader->at - key->value.data);
    return 0;
}

static int read_keys(struct reader *reader, struct gguf *gguf, uint64_t count)
{
    gguf->keys = calloc(count + 1, sizeof(*gguf->keys));
    if (gguf->keys == NULL) {
        return error_set(reader->err, -ENOMEM, "%s: out of memory", reader->name);
    }
    int code = 0;
    while (code == 0 && (uint64_t)gguf->key_count < count) {
        code = read_key(reader, &gguf->keys[gguf->key_count]);
        gguf->key_count += code == 0;
    }
    return code;
}

// --- tensors

static int bad_tensor(const struct reader *reader, const struct gguf_tensor *tensor,
                      const char *problem)
{
    int shown = (int)(tensor->name.size < 80 ? tensor->name.size : 80);
    return error_set(reader->err, -EINVAL, "%s: tensor %.*s: %s", reader->name, shown,
                     tensor->name.bytes, problem);
}

static int read_shape(struct reader *reader, struct gguf_tensor *tensor)
{
    uint32_t rank = 0;
    if (!take_text(reader, &tensor->name) || !take_u32(reader, &rank)) {
        return cut_short(reader, "its tensors");
    }
    if (rank < 1 || rank > 4) {
        return bad_tensor(reader, tensor, "it does not have 1 to 4 dimensions");
    }
    tensor->rank = (int)rank;
    tensor->count = 1;
    for (int i = tensor->rank - 1; i >= 0; i--) { // files name the contiguous dimension first
        uint64_t size = 0;
        if (!take_u64(reader, &size)) {
            return cut_short(reader, "its tensors");
        }
        if (size < 1 || size > INT32_MAX || tensor->count > elements_max / (int64_t)size) {
            return bad_tensor(reader, tensor, "its shape is not one of a model's weights");
        }
        tensor->shape[i] = (int64_t)size;
        tensor->count *= (int64_t)size;
    }
    return 0;
}

// read_tensor leaves the offset in `offset`; the data's place is known once all are read.
static int read_tensor(struct reader *reader, struct gguf_tensor *tensor, uint64_t *offset)
{
    int code = read_shape(reader, tensor);
    uint32_t number = 0;
    if (code == 0 && (!take_u32(reader, &number) || !take_u64(reader, offset))) {
        return cut_short(reader, "its tensors");
    }
    if (code < 0) {
        return code;
    }
    tensor->format = gguf_format_of(number);
    if (tensor->format == NULL) {
        char problem[160];
        (void)snprintf(problem, sizeof(problem),
                       "its format is %s (%u); Kelvin reads F32, F16, BF16, Q8_0, Q4_0, Q4_1, "
                       "Q5_0, Q5_1, Q4_K, Q5_K, Q6_K",
                       gguf_format_name(number), number);
        return bad_tensor(reader, tensor, problem);
    }
    if (tensor->shape[tensor->rank - 1] % tensor->format->elements != 0) {
        return bad_tensor(reader, tensor, "its rows are not whole blocks of its format");
    }
    tensor->size =
        (size_t)(tensor->count / tensor->format->elements) * (size_t)tensor->format->bytes;
    return 0;
}

// struct span is a tensor's data, for sorting.
struct span {
    const char *from, *to;
    const struct gguf_tensor *tensor;
};

static int by_place(const void *a, const void *b)
{
    const struct span *left = a, *right = b;
    return left->from < right->from ? -1 : left->from > right->from;
}

static int check_overlap(const struct reader *reader, const struct gguf *gguf)
{
    size_t count = (size_t)gguf->tensor_count;
    CLEANUP(freep) struct span *spans = calloc(count + 1, sizeof(*spans));
    if (spans == NULL) {
        return error_set(reader->err, -ENOMEM, "%s: out of memory", reader->name);
    }
    for (size_t i = 0; i < count; i++) {
        const struct gguf_tensor *tensor = &gguf->tensors[i];
        spans[i] = (struct span){tensor->data, tensor->data + tensor->size, tensor};
    }
    qsort(spans, count, sizeof(*spans), by_place);
    for (size_t i = 1; i < count; i++) {
        if (spans[i - 1].to > spans[i].from) {
            return bad_tensor(reader, spans[i].tensor, "its data overlap another tensor's");
        }
    }
    return 0;
}

static int place_tensors(struct reader *reader, struct gguf *gguf, const uint64_t *offsets,
                         size_t position)
{
    int64_t alignment = 32;
    int code = gguf_get_int(gguf, &alignment, "general.alignment", 1, 1 << 20, reader->err);
    size_t padding = position % (size_t)alignment;
    padding = padding == 0 ? 0 : (size_t)alignment - padding;
    if (code == 0 && gguf->tensor_count > 0 && take(reader, padding) == NULL) {
        return cut_short(reader, "its data");
    }
    for (int i = 0; code == 0 && i < gguf->tensor_count; i++) {
        struct gguf_tensor *tensor = &gguf->tensors[i];
        if (offsets[i] % (uint64_t)alignment != 0) {
            code = bad_tensor(reader, tensor, "its data are not aligned");
        } else if (offsets[i] > reader->left || tensor->size > reader->left - offsets[i]) {
            code =
                bad_tensor(reader, tensor, "its data lie outside the file, which may be cut short");
        } else {
            tensor->data = reader->at + offsets[i];
        }
    }
    return code < 0 ? code : check_overlap(reader, gguf);
}

static int read_tensors(struct reader *reader, struct gguf *gguf, uint64_t count, size_t size)
{
    CLEANUP(freep) uint64_t *offsets = calloc(count + 1, sizeof(*offsets));
    gguf->tensors = calloc(count + 1, sizeof(*gguf->tensors));
    if (gguf->tensors == NULL || offsets == NULL) {
        return error_set(reader->err, -ENOMEM, "%s: out of memory", reader->name);
    }
    int code = 0;
    while (code == 0 && (uint64_t)gguf->tensor_count < count) {
        code =
            read_tensor(reader, &gguf->tensors[gguf->tensor_count], &offsets[gguf->tensor_count]);
        gguf->tensor_count += code == 0;
    }
    return code < 0 ? code : place_tensors(reader, gguf, offsets, size - reader->left);
}

// --- the file

static int read_file(struct gguf *gguf, const void *bytes, size_t size, struct error *err)
{
    struct reader reader = {.name = gguf->name, .at = bytes, .left = size, .err = err};
    uint32_t version = 0;
    uint64_t tensors = 0, keys = 0;
    const char *magic = take(&reader, 4);
    if (magic == NULL || memcmp(magic, "GGUF", 4) != 0) {
        return error_set(err, -EINVAL, "%s: not a GGUF file", gguf->name);
    }
    if (!take_u32(&reader, &version) || !take_u64(&reader, &tensors) || !take_u64(&reader, &keys)) {
        return cut_short(&reader, "its head");
    }
    if (version != 2 && version != 3) {
        return error_set(err, -EINVAL, "%s: GGUF version %u; Kelvin reads 2 and 3, little-endian",
                         gguf->name, version);
    }
    if (tensors > GGUF_TENSORS_MAX || keys > GGUF_KEYS_MAX) {
        return error_set(err, -EINVAL, "%s: more than %d tensors or %d keys", gguf->name,
                         GGUF_TENSORS_MAX, GGUF_KEYS_MAX);
    }
    int code = read_keys(&reader, gguf, keys);
    return code < 0 ? code : read_tensors(&reader, gguf, tensors, size);
}

CLEANUP_FUNCTION(struct gguf, gguf_close)

int gguf_parse(struct gguf **out, const void *bytes, size_t size, const char *what,
               struct error *err)
{
    CLEANUP(gguf_closep) struct gguf *gguf = calloc(1, sizeof(*gguf));
    if (gguf == NULL) {
        return error_set(err, -ENOMEM, "%s: out of memory", what);
    }
    (void)snprintf(gguf->name, sizeof(gguf->name), "%s", what);
    int code = read_file(gguf, bytes, size, err);
    if (code == 0) {
        *out = TAKE(gguf);
    }
    return code;
}

int gguf_open(struct gguf **out, const char *path, struct error *err)
{
    struct file_map map = {0};
    int code = file_map(&map, path, err);
    if (code < 0) {
        return code;
    }
    code = gguf_parse(out, map.data, map.size, path, err);
    if (code < 0) {
        file_unmap(&map);
        return code;
    }
    (*out)->map = map;
    return 0;
}

void gguf_close(struct gguf *gguf)
{
    if (gguf != NULL) {
        file_unmap(&gguf->map);
        free(gguf->keys);
        free(gguf->tensors);
        free(gguf);
    }
}

// --- looking things up

const char *gguf_name(const struct gguf *gguf)
{
    return gguf->name;
}

static bool is_text(struct gguf_text text, const char *wanted)
{
    return text.size == strlen(wanted) && memcmp(text.bytes, wanted, text.size) == 0;
}

const struct gguf_value *gguf_find(const struct gguf *gguf, const char *key)
{
    for (int i = 0; i < gguf->key_count; i++) {
        if (is_text(gguf->keys[i].name, key)) {
            return &gguf->keys[i].value;
        }
    }
    return NULL;
}

bool gguf_int(int64_t *out, const struct gguf_value *value, uint64_t index)
{
    size_t bytes = type_bytes[value->type];
    bool whole = value->type <= GGUF_I32 || value->type == GGUF_U64 || value->type == GGUF_I64;
    if (!whole || index >= value->count) {
        return false;
    }
    uint64_t raw = 0;
    memcpy(&raw, value->data + index * bytes, bytes);
    bool is_signed = value->type == GGUF_I8 || value->type == GGUF_I16 || value->type == GGUF_I32 ||
                     value->type == GGUF_I64;
    if (is_signed && bytes < sizeof(raw) && (raw >> (8 * bytes - 1) & 1) != 0) {
        raw |= UINT64_MAX << (8 * bytes);
    }
    if (!is_signed && raw > INT64_MAX) {
        return false;
    }
    *out = (int64_t)raw;
    return true;
}

int gguf_get_int(const struct gguf *gguf, int64_t *out, const char *key, int64_t min, int64_t max,
                 struct error *err)
{
    const struct gguf_value *value = gguf_find(gguf, key);
    int64_t number = 0;
    if (value == NULL) {
        return 0;
    }
    if (value->array || !gguf_int(&number, value, 0) || number < min || number > max) {
        return error_set(err, -EINVAL, "%s: key %s must be a whole number from %lld to %lld",
                         gguf->name, key, (long long)min, (long long)max);
    }
    *out = number;
    return 0;
}

int gguf_get_real(const struct gguf *gguf, double *out, const char *key, struct error *err)
{
    const struct gguf_value *value = gguf_find(gguf, key);
    if (value == NULL) {
        return 0;
    }
    if (!value->array && value->type == GGUF_F32) {
        float number = 0;
        memcpy(&number, value->data, sizeof(number));
        *out = (double)number;
        return 0;
    }
    if (!value->array && value->type == GGUF_F64) {
        memcpy(out, value->data, sizeof(*out));
        return 0;
    }
    return error_set(err, -EINVAL, "%s: key %s is not a real number", gguf->name, key);
}

int gguf_get_bool(const struct gguf *gguf, bool *out, const char *key, struct error *err)
{
    const struct gguf_value *value = gguf_find(gguf, key);
    if (value == NULL) {
        return 0;
    }
    if (value->array || value->type != GGUF_BOOL) {
        return error_set(err, -EINVAL, "%s: key %s is not true or false", gguf->name, key);
    }
    *out = value->data[0] != 0;
    return 0;
}

bool gguf_next_text(struct gguf_text *out, const struct gguf_value *value, size_t *cursor)
{
    if (value->type != GGUF_STRING || *cursor >= value->size) {
        return false;
    }
    uint64_t size = 0; // within data, as was checked when the file was opened
    memcpy(&size, value->data + *cursor, sizeof(size));
    *out = (struct gguf_text){.bytes = value->data + *cursor + sizeof(size), .size = size};
    *cursor += sizeof(size) + size;
    return true;
}

int gguf_get_text(const struct gguf *gguf, struct gguf_text *out, const char *key,
                  struct error *err)
{
    const struct gguf_value *value = gguf_find(gguf, key);
    size_t cursor = 0;
    if (value == NULL) {
        return 0;
    }
    return !value->array && gguf_next_text(out, value, &cursor)
               ? 0
               : error_set(err, -EINVAL, "%s: key %s is not a string", gguf->name, key);
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *gguf, const char *name)
{
    for (int i = 0; i < gguf->tensor_count; i++) {
        if (is_text(gguf->tensors[i].name, name)) {
            return &gguf->tensors[i];
        }
    }
    return NULL;
}

int gguf_tensor_count(const struct gguf *gguf)
{
    return gguf->tensor_count;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *gguf, int index)
{
    return &gguf->tensors[index];
}
