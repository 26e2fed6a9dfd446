// literal.h: Python literals read in C. An answer is never evaluated; it is parsed here.
//
// Accepted: None True False Ellipsis, numbers (signed, complex as a sum, `inf` and `nan` as repr
// prints them), strings and bytes in every spelling but f-strings and \N{...}, tuples, lists,
// dicts, sets, and the calls that stand for a value that has no literal: set(), set([..]),
// frozenset(..), dict(..), range(..), float(".."), complex(..), bytearray(b".."). Nothing else:
// no names, no operators, no comprehensions.
#ifndef VERIFIER_LITERAL_H
#define VERIFIER_LITERAL_H

#include "common/base/error.h"
#include "verifier/bytes.h"

// literal_parse appends the typed form (value.h) of one literal. A bare `1, 2` is a tuple. -EBADMSG
// with a sentence that names the byte where it stopped to be one; `out` is then unchanged.
int literal_parse(struct bytes *out, const char *text, size_t size, struct error *err);

// literal_parse_arguments appends the argument list of a call: count of positional values (u32) and
// those, count of keywords (u32) and for each a string value (the name) and its value.
int literal_parse_arguments(struct bytes *out, const char *text, size_t size, struct error *err);

#endif
