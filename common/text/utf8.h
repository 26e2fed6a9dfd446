// utf8.h: UTF-8 as the tokenizer needs it: what is valid, what is in normal form C, and the
// alphabet in which byte-level vocabularies spell bytes.
#ifndef COMMON_TEXT_UTF8_H
#define COMMON_TEXT_UTF8_H

#include "common/base/error.h"
#include "common/text/words.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// utf8_valid_prefix is how many of the first bytes are valid UTF-8 (whole characters).
size_t utf8_valid_prefix(const char *text, size_t size);

// utf8_broken_prefix is how many bytes, 1 to 3, of a text that begins with an invalid sequence
// stand for one replacement character (the longest beginning of a character, else one byte).
size_t utf8_broken_prefix(const char *text, size_t size);

// utf8_next decodes the character at text[*at] of valid UTF-8 and moves *at behind it.
uint32_t utf8_next(const char *text, size_t *at);

// utf8_put writes a character and returns its 1 to 4 bytes.
size_t utf8_put(char out[4], uint32_t character);

// utf8_add_lossy adds the bytes with each invalid sequence replaced by U+FFFD.
void utf8_add_lossy(struct words *out, const char *bytes, size_t size);

// utf8_is_nfc is true only for valid UTF-8 in normal form C; a false answer means "perhaps not".
bool utf8_is_nfc(const char *text, size_t size);

// utf8_to_nfc returns valid UTF-8 in normal form C as fresh text, *out_size set; NULL with `err`
// when memory runs out.
char *utf8_to_nfc(size_t *out_size, const char *text, size_t size, struct error *err);

// The byte alphabet of GPT-2: byte_character is the character that spells a byte; character_byte is
// the byte that a character spells, or -1.
uint32_t byte_character(uint8_t byte);
int character_byte(uint32_t character);

#endif
