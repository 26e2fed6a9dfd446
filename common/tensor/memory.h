// memory.h: large arrays of floats, aligned for vectors, on huge pages where the host gives them.
#ifndef COMMON_TENSOR_MEMORY_H
#define COMMON_TENSOR_MEMORY_H

#include <stddef.h>
#include <stdint.h>

// floats_alloc returns `count` zeros at a multiple of 64 bytes, NULL when there is no memory.
// Memory is taken from the system page by page when it is first touched.
float *floats_alloc(size_t count);

// floats_free gives an array of floats_alloc back; NULL is allowed.
void floats_free(float *floats);

// floats_whole is `count` rounded up to multiples of 64 bytes: arrays laid one behind another begin
// there.
static inline int64_t floats_whole(int64_t count)
{
    return (count + 15) / 16 * 16;
}

// floats_carve allocates `count` arrays, *arrays[i] of sizes[i] floats, in one piece and returns
// it; NULL, with all as they were, when there is no memory.
float *floats_carve(float **const *arrays, const int64_t *sizes, size_t count);

static inline void floats_freep(float **floats)
{
    floats_free(*floats);
}

#endif
