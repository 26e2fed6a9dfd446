// Two counters that only grow: `pushed` belongs to the producer, `popped` to the consumer; each
// reads the other's with acquire. They lie on their own cache lines, so that the two threads do not
// fight for one.
#include "common/base/ring.h"

#include "common/base/check.h"

#include <errno.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { CACHE_LINE = 64 };

struct ring {
    alignas(CACHE_LINE) atomic_size_t pushed;
    alignas(CACHE_LINE) atomic_size_t popped;
    alignas(CACHE_LINE) size_t mask; // capacity - 1
    void *items[];
};

int ring_create(struct ring **out, size_t capacity, struct error *err)
{
    CHECK(capacity > 0 && (capacity & (capacity - 1)) == 0);
    size_t size = sizeof(struct ring) + capacity * sizeof(void *);
    size = (size + CACHE_LINE - 1) & ~(size_t)(CACHE_LINE - 1); // aligned_alloc wants a multiple
    struct ring *ring = aligned_alloc(CACHE_LINE, size);
    if (ring == NULL) {
        return error_set(err, -ENOMEM, "ring: no memory for %zu items", capacity);
    }
    memset(ring, 0, size);
    ring->mask = capacity - 1;
    *out = ring;
    return 0;
}

void ring_destroy(struct ring *ring)
{
    free(ring);
}

bool ring_push(struct ring *ring, void *item)
{
    CHECK(item != NULL);
    size_t pushed = atomic_load_explicit(&ring->pushed, memory_order_relaxed);
    size_t popped = atomic_load_explicit(&ring->popped, memory_order_acquire);
    if (pushed - popped > ring->mask) {
        return false;
    }
    ring->items[pushed & ring->mask] = item;
    atomic_store_explicit(&ring->pushed, pushed + 1, memory_order_release);
    return true;
}

void *ring_pop(struct ring *ring)
{
    size_t popped = atomic_load_explicit(&ring->popped, memory_order_relaxed);
    size_t pushed = atomic_load_explicit(&ring->pushed, memory_order_acquire);
    if (popped == pushed) {
        return NULL;
    }
    void *item = ring->items[popped & ring->mask];
    atomic_store_explicit(&ring->popped, popped + 1, memory_order_release);
    return item;
}
