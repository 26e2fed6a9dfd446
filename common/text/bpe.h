// bpe.h: byte-pair encoding of one word. Pairs of neighbouring symbols are merged, the pair of
// lowest rank first and the leftmost of equal ones, until no pair has a rank.
#ifndef COMMON_TEXT_BPE_H
#define COMMON_TEXT_BPE_H

#include "common/base/error.h"

#include <stddef.h>
#include <stdint.h>

// struct bpe_merges is a hash table from pairs of ids to (rank, merged id).
struct bpe_merges {
    struct bpe_merge *slots;
    size_t mask; // slots - 1, a power of two less one
};

// bpe_merges_init makes room for `count` merges.
int bpe_merges_init(struct bpe_merges *merges, size_t count, struct error *err);
void bpe_merges_finish(struct bpe_merges *merges);

// bpe_merges_add says that `left` and `right` merge into `merged` at `rank`; the last word about a
// pair counts.
void bpe_merges_add(struct bpe_merges *merges, uint32_t left, uint32_t right, uint32_t rank,
                    uint32_t merged);

// bpe_merge_word merges ids [*count] in place. A short word needs no memory; a long one takes
// O(n log n) time.
int bpe_merge_word(const struct bpe_merges *merges, int32_t *ids, size_t *count, struct error *err);

#endif
