// literal_text.h: the words of a literal: numbers, strings, names. Used by literal.c alone.
#ifndef VERIFIER_LITERAL_TEXT_H
#define VERIFIER_LITERAL_TEXT_H

#include "common/base/error.h"
#include "verifier/bytes.h"

struct literal_cursor {
    const char *start;
    const char *at;
    const char *end;
    struct bytes *out; // typed form
    int depth;
    size_t nodes;
    struct error *err;
};

// literal_fail is -EBADMSG and a sentence with the place.
int literal_fail(struct literal_cursor *cursor, const char *what);

// literal_check_utf8 refuses text that is not UTF-8 or holds a NUL.
int literal_check_utf8(struct literal_cursor *cursor);

void literal_skip_space(struct literal_cursor *cursor);

// literal_word_size is the length of the identifier that stands here, or 0.
size_t literal_word_size(const struct literal_cursor *cursor);

bool literal_at_string(const struct literal_cursor *cursor);
bool literal_at_number(const struct literal_cursor *cursor);
bool literal_at_keyword(const struct literal_cursor *cursor); // `name =`

// Each reads one and appends its typed form; literal_keyword appends the name as a string and eats
// the `=`. The calls stand after their "(" and eat the ")".
int literal_string(struct literal_cursor *cursor); // adjacent ones are joined
int literal_number(struct literal_cursor *cursor); // signed; a real ± an imaginary is one
int literal_keyword(struct literal_cursor *cursor);
int literal_float_call(struct literal_cursor *cursor);
int literal_complex_call(struct literal_cursor *cursor);

#endif
