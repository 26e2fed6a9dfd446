// delta.h: what changed between two arrays of weights, without loss.
//
// After one step of reinforcement learning few of the bf16 weights change (about one in a hundred),
// so the changed elements with their places are much shorter than the array. A delta is a sequence
// of (gap, element): `gap` unchanged elements, as a LEB128 number, then the new bits of the next.
#ifndef COMMON_WIRE_DELTA_H
#define COMMON_WIRE_DELTA_H

#include <stddef.h>
#include <stdint.h>

enum { DELTA_ELEMENT_MAX = 4 };

// delta_encode writes what turns `base` into `next` (both `size` bytes, elements of `element`
// bytes: 2 or 4) to out [out_max]. *out_size receives its length; -E2BIG when it does not fit, or
// when bytes behind the last whole element differ.
int delta_encode(uint8_t *out, size_t *out_size, size_t out_max, const uint8_t *base,
                 const uint8_t *next, size_t size, size_t element);

// delta_apply changes `array` in place. -EBADMSG when the delta is cut off or leaves the array; the
// array is then half changed.
int delta_apply(uint8_t *array, size_t size, size_t element, const uint8_t *delta,
                size_t delta_size);

#endif
