// trie.h: finds the added tokens of a tokenizer in text: at each place the longest one, the
// leftmost place first.
#ifndef COMMON_TEXT_TRIE_H
#define COMMON_TEXT_TRIE_H

#include "common/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct trie {
    struct trie_node *nodes;
    size_t count;
    size_t capacity;
    bool starts[256]; // bytes that begin an entry
};

void trie_finish(struct trie *trie);

// trie_add puts `text` [size > 0] in with a value ≥ 0; a later entry of the same text wins.
int trie_add(struct trie *trie, const char *text, size_t size, int32_t value, struct error *err);

// trie_find looks for the first entry at or after *at: true with *at where it begins, *length and
// *value set; false when there is none.
bool trie_find(const struct trie *trie, const char *text, size_t size, size_t *at, size_t *length,
               int32_t *value);

#endif
