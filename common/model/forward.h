// forward.h: whole sequences, packed one after another without padding, through all layers, keeping
// what the backward pass needs.
//
// Each sequence starts at position 0 and sees only itself. A row's bits equal what decode.h
// computes for the same token.
#ifndef COMMON_MODEL_FORWARD_H
#define COMMON_MODEL_FORWARD_H

#include "common/model/block.h"

// struct pack is `count` sequences in T rows: sequence k is rows start[k] .. start[k+1]-1.
struct pack {
    int64_t T;
    int32_t count;
    const int32_t *start;    // [count + 1]
    const int32_t *ids;      // [T]
    const int32_t *position; // [T], from 0 in each sequence
};

struct forward {
    const struct shape *shape; // borrowed from the model it was made for
    int64_t rows_max;
    int64_t sequence_max;           // rows of one sequence at most
    float *memory;                  // all activations
    struct block_state *layers;     // [L], laid out for the rows of the last run
    float *last;                    // [T, C] residual stream after the last layer
    float *final;                   // [T, C] after the final norm: the head's input
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

// forward_blocks lays the keys and values of head `kv` of rows [from, to) of a layer's qkv out as
// blocks for attend_run; the list is valid until the next call.
const float *const *forward_blocks(struct forward *forward, const struct model *model,
                                   const float *qkv, int64_t from, int64_t to, int64_t kv);

// forward_logprobs writes logprob[i], i = 0 .. T-2: the natural log-probability of ids[i+1] given
// ids[0..i], for one sequence of T <= rows_max tokens. `logits` is scratch of at least V floats
// times a few rows (logits_rows).
void forward_logprobs(struct forward *forward, const struct model *model, float *logprob,
                      const int32_t *ids, int64_t T, float *logits, int64_t logits_rows);

#endif
