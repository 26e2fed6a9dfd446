// bytes.h: a growing byte buffer, used on both sides of the sandbox wall.
//
// An allocation that fails marks the buffer as failed and later appends do nothing, so a writer
// checks once at the end. Numbers are little-endian: both sides are the same host.
#ifndef VERIFIER_BYTES_H
#define VERIFIER_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bytes {
    uint8_t *data;
    size_t size;
    size_t capacity;
    bool failed;
};

// bytes_append adds `size` bytes (NULL data is allowed when size is 0).
void bytes_append(struct bytes *bytes, const void *data, size_t size);
void bytes_append_u8(struct bytes *bytes, uint8_t value);
void bytes_append_u32(struct bytes *bytes, uint32_t value);

// bytes_reserve makes room for `size` more bytes; false when there is no memory.
bool bytes_reserve(struct bytes *bytes, size_t size);

// bytes_clear empties the buffer and keeps its memory; bytes_finish frees it.
void bytes_clear(struct bytes *bytes);
void bytes_finish(struct bytes *bytes);

// bytes_get_u32 reads a number at any address.
uint32_t bytes_get_u32(const uint8_t *data);

#endif
