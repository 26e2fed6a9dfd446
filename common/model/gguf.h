// gguf.h: the container of GGUF files: typed metadata by key, and tensors by name.
//
// A file is checked whole when it is opened: every key, array, string, tensor name, shape, type and
// offset lies within the file and within the bounds of limits.h, and no two tensors overlap. After
// that all pointers are into the file and live until gguf_close. What the numbers of a tensor mean
// is gguf_blocks.h's business. Source: the GGUF specification, versions 2 and 3, little-endian.
#ifndef COMMON_MODEL_GGUF_H
#define COMMON_MODEL_GGUF_H

#include "common/base/error.h"
#include "common/model/gguf_blocks.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPES,
};

// struct gguf_text is not NUL-terminated and may hold any bytes.
struct gguf_text {
    const char *bytes;
    size_t size;
};

struct gguf_value {
    enum gguf_type type; // of the value, or of an array's items
    bool array;
    uint64_t count;   // items; 1 when no array
    const char *data; // `count` items one after another
    size_t size;      // bytes of data
};

struct gguf_tensor {
    struct gguf_text name;
    const struct gguf_format *format;
    int rank;
    int64_t shape[4]; // as in PyTorch: the last dimension is contiguous
    int64_t count;    // elements
    const char *data; // of `size` bytes
    size_t size;
};

struct gguf;

int gguf_open(struct gguf **out, const char *path, struct error *err);
// gguf_parse does the same from memory, which must outlive the result; `what` names the source.
int gguf_parse(struct gguf **out, const void *bytes, size_t size, const char *what,
               struct error *err);
void gguf_close(struct gguf *gguf);

const char *gguf_name(const struct gguf *gguf); // the path, or `what`

// gguf_find is the value of `key`, or NULL.
const struct gguf_value *gguf_find(const struct gguf *gguf, const char *key);

// gguf_get_* read a single value. A missing key leaves *out untouched and is no error; one of the
// wrong type or out of range is -EINVAL.
int gguf_get_int(const struct gguf *gguf, int64_t *out, const char *key, int64_t min, int64_t max,
                 struct error *err);
int gguf_get_real(const struct gguf *gguf, double *out, const char *key, struct error *err);
int gguf_get_bool(const struct gguf *gguf, bool *out, const char *key, struct error *err);
int gguf_get_text(const struct gguf *gguf, struct gguf_text *out, const char *key,
                  struct error *err);

// gguf_int is item `index` of a value of whole numbers; false when it is none or does not fit.
bool gguf_int(int64_t *out, const struct gguf_value *value, uint64_t index);

// gguf_next_text reads the strings of an array one after another; *cursor begins at 0. False behind
// the last.
bool gguf_next_text(struct gguf_text *out, const struct gguf_value *value, size_t *cursor);

// gguf_tensor_find is the tensor `name`, or NULL. Tensors are also numbered, 0 .. count-1.
const struct gguf_tensor *gguf_tensor_find(const struct gguf *gguf, const char *name);
int gguf_tensor_count(const struct gguf *gguf);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *gguf, int index);

#endif
