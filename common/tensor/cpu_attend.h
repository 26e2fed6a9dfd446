// cpu_attend.h: what the kernels of attention share: where a call's rows come from and go to.
#ifndef COMMON_TENSOR_CPU_ATTEND_H
#define COMMON_TENSOR_CPU_ATTEND_H

#include "common/base/check.h"
#include "common/tensor/attend.h"

#include <math.h>
#include <string.h>

static inline void attend_check(const struct attend *a)
{
    const int64_t rows = a->parts * a->rows;
    CHECK(a->parts >= 1 && a->rows >= 1 && rows >= 1 && rows <= ATTEND_ROWS);
    CHECK(a->D >= 1 && a->D <= HEAD_SIZE_MAX);
}

static inline float attend_scale(int64_t D)
{
    return 1.0f / sqrtf((float)D);
}

// Row `r` of all, counted through the parts.
static inline const float *attend_query(const struct attend *a, int64_t r)
{
    return a->part[r / a->rows].q + r % a->rows * a->q_stride;
}

// The position of row `r` of a part.
static inline int64_t attend_position(const struct attend *a, const struct attend_part *part,
                                      int64_t r)
{
    return part->position + r * a->position_step;
}

// attend_last is the last position that a part's rows see.
static inline int64_t attend_last(const struct attend *a, const struct attend_part *part)
{
    return attend_position(a, part, a->rows - 1);
}

static inline void attend_result(const struct attend *a, int64_t r, const float *out, float max,
                                 float sum)
{
    memcpy(a->part[r / a->rows].out + r % a->rows * a->out_stride, out,
           (size_t)a->D * sizeof(float));
    if (a->lse != NULL) {
        a->lse[r] = max + logf(sum);
    }
}

#endif
