// tokenizer_parts.h: the inside of a tokenizer, shared by the file that reads it (tokenizer_read.c)
// and the file that uses it (tokenizer.c).
#ifndef COMMON_TEXT_TOKENIZER_PARTS_H
#define COMMON_TEXT_TOKENIZER_PARTS_H

#include "common/base/json.h"
#include "common/text/bpe.h"
#include "common/text/split.h"
#include "common/text/tokenizer.h"
#include "common/text/trie.h"

enum { SPLITTERS_MAX = 4 };

struct token {
    char *bytes; // what the id stands for; NULL where there is no such id
    uint32_t size;
    bool word;    // a token of the model, not only an added one
    bool whole;   // the word of these bytes is encoded as this token alone
    bool added;   // found in the text before the model sees it
    bool special; // an added token that plain text does not produce
};

struct tokenizer {
    struct token *tokens; // [vocab], by id
    int32_t vocab;
    int32_t *by_bytes; // hash table over tokens[].bytes, -1 in free slots
    size_t by_bytes_mask;
    int32_t byte_ids[256]; // the token of each single byte; -1: there is none
    struct bpe_merges merges;
    struct splitter *splitters[SPLITTERS_MAX]; // applied one within another
    int splitter_count;
    struct trie added[2]; // [0] found before normalization, [1] after it
    bool nfc;             // normalize to form C
    bool ignore_merges;   // a word that is a token is that token
};

// tokenizer_slot is where a token of these bytes is, or would be, in by_bytes.
size_t tokenizer_slot(const struct tokenizer *tokenizer, const char *bytes, size_t size);

// tokenizer_words marks the tokens that words are encoded as, so that most words need one look-up.
int tokenizer_words(struct tokenizer *tokenizer, struct error *err);

// tokenizer_read fills an empty tokenizer from the parsed file.
int tokenizer_read(struct tokenizer *tokenizer, const json_t *json, struct error *err);

#endif
