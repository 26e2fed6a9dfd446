// cache.h: what was worked out before, by the hash of what it was worked out from. Least recently
// used entries leave when the bytes are full.
#ifndef VERIFIER_CACHE_H
#define VERIFIER_CACHE_H

#include "common/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CACHE_KEY_BYTES = 32 };

struct cache_key {
    uint8_t bytes[CACHE_KEY_BYTES];
};

struct cache;

int cache_create(struct cache **out, size_t bytes_max, struct error *err);
void cache_destroy(struct cache *cache); // NULL is allowed

// cache_key_of hashes `count` parts; their borders count. BLAKE2b-256.
struct cache_key cache_key_of(const void *const *parts, const size_t *sizes, int count);

// cache_find is the entry and its size, or NULL. It is valid until the next cache_put.
const void *cache_find(struct cache *cache, const struct cache_key *key, size_t *size);

// cache_put keeps a copy; an entry larger than an eighth of the cache is not kept.
void cache_put(struct cache *cache, const struct cache_key *key, const void *data, size_t size);

struct cache_stats {
    uint64_t hits;
    uint64_t misses;
    size_t entries;
    size_t bytes;
};
struct cache_stats cache_stats(const struct cache *cache);

#endif
