// forward.h: whole sequences, packed one after another without padding, through all layers, keeping
// what the backward pass needs.
//
// Each sequence starts at position 0 and sees only itself; sequences with the same beginning may
// share its rows. A row's bits equal what decode.h computes for the same token, shared or not.
#ifndef COMMON_MODEL_FORWARD_H
#define COMMON_MODEL_FORWARD_H

#include "common/model/block.h"

// struct pack is `count` sequences in T rows. The first shared[k] tokens of sequence k are the rows
// from base[k] on, which an earlier sequence owns; the others are its own, rows start[k] ..
// start[k+1]-1. Sequences with one base follow each other, the owner first.
struct pack {
    int64_t T;
    int32_t count;
    const int32_t *start;    // [count + 1]
    const int32_t *shared;   // [count], shorter than the owner; NULL: nothing is shared
    const int32_t *base;     // [count]
    const int32_t *ids;      // [T]
    const int32_t *position; // [T] in its sequence
};

static inline int32_t pack_shared(const struct pack *pack, int32_t k)
{
    return pack->shared == NULL ? 0 : pack->shared[k];
}

// pack_count is how many tokens sequence `k` has, shared ones included.
static inline int32_t pack_count(const struct pack *pack, int32_t k)
{
    return pack_shared(pack, k) + pack->start[k + 1] - pack->start[k];
}

// pack_row is the row of token `i` of sequence `k`.
static inline int32_t pack_row(const struct pack *pack, int32_t k, int32_t i)
{
    int32_t shared = pack_shared(pack, k);
    return i < shared ? pack->base[k] + i : pack->start[k] + i - shared;
}

struct forward {
    int64_t rows_max;
    float *memory;                  // all activations
    struct block_state *layers;     // [L], laid out for the rows of the last run
    float *last;                    // [T, C] residual stream after the last layer
    struct inputs final;            // [T, C] after the final norm: the head's input
    float *final_mean, *final_rstd; // [T]
    float *blocks;                  // key/value blocks of one sequence and head
    const float **block_list;
};

// forward_create makes room for packs of up to `rows_max` rows.
int forward_create(struct forward **out, const struct model *model, int64_t rows_max,
                   struct error *err);
void forward_destroy(struct forward *forward);

// forward_run fills layers, last and final for `pack` (T <= rows_max). One thread a forward.
void forward_run(struct forward *forward, const struct model *model, const struct pack *pack);

// forward_logprobs writes logprob[i], i = 0 .. T-2: the natural log-probability of ids[i+1] given
// ids[0..i], for one sequence of T <= rows_max tokens. `logits` is scratch of at least V floats
// times a few rows (logits_rows).
void forward_logprobs(struct forward *forward, const struct model *model, float *logprob,
                      const int32_t *ids, int64_t T, float *logits, int64_t logits_rows);

#endif
