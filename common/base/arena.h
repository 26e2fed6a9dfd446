// arena.h: memory that is planned, allocated once and reset.
//
// An arena is one 64-byte-aligned region (huge pages are asked for) that hands out pieces in order
// and takes all of them back at once.
#ifndef COMMON_BASE_ARENA_H
#define COMMON_BASE_ARENA_H

#include "common/base/error.h"

#include <stddef.h>
#include <stdint.h>

struct arena {
    char *base;
    size_t size; // bytes in all
    size_t used; // bytes handed out
};

// arena_init reserves `size` bytes, zeroed; arena_finish gives them back (a zeroed arena is
// allowed).
int arena_init(struct arena *arena, size_t size, struct error *err);
void arena_finish(struct arena *arena);

// arena_alloc hands out `size` bytes at a multiple of 64. NULL when the arena is full.
void *arena_alloc(struct arena *arena, size_t size);

// arena_reset takes every piece back; the bytes keep what was written.
void arena_reset(struct arena *arena);

#endif
