// A stack of free pages, a reference count per page, and one number for all promises.
#include "actor/kv_cache.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/model/decode.h"

#include <errno.h>
#include <stdlib.h>

struct kv_cache {
    int32_t page_count;
    int32_t free_count;
    int32_t promised;
    int32_t *free_pages; // [page_count], the first free_count are free
    int32_t *references; // [page_count]
};

CLEANUP_FUNCTION(struct kv_cache, kv_cache_destroy)

int kv_cache_create(struct kv_cache **out, int32_t page_count, struct error *err)
{
    CHECK(page_count > 0);
    CLEANUP(kv_cache_destroyp) struct kv_cache *cache = calloc(1, sizeof(*cache));
    if (cache == NULL) {
        return error_set(err, -ENOMEM, "kv_cache: out of memory");
    }
    cache->page_count = page_count;
    cache->free_pages = calloc((size_t)page_count, sizeof(*cache->free_pages));
    cache->references = calloc((size_t)page_count, sizeof(*cache->references));
    if (cache->free_pages == NULL || cache->references == NULL) {
        return error_set(err, -ENOMEM, "kv_cache: no memory for %d pages", page_count);
    }
    for (int32_t i = 0; i < page_count; i++) {
        cache->free_pages[i] = page_count - 1 - i; // page 0 is taken first
    }
    cache->free_count = page_count;
    *out = TAKE(cache);
    return 0;
}

void kv_cache_destroy(struct kv_cache *cache)
{
    if (cache != NULL) {
        free(cache->free_pages);
        free(cache->references);
        free(cache);
    }
}

int32_t kv_cache_available(const struct kv_cache *cache)
{
    return cache->free_count - cache->promised;
}

int32_t kv_pages_for(int32_t tokens)
{
    return (tokens + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
}

bool kv_table_open(struct kv_cache *cache, struct kv_table *table, int32_t pages_max)
{
    if (pages_max > kv_cache_available(cache)) {
        return false;
    }
    cache->promised += pages_max;
    table->count = 0;
    table->promised = pages_max;
    return true;
}

static int32_t take_page(struct kv_cache *cache, struct kv_table *table)
{
    CHECK(table->promised > 0 && cache->free_count > 0);
    table->promised--;
    cache->promised--;
    int32_t page = cache->free_pages[--cache->free_count];
    cache->references[page] = 1;
    table->pages[table->count++] = page;
    return page;
}

void kv_table_reach(struct kv_cache *cache, struct kv_table *table, int32_t position)
{
    while (table->count * KV_PAGE_TOKENS <= position) {
        (void)take_page(cache, table);
    }
}

bool kv_table_fork(struct kv_cache *cache, struct kv_table *child, const struct kv_table *parent,
                   int32_t tokens, int32_t *to, int32_t *from)
{
    CHECK(child->count == 0 && parent->count >= kv_pages_for(tokens));
    int32_t full = tokens / KV_PAGE_TOKENS;
    for (int32_t i = 0; i < full; i++) {
        child->pages[child->count++] = parent->pages[i];
        cache->references[parent->pages[i]]++;
    }
    if (tokens % KV_PAGE_TOKENS == 0) {
        return false;
    }
    *to = take_page(cache, child);
    *from = parent->pages[full];
    return true;
}

void kv_table_close(struct kv_cache *cache, struct kv_table *table)
{
    for (int32_t i = 0; i < table->count; i++) {
        int32_t page = table->pages[i];
        CHECK(cache->references[page] > 0);
        if (--cache->references[page] == 0) {
            cache->free_pages[cache->free_count++] = page;
        }
    }
    cache->promised -= table->promised;
    table->count = 0;
    table->promised = 0;
}
