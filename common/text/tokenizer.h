// tokenizer.h: byte-level byte-pair encoding from a Hugging Face tokenizer.json.
//
// Normalizer (none, NFC), pre-tokenizer patterns (Qwen2, Llama 3, GPT-2, ByteLevel with and without
// regex), merges, added and special tokens: exact ids for any UTF-8 text, exact bytes for any ids.
// (A vocabulary that lacks a byte drops it from texts, as Hugging Face does.)
// A tokenizer is immutable once made and may be used by any thread; encoding needs a per-thread
// scratch.
#ifndef COMMON_TEXT_TOKENIZER_H
#define COMMON_TEXT_TOKENIZER_H

#include "common/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer;

// tokenizer_create reads `path` (a tokenizer.json, checked; errors name the file and the part).
int tokenizer_create(struct tokenizer **out, const char *path, struct error *err);
// tokenizer_parse does the same from memory; `what` names the source in errors.
int tokenizer_parse(struct tokenizer **out, const char *json, size_t size, const char *what,
                    struct error *err);
void tokenizer_destroy(struct tokenizer *tokenizer);

int32_t tokenizer_vocab(const struct tokenizer *tokenizer); // largest id + 1

struct token_list {
    int32_t *ids;
    size_t count;
    size_t capacity;
};

// tokenizer_encode appends the ids of `text` [size] to *out (grown as needed; the caller frees
// ids). `specials`: special tokens in the text become their ids; otherwise they are encoded as
// plain text. No BOS is added.
int tokenizer_encode(const struct tokenizer *tokenizer, struct token_list *out, const char *text,
                     size_t size, bool specials, struct error *err);

// tokenizer_token is the bytes of one id (not NUL-terminated; *size set), or NULL for an unknown
// one.
const char *tokenizer_token(const struct tokenizer *tokenizer, int32_t id, size_t *size);

// tokenizer_decode returns the bytes of `ids` as a fresh NUL-terminated string (the bytes may be
// any), *size set. Special tokens are included. -EINVAL for an unknown id.
int tokenizer_decode(const struct tokenizer *tokenizer, char **out, size_t *size,
                     const int32_t *ids, size_t count, struct error *err);

// tokenizer_find is the id of the added or vocabulary token with exactly these bytes, or -1.
int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *text);

#endif
