#include "verifier/bytes.h"

#include <stdlib.h>
#include <string.h>

bool bytes_reserve(struct bytes *bytes, size_t size)
{
    if (bytes->failed || size > SIZE_MAX / 4 - bytes->size) {
        bytes->failed = true;
        return false;
    }
    size_t need = bytes->size + size;
    if (need <= bytes->capacity) {
        return true;
    }
    size_t capacity = bytes->capacity < 256 ? 256 : bytes->capacity;
    while (capacity < need) {
        capacity *= 2;
    }
    uint8_t *data = realloc(bytes->data, capacity);
    if (data == NULL) {
        bytes->failed = true;
        return false;
    }
    bytes->data = data;
    bytes->capacity = capacity;
    return true;
}

void bytes_append(struct bytes *bytes, const void *data, size_t size)
{
    if (size > 0 && bytes_reserve(bytes, size)) {
        memcpy(bytes->data + bytes->size, data, size);
        bytes->size += size;
    }
}

void bytes_append_u8(struct bytes *bytes, uint8_t value)
{
    bytes_append(bytes, &value, sizeof(value));
}

void bytes_append_u32(struct bytes *bytes, uint32_t value)
{
    bytes_append(bytes, &value, sizeof(value));
}

void bytes_clear(struct bytes *bytes)
{
    bytes->size = 0;
    bytes->failed = false;
}

void bytes_finish(struct bytes *bytes)
{
    free(bytes->data);
    *bytes = (struct bytes){0};
}

uint32_t bytes_get_u32(const uint8_t *data)
{
    uint32_t value = 0;
    memcpy(&value, data, sizeof(value));
    return value;
}
