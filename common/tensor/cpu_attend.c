// Queries over blocks of keys, in f32 and in bf16: many rows go through the products of all else,
// few ones through those of cpu_few.h.
#include "common/tensor/cpu_attend.h"
#include "common/tensor/cpu.h"
#include "common/tensor/cpu_few.h"
#include "common/tensor/vec.h"

// few_scores takes two blocks at once, where that many panels go together.
static void few_scores(struct walk *w, const struct stretch *s)
{
    const int64_t depth = packed_depth(w->compute, w->attend->D), panel = depth * PANEL;
    const struct inputs queries = inputs_from(w->queries, s->from);
    const int64_t step = few_panels(s->rows) / 2;
    for (int64_t b = s->blocks_from; b < s->blocks_to; b += step) {
        const bool two = step == 2 && b + 1 < s->blocks_to;
        float *score = w->score + s->from * SCORE_ROW + b * ATTENTION_BLOCK;
        struct few few = {.s = s,
                          .c = {score, score + PANEL, score + 2L * PANEL, score + 3L * PANEL},
                          .ldc = SCORE_ROW,
                          .a = queries.data,
                          .a_row = queries.row,
                          .from = b,
                          .to = b + 1,
                          .depth = depth,
                          .last_depth = depth,
                          .block = {0, 0, 1, 1},
                          .at = {0, panel, 0, panel},
                          .ahead = columns_floats(w->compute, w->attend->D),
                          .pairs = w->compute != COMPUTE_F32};
        few_product(&few, s->rows, two ? 4 : 2);
    }
}

static void many_scores(struct walk *w, const struct stretch *s)
{
    const int64_t D = w->attend->D;
    for (int64_t b = s->blocks_from; b < s->blocks_to; b++) {
        struct operand keys = kv_block_keys(w->compute, s->blocks[b], D);
        keys.next = s->blocks[b] + columns_floats(w->compute, D);
        w->product(w->score + s->from * SCORE_ROW + b * ATTENTION_BLOCK, SCORE_ROW,
                   inputs_from(w->queries, s->from), keys, s->rows, ATTENTION_BLOCK, D, false);
    }
}

static void scores(struct walk *w, const struct stretch *s)
{
    if (s->rows <= FEW_ROWS) {
        few_scores(w, s);
    } else {
        many_scores(w, s);
    }
}

// weights_of is the weights of a stretch's rows for its keys from block `b` on.
static struct inputs weights_of(const struct walk *w, const struct stretch *s, int64_t b)
{
    const bool pairs = w->compute != COMPUTE_F32;
    return (struct inputs){.data = w->score + s->from * SCORE_ROW + b * rows_depth(w->compute),
                           .row = SCORE_ROW,
                           .col = 1,
                           .pairs = pairs};
}

static void few_values(struct walk *w, const struct stretch *s)
{
    const int64_t keys = columns_floats(w->compute, w->attend->D);
    const int64_t depth = rows_depth(w->compute), last = stretch_seen(s, s->blocks_to - 1);
    const int64_t panels = w->out_row / PANEL, step = few_panels(s->rows);
    const struct inputs weights = weights_of(w, s, s->blocks_from);
    for (int64_t from = 0; from < panels; from += step) {
        const int count = (int)(panels - from < step ? panels - from : step);
        struct few few = {.s = s,
                          .ldc = w->out_row,
                          .a = weights.data,
                          .a_row = weights.row,
                          .from = s->blocks_from,
                          .to = s->blocks_to,
                          .depth = depth,
                          .last_depth = weights.pairs ? (last + 1) / 2 : last,
                          .ahead = -keys,
                          .later = true,
                          .accumulate = true,
                          .pairs = weights.pairs};
        for (int p = 0; p < count; p++) {
            few.c[p] = w->out + s->from * w->out_row + (from + p) * PANEL;
            few.at[p] = keys + (from + p) * depth * PANEL;
        }
        few_product(&few, s->rows, count);
    }
}

static void many_values(struct walk *w, const struct stretch *s)
{
    const int64_t D = w->attend->D;
    float *const out = w->out + s->from * w->out_row;
    for (int64_t b = s->blocks_from; b < s->blocks_to; b++) {
        struct operand values = kv_block_values(w->compute, s->blocks[b], D);
        values.next = stretch_later(s, b);
        w->product(out, w->out_row, weights_of(w, s, b), values, s->rows, D, stretch_seen(s, b),
                   true);
    }
}

static void values(struct walk *w, const struct stretch *s)
{
    if (s->rows <= FEW_ROWS) {
        few_values(w, s);
    } else {
        many_values(w, s);
    }
}

#if !defined(__AVX512BF16__)
void cpu_attend(const struct attend *attend)
{
    struct walk walk;
    walk.attend = attend;
    walk.compute = COMPUTE_F32;
    walk.product = cpu_product;
    walk.round = cpu_round_rows;
    walk_run(&walk, scores, values);
}
#endif

void cpu_attend_bf16(const struct attend *attend)
{
    struct walk walk;
    walk.attend = attend;
    walk.compute = COMPUTE_BF16;
    walk.product = cpu_product_bf16;
    walk.round = cpu_round_rows_bf16;
    walk_run(&walk, scores, values);
}
