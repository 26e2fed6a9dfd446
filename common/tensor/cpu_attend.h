// cpu_attend.h: what the kernels of attention share: where a call's rows come from and go to.
#ifndef COMMON_TENSOR_CPU_ATTEND_H
#define COMMON_TENSOR_CPU_ATTEND_H

#include "common/base/check.h"
#include "common/tensor/attend.h"
#include "common/tensor/vec.h"

#include <math.h>
#include <string.h>

static inline void attend_check(const struct attend *a)
{
    const int64_t rows = a->parts * a->rows;
    CHECK(a->parts >= 1 && a->rows >= 1 && rows >= 1 && rows <= ATTEND_ROWS);
    CHECK(a->D >= 1 && a->D <= HEAD_SIZE_MAX);
}

// attend_query writes the scaled query of row `r` of a part to `to` [D].
static inline void attend_query(float *to, const struct attend *a, int64_t part, int64_t r)
{
    const float *q = a->part[part].q + r * a->q_stride;
    const v16 scale = v_set(1.0f / sqrtf((float)a->D));
    for (int64_t d = 0; d < a->D; d += VEC) {
        const int count = a->D - d < VEC ? (int)(a->D - d) : VEC;
        v_store_n(to + d, v_mul(v_load_n(q + d, count), scale), count);
    }
}

typedef void round_fn(float *to, const float *x, int64_t x_row, int64_t T, int64_t K);

// attend_begin writes the scaled queries of all rows, `q_row` floats apart, as `round` writes a row
// (round_rows), and begins their running maxima and denominators.
static inline void attend_begin(const struct attend *a, float *q, int64_t q_row, round_fn *round,
                                float *max, float *sum)
{
    for (int64_t i = 0, row = 0; i < a->parts; i++) {
        for (int64_t r = 0; r < a->rows; r++, row++) {
            float query[HEAD_SIZE_MAX];
            attend_query(query, a, i, r);
            round(q + row * q_row, query, a->D, 1, a->D);
            max[row] = -INFINITY;
            sum[row] = 0.0f;
        }
    }
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

// attend_result writes what row `r` of a part has come to: `out`, readable in whole vectors, over
// the sum of its weights, which are relative to `max`.
static inline void attend_result(const struct attend *a, int64_t part, int64_t r, const float *out,
                                 float max, float sum)
{
    float *to = a->part[part].out + r * a->out_stride;
    const v16 share = v_set(1.0f / sum);
    for (int64_t d = 0; d < a->D; d += VEC) {
        v_store_n(to + d, v_mul(v_load(out + d), share), a->D - d < VEC ? (int)(a->D - d) : VEC);
    }
    if (a->lse != NULL) {
        a->lse[part * a->rows + r] = max + logf(sum);
    }
}

// attend_end writes what all rows have come to; those of `out` are `out_row` floats apart.
static inline void attend_end(const struct attend *a, const float *out, int64_t out_row,
                              const float *max, const float *sum)
{
    for (int64_t i = 0, row = 0; i < a->parts; i++) {
        for (int64_t r = 0; r < a->rows; r++, row++) {
            attend_result(a, i, r, out + row * out_row, max[row], sum[row]);
        }
    }
}

#endif
