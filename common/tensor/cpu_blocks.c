// Blocks of keys and values, written one position after another.
#include "common/tensor/cpu.h"
#include "common/tensor/cpu_pairs.h"
#include "common/tensor/vec.h"

void cpu_put_columns(float *columns, int64_t slot, const float *x, int64_t x_row, int64_t count,
                     int64_t D)
{
    for (const int64_t end = slot + count; slot < end; slot++, x += x_row) {
        float *to = columns + slot / PANEL * D * PANEL + slot % PANEL;
        for (int64_t d = 0; d < D; d++) {
            to[d * PANEL] = x[d];
        }
    }
}

void cpu_put_rows(float *rows, int64_t slot, const float *x, int64_t x_row, int64_t count,
                  int64_t D)
{
    for (const int64_t end = slot + count; slot < end; slot++, x += x_row) {
        float *to = rows + slot * PANEL;
        for (int64_t d = 0; d < D; d += PANEL, to += (int64_t)ATTENTION_BLOCK * PANEL) {
            const int width = D - d < PANEL ? (int)(D - d) : PANEL;
            v_store_n(to, v_load_n(x + d, width), width);
        }
    }
}

// column_put writes a column of a panel.
static void column_put(float *to, const float *x, int64_t D)
{
    for (int64_t d = 0; d < D; d += 2L * VEC) {
        float pairs[VEC];
        v_store(pairs, pairs_at(x + d, D - d));
        for (int64_t i = 0; i < VEC; i++) {
            memcpy(&to[(d / 2 + i) * PANEL], &pairs[i], sizeof(float));
        }
    }
}

void cpu_put_columns_bf16(float *columns, int64_t slot, const float *x, int64_t x_row,
                          int64_t count, int64_t D)
{
    const int64_t panel = packed_depth(COMPUTE_BF16, D) * PANEL;
    for (int64_t done = 0, written = 0; done < count; done += written, slot += written) {
        float *to = columns + slot / PANEL * panel + slot % PANEL;
        if (slot % PANEL == 0 && count - done >= PANEL) {
            panel_put(to, x + done * x_row, x_row, PANEL, D);
            written = PANEL;
        } else {
            column_put(to, x + done * x_row, D);
            written = 1;
        }
    }
}

// pair_put writes two rows, of which the first exists and the second may not; or, where the slot
// is odd, completes the pair that the row before began.
static void pair_put(float *to, const float *x, const float *second, bool odd, int64_t D)
{
    for (int64_t d = 0; d < D; d += PANEL, to += ATTENTION_BLOCK / 2L * PANEL) {
        const int width = D - d < PANEL ? (int)(D - d) : PANEL;
        const v16 number = v_load_n(x + d, width);
        const v16 other = second != NULL ? v_load_n(second + d, width) : v_set(0.0f);
        v_store(to, odd ? v_odd_joins(v_load(to), number) : v_pairs(number, other));
    }
}

void cpu_put_rows_bf16(float *rows, int64_t slot, const float *x, int64_t x_row, int64_t count,
                       int64_t D)
{
    if (slot == 0 && count < ATTENTION_BLOCK) { // what is not written yet is multiplied by 0
        memset(rows, 0, (size_t)rows_floats(COMPUTE_BF16, D) * sizeof(float));
    }
    for (int64_t done = 0, written = 0; done < count; done += written, slot += written) {
        const float *from = x + done * x_row;
        const bool odd = slot % 2 != 0, both = !odd && done + 1 < count;
        pair_put(rows + slot / 2 * PANEL, from, both ? from + x_row : NULL, odd, D);
        written = both ? 2 : 1;
    }
}
