#include "learner/counts.h"

#include "common/base/check.h"

#include <stdlib.h>

enum { SLOTS_MIN = 64 };

struct counts_slot {
    uint64_t key; // 0: free
    int64_t count;
};

// FNV-1a of the text without the blanks around it.
static uint64_t key_of(const char *text)
{
    uint64_t hash = 1469598103934665603ULL;
    uint64_t kept = hash;
    while (*text == ' ' || *text == '\n' || *text == '\t') {
        text++;
    }
    for (; *text != '\0'; text++) {
        hash = (hash ^ (unsigned char)*text) * 1099511628211ULL;
        kept = *text == ' ' || *text == '\n' || *text == '\t' ? kept : hash;
    }
    return kept | 1;
}

// The slot of a key, or the free one where it would go.
static struct counts_slot *find(const struct counts *counts, uint64_t key)
{
    size_t at = (key >> 1) & counts->mask;
    while (counts->slots[at].key != 0 && counts->slots[at].key != key) {
        at = (at + 1) & counts->mask;
    }
    return &counts->slots[at];
}

// Makes room, and forgets the keys that are back at 0.
static void grow(struct counts *counts)
{
    struct counts old = *counts;
    size_t live = 0;
    for (size_t i = 0; old.slots != NULL && i <= old.mask; i++) {
        live += old.slots[i].count != 0;
    }
    size_t slots = SLOTS_MIN;
    while (slots < 4 * live) {
        slots *= 2;
    }
    counts->slots = calloc(slots, sizeof(*counts->slots));
    CHECK(counts->slots != NULL);
    counts->mask = slots - 1;
    counts->used = live;
    for (size_t i = 0; old.slots != NULL && i <= old.mask; i++) {
        if (old.slots[i].count != 0) {
            *find(counts, old.slots[i].key) = old.slots[i];
        }
    }
    free(old.slots);
}

void counts_add(struct counts *counts, const char *text, int by)
{
    if (counts->slots == NULL || 2 * counts->used > counts->mask) {
        grow(counts);
    }
    struct counts_slot *slot = find(counts, key_of(text));
    counts->used += slot->key == 0;
    slot->key = key_of(text);
    slot->count += by;
    counts->total += by;
    CHECK(slot->count >= 0);
}

void counts_finish(struct counts *counts)
{
    free(counts->slots);
    *counts = (struct counts){0};
}

double counts_surprise(const struct counts *counts, const char *text)
{
    if (counts->total == 0) {
        return 1.0;
    }
    return 1.0 - (double)find(counts, key_of(text))->count / (double)counts->total;
}
