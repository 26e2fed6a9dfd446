// attend_backward.h: attention read upwards: from the gradient of what it gave to that of the
// queries, keys and values it took.
//
// Queries go in squares: some consecutive positions of a sequence with a few query heads of one key
// head, over a chunk of keys. What a square's weights P and the gradients dS of its scores are
// comes block of keys by block; then dQ = dS·K runs along all keys of the chunk, and dK = dSᵀ·Q and
// dV = Pᵀ·dO along all rows of the square.
#ifndef LEARNER_ATTEND_BACKWARD_H
#define LEARNER_ATTEND_BACKWARD_H

#include "common/model/forward.h"

struct attend_backward; // one thread's workspace

int attend_backward_create(struct attend_backward **out, const struct model *model,
                           int64_t rows_max, struct error *err);
void attend_backward_destroy(struct attend_backward *attend);

// attend_backward_run writes dqkv [T, (H+2KV)*D], the gradient of state->qkv, for the rows of the
// last forward_run of `pack`.
//   state  what the layer's forward pass has left
//   datt   [T, H*D]  gradient of state->att
void attend_backward_run(struct attend_backward *attend, const struct model *model,
                         const struct block_state *state, const struct pack *pack,
                         const float *datt, float *dqkv);

#endif
