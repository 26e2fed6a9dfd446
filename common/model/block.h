// block.h: the two halves of a decoder layer around attention. Training and decoding use the same
// functions; only where the keys come from differs (DESIGN section 4).
#ifndef COMMON_MODEL_BLOCK_H
#define COMMON_MODEL_BLOCK_H

#include "common/model/model.h"

// A layer takes its rows so many at a time through all that concerns one row only: what one
// operation writes the next one reads from the cache. The gradients of weights are sums over rows
// that go on from one such block to the next, in the order of one product over all.
enum { BLOCK_ROWS = 192 };
_Static_assert(BLOCK_ROWS % PACKED_DEPTH == 0, "no step of a product is cut in two");

// struct block_state is what one layer computes for T rows, all in host memory. Decoding uses one
// state over and over; training keeps one per layer, since the backward pass reads it.
struct block_state {
    float *x;         // [T, C] residual stream on entry
    float *mean1;     // [T] written by LayerNorm only
    float *rstd1;     // [T]
    float *qkv_plain; // [T, (H+KV)*D] q and k before their norm; NULL without qk_norm
    float *qk_rstd;   // [T, H+KV] likewise
    float *qkv;       // [T, (H+2KV)*D] as attention reads it
    float *att;       // [T, H*D] attention's output
    float *lse;       // [T, H] written by forward_run
    float *mid;       // [T, C] residual stream between the halves
    float *mean2;     // [T]
    float *rstd2;     // [T]
    float *up;        // [T, 2F or F] before the activation
    // Scratch of the rows in work, which states may share:
    float *norm; // [BLOCK_ROWS, C] after a norm, as inputs_own describes
    float *act;  // [BLOCK_ROWS, F] after the activation, likewise
};

// block_state_floats is how many floats the arrays of T rows take, block_scratch_floats how many
// the scratch takes.
int64_t block_state_floats(const struct shape *shape, int64_t T);
int64_t block_scratch_floats(const struct model *model);

// block_state_carve lays a state for T rows out in `memory` [block_state_floats] and returns its
// end; its scratch is in `scratch` [block_scratch_floats].
float *block_state_carve(struct block_state *state, const struct model *model, float *memory,
                         int64_t T, float *scratch);

// block_state_from is the state of rows `t` and on.
struct block_state block_state_from(const struct block_state *state, const struct shape *shape,
                                    int64_t t);

// block_rows is how many rows a layer takes from row t on, of T.
static inline int64_t block_rows(int64_t T, int64_t t)
{
    return T - t < BLOCK_ROWS ? T - t : BLOCK_ROWS;
}

// block_norm1 and block_norm2 write the norm of `rows` rows of x, of mid, and what the backward
// pass needs of it, to state->norm. rows <= BLOCK_ROWS.
void block_norm1(const struct model *model, int32_t layer, const struct block_state *state,
                 int64_t rows);
void block_norm2(const struct model *model, int32_t layer, const struct block_state *state,
                 int64_t rows);

// embed_rows writes the residual stream on entry of the first layer: embedding plus, where the
// family has them, positions.
void embed_rows(const struct model *model, float *x, const int32_t *ids, const int32_t *position,
                int64_t T);

// block_before reads state->x and writes up to state->qkv; `position` [T].
void block_before(const struct model *model, int32_t layer, const struct block_state *state,
                  const int32_t *position, int64_t T);

// struct block_look is some rows of one sequence, consecutive positions, that look at their keys
// with a few query heads of one key head.
struct block_look {
    const float *const *blocks; // of the key head, as the kernel `attend` takes them
    int64_t row, rows;          // of the state; rows * heads <= ATTEND_ROWS
    int64_t position;           // of the first
    int64_t head, heads;
    float *lse; // [heads, rows] written; NULL: not wanted
};

// block_attend writes their part of state->att.
void block_attend(const struct model *model, const struct block_state *state,
                  const struct block_look *look);

// block_after reads state->x and state->att and writes the rest, then `next` [T, C], the residual
// stream on exit, which may be state->x where nothing reads that later.
void block_after(const struct model *model, int32_t layer, const struct block_state *state,
                 float *next, int64_t T);

// final_rows writes y = the final norm of x [T, C], as inputs_own describes; mean and rstd [T] may
// be NULL.
void final_rows(const struct model *model, float *y, float *mean, float *rstd, const float *x,
                int64_t T);

#endif
