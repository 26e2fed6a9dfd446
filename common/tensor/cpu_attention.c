// Blocks of keys and values, and the softmax over them: two vectors of scores a row.
#include "common/tensor/cpu.h"
#include "common/tensor/cpu_pairs.h"
#include "common/tensor/vec.h"

_Static_assert(ATTENTION_BLOCK == 2 * VEC, "a block of scores is two vectors");

enum { ROWS_AT_ONCE = VEC }; // their rescaling factors fit a vector

static void rescale(float *out, float factor, int64_t D)
{
    if (factor == 1.0f) { // x * 1 is x: skipping it changes no bit
        return;
    }
    for (int64_t d = 0; d < D; d += VEC) {
        const int count = D - d < VEC ? (int)(D - d) : VEC;
        v_store_n(out + d, v_mul(v_load_n(out + d, count), v_set(factor)), count);
    }
}

// mask_rows hides the keys that a row does not see and returns the rows' new maxima; rows that see
// none keep theirs.
static v16 mask_rows(float *score, const float *max, const int32_t *valid, int rows)
{
    const v16 lowest = v_set(-INFINITY);
    float top[ROWS_AT_ONCE] = {0};
    for (int r = 0; r < rows; r++, score += ATTENTION_BLOCK) {
        v16 a = v_load(score), b = v_load(score + VEC);
        if (valid[r] < ATTENTION_BLOCK) {
            a = v_select(lanes_below(valid[r]), a, lowest);
            b = v_select(lanes_below(valid[r] - VEC), b, lowest);
            v_store(score, a);
            v_store(score + VEC, b);
        }
        const float most = v_max_lane(v_max(a, b));
        top[r] = most > max[r] ? most : max[r];
    }
    return v_load(top);
}

static void softmax_rows(float *score, float *max, float *sum, float *out, int64_t ld, int64_t D,
                         const int32_t *valid, int rows)
{
    const v16 tops = mask_rows(score, max, valid, rows);
    float top[ROWS_AT_ONCE], factor[ROWS_AT_ONCE];
    v_store(top, tops);
    v_store(factor, v_exp(v_sub(v_load_n(max, rows), tops)));
    for (int r = 0; r < rows; r++, score += ATTENTION_BLOCK, out += ld) {
        if (valid[r] == 0) {
            v_store(score, v_set(0.0f));
            v_store(score + VEC, v_set(0.0f));
            continue;
        }
        const v16 a = v_exp(v_sub(v_load(score), v_set(top[r]))); // e^-inf is 0: the hidden keys
        const v16 b = v_exp(v_sub(v_load(score + VEC), v_set(top[r])));
        sum[r] = fmaf(sum[r], factor[r], v_sum(v_add(a, b)));
        max[r] = top[r];
        rescale(out, factor[r], D);
        v_store(score, a);
        v_store(score + VEC, b);
    }
}

void cpu_softmax_block(float *score, float *max, float *sum, float *out, int64_t ld, int64_t D,
                       const int32_t *valid, int64_t rows)
{
    for (int64_t r = 0; r < rows; r += ROWS_AT_ONCE) {
        const int count = rows - r < ROWS_AT_ONCE ? (int)(rows - r) : ROWS_AT_ONCE;
        softmax_rows(score + r * ATTENTION_BLOCK, max + r, sum + r, out + r * ld, ld, D, valid + r,
                     count);
    }
}

void cpu_softmax_finish(float *out, int64_t ld, int64_t D, const float *sum, int64_t rows)
{
    for (int64_t r = 0; r < rows; r++, out += ld) {
        cpu_scale(out, 1.0f / sum[r], D);
    }
}

void cpu_softmax_backward(float *score, float *dp, const float *lse, const float *delta,
                          const int32_t *valid, int64_t rows)
{
    for (int64_t r = 0; r < rows; r++, score += ATTENTION_BLOCK, dp += ATTENTION_BLOCK) {
        for (int64_t at = 0; at < ATTENTION_BLOCK; at += VEC) {
            const int count = (int)(valid[r] - at);
            v16 p = v_keep(v_exp(v_sub(v_load(score + at), v_set(lse[r]))), count);
            v16 ds = v_mul(p, v_sub(v_load(dp + at), v_set(delta[r])));
            v_store(score + at, p);
            v_store(dp + at, v_keep(ds, count));
        }
    }
}

void cpu_put_column(float *columns, int64_t slot, const float *x, int64_t D)
{
    for (int64_t d = 0; d < D; d++) {
        columns[d * ATTENTION_BLOCK + slot] = x[d];
    }
}

void cpu_put_row(float *rows, int64_t slot, const float *x, int64_t D)
{
    memcpy(rows + slot * D, x, (size_t)D * sizeof(float));
}

void cpu_put_column_bf16(float *columns, int64_t slot, const float *x, int64_t D)
{
    const int64_t depth = (D + 1) / 2;
    float *to = columns + slot / PANEL * depth * PANEL + slot % PANEL;
    for (int64_t d = 0; d < D; d += 2L * VEC) {
        float pairs[VEC];
        v_store(pairs, pairs_at(x + d, D - d));
        for (int64_t i = 0; i < VEC && d / 2 + i < depth; i++) {
            memcpy(&to[(d / 2 + i) * PANEL], &pairs[i], sizeof(float));
        }
    }
}

void cpu_put_row_bf16(float *rows, int64_t slot, const float *x, int64_t D)
{
    float *to = rows + slot / 2 * PANEL;
    for (int64_t d = 0; d < D; d += PANEL, to += ATTENTION_BLOCK / 2L * PANEL) {
        const v16 number = v_load_n(x + d, D - d < VEC ? (int)(D - d) : VEC);
        v_store(to, slot % 2 == 0 ? v_pairs(number, v_set(0.0f)) : v_odd_joins(v_load(to), number));
    }
}
