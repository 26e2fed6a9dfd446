#include "common/wire/delta.h"

#include "common/base/check.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

enum { GAP_BYTES_MAX = 5 }; // of a gap below 2^35

static bool equal(const uint8_t *a, const uint8_t *b, size_t element)
{
    return element == 2 ? memcmp(a, b, 2) == 0 : memcmp(a, b, 4) == 0;
}

// next_change is the index of the first element from `from` on that differs, or `count`. Equal runs
// are long, so they are skipped 64 bytes at a time.
static size_t next_change(const uint8_t *base, const uint8_t *next, size_t from, size_t count,
                          size_t element)
{
    size_t step = 64 / element;
    while (from + step <= count && memcmp(base + from * element, next + from * element, 64) == 0) {
        from += step;
    }
    while (from < count && equal(base + from * element, next + from * element, element)) {
        from++;
    }
    return from;
}

int delta_encode(uint8_t *out, size_t *out_size, size_t out_max, const uint8_t *base,
                 const uint8_t *next, size_t size, size_t element)
{
    CHECK(element == 2 || element == DELTA_ELEMENT_MAX);
    size_t count = size / element;
    size_t tail = count * element;
    if (memcmp(base + tail, next + tail, size - tail) != 0) {
        return -E2BIG;
    }
    size_t used = 0;
    size_t at = 0;
    size_t changed = next_change(base, next, 0, count, element);
    while (changed < count) {
        if (out_max - used < GAP_BYTES_MAX + element) {
            return -E2BIG;
        }
        size_t gap = changed - at;
        for (; gap >= 0x80; gap >>= 7) {
            out[used++] = (uint8_t)(gap | 0x80);
        }
        out[used++] = (uint8_t)gap;
        memcpy(out + used, next + changed * element, element);
        used += element;
        at = changed + 1;
        changed = next_change(base, next, at, count, element);
    }
    *out_size = used;
    return 0;
}

int delta_apply(uint8_t *array, size_t size, size_t element, const uint8_t *delta,
                size_t delta_size)
{
    CHECK(element == 2 || element == DELTA_ELEMENT_MAX);
    const uint8_t *end = delta + delta_size;
    size_t left = size / element; // elements from the current place on
    while (delta < end) {
        uint64_t gap = 0;
        int shift = 0;
        do {
            if (delta == end || shift == 7 * GAP_BYTES_MAX) {
                return -EBADMSG;
            }
            gap |= (uint64_t)(*delta & 0x7F) << shift;
            shift += 7;
        } while ((*delta++ & 0x80) != 0);
        if (gap >= left || (size_t)(end - delta) < element) {
            return -EBADMSG;
        }
        array += gap * element;
        memcpy(array, delta, element);
        array += element;
        delta += element;
        left -= gap + 1;
    }
    return 0;
}
