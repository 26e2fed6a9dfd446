#include "common/base/arena.h"

#include "common/base/check.h"

#include <errno.h>
#include <sys/mman.h>

enum { ARENA_ALIGN = 64, ARENA_PAGE = 4096 };

int arena_init(struct arena *arena, size_t size, struct error *err)
{
    CHECK(size > 0);
    if (size > SIZE_MAX - ARENA_PAGE) {
        return error_set(err, -ENOMEM, "cannot reserve %zu bytes of memory", size);
    }
    size = (size + ARENA_PAGE - 1) & ~(size_t)(ARENA_PAGE - 1);
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        return error_set(err, -errno, "cannot reserve %zu MB of memory: %m", size >> 20);
    }
    (void)madvise(base, size, MADV_HUGEPAGE); // advice: a kernel without huge pages says no
    *arena = (struct arena){.base = base, .size = size};
    return 0;
}

void arena_finish(struct arena *arena)
{
    if (arena->base != NULL) {
        CHECK(munmap(arena->base, arena->size) == 0);
    }
    *arena = (struct arena){0};
}

void *arena_alloc(struct arena *arena, size_t size)
{
    size_t left = arena->size - arena->used; // both are multiples of ARENA_ALIGN, so this is too
    if (size > left) {
        return NULL;
    }
    char *piece = arena->base + arena->used;
    arena->used += (size + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
    return piece;
}

void arena_reset(struct arena *arena)
{
    arena->used = 0;
}
