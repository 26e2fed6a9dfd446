// Queries over blocks of keys, in f32 and in bf16: blocks that several parts share are walked once
// for all their rows, then each part walks its own.
#include "common/tensor/cpu_attend.h"
#include "common/tensor/cpu.h"
#include "common/tensor/cpu_few.h"
#include "common/tensor/vec.h"

_Static_assert(ATTENTION_BLOCK == 2 * VEC, "a block of scores is two vectors");

enum { ROWS_AT_ONCE = VEC }; // their rescaling factors fit a vector

typedef void product_fn(float *c, int64_t ldc, struct inputs a, struct operand b, int64_t M,
                        int64_t N, int64_t K, bool accumulate);

// struct walk is what the rows of a call have come to.
struct walk {
    _Alignas(CACHE_LINE) float q[ATTEND_ROWS * HEAD_SIZE_MAX]; // scaled, as its products read it
    _Alignas(CACHE_LINE) float out[ATTEND_ROWS * HEAD_SIZE_MAX];
    int64_t out_row; // floats: whole panels
    enum compute compute;
    product_fn *product;                      // of this compute type,
    round_fn *round;                          // and this
    float max[ATTEND_ROWS], sum[ATTEND_ROWS]; // running maximum and denominator
    int32_t valid[ATTEND_ROWS];               // keys of the current block that a row sees
};

static void rescale(float *out, float factor, int64_t width)
{
    if (factor == 1.0f) { // x * 1 is x: skipping it changes no bit
        return;
    }
    for (int64_t d = 0; d < width; d += VEC) {
        v_store(out + d, v_mul(v_load(out + d), v_set(factor)));
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

// put_weights replaces a row of scores by weights, as products read them: floats, or pairs in the
// first half.
static void put_weights(const struct walk *w, float *score, v16 a, v16 b)
{
    if (w->compute == COMPUTE_F32) {
        v_store(score, a);
        v_store(score + VEC, b);
    } else {
        v_store(score, v_pairs_along(a, b));
    }
}

// softmax_rows makes weights relative to the running maximum of the scores of a block and rescales
// `out` to it: `rows` rows from `from` on.
static void softmax_rows(struct walk *w, float *score, int64_t from, int rows)
{
    const v16 tops = mask_rows(score, w->max + from, w->valid + from, rows);
    float top[ROWS_AT_ONCE], factor[ROWS_AT_ONCE];
    v_store(top, tops);
    v_store(factor, v_exp(v_sub(v_load_n(w->max + from, rows), tops)));
    for (int r = 0; r < rows; r++, score += ATTENTION_BLOCK) {
        if (w->valid[from + r] == 0) {
            put_weights(w, score, v_set(0.0f), v_set(0.0f));
            continue;
        }
        const v16 a = v_exp(v_sub(v_load(score), v_set(top[r]))); // e^-inf is 0: the hidden keys
        const v16 b = v_exp(v_sub(v_load(score + VEC), v_set(top[r])));
        w->sum[from + r] = fmaf(w->sum[from + r], factor[r], v_sum(v_add(a, b)));
        w->max[from + r] = top[r];
        rescale(w->out + (from + r) * w->out_row, factor[r], w->out_row);
        put_weights(w, score, a, b);
    }
}

static struct inputs queries_from(const struct walk *w, int64_t row, int64_t D)
{
    return inputs_from(inputs_own(w->compute, w->q, D), row);
}

// walk_block takes rows [from, from + rows) over one block; `next` is read after it: its keys are
// fetched during the first product, its values during the second, which hides memory's latency.
static void walk_block(const struct attend *a, struct walk *w, int64_t from, int64_t rows,
                       const float *block, const float *next)
{
    const int64_t D = a->D;
    _Alignas(CACHE_LINE) float score[ATTEND_ROWS * ATTENTION_BLOCK];
    struct operand keys = kv_block_keys(w->compute, block, D);
    struct operand values = kv_block_values(w->compute, block, D);
    keys.next = next;
    values.next = next + columns_floats(w->compute, D);
    w->product(score, ATTENTION_BLOCK, queries_from(w, from, D), keys, rows, ATTENTION_BLOCK, D,
               false);
    for (int64_t r = 0; r < rows; r += ROWS_AT_ONCE) {
        softmax_rows(w, score + r * ATTENTION_BLOCK, from + r,
                     rows - r < ROWS_AT_ONCE ? (int)(rows - r) : ROWS_AT_ONCE);
    }
    // The last row sees most; beyond it the weights are 0 and the values may not be written yet.
    struct inputs weights = inputs_rows(score, ATTENTION_BLOCK);
    weights.pairs = w->compute != COMPUTE_F32;
    w->product(w->out + from * w->out_row, w->out_row, weights, values, rows, D,
               w->valid[from + rows - 1], true);
}

static void walk_shared(const struct attend *a, struct walk *w)
{
    const int64_t rows = a->parts * a->rows;
    const float *const *blocks = a->part[0].blocks;
    for (int64_t r = 0; r < rows; r++) {
        w->valid[r] = ATTENTION_BLOCK;
    }
    for (int64_t b = 0; b < a->shared; b++) {
        walk_block(a, w, 0, rows, blocks[b], blocks[b + 1]);
    }
}

// see_block notes how much of block `b` the rows of a part see.
static void see_block(const struct attend *a, struct walk *w, int64_t index, int64_t b)
{
    for (int64_t r = 0; r < a->rows; r++) {
        w->valid[index * a->rows + r] = attend_seen(attend_position(a, &a->part[index], r),
                                                    b * ATTENTION_BLOCK, ATTENTION_BLOCK);
    }
}

static void walk_own(const struct attend *a, struct walk *w, int64_t index)
{
    const struct attend_part *part = &a->part[index];
    const int64_t last = attend_last(a, part) / ATTENTION_BLOCK;
    for (int64_t b = a->shared; b <= last; b++) {
        see_block(a, w, index, b);
        walk_block(a, w, index * a->rows, a->rows, part->blocks[b],
                   part->blocks[b < last ? b + 1 : b]);
    }
}

// block_after is the block that comes at `b` where a part's blocks are followed by the next one's.
static const float *block_after(const struct attend *a, int64_t index, int64_t b)
{
    const int64_t last = attend_last(a, &a->part[index]) / ATTENTION_BLOCK;
    const struct attend_part *next = &a->part[index + 1 < a->parts ? index + 1 : index];
    const int64_t at = b - last - 1 + a->shared, next_last = attend_last(a, next) / ATTENTION_BLOCK;
    return b <= last ? a->part[index].blocks[b] : next->blocks[at < next_last ? at : next_last];
}

// few_scores computes the scores of a part's few rows and block `b`, and of the next one if `two`.
static void few_scores(const struct attend *a, const struct walk *w, int64_t index, int64_t b,
                       bool two, float *score)
{
    const int64_t depth = packed_depth(w->compute, a->D), panel = depth * PANEL;
    const struct inputs queries = queries_from(w, index * a->rows, a->D);
    struct few few = {.ldc = ATTENTION_BLOCK,
                      .a = queries.data,
                      .a_row = queries.row,
                      .depth = depth,
                      .pairs = w->compute != COMPUTE_F32};
    for (int p = 0; p < FEW_PANELS; p++) {
        const int64_t at = b + p / 2;
        few.c[p] = score + p / 2 * (int64_t)FEW_ROWS * ATTENTION_BLOCK + p % 2 * (int64_t)PANEL;
        few.panel[p] = block_after(a, index, at) + p % 2 * panel;
        few.ahead[p] = block_after(a, index, at + 2) + p % 2 * panel;
    }
    few_product(&few, a->rows, two ? 4 : 2);
}

// few_values adds the values of block `b`, weighted, to what a part's few rows have come to.
static void few_values(const struct attend *a, struct walk *w, int64_t index, int64_t b,
                       const float *weights)
{
    const int64_t keys = columns_floats(w->compute, a->D), panel = rows_depth(w->compute) * PANEL;
    const int64_t seen = w->valid[index * a->rows + a->rows - 1];
    const int64_t panels = w->out_row / PANEL, step = few_panels(a->rows);
    struct few few = {.ldc = w->out_row,
                      .a_row = ATTENTION_BLOCK,
                      .depth = w->compute == COMPUTE_F32 ? seen : (seen + 1) / 2,
                      .accumulate = true,
                      .pairs = w->compute != COMPUTE_F32};
    const float *values = a->part[index].blocks[b] + keys;
    const float *later = block_after(a, index, b + 2) + keys;
    for (int64_t from = 0; from < panels; from += step) {
        const int count = (int)(panels - from < step ? panels - from : step);
        few.a = weights;
        for (int p = 0; p < FEW_PANELS; p++) {
            const int64_t at = p < count ? from + p : from; // those beyond are not read
            few.c[p] = w->out + index * a->rows * w->out_row + at * PANEL;
            few.panel[p] = values + at * panel;
            few.ahead[p] = later + at * panel;
        }
        few_product(&few, a->rows, count);
    }
}

// walk_few does what walk_own does, for few rows: two blocks' scores at once, where that many
// panels go together.
static void walk_few(const struct attend *a, struct walk *w, int64_t index)
{
    const int64_t last = attend_last(a, &a->part[index]) / ATTENTION_BLOCK;
    const int64_t step = few_panels(a->rows) / 2;
    _Alignas(CACHE_LINE) float score[2 * FEW_ROWS * ATTENTION_BLOCK];
    for (int64_t b = a->shared; b <= last; b += step) {
        const int64_t blocks = last + 1 - b < step ? last + 1 - b : step;
        few_scores(a, w, index, b, blocks == 2, score);
        for (int64_t i = 0; i < blocks; i++) {
            float *scores = score + i * FEW_ROWS * ATTENTION_BLOCK;
            see_block(a, w, index, b + i);
            softmax_rows(w, scores, index * a->rows, (int)a->rows);
            few_values(a, w, index, b + i, scores);
        }
    }
}

static void walk_run(const struct attend *a, struct walk *w)
{
    attend_check(a);
    attend_begin(a, w->q, inputs_stride(w->compute, a->D), w->round, w->max, w->sum);
    w->out_row = (a->D + PANEL - 1) / PANEL * PANEL;
    memset(w->out, 0, (size_t)(a->parts * a->rows * w->out_row) * sizeof(float));
    walk_shared(a, w);
    for (int64_t i = 0; i < a->parts; i++) {
        if (a->rows <= FEW_ROWS) {
            walk_few(a, w, i);
        } else {
            walk_own(a, w, i);
        }
    }
    attend_end(a, w->out, w->out_row, w->max, w->sum);
}

#if !defined(__AVX512BF16__)
void cpu_attend(const struct attend *attend)
{
    struct walk walk;
    walk.compute = COMPUTE_F32;
    walk.product = cpu_product;
    walk.round = cpu_round_rows;
    walk_run(attend, &walk);
}
#endif

void cpu_attend_bf16(const struct attend *attend)
{
    struct walk walk;
    walk.compute = COMPUTE_BF16;
    walk.product = cpu_product_bf16;
    walk.round = cpu_round_rows_bf16;
    walk_run(attend, &walk);
}
