// Canonical forms. Numbers shrink to the narrowest kind that holds them (bool → int, whole float →
// int, real complex → float); members of sets and entries of dicts are canonicalized one by one and
// sorted as bytes. Python builds a dict or set by equality, so equal keys collapse here too, the
// last value winning; a key that contains NaN equals no other and stays.
#include "verifier/value.h"

#include "common/base/cleanup.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    const uint8_t *at;
    const uint8_t *end;
    int depth;
    size_t nodes;
    bool nan; // a NaN was met since the caller last cleared this
};

static bool take(struct reader *reader, void *out, size_t size)
{
    if ((size_t)(reader->end - reader->at) < size) {
        return false;
    }
    memcpy(out, reader->at, size);
    reader->at += size;
    return true;
}

// A sized run of bytes; a view into the input.
static bool take_run(struct reader *reader, const uint8_t **data, uint32_t *size)
{
    if (!take(reader, size, sizeof(*size)) || (size_t)(reader->end - reader->at) < *size) {
        return false;
    }
    *data = reader->at;
    reader->at += *size;
    return true;
}

// The magnitude is little-endian and may have leading zeros at its end.
static void put_int(struct bytes *out, bool negative, const uint8_t *magnitude, size_t size)
{
    while (size > 0 && magnitude[size - 1] == 0) {
        size--;
    }
    bytes_append_u8(out, 'i');
    bytes_append_u8(out, negative && size > 0);
    bytes_append_u32(out, (uint32_t)size);
    bytes_append(out, magnitude, size);
}

static void put_int64(struct bytes *out, int64_t value)
{
    uint64_t magnitude = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    put_int(out, value < 0, (const uint8_t *)&magnitude, sizeof(magnitude));
}

static bool put_big_int(struct bytes *out, const uint8_t *data, uint32_t size)
{
    bool negative = size > 0 && (data[size - 1] & 0x80) != 0;
    if (!negative) {
        put_int(out, false, data, size);
        return true;
    }
    uint8_t *magnitude = malloc(size);
    if (magnitude == NULL) {
        return false;
    }
    unsigned carry = 1;
    for (uint32_t i = 0; i < size; i++) {
        unsigned digit = (unsigned)(uint8_t)~data[i] + carry;
        magnitude[i] = (uint8_t)digit;
        carry = digit >> 8;
    }
    put_int(out, true, magnitude, size);
    free(magnitude);
    return true;
}

// A whole double is at most 1024 bits wide: 53 bits of mantissa, shifted.
static void put_whole(struct bytes *out, double value)
{
    uint8_t magnitude[136] = {0};
    int exponent = 0;
    double fraction = frexp(fabs(value), &exponent); // in [0.5, 1)
    uint64_t mantissa = (uint64_t)ldexp(fraction, 53);
    int shift = exponent - 53;
    if (shift < 0) {
        mantissa >>= -shift; // the value is whole: only zeros leave
        shift = 0;
    }
    for (int bit = 0; bit < 64; bit++) {
        if ((mantissa >> bit & 1) != 0) {
            magnitude[(bit + shift) / 8] |= (uint8_t)(1u << ((bit + shift) % 8));
        }
    }
    put_int(out, value < 0, magnitude, sizeof(magnitude));
}

static void put_float(struct reader *reader, struct bytes *out, double value)
{
    if (isnan(value)) {
        reader->nan = true;
        bytes_append_u8(out, 'n');
    } else if (isfinite(value) && value == trunc(value)) {
        put_whole(out, value);
    } else {
        bytes_append_u8(out, 'd');
        bytes_append(out, &value, sizeof(value));
    }
}

static bool put_complex(struct reader *reader, struct bytes *out)
{
    double part[2];
    if (!take(reader, part, sizeof(part))) {
        return false;
    }
    if (part[1] != 0 || isnan(part[1])) {
        bytes_append_u8(out, 'c');
        put_float(reader, out, part[0]);
        put_float(reader, out, part[1]);
    } else {
        put_float(reader, out, part[0]);
    }
    return true;
}

// Ranges are equal when they yield the same numbers: by length, then start, then step.
static bool put_range(struct reader *reader, struct bytes *out)
{
    int64_t part[3];
    if (!take(reader, part, sizeof(part)) || part[2] == 0) {
        return false;
    }
    __int128 distance = (__int128)part[1] - part[0];
    __int128 step = part[2];
    if (step < 0) {
        distance = -distance;
        step = -step;
    }
    __int128 length = distance > 0 ? (distance + step - 1) / step : 0;
    bytes_append_u8(out, 'R');
    bytes_append(out, &length, sizeof(length));
    if (length > 0) {
        bytes_append(out, &part[0], sizeof(part[0]));
    }
    if (length > 1) {
        bytes_append(out, &part[2], sizeof(part[2]));
    }
    return true;
}

static bool put_text(struct reader *reader, struct bytes *out, uint8_t tag)
{
    const uint8_t *data = NULL;
    uint32_t size = 0;
    if (!take_run(reader, &data, &size)) {
        return false;
    }
    bytes_append_u8(out, tag);
    bytes_append_u32(out, size);
    bytes_append(out, data, size);
    return true;
}

static bool put_value(struct reader *reader, struct bytes *out);

static bool put_sequence(struct reader *reader, struct bytes *out, uint8_t tag)
{
    uint32_t count = 0;
    if (!take(reader, &count, sizeof(count))) {
        return false;
    }
    bytes_append_u8(out, tag);
    bytes_append_u32(out, count);
    for (uint32_t i = 0; i < count; i++) {
        if (!put_value(reader, out)) {
            return false;
        }
    }
    return true;
}

// One member of a set, or one entry of a dict, inside the scratch buffer.
struct member {
    const struct bytes *scratch;
    size_t key;   // offset; ends where `value` begins
    size_t value; // offset; ends at `end`
    size_t end;
    uint32_t order; // as written
    bool nan;       // the key contains NaN
};

static int compare_keys(const struct member *a, const struct member *b)
{
    size_t a_size = a->value - a->key;
    size_t b_size = b->value - b->key;
    size_t least = a_size < b_size ? a_size : b_size;
    int order = memcmp(a->scratch->data + a->key, b->scratch->data + b->key, least);
    return order != 0 ? order : (a_size > b_size) - (a_size < b_size);
}

static int compare_members(const void *left, const void *right)
{
    const struct member *a = left;
    const struct member *b = right;
    int order = compare_keys(a, b);
    if (order == 0 && a->nan) { // equal keys that Python keeps apart: any fixed order of values
        size_t a_size = a->end - a->value;
        size_t b_size = b->end - b->value;
        size_t least = a_size < b_size ? a_size : b_size;
        order = memcmp(a->scratch->data + a->value, b->scratch->data + b->value, least);
        order = order != 0 ? order : (a_size > b_size) - (a_size < b_size);
    }
    return order != 0 ? order : (a->order > b->order) - (a->order < b->order);
}

static bool read_members(struct reader *reader, struct bytes *scratch, struct member *members,
                         uint32_t count, bool has_values)
{
    bool nan_outside = reader->nan;
    for (uint32_t i = 0; i < count; i++) {
        struct member *member = &members[i];
        *member = (struct member){.scratch = scratch, .key = scratch->size, .order = i};
        reader->nan = false;
        if (!put_value(reader, scratch)) {
            return false;
        }
        member->nan = reader->nan;
        nan_outside = nan_outside || reader->nan;
        member->value = scratch->size;
        if (has_values && !put_value(reader, scratch)) {
            return false;
        }
        nan_outside = nan_outside || reader->nan;
        member->end = scratch->size;
    }
    reader->nan = nan_outside;
    return !scratch->failed;
}

static void put_members(struct bytes *out, uint8_t tag, const struct member *members,
                        uint32_t count)
{
    bytes_append_u8(out, tag);
    size_t count_at = out->size;
    uint32_t kept = 0;
    bytes_append_u32(out, 0);
    for (uint32_t i = 0; i < count; i++) {
        bool repeated =
            i + 1 < count && !members[i].nan && compare_keys(&members[i], &members[i + 1]) == 0;
        if (!repeated) { // the last of equal keys stays: its value wins
            bytes_append(out, members[i].scratch->data + members[i].key,
                         members[i].end - members[i].key);
            kept++;
        }
    }
    if (!out->failed) {
        memcpy(out->data + count_at, &kept, sizeof(kept));
    }
}

static bool put_unordered(struct reader *reader, struct bytes *out, uint8_t tag, bool has_values)
{
    uint32_t count = 0;
    if (!take(reader, &count, sizeof(count)) || count > VALUE_NODES_MAX ||
        count > (size_t)(reader->end - reader->at)) {
        return false; // a member takes at least one byte
    }
    CLEANUP(bytes_finish) struct bytes scratch = {0};
    CLEANUP(freep) struct member *members = calloc((size_t)count + 1, sizeof(*members));
    if (members == NULL || !read_members(reader, &scratch, members, count, has_values)) {
        return false;
    }
    qsort(members, count, sizeof(*members), compare_members);
    put_members(out, tag, members, count);
    return true;
}

static bool put_number(struct reader *reader, struct bytes *out, uint8_t tag)
{
    const uint8_t *data = NULL;
    uint32_t size = 0;
    int64_t small = 0;
    double real = 0;
    switch (tag) {
    case VALUE_INT:
        if (!take(reader, &small, sizeof(small))) {
            return false;
        }
        put_int64(out, small);
        return true;
    case VALUE_BIG_INT:
        return take_run(reader, &data, &size) && put_big_int(out, data, size);
    case VALUE_FLOAT:
        if (!take(reader, &real, sizeof(real))) {
            return false;
        }
        put_float(reader, out, real);
        return true;
    default:
        return put_complex(reader, out);
    }
}

static bool put_container(struct reader *reader, struct bytes *out, uint8_t tag)
{
    if (reader->depth == VALUE_DEPTH_MAX) {
        return false;
    }
    reader->depth++;
    bool good = false;
    if (tag == VALUE_TUPLE || tag == VALUE_LIST) {
        good = put_sequence(reader, out, tag);
    } else if (tag == VALUE_DICT) {
        good = put_unordered(reader, out, VALUE_DICT, true);
    } else {
        good = put_unordered(reader, out, VALUE_SET, false); // set == frozenset
    }
    reader->depth--;
    return good;
}

static bool put_value(struct reader *reader, struct bytes *out)
{
    uint8_t tag = 0;
    if (!take(reader, &tag, sizeof(tag)) || ++reader->nodes > VALUE_NODES_MAX) {
        return false;
    }
    switch (tag) {
    case VALUE_NONE:
    case VALUE_ELLIPSIS:
        bytes_append_u8(out, tag);
        return true;
    case VALUE_TRUE:
    case VALUE_FALSE:
        put_int64(out, tag == VALUE_TRUE);
        return true;
    case VALUE_INT:
    case VALUE_BIG_INT:
    case VALUE_FLOAT:
    case VALUE_COMPLEX:
        return put_number(reader, out, tag);
    case VALUE_STRING:
        return put_text(reader, out, VALUE_STRING);
    case VALUE_BYTES:
    case VALUE_BYTE_ARRAY:
        return put_text(reader, out, VALUE_BYTES); // b'' == bytearray()
    case VALUE_TUPLE:
    case VALUE_LIST:
    case VALUE_DICT:
    case VALUE_SET:
    case VALUE_FROZEN_SET:
        return put_container(reader, out, tag);
    case VALUE_RANGE:
        return put_range(reader, out);
    default:
        return false;
    }
}

int value_canonical(struct bytes *out, const uint8_t *typed, size_t size, struct error *err)
{
    struct reader reader = {.at = typed, .end = typed + size};
    size_t before = out->size;
    bool good = size <= VALUE_BYTES_MAX && put_value(&reader, out) && reader.at == reader.end;
    if (!good || out->failed) {
        out->size = before;
        return out->failed ? error_set(err, -ENOMEM, "value: out of memory")
                           : error_set(err, -EBADMSG, "value: malformed bytes");
    }
    return 0;
}

bool value_equal(const struct bytes *a, const struct bytes *b)
{
    CLEANUP(bytes_finish) struct bytes left = {0};
    CLEANUP(bytes_finish) struct bytes right = {0};
    if (value_canonical(&left, a->data, a->size, NULL) < 0 ||
        value_canonical(&right, b->data, b->size, NULL) < 0) {
        return false;
    }
    return left.size == right.size &&
           (left.size == 0 || memcmp(left.data, right.data, left.size) == 0);
}

size_t value_span(const uint8_t *typed, size_t size)
{
    CLEANUP(bytes_finish) struct bytes scratch = {0};
    struct reader reader = {.at = typed, .end = typed + size};
    return put_value(&reader, &scratch) ? (size_t)(reader.at - typed) : 0;
}
