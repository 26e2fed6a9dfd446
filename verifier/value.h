// value.h: Python values as bytes, without Python.
//
// A value has two byte forms:
//  - *typed*: what travels between daemon and image. It keeps the exact built-in type, the order of
//    dicts and sets, and the sign of zero, so that an argument arrives as it was written.
//  - *canonical*: equal bytes exactly when the values are equal by Kelvin's rule: Python's numeric
//    equality (1 == 1.0 == True, -0.0 == 0.0), NaN equals itself, order counts in tuples, lists and
//    ranges only. It is what verdicts compare.
// Literal text becomes the typed form in literal.h; an image writes it in runtime.c. Both are
// foreign bytes: reading them is bounded in depth, nodes and size, and never trusts a count.
#ifndef VERIFIER_VALUE_H
#define VERIFIER_VALUE_H

#include "common/base/error.h"
#include "verifier/bytes.h"

// Tags of the typed form. Sizes and counts are u32.
enum value_tag {
    VALUE_NONE = 'N',
    VALUE_TRUE = 'T',
    VALUE_FALSE = 'F',
    VALUE_ELLIPSIS = 'E',
    VALUE_INT = 'i',        // int64
    VALUE_BIG_INT = 'I',    // size, two's complement
    VALUE_FLOAT = 'd',      // binary64
    VALUE_COMPLEX = 'c',    // two binary64
    VALUE_STRING = 's',     // size, UTF-8 (lone surrogates as three bytes each)
    VALUE_BYTES = 'b',      // size, bytes
    VALUE_BYTE_ARRAY = 'B', // size, bytes
    VALUE_TUPLE = '(',      // count, values; the same for the next three
    VALUE_LIST = '[',
    VALUE_SET = 'S',
    VALUE_FROZEN_SET = 'Z',
    VALUE_DICT = '{',  // count, then key and value by turns
    VALUE_RANGE = 'R', // start, stop, step as int64
};

enum {
    VALUE_DEPTH_MAX = 64,        // containers inside containers
    VALUE_NODES_MAX = 1 << 19,   // values inside one value
    VALUE_BYTES_MAX = 4 << 20,   // typed form of one value
    VALUE_INT_DIGITS_MAX = 4300, // decimal digits, as in Python
    VALUE_ARGUMENTS_MAX = 255,   // arguments of one call
};

// value_canonical appends the canonical form of the typed value [size]. -EBADMSG when the bytes are
// not exactly one well-formed value within the limits.
int value_canonical(struct bytes *out, const uint8_t *typed, size_t size, struct error *err);

// value_equal says whether two typed values are well-formed and equal by the rule above.
bool value_equal(const struct bytes *a, const struct bytes *b);

// value_span is the size of the value that starts at `typed`, or 0 when it is malformed.
size_t value_span(const uint8_t *typed, size_t size);

#endif
