// memory.h: large arrays of floats, aligned for vectors, on huge pages where the host gives them.
#ifndef COMMON_TENSOR_MEMORY_H
#define COMMON_TENSOR_MEMORY_H

#include <stddef.h>

// floats_alloc returns `count` zeros at a multiple of 64 bytes, NULL when there is no memory.
// Memory is taken from the system page by page when it is first touched.
float *floats_alloc(size_t count);

// floats_free gives an array of floats_alloc back; NULL is allowed.
void floats_free(float *floats);

static inline void floats_freep(float **floats)
{
    floats_free(*floats);
}

#endif
