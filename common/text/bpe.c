#include "common/text/bpe.h"

#include "common/base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { SHORT_WORD = 64 }; // symbols merged by scanning; more are merged through a heap

static const uint32_t no_rank = UINT32_MAX; // the pair does not merge

struct bpe_merge {
    uint64_t pair; // left << 32 | right; empty_pair in a free slot
    uint32_t rank;
    uint32_t merged;
};

static const uint64_t empty_pair = UINT64_MAX;

int bpe_merges_init(struct bpe_merges *merges, size_t count, struct error *err)
{
    size_t slots = 16;
    while (slots < count * 2) {
        slots *= 2;
    }
    merges->slots = malloc(slots * sizeof(*merges->slots));
    if (merges->slots == NULL) {
        return error_set(err, -ENOMEM, "tokenizer: out of memory for %zu merges", count);
    }
    merges->mask = slots - 1;
    for (size_t i = 0; i < slots; i++) {
        merges->slots[i] = (struct bpe_merge){.pair = empty_pair, .rank = no_rank};
    }
    return 0;
}

void bpe_merges_finish(struct bpe_merges *merges)
{
    free(merges->slots);
    *merges = (struct bpe_merges){0};
}

// The slot of a pair, or the free one where it would stand. At most half of the slots are taken.
static struct bpe_merge *find(const struct bpe_merges *merges, uint32_t left, uint32_t right)
{
    uint64_t pair = (uint64_t)left << 32 | right;
    uint64_t hash = pair * 0x9e3779b97f4a7c15u;
    size_t at = (size_t)(hash >> 32) & merges->mask;
    while (merges->slots[at].pair != pair && merges->slots[at].pair != empty_pair) {
        at = (at + 1) & merges->mask;
    }
    return &merges->slots[at];
}

void bpe_merges_add(struct bpe_merges *merges, uint32_t left, uint32_t right, uint32_t rank,
                    uint32_t merged)
{
    *find(merges, left, right) =
        (struct bpe_merge){.pair = (uint64_t)left << 32 | right, .rank = rank, .merged = merged};
}

static struct bpe_merge pair_of(const struct bpe_merges *merges, int32_t left, int32_t right)
{
    return *find(merges, (uint32_t)left, (uint32_t)right);
}

// pairs[i] is what ids[i] and ids[i + 1] merge into; the best one is searched again each round.
static void merge_short(const struct bpe_merges *merges, int32_t *ids, size_t *count)
{
    struct bpe_merge pairs[SHORT_WORD];
    size_t n = *count;
    for (size_t i = 0; i + 1 < n; i++) {
        pairs[i] = pair_of(merges, ids[i], ids[i + 1]);
    }
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++) {
            best = pairs[i].rank < pairs[best].rank ? i : best;
        }
        if (pairs[best].rank == no_rank) {
            break;
        }
        ids[best] = (int32_t)pairs[best].merged;
        memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof(*ids));
        n--;
        if (best + 1 < n) {
            memmove(pairs + best + 1, pairs + best + 2, (n - best - 2) * sizeof(*pairs));
            pairs[best] = pair_of(merges, ids[best], ids[best + 1]);
        }
        if (best > 0) {
            pairs[best - 1] = pair_of(merges, ids[best - 1], ids[best]);
        }
    }
    *count = n;
}

// A long word: symbols in a doubly linked list, candidate pairs in a binary heap ordered by (rank,
// place). A candidate whose symbols have changed since is recognized by its rank and dropped.
struct long_word {
    int32_t *ids;
    uint32_t *next; // `count` behind the last symbol
    uint32_t *previous;
    uint64_t *heap; // rank << 32 | place
    size_t heap_count;
    uint32_t count;
};

static const uint32_t nobody = UINT32_MAX; // `next` of a symbol that was merged away

static void heap_push(struct long_word *word, uint64_t candidate)
{
    size_t at = word->heap_count++;
    while (at > 0 && word->heap[(at - 1) / 2] > candidate) {
        word->heap[at] = word->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    word->heap[at] = candidate;
}

static uint64_t heap_pop(struct long_word *word)
{
    uint64_t top = word->heap[0];
    uint64_t last = word->heap[--word->heap_count];
    size_t at = 0;
    for (size_t child = 1; child < word->heap_count; child = 2 * at + 1) {
        if (child + 1 < word->heap_count && word->heap[child + 1] < word->heap[child]) {
            child++;
        }
        if (word->heap[child] >= last) {
            break;
        }
        word->heap[at] = word->heap[child];
        at = child;
    }
    word->heap[at] = last;
    return top;
}

static void push_pair(struct long_word *word, const struct bpe_merges *merges, uint32_t place)
{
    uint32_t next = word->next[place];
    if (next < word->count) {
        uint32_t rank = pair_of(merges, word->ids[place], word->ids[next]).rank;
        if (rank != no_rank) {
            heap_push(word, (uint64_t)rank << 32 | place);
        }
    }
}

// Merges the candidate if its two symbols still stand there.
static void merge_candidate(struct long_word *word, const struct bpe_merges *merges,
                            uint64_t candidate)
{
    uint32_t place = (uint32_t)candidate;
    uint32_t next = word->next[place];
    if (next == nobody || next >= word->count) {
        return;
    }
    struct bpe_merge merge = pair_of(merges, word->ids[place], word->ids[next]);
    if (merge.rank != (uint32_t)(candidate >> 32)) {
        return;
    }
    word->ids[place] = (int32_t)merge.merged;
    word->next[place] = word->next[next];
    word->next[next] = nobody;
    if (word->next[place] < word->count) {
        word->previous[word->next[place]] = place;
    }
    push_pair(word, merges, place);
    if (word->previous[place] != nobody) {
        push_pair(word, merges, word->previous[place]);
    }
}

// A merge removes one symbol and adds at most two candidates, so 3n candidates are the most.
static int merge_long(const struct bpe_merges *merges, int32_t *ids, size_t *count,
                      struct error *err)
{
    size_t n = *count;
    CLEANUP(freep) uint32_t *links = n < UINT32_MAX ? malloc(2 * n * sizeof(*links)) : NULL;
    CLEANUP(freep) uint64_t *heap = n < UINT32_MAX ? malloc(3 * n * sizeof(*heap)) : NULL;
    if (links == NULL || heap == NULL) {
        return error_set(err, -ENOMEM, "tokenizer: out of memory for a word of %zu bytes", n);
    }
    struct long_word word = {
        .ids = ids, .next = links, .previous = links + n, .heap = heap, .count = (uint32_t)n};
    for (uint32_t i = 0; i < word.count; i++) {
        word.next[i] = i + 1;
        word.previous[i] = i == 0 ? nobody : i - 1;
    }
    for (uint32_t i = 0; i < word.count; i++) {
        push_pair(&word, merges, i);
    }
    while (word.heap_count > 0) {
        merge_candidate(&word, merges, heap_pop(&word));
    }
    size_t kept = 0;
    for (uint32_t i = 0; i < word.count; i = word.next[i]) {
        ids[kept++] = ids[i];
    }
    *count = kept;
    return 0;
}

int bpe_merge_word(const struct bpe_merges *merges, int32_t *ids, size_t *count, struct error *err)
{
    if (*count <= SHORT_WORD) {
        merge_short(merges, ids, count);
        return 0;
    }
    return merge_long(merges, ids, count, err);
}
