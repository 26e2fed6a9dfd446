// Rows run through the same layer halves as training (block.h); attention reads pages. A page
// holds, for each layer and key head, one block as attention.h wants it.
#include "common/model/decode.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/model/block.h"
#include "common/tensor/attend.h"
#include "common/tensor/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD_ROWS = 48 }; // rows whose logits are computed at once

struct kv_memory {
    float *pages;
    int64_t block_floats; // of one layer and key head
    int64_t page_floats;
    int32_t page_count;
};

struct decode {
    int32_t rows_max;
    float *memory;
    struct block_state state;
    float *last;   // [HEAD_ROWS, C] gathered rows that want logits
    float *head;   // the same after the final norm: the head's input
    float *logits; // [HEAD_ROWS, V]
    int32_t *ids, *position;
    const float **blocks; // block lists of ATTEND_ROWS sequences, for one head
    int64_t blocks_max;   // of each
};

size_t kv_page_bytes(const struct shape *shape, enum compute compute)
{
    return (size_t)shape->L * (size_t)shape->KV * (size_t)kv_block_floats(compute, shape->D) *
           sizeof(float);
}

static void kv_memory_destroyp(struct kv_memory **memory)
{
    kv_memory_destroy(*memory);
}

int kv_memory_create(struct kv_memory **out, const struct model *model, int32_t page_count,
                     struct error *err)
{
    CLEANUP(kv_memory_destroyp) struct kv_memory *memory = calloc(1, sizeof(*memory));
    size_t page = kv_page_bytes(&model->shape, model->compute);
    if (memory != NULL) { // zeroed: what no token has written yet must be finite
        memory->pages = floats_alloc((size_t)page_count * (page / sizeof(float)));
    }
    if (memory == NULL || memory->pages == NULL) {
        return error_set(err, -ENOMEM, "no memory for %d KV pages of %zu bytes", page_count, page);
    }
    memory->page_floats = (int64_t)(page / sizeof(float));
    memory->block_floats = kv_block_floats(model->compute, model->shape.D);
    memory->page_count = page_count;
    *out = TAKE(memory);
    return 0;
}

void kv_memory_destroy(struct kv_memory *memory)
{
    if (memory != NULL) {
        floats_free(memory->pages);
        free(memory);
    }
}

void kv_page_copy(struct kv_memory *memory, int32_t to, int32_t from)
{
    CHECK(to >= 0 && to < memory->page_count && from >= 0 && from < memory->page_count);
    memcpy(memory->pages + to * memory->page_floats, memory->pages + from * memory->page_floats,
           (size_t)memory->page_floats * sizeof(float));
}

static void decode_destroyp(struct decode **decode)
{
    decode_destroy(*decode);
}

int decode_create(struct decode **out, const struct model *model, int32_t rows_max,
                  struct error *err)
{
    const struct shape *s = &model->shape;
    CLEANUP(decode_destroyp) struct decode *decode = calloc(1, sizeof(*decode));
    if (decode == NULL) {
        return error_set(err, -ENOMEM, "decode: out of memory");
    }
    const int64_t rows = rows_max;
    const int64_t width = inputs_stride(model->compute, s->C);
    const int64_t floats = block_scratch_floats(model) + block_state_floats(s, rows) +
                           HEAD_ROWS * (s->C + width + s->V);
    decode->rows_max = rows_max;
    decode->blocks_max = ((int64_t)s->T + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    decode->memory = floats_alloc((size_t)floats);
    decode->ids = malloc((size_t)rows * sizeof(*decode->ids));
    decode->position = malloc((size_t)rows * sizeof(*decode->position));
    decode->blocks = malloc(ATTEND_ROWS * (size_t)decode->blocks_max * sizeof(*decode->blocks));
    if (decode->memory == NULL || decode->ids == NULL || decode->position == NULL ||
        decode->blocks == NULL) {
        return error_set(err, -ENOMEM, "decode: no memory for %d rows", rows_max);
    }
    float *scratch = decode->memory;
    decode->last = block_state_carve(&decode->state, model, scratch + block_scratch_floats(model),
                                     rows, scratch);
    decode->head = decode->last + (int64_t)HEAD_ROWS * s->C;
    decode->logits = decode->head + HEAD_ROWS * width;
    *out = TAKE(decode);
    return 0;
}

void decode_destroy(struct decode *decode)
{
    if (decode != NULL) {
        floats_free(decode->memory);
        free(decode->ids);
        free(decode->position);
        free(decode->blocks);
        free(decode);
    }
}

static float *block_of(const struct kv_memory *memory, const struct shape *s, int32_t page,
                       int32_t layer, int64_t kv)
{
    return memory->pages + page * memory->page_floats +
           ((int64_t)layer * s->KV + kv) * memory->block_floats;
}

// follows says that the row after this one is the next position of its sequence.
static bool follows(const struct decode_row *row)
{
    return row[1].pages == row->pages && row[1].position == row->position + 1;
}

static void write_rows(const struct decode *decode, const struct model *model,
                       struct kv_memory *memory, int32_t layer, const struct decode_row *rows,
                       int32_t count)
{
    const struct shape *s = &model->shape;
    const int64_t width = ((int64_t)s->H + 2L * s->KV) * s->D;
    for (int32_t r = 0, written = 0; r < count; r += written) {
        const float *key = decode->state.qkv + r * width + (int64_t)s->H * s->D;
        int32_t page = rows[r].pages[rows[r].position / KV_PAGE_TOKENS], run = 1;
        CHECK(page >= 0 && page < memory->page_count);
        while (r + run < count && run < KV_PAGE_TOKENS && follows(&rows[r + run - 1])) {
            run++;
        }
        for (int64_t kv = 0; kv < s->KV; kv++) {
            const struct kv_rows put = {.key = key + kv * s->D,
                                        .value = key + (s->KV + kv) * s->D,
                                        .stride = width,
                                        .count = run};
            written = (int32_t)kv_block_put(model->kernels, block_of(memory, s, page, layer, kv),
                                            rows[r].position, &put, s->D);
        }
    }
}

// struct look is rows [first, first + count) of a call that attend together: consecutive positions
// of one sequence, or the newest positions of several sequences whose first `shared` blocks are the
// same pages. Bits do not depend on how rows are put together.
struct look {
    const struct decode_row *rows; // of the whole call
    int32_t first, count;
    int64_t shared;
    bool one_sequence;
};

// block_list lists the blocks of one row's sequence up to its `last` position, for one head.
static const float *const *block_list(const struct decode *decode, const struct model *model,
                                      const struct kv_memory *memory, int32_t layer, int64_t kv,
                                      const struct decode_row *row, int64_t last, int64_t list)
{
    const float **blocks = decode->blocks + list * decode->blocks_max;
    for (int64_t b = 0; b <= last / KV_PAGE_TOKENS; b++) {
        blocks[b] = block_of(memory, &model->shape, row->pages[b], layer, kv);
    }
    return blocks;
}

// A sequence's consecutive positions go with a few query heads of a key head.
static void look_along(const struct decode *decode, const struct model *model,
                       const struct kv_memory *memory, int32_t layer, const struct look *look)
{
    const struct shape *s = &model->shape;
    const int64_t group = s->H / s->KV;
    const struct decode_row *row = &look->rows[look->first];
    struct block_look block_look = {
        .row = look->first, .rows = look->count, .position = row->position};
    for (int64_t h = 0; h < s->H; h += block_look.heads) {
        const int64_t kv = h / group, left = (kv + 1) * group - h;
        block_look.blocks =
            block_list(decode, model, memory, layer, kv, row, row->position + look->count - 1, 0);
        block_look.head = h;
        block_look.heads = left < ATTEND_HEADS ? left : ATTEND_HEADS;
        block_attend(model, &decode->state, &block_look);
    }
}

// Single positions go with all query heads of a key head.
static void look_across(const struct decode *decode, const struct model *model,
                        const struct kv_memory *memory, int32_t layer, const struct look *look)
{
    const struct shape *s = &model->shape;
    const int64_t width = ((int64_t)s->H + 2L * s->KV) * s->D, HD = (int64_t)s->H * s->D;
    const int64_t group = s->H / s->KV;
    struct attend_part parts[ATTEND_ROWS];
    const struct attend attend = {.D = s->D,
                                  .part = parts,
                                  .parts = look->count,
                                  .rows = group,
                                  .shared = look->shared,
                                  .q_stride = s->D,
                                  .out_stride = s->D};
    for (int64_t kv = 0; kv < s->KV; kv++) {
        for (int64_t i = 0; i < look->count; i++) {
            const struct decode_row *row = &look->rows[look->first + i];
            const int64_t at = look->first + i, head = kv * group * s->D;
            parts[i] = (struct attend_part){
                .blocks = block_list(decode, model, memory, layer, kv, row, row->position, i),
                .q = decode->state.qkv + at * width + head,
                .out = decode->state.att + at * HD + head,
                .position = row->position};
        }
        model->kernels->attend(&attend);
    }
}

// shared_blocks is how many of the first `limit` pages of two rows are the same and full.
static int64_t shared_blocks(const struct decode_row *a, const struct decode_row *b, int64_t limit)
{
    int64_t shared = 0;
    int64_t most = b->position / KV_PAGE_TOKENS < limit ? b->position / KV_PAGE_TOKENS : limit;
    while (shared < most && a->pages[shared] == b->pages[shared]) {
        shared++;
    }
    return shared;
}

// is_single says that a row is its sequence's only one in the call, as far as those after it go.
static bool is_single(const struct decode_row *rows, int32_t at, int32_t count)
{
    return at + 1 == count || !follows(&rows[at]);
}

// look_join adds single rows that share blocks and do not halve what the rows before them share.
static void look_join(struct look *look, int64_t group, int32_t count)
{
    const struct decode_row *rows = look->rows, *first = &rows[look->first];
    int64_t most = first->position / KV_PAGE_TOKENS;
    for (int32_t at = look->first + 1; at < count && (look->count + 1) * group <= ATTEND_ROWS;
         at++) {
        const int64_t shared = shared_blocks(first, &rows[at], most);
        if (!is_single(rows, at, count) || shared == 0 || (look->count > 1 && 2 * shared < most)) {
            break;
        }
        most = shared;
        look->shared = shared;
        look->count++;
    }
}

// look_join_apart adds single rows that share no blocks with the one behind them.
static void look_join_apart(struct look *look, int64_t group, int32_t count)
{
    const struct decode_row *rows = look->rows;
    for (int32_t at = look->first + 1; at < count && (look->count + 1) * group <= ATTEND_ROWS;
         at++) {
        if (!is_single(rows, at, count) ||
            (at + 1 < count && shared_blocks(&rows[at], &rows[at + 1], 1) > 0)) {
            break;
        }
        look->count++;
    }
}

// look_from puts rows together, beginning with row `first`.
static struct look look_from(const struct model *model, const struct decode_row *rows,
                             int32_t first, int32_t count)
{
    const int64_t group = model->shape.H / model->shape.KV;
    struct look look = {.rows = rows, .first = first, .count = 1};
    for (int32_t at = first; look.count < ATTEND_POSITIONS && !is_single(rows, at, count); at++) {
        look.one_sequence = true;
        look.count++;
    }
    if (look.one_sequence || group > ATTEND_ROWS) {
        look.one_sequence = true;
        return look;
    }
    look_join(&look, group, count);
    if (look.count == 1) {
        look_join_apart(&look, group, count);
    }
    return look;
}

static void attention_rows(const struct decode *decode, const struct model *model,
                           const struct kv_memory *memory, int32_t layer,
                           const struct decode_row *rows, int32_t count)
{
    int32_t at = 0;
    while (at < count) {
        const struct look look = look_from(model, rows, at, count);
        if (look.one_sequence) {
            look_along(decode, model, memory, layer, &look);
        } else {
            look_across(decode, model, memory, layer, &look);
        }
        at += look.count;
    }
}

static void flush_logits(const struct decode *decode, const struct model *model,
                         const int32_t *waiting, int32_t count, decode_logits_fn *on_logits,
                         void *context)
{
    const struct matrix *head = &model->head;
    final_rows(model, decode->head, NULL, NULL, decode->last, count);
    model->kernels->product(decode->logits, head->N,
                            inputs_own(model->compute, decode->head, head->K), head->packed, count,
                            head->N, head->K, false);
    for (int32_t i = 0; i < count; i++) {
        on_logits(context, waiting[i], decode->logits + i * head->N);
    }
}

static void run_head(const struct decode *decode, const struct model *model,
                     const struct decode_row *rows, int32_t count, decode_logits_fn *on_logits,
                     void *context)
{
    const int64_t C = model->shape.C;
    int32_t waiting[HEAD_ROWS];
    int32_t held = 0;
    for (int32_t r = 0; r < count; r++) {
        if (rows[r].wants_logits) {
            memcpy(decode->last + held * C, decode->state.x + r * C, (size_t)C * sizeof(float));
            waiting[held++] = r;
        }
        if (held == HEAD_ROWS || (held > 0 && r + 1 == count)) {
            flush_logits(decode, model, waiting, held, on_logits, context);
            held = 0;
        }
    }
}

void decode_run(struct decode *decode, const struct model *model, struct kv_memory *memory,
                const struct decode_row *rows, int32_t count, decode_logits_fn *on_logits,
                void *context)
{
    CHECK(count >= 1 && count <= decode->rows_max);
    for (int32_t r = 0; r < count; r++) {
        CHECK(rows[r].token >= 0 && rows[r].token < model->shape.V);
        CHECK(rows[r].position >= 0 && rows[r].position < model->shape.T);
        decode->ids[r] = rows[r].token;
        decode->position[r] = rows[r].position;
    }
    struct block_state *state = &decode->state;
    embed_rows(model, state->x, decode->ids, decode->position, count);
    for (int32_t l = 0; l < model->shape.L; l++) {
        block_before(model, l, state, decode->position, count);
        write_rows(decode, model, memory, l, rows, count);
        attention_rows(decode, model, memory, l, rows, count);
        block_after(model, l, state, state->x, count);
    }
    run_head(decode, model, rows, count, on_logits, context);
}

float logprob_of(const float *logits, int32_t V, int32_t token)
{
    return logits[token] - kernels_best(COMPUTE_F32)->log_sum_exp(logits, V);
}
