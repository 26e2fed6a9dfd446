#include "common/text/trie.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

// A node's children by byte, 0 for none (the root is nobody's child).
struct trie_node {
    uint32_t children[256];
    int32_t value; // -1: no entry ends here
};

void trie_finish(struct trie *trie)
{
    free(trie->nodes);
    *trie = (struct trie){0};
}

static int add_node(struct trie *trie, uint32_t *out, struct error *err)
{
    if (trie->count == trie->capacity) {
        size_t capacity = trie->capacity == 0 ? 64 : trie->capacity * 2;
        struct trie_node *nodes = realloc(trie->nodes, capacity * sizeof(*nodes));
        if (nodes == NULL) {
            return error_set(err, -ENOMEM, "tokenizer: out of memory for added tokens");
        }
        trie->nodes = nodes;
        trie->capacity = capacity;
    }
    struct trie_node *node = &trie->nodes[trie->count];
    memset(node, 0, sizeof(*node));
    node->value = -1;
    *out = (uint32_t)trie->count++;
    return 0;
}

int trie_add(struct trie *trie, const char *text, size_t size, int32_t value, struct error *err)
{
    uint32_t node = 0;
    if (trie->count == 0) {
        int code = add_node(trie, &node, err);
        if (code < 0) {
            return code;
        }
    }
    for (size_t i = 0; i < size; i++) {
        uint8_t byte = (uint8_t)text[i];
        uint32_t child = trie->nodes[node].children[byte];
        if (child == 0) {
            int code = add_node(trie, &child, err);
            if (code < 0) {
                return code;
            }
            trie->nodes[node].children[byte] = child;
        }
        node = child;
    }
    trie->nodes[node].value = value;
    trie->starts[(uint8_t)text[0]] = true;
    return 0;
}

// The longest entry at the start of the text; 0 when there is none.
static size_t longest(const struct trie *trie, const char *text, size_t size, int32_t *value)
{
    size_t length = 0;
    uint32_t node = 0;
    for (size_t i = 0; i < size; i++) {
        node = trie->nodes[node].children[(uint8_t)text[i]];
        if (node == 0) {
            break;
        }
        if (trie->nodes[node].value >= 0) {
            *value = trie->nodes[node].value;
            length = i + 1;
        }
    }
    return length;
}

bool trie_find(const struct trie *trie, const char *text, size_t size, size_t *at, size_t *length,
               int32_t *value)
{
    if (trie->count == 0) {
        return false;
    }
    for (size_t i = *at; i < size; i++) {
        if (!trie->starts[(uint8_t)text[i]]) {
            continue;
        }
        size_t found = longest(trie, text + i, size - i, value);
        if (found > 0) {
            *at = i;
            *length = found;
            return true;
        }
    }
    return false;
}
