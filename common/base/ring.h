// ring.h: a bounded queue of pointers between one producing and one consuming thread.
#ifndef COMMON_BASE_RING_H
#define COMMON_BASE_RING_H

#include "common/base/error.h"

#include <stdbool.h>
#include <stddef.h>

struct ring;

// ring_create makes room for `capacity` items (a power of two).
int ring_create(struct ring **out, size_t capacity, struct error *err);

// ring_destroy frees the ring, not what is still in it. NULL is allowed.
void ring_destroy(struct ring *ring);

// ring_push hands `item` (not NULL) over; false when the ring is full. Producer's thread.
bool ring_push(struct ring *ring, void *item);

// ring_pop takes the oldest item; NULL when the ring is empty. Consumer's thread.
void *ring_pop(struct ring *ring);

#endif
