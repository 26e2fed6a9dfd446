#include "common/text/tokenizer.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/text/tokenizer_parts.h"
#include "common/text/utf8.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

// --- the table of tokens by their bytes

static uint64_t hash_bytes(const char *bytes, size_t size)
{
    uint64_t hash = size * 0x9e3779b97f4a7c15u;
    uint64_t block = 0;
    while (size >= sizeof(block)) {
        memcpy(&block, bytes, sizeof(block));
        hash = (hash ^ block) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
        bytes += sizeof(block);
        size -= sizeof(block);
    }
    block = 0;
    for (size_t i = 0; i < size; i++) {
        block = block << 8 | (uint8_t)bytes[i];
    }
    hash = (hash ^ block) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 32;
}

size_t tokenizer_slot(const struct tokenizer *tokenizer, const char *bytes, size_t size)
{
    size_t slot = (size_t)hash_bytes(bytes, size) & tokenizer->by_bytes_mask;
    for (;;) {
        int32_t id = tokenizer->by_bytes[slot];
        if (id < 0) {
            return slot;
        }
        const struct token *token = &tokenizer->tokens[id];
        if (token->size == size && memcmp(token->bytes, bytes, size) == 0) {
            return slot;
        }
        slot = (slot + 1) & tokenizer->by_bytes_mask;
    }
}

// --- encoding

// struct encoder is one call's work.
struct encoder {
    const struct tokenizer *tokenizer;
    struct token_list *out;
    struct split_state split;
    bool specials;
    struct error *err;
};

static int reserve(struct token_list *list, size_t more, struct error *err)
{
    if (list->count + more <= list->capacity) {
        return 0;
    }
    size_t capacity = list->capacity * 2;
    capacity = capacity > list->count + more ? capacity : list->count + more + 64;
    int32_t *ids = realloc(list->ids, capacity * sizeof(*ids));
    if (ids == NULL) {
        (void)error_set(err, -ENOMEM, "tokenizer: out of memory for %zu ids", capacity);
        return -ENOMEM;
    }
    list->ids = ids;
    list->capacity = capacity;
    return 0;
}

// Appends the bytes as the tokens of single bytes. A byte without one leaves nothing, as with
// Hugging Face.
static int encode_bytes(struct encoder *encoder, const char *bytes, size_t size)
{
    struct token_list *out = encoder->out;
    int code = reserve(out, size, encoder->err);
    for (size_t i = 0; i < size && code == 0; i++) {
        int32_t id = encoder->tokenizer->byte_ids[(uint8_t)bytes[i]];
        out->ids[out->count] = id;
        out->count += id >= 0;
    }
    return code;
}

// Appends one word by merging its bytes.
static int merge_bytes(struct encoder *encoder, const char *word, size_t size)
{
    size_t begin = encoder->out->count;
    int code = encode_bytes(encoder, word, size);
    if (code < 0) {
        return code;
    }
    size_t count = encoder->out->count - begin;
    code = bpe_merge_word(&encoder->tokenizer->merges, encoder->out->ids + begin, &count,
                          encoder->err);
    encoder->out->count = begin + count;
    return code;
}

static int encode_word(struct encoder *encoder, const char *word, size_t size)
{
    const struct tokenizer *tokenizer = encoder->tokenizer;
    int32_t id = size == 1 ? tokenizer->byte_ids[(uint8_t)word[0]]
                           : tokenizer->by_bytes[tokenizer_slot(tokenizer, word, size)];
    if (id < 0 || !tokenizer->tokens[id].whole) {
        return merge_bytes(encoder, word, size);
    }
    struct token_list *out = encoder->out;
    if (out->count == out->capacity) {
        int code = reserve(out, 1, encoder->err);
        if (code < 0) {
            return code;
        }
    }
    out->ids[out->count++] = id;
    return 0;
}

// Cuts the text by splitter `stage`, each piece by the next one, and encodes what the last gives.
static int encode_pieces(struct encoder *encoder, const char *text, size_t size, int stage)
{
    const struct tokenizer *tokenizer = encoder->tokenizer;
    if (stage >= tokenizer->splitter_count || stage == SPLITTERS_MAX) {
        return encode_word(encoder, text, size);
    }
    bool last = stage + 1 == tokenizer->splitter_count;
    for (size_t at = 0; at < size;) {
        size_t length = 0;
        int code = splitter_next(tokenizer->splitters[stage], &encoder->split, text, size, at,
                                 &length, encoder->err);
        if (code == 0) {
            code = last ? encode_word(encoder, text + at, length)
                        : encode_pieces(encoder, text + at, length, stage + 1);
        }
        if (code < 0) {
            return code;
        }
        at += length;
    }
    return 0;
}

// Walks through the text: added tokens of set `set` become their ids, what lies between goes to
// `between`.
static int encode_between(struct encoder *encoder, int set, const char *text, size_t size,
                          int (*between)(struct encoder *encoder, const char *text, size_t size))
{
    const struct tokenizer *tokenizer = encoder->tokenizer;
    size_t begin = 0;
    size_t at = 0;
    size_t length = 0;
    int32_t id = 0;
    while (trie_find(&tokenizer->added[set], text, size, &at, &length, &id)) {
        if (tokenizer->tokens[id].special && !encoder->specials) {
            at += length; // stays text
            continue;
        }
        int code = at > begin ? between(encoder, text + begin, at - begin) : 0;
        code = code == 0 ? reserve(encoder->out, 1, encoder->err) : code;
        if (code < 0) {
            return code;
        }
        encoder->out->ids[encoder->out->count++] = id;
        at += length;
        begin = at;
    }
    return begin < size ? between(encoder, text + begin, size - begin) : 0;
}

static int encode_normalized(struct encoder *encoder, const char *text, size_t size)
{
    return encode_pieces(encoder, text, size, 0);
}

static int encode_valid(struct encoder *encoder, const char *text, size_t size)
{
    if (!encoder->tokenizer->nfc || utf8_is_nfc(text, size)) {
        return encode_between(encoder, 1, text, size, encode_normalized);
    }
    CLEANUP(freep) char *nfc = utf8_to_nfc(&size, text, size, encoder->err);
    return nfc == NULL ? -ENOMEM : encode_between(encoder, 1, nfc, size, encode_normalized);
}

// Valid text is normalized and cut; bytes that are no UTF-8 stand for themselves.
static int encode_raw(struct encoder *encoder, const char *text, size_t size)
{
    for (size_t at = 0; at < size;) {
        size_t length = utf8_valid_prefix(text + at, size - at);
        int code = 0;
        if (length > 0) {
            code = encode_valid(encoder, text + at, length);
        } else {
            length = utf8_broken_prefix(text + at, size - at);
            code = encode_bytes(encoder, text + at, length);
        }
        if (code < 0) {
            return code;
        }
        at += length;
    }
    return 0;
}

int tokenizer_encode(const struct tokenizer *tokenizer, struct token_list *out, const char *text,
                     size_t size, bool specials, struct error *err)
{
    struct encoder encoder = {.tokenizer = tokenizer, .out = out, .specials = specials, .err = err};
    size_t before = out->count;
    int code = encode_between(&encoder, 0, text, size, encode_raw);
    split_state_finish(&encoder.split);
    if (code < 0) {
        out->count = before;
    }
    return code;
}

int tokenizer_words(struct tokenizer *tokenizer, struct error *err)
{
    struct token_list list = {0};
    struct encoder encoder = {.tokenizer = tokenizer, .out = &list, .err = err};
    int code = 0;
    for (int32_t id = 0; id < tokenizer->vocab && code == 0; id++) {
        struct token *token = &tokenizer->tokens[id];
        if (!token->word || token->size == 0) {
            continue;
        }
        list.count = 0;
        code = merge_bytes(&encoder, token->bytes, token->size);
        token->whole =
            code == 0 && (tokenizer->ignore_merges || (list.count == 1 && list.ids[0] == id));
    }
    free(list.ids);
    return code;
}

// --- decoding

const char *tokenizer_token(const struct tokenizer *tokenizer, int32_t id, size_t *size)
{
    if (id < 0 || id >= tokenizer->vocab || tokenizer->tokens[id].bytes == NULL) {
        return NULL;
    }
    *size = tokenizer->tokens[id].size;
    return tokenizer->tokens[id].bytes;
}

int tokenizer_decode(const struct tokenizer *tokenizer, char **out, size_t *size,
                     const int32_t *ids, size_t count, struct error *err)
{
    size_t total = 0;
    size_t length = 0;
    for (size_t i = 0; i < count; i++) {
        if (tokenizer_token(tokenizer, ids[i], &length) == NULL) {
            return error_set(err, -EINVAL, "there is no token %d; the vocabulary has 0 to %d",
                             ids[i], tokenizer->vocab - 1);
        }
        total += length;
    }
    char *text = malloc(total + 1);
    if (text == NULL) {
        return error_set(err, -ENOMEM, "tokenizer: out of memory for %zu bytes", total);
    }
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        const char *bytes = tokenizer_token(tokenizer, ids[i], &length);
        memcpy(text + at, bytes, length);
        at += length;
    }
    text[total] = '\0';
    *out = text;
    *size = total;
    return 0;
}

int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *text)
{
    return tokenizer->by_bytes[tokenizer_slot(tokenizer, text, strlen(text))];
}

int32_t tokenizer_vocab(const struct tokenizer *tokenizer)
{
    return tokenizer->vocab;
}

// --- life

CLEANUP_FUNCTION(struct tokenizer, tokenizer_destroy)

int tokenizer_parse(struct tokenizer **out, const char *json, size_t size, const char *what,
                    struct error *err)
{
    CLEANUP(json_decrefp) json_t *root = NULL;
    int code = json_parse(&root, json, size, what, err);
    if (code < 0) {
        return code;
    }
    CLEANUP(tokenizer_destroyp) struct tokenizer *tokenizer = calloc(1, sizeof(*tokenizer));
    if (tokenizer == NULL) {
        return error_set(err, -ENOMEM, "%s: out of memory", what);
    }
    struct error inner = {0};
    code = tokenizer_read(tokenizer, root, &inner);
    if (code < 0) {
        return error_set(err, code, "%s: %s", what, inner.text);
    }
    *out = TAKE(tokenizer);
    return 0;
}

int tokenizer_create(struct tokenizer **out, const char *path, struct error *err)
{
    CLEANUP(freep) char *text = NULL;
    size_t size = 0;
    int code = file_read(&text, &size, path, JSON_BYTES_MAX, err);
    return code < 0 ? code : tokenizer_parse(out, text, size, path, err);
}

void tokenizer_destroy(struct tokenizer *tokenizer)
{
    if (tokenizer == NULL) {
        return;
    }
    for (int32_t id = 0; tokenizer->tokens != NULL && id < tokenizer->vocab; id++) {
        free(tokenizer->tokens[id].bytes);
    }
    for (int i = 0; i < tokenizer->splitter_count; i++) {
        splitter_destroy(tokenizer->splitters[i]);
    }
    trie_finish(&tokenizer->added[0]);
    trie_finish(&tokenizer->added[1]);
    bpe_merges_finish(&tokenizer->merges);
    free(tokenizer->by_bytes);
    free(tokenizer->tokens);
    free(tokenizer);
}
