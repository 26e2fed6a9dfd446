// Large arrays are mapped, small ones come from malloc, whose checkers then watch them.
#include "common/tensor/memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20, ALIGN = 64 };

// What lies in the 64 bytes before an array.
struct header {
    void *base;
    size_t mapped; // bytes; 0: from malloc
};

_Static_assert(sizeof(struct header) <= ALIGN, "the header fits before the array");

static char *map_large(struct header *header, size_t bytes)
{
    header->mapped = bytes + 2 * (size_t)HUGE_PAGE;
    header->base = mmap(NULL, header->mapped, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (header->base == MAP_FAILED) {
        return NULL;
    }
    // The array begins at the first whole huge page behind the header.
    char *data = (char *)header->base + (HUGE_PAGE - (uintptr_t)header->base % HUGE_PAGE);
    (void)madvise(data, (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
    return data;
}

static char *alloc_small(struct header *header, size_t bytes)
{
    header->base = aligned_alloc(ALIGN, (bytes + 2 * (size_t)ALIGN - 1) / ALIGN * ALIGN);
    if (header->base == NULL) {
        return NULL;
    }
    memset((char *)header->base + ALIGN, 0, bytes);
    return (char *)header->base + ALIGN;
}

float *floats_alloc(size_t count)
{
    if (count > SIZE_MAX / sizeof(float) - HUGE_PAGE) {
        return NULL;
    }
    const size_t bytes = count * sizeof(float);
    struct header header = {0};
    char *data = bytes >= HUGE_PAGE ? map_large(&header, bytes) : alloc_small(&header, bytes);
    if (data != NULL) {
        memcpy(data - ALIGN, &header, sizeof(header));
    }
    return (float *)(void *)data;
}

void floats_free(float *floats)
{
    if (floats == NULL) {
        return;
    }
    struct header header;
    memcpy(&header, (char *)floats - ALIGN, sizeof(header));
    if (header.mapped > 0) {
        (void)munmap(header.base, header.mapped);
    } else {
        free(header.base);
    }
}

float *floats_carve(float **const *arrays, const int64_t *sizes, size_t count)
{
    int64_t all = 0;
    for (size_t i = 0; i < count; i++) {
        all += floats_whole(sizes[i]);
    }
    float *const memory = floats_alloc((size_t)all), *next = memory;
    for (size_t i = 0; i < count && memory != NULL; i++) {
        *arrays[i] = next;
        next += floats_whole(sizes[i]);
    }
    return memory;
}
