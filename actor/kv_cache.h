// kv_cache.h: who owns which page of a kv_memory.
//
// A table lists the pages of one sequence. Tables may share pages (the samples of one prompt share
// the prompt's full pages); a page is free again when the last table that lists it is closed. A
// table is promised all the pages that it may ever need before it begins, so that a running
// sequence never waits and is never evicted. One thread a cache.
#ifndef ACTOR_KV_CACHE_H
#define ACTOR_KV_CACHE_H

#include "common/base/error.h"

#include <stdbool.h>
#include <stdint.h>

struct kv_cache;

int kv_cache_create(struct kv_cache **out, int32_t page_count, struct error *err);
void kv_cache_destroy(struct kv_cache *cache);

// kv_cache_available is how many pages are neither used nor promised.
int32_t kv_cache_available(const struct kv_cache *cache);

// kv_pages_for is how many pages hold `tokens` tokens.
int32_t kv_pages_for(int32_t tokens);

// struct kv_table is one sequence's pages: entry i holds positions 32·i .. 32·i+31. `pages` is the
// caller's, with room for every page that the table may get.
struct kv_table {
    int32_t *pages;
    int32_t count;
    int32_t promised; // pages that it may still take
};

// kv_table_open empties the table and promises it `pages_max` pages; false when they are not
// available.
bool kv_table_open(struct kv_cache *cache, struct kv_table *table, int32_t pages_max);

// kv_table_reach takes pages out of the promise until the table holds position `position`.
void kv_table_reach(struct kv_cache *cache, struct kv_table *table, int32_t position);

// kv_table_fork makes the open, empty table `child` begin with the first `tokens` tokens of
// `parent`: full pages are shared, a half-filled last page becomes a new page of the child out of
// its promise. True: the caller copies page *from to page *to.
bool kv_table_fork(struct kv_cache *cache, struct kv_table *child, const struct kv_table *parent,
                   int32_t tokens, int32_t *to, int32_t *from);

// kv_table_close drops the table's pages and what is left of its promise.
void kv_table_close(struct kv_cache *cache, struct kv_table *table);

#endif
