// attend.h: queries over blocks of keys, the one piece of arithmetic that training and decoding
// share word for word.
//
// Keys and values lie in blocks of ATTENTION_BLOCK consecutive positions that start at multiples of
// it: keys as columns, then values as rows (kernels.h), as the compute type has them. A query walks
// its keys in order, piece by piece, with an online softmax, so its result depends on its own keys
// only. A piece is a block, and on the tile unit eight of them.
#ifndef COMMON_TENSOR_ATTEND_H
#define COMMON_TENSOR_ATTEND_H

#include "common/tensor/kernels.h"

enum {
    ATTEND_ROWS = 64, // query rows of one call at most
    HEAD_SIZE_MAX = 1024,
};

// attend_tile is how many consecutive positions of one sequence are best in one call.
static inline int64_t attend_tile(enum compute compute)
{
    return compute == COMPUTE_BF16_AMX ? 32 : 24;
}

// How many rows of sequences that share nothing are best in one call: what one part waits for is
// hidden behind the others.
enum { ATTEND_ROWS_APART = 16 };

// attend_seen is how many of `count` keys from position `from` on a query at `position` sees.
static inline int32_t attend_seen(int64_t position, int64_t from, int64_t count)
{
    const int64_t seen = position + 1 - from;
    return (int32_t)(seen < 0 ? 0 : seen < count ? seen : count);
}

static inline int64_t kv_block_floats(enum compute compute, int64_t D)
{
    return columns_floats(compute, D) + rows_floats(compute, D);
}

static inline struct operand kv_block_keys(enum compute compute, const float *block, int64_t D)
{
    return operand_packed(compute, block, D);
}

static inline struct operand kv_block_values(enum compute compute, const float *block, int64_t D)
{
    return operand_rows(compute, block + columns_floats(compute, D));
}

// kv_block_put writes the key and value [D] of one position into its block; a sequence's positions
// are written upwards.
static inline void kv_block_put(const struct kernels *kernels, float *block, int64_t position,
                                const float *key, const float *value, int64_t D)
{
    const int64_t slot = position % ATTENTION_BLOCK;
    kernels->put_column(block, slot, key, D);
    kernels->put_row(block + columns_floats(kernels->compute, D), slot, value, D);
}

// struct attend_part is some rows of a call: queries of one sequence that share one key head.
struct attend_part {
    const float *const *blocks; // block b holds positions 32b ..
    const float *q;             // row r at q + r*q_stride
    float *out;                 // row r at out + r*out_stride, written
    int64_t position;           // of row 0
};

// struct attend is one call: `parts` parts of `rows` rows each.
struct attend {
    int64_t D;                      // 1 .. HEAD_SIZE_MAX
    const struct attend_part *part; // [parts]
    int64_t parts;
    int64_t rows;          // of each part; parts * rows is 1 .. ATTEND_ROWS
    int64_t position_step; // 1: rows are consecutive positions; 0: rows are heads of one position
    int64_t shared;        // the first so many blocks are the same in all parts, and all before the
                           // first query's position
    int64_t q_stride, out_stride;
    float *lse; // [parts * rows] log-sum-exp of the scaled scores, written; NULL: not wanted
};

#endif
