// attention.h: queries over blocks of keys, the one piece of arithmetic that training and decoding
// share word for word.
//
// Keys and values lie in blocks of ATTENTION_BLOCK consecutive positions that start at multiples of
// it: keys transposed [D][32], then values [32][D]. A query walks the blocks in order with an
// online softmax, so its result depends on its own keys only.
#ifndef COMMON_MODEL_ATTENTION_H
#define COMMON_MODEL_ATTENTION_H

#include "common/tensor/kernels.h"

enum { ATTEND_ROWS = 24 }; // query rows of one call

static inline int64_t kv_block_floats(int64_t D)
{
    return D * ATTENTION_BLOCK * 2;
}

// kv_block_put writes the key and value [D] of one position into its block.
void kv_block_put(float *block, int64_t position, const float *key, const float *value, int64_t D);

// struct attend is one call: `rows` queries that share one key head.
struct attend {
    const struct kernels *kernels;
    int64_t D;
    const float *const *blocks; // [blocks] block b holds positions 32b ..
    const float *q;             // row r at q + r*q_stride
    int64_t q_stride;
    float *out; // row r at out + r*out_stride, written
    int64_t out_stride;
    float *lse;            // [rows] log-sum-exp of the scaled scores, written; NULL: not wanted
    int64_t rows;          // 1 .. ATTEND_ROWS
    int64_t position;      // of row 0
    int64_t position_step; // 1: rows are consecutive positions; 0: rows are heads of one position
};

void attend_run(const struct attend *attend);

#endif
