// Blocks of keys and values, written one position after another.
#include "common/tensor/cpu.h"
#include "common/tensor/cpu_pairs.h"
#include "common/tensor/vec.h"

void cpu_put_column(float *columns, int64_t slot, const float *x, int64_t D)
{
    float *to = columns + slot / PANEL * D * PANEL + slot % PANEL;
    for (int64_t d = 0; d < D; d++) {
        to[d * PANEL] = x[d];
    }
}

void cpu_put_row(float *rows, int64_t slot, const float *x, int64_t D)
{
    float *to = rows + slot * PANEL;
    for (int64_t d = 0; d < D; d += PANEL, to += (int64_t)ATTENTION_BLOCK * PANEL) {
        const int count = D - d < PANEL ? (int)(D - d) : PANEL;
        v_store_n(to, v_load_n(x + d, count), count);
    }
}

void cpu_put_column_bf16(float *columns, int64_t slot, const float *x, int64_t D)
{
    const int64_t depth = packed_depth(COMPUTE_BF16, D);
    float *to = columns + slot / PANEL * depth * PANEL + slot % PANEL;
    for (int64_t d = 0; d < D; d += 2L * VEC) {
        float pairs[VEC];
        v_store(pairs, pairs_at(x + d, D - d));
        for (int64_t i = 0; i < VEC; i++) {
            memcpy(&to[(d / 2 + i) * PANEL], &pairs[i], sizeof(float));
        }
    }
}

void cpu_put_row_bf16(float *rows, int64_t slot, const float *x, int64_t D)
{
    if (slot == 0) { // rows that are not written yet are multiplied by 0
        memset(rows, 0, (size_t)rows_floats(COMPUTE_BF16, D) * sizeof(float));
    }
    float *to = rows + slot / 2 * PANEL;
    for (int64_t d = 0; d < D; d += PANEL, to += ATTENTION_BLOCK / 2L * PANEL) {
        const v16 number = v_load_n(x + d, D - d < VEC ? (int)(D - d) : VEC);
        v_store(to, slot % 2 == 0 ? v_pairs(number, v_set(0.0f)) : v_odd_joins(v_load(to), number));
    }
}
