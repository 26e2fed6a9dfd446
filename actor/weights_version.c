// weights_version.c: what can be done with a complete version: read it, write its files.
#include "actor/weights_version.h"

#include "common/base/check.h"
#include "common/base/file.h"
#include "common/wire/message.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int type_of(enum dtype *type, const Kelvin__WeightsManifest *manifest, struct error *err)
{
    const char *name = manifest->n_tensors > 0 ? manifest->tensors[0]->dtype : "";
    if (strcmp(name, "BF16") != 0 && strcmp(name, "F32") != 0) {
        return error_set(err, -EINVAL, "weights %llu have the type \"%s\"; BF16 and F32 are known",
                         (unsigned long long)manifest->version, name);
    }
    *type = strcmp(name, "BF16") == 0 ? DTYPE_BF16 : DTYPE_F32;
    return 0;
}

int weights_version_create(struct weights_version **out, uint8_t **blob,
                           const Kelvin__WeightsManifest *manifest, struct error *err)
{
    enum dtype type = DTYPE_F32;
    int code = type_of(&type, manifest, err);
    if (code < 0) {
        return code;
    }
    struct version_memory *memory = calloc(1, sizeof(*memory));
    uint8_t *bytes = malloc(manifest->size);
    if (memory == NULL || bytes == NULL) {
        free(memory);
        free(bytes);
        return error_set(err, -ENOMEM, "no memory for weights %llu (%llu MB)",
                         (unsigned long long)manifest->version,
                         (unsigned long long)manifest->size >> 20);
    }
    Kelvin__WeightsManifest *copy = message_copy(&manifest->base);
    memory->version = (struct weights_version){manifest->version, type, copy, bytes};
    memory->manifest = copy;
    memory->blob = bytes;
    memory->references = 1;
    *out = &memory->version;
    *blob = bytes;
    return 0;
}

static struct version_memory *memory_of(struct weights_version *version)
{
    return (struct version_memory *)(void *)version; // its first member
}

struct weights_version *weights_version_ref(struct weights_version *version)
{
    memory_of(version)->references++;
    return version;
}

void weights_version_unref(struct weights_version *version)
{
    if (version == NULL || --memory_of(version)->references > 0) {
        return;
    }
    struct version_memory *memory = memory_of(version);
    message_free(memory->manifest);
    free(memory->blob);
    free(memory);
}

static bool same_tensor(const Kelvin__WeightsTensor *tensor, const struct param *param,
                        enum dtype type)
{
    size_t element = dtype_size(type);
    bool same = strcmp(tensor->name, param->name) == 0 &&
                strcmp(tensor->dtype, type == DTYPE_BF16 ? "BF16" : "F32") == 0 &&
                tensor->offset == param->offset * element &&
                tensor->size == param->count * element && tensor->n_shape == (size_t)param->rank;
    for (size_t i = 0; same && i < tensor->n_shape; i++) {
        same = tensor->shape[i] == (uint64_t)param->shape[i];
    }
    return same;
}

int weights_version_read(float *weights, const struct weights_version *version,
                         const struct params *params, struct error *err)
{
    const Kelvin__WeightsManifest *manifest = version->manifest;
    if (manifest->n_tensors != (size_t)params->count) {
        return error_set(err, -EINVAL, "weights %llu have %zu tensors and the model has %d",
                         (unsigned long long)version->version, manifest->n_tensors, params->count);
    }
    for (size_t i = 0; i < manifest->n_tensors; i++) {
        if (!same_tensor(manifest->tensors[i], &params->items[i], version->type)) {
            return error_set(err, -EINVAL, "weights %llu: tensor %.100s is not that of the model",
                             (unsigned long long)version->version, manifest->tensors[i]->name);
        }
    }
    if (params->elements * dtype_size(version->type) > manifest->size) {
        return error_set(err, -EINVAL, "weights %llu are shorter than the model",
                         (unsigned long long)version->version);
    }
    if (version->type == DTYPE_F32) {
        memcpy(weights, version->blob, params->elements * sizeof(float));
        return 0;
    }
    const uint16_t *bits = (const uint16_t *)(const void *)version->blob;
    for (size_t i = 0; i < params->elements; i++) {
        weights[i] = bf16_to_float(bits[i]);
    }
    return 0;
}

int weights_version_save_files(const struct weights_version *version, const char *dir,
                               struct error *err)
{
    const Kelvin__WeightsManifest *manifest = version->manifest;
    int code = 0;
    for (size_t i = 0; code == 0 && i < manifest->n_files; i++) {
        const Kelvin__WeightsFile *file = manifest->files[i];
        char path[4096];
        int length = snprintf(path, sizeof(path), "%s/%s", dir, file->name);
        if (length < 0 || (size_t)length >= sizeof(path)) {
            return error_set(err, -ENAMETOOLONG, "folder %.100s: the name is too long", dir);
        }
        code = file_write(path, version->blob + file->offset, file->size, err);
    }
    return code;
}
