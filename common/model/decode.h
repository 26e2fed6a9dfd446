// decode.h: the forward pass of rows that belong to running sequences (prefill chunks and single
// new tokens alike), over a paged KV cache.
//
// A row is one token of one sequence at one position. A call may mix any rows; within one sequence
// the positions of a call must be consecutive and follow what is cached. A row's result depends on
// its own sequence's tokens only, bit for bit: not on the other rows, not on how a prompt was cut
// into calls, and equals what forward.h computes for the whole sequence.
#ifndef COMMON_MODEL_DECODE_H
#define COMMON_MODEL_DECODE_H

#include "common/model/model.h"

enum { KV_PAGE_TOKENS = ATTENTION_BLOCK };

// struct kv_memory is storage for `page_count` pages; a page holds the keys and values of
// KV_PAGE_TOKENS consecutive positions (position 32·i .. 32·i+31) in all layers and heads. Who owns
// which page is the caller's business (actor/kv_cache.h).
struct kv_memory;

int kv_memory_create(struct kv_memory **out, const struct model *model, int32_t page_count,
                     struct error *err);
void kv_memory_destroy(struct kv_memory *memory);
size_t kv_page_bytes(const struct shape *shape, enum compute compute);

// kv_page_copy copies page `from` to page `to` (copy on write of a shared, half-filled page).
void kv_page_copy(struct kv_memory *memory, int32_t to, int32_t from);

struct decode_row {
    int32_t token;        // id, 0 .. V-1
    int32_t position;     // 0 .. T-1
    const int32_t *pages; // the sequence's page table: entry i holds positions 32·i .. 32·i+31
    bool wants_logits;
};

struct decode; // one thread's workspace

int decode_create(struct decode **out, const struct model *model, int32_t rows_max,
                  struct error *err);
void decode_destroy(struct decode *decode);

// decode_logits_fn receives the logits [V] (f32, valid during the call) of row `row`.
typedef void decode_logits_fn(void *context, int32_t row, float *logits);

// decode_run computes `count` <= rows_max rows, writes their keys and values into `memory`, and
// calls `on_logits` for each row that wants logits, in row order, on the calling thread. `model`
// may be another version than the last call's, of the same shape. Threads may run side by side on
// one `model` and one `memory` as long as no two write one page and none writes a page that another
// reads.
void decode_run(struct decode *decode, const struct model *model, struct kv_memory *memory,
                const struct decode_row *rows, int32_t count, decode_logits_fn *on_logits,
                void *context);

// logprob_of is the natural log-probability of `token` under `logits` [V], in the one reduction
// order that actor and learner share (log-sum-exp over fixed blocks, f32).
float logprob_of(const float *logits, int32_t V, int32_t token);

#endif
