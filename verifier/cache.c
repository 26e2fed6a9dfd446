// A hash table of chains over a doubly linked list in order of use.
#include "verifier/cache.h"

#include "common/base/check.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

struct entry {
    struct cache_key key;
    struct entry *chain; // next in its bucket
    struct entry *newer;
    struct entry *older;
    size_t size;
    uint8_t data[];
};

enum { BUCKETS = 1 << 14 };

struct cache {
    struct entry *bucket[BUCKETS];
    struct entry *newest;
    struct entry *oldest;
    size_t bytes_max;
    struct cache_stats stats;
};

int cache_create(struct cache **out, size_t bytes_max, struct error *err)
{
    struct cache *cache = calloc(1, sizeof(*cache));
    if (cache == NULL) {
        return error_set(err, -ENOMEM, "cache: out of memory");
    }
    cache->bytes_max = bytes_max;
    *out = cache;
    return 0;
}

void cache_destroy(struct cache *cache)
{
    if (cache == NULL) {
        return;
    }
    for (struct entry *entry = cache->newest; entry != NULL;) {
        struct entry *older = entry->older;
        free(entry);
        entry = older;
    }
    free(cache);
}

struct cache_key cache_key_of(const void *const *parts, const size_t *sizes, int count)
{
    struct cache_key key;
    crypto_generichash_state state;
    (void)crypto_generichash_init(&state, NULL, 0, sizeof(key.bytes));
    for (int i = 0; i < count; i++) {
        uint64_t size = sizes[i];
        (void)crypto_generichash_update(&state, (const uint8_t *)&size, sizeof(size));
        (void)crypto_generichash_update(&state, parts[i], sizes[i]);
    }
    (void)crypto_generichash_final(&state, key.bytes, sizeof(key.bytes));
    return key;
}

static struct entry **bucket_of(struct cache *cache, const struct cache_key *key)
{
    uint32_t index = 0;
    memcpy(&index, key->bytes, sizeof(index));
    return &cache->bucket[index % BUCKETS];
}

static void unlink_use(struct cache *cache, struct entry *entry)
{
    *(entry->newer != NULL ? &entry->newer->older : &cache->newest) = entry->older;
    *(entry->older != NULL ? &entry->older->newer : &cache->oldest) = entry->newer;
}

static void link_newest(struct cache *cache, struct entry *entry)
{
    entry->newer = NULL;
    entry->older = cache->newest;
    *(cache->newest != NULL ? &cache->newest->newer : &cache->oldest) = entry;
    cache->newest = entry;
}

static struct entry *find(struct cache *cache, const struct cache_key *key)
{
    struct entry *entry = *bucket_of(cache, key);
    while (entry != NULL && memcmp(&entry->key, key, sizeof(*key)) != 0) {
        entry = entry->chain;
    }
    return entry;
}

static void drop(struct cache *cache, struct entry *entry)
{
    struct entry **at = bucket_of(cache, &entry->key);
    while (*at != entry) {
        at = &(*at)->chain;
    }
    *at = entry->chain;
    unlink_use(cache, entry);
    cache->stats.bytes -= sizeof(*entry) + entry->size;
    cache->stats.entries--;
    free(entry);
}

const void *cache_find(struct cache *cache, const struct cache_key *key, size_t *size)
{
    struct entry *entry = find(cache, key);
    if (entry == NULL) {
        cache->stats.misses++;
        return NULL;
    }
    cache->stats.hits++;
    unlink_use(cache, entry);
    link_newest(cache, entry);
    *size = entry->size;
    return entry->data;
}

void cache_put(struct cache *cache, const struct cache_key *key, const void *data, size_t size)
{
    struct entry *old = find(cache, key);
    if (old != NULL) {
        drop(cache, old);
    }
    struct entry *entry = size > cache->bytes_max / 8 ? NULL : malloc(sizeof(*entry) + size);
    if (entry == NULL) {
        return; // a cache may forget
    }
    entry->key = *key;
    entry->size = size;
    memcpy(entry->data, data, size);
    struct entry **bucket = bucket_of(cache, key);
    entry->chain = *bucket;
    *bucket = entry;
    link_newest(cache, entry);
    cache->stats.bytes += sizeof(*entry) + size;
    cache->stats.entries++;
    while (cache->stats.bytes > cache->bytes_max && cache->oldest != entry) {
        CHECK(cache->oldest != NULL); // at least `entry` is in the list
        drop(cache, cache->oldest);
    }
}

struct cache_stats cache_stats(const struct cache *cache)
{
    return cache->stats;
}
