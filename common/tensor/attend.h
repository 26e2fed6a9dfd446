// attend.h: queries over blocks of keys, the one piece of arithmetic that training and decoding
// share word for word.
//
// Keys and values lie in blocks of ATTENTION_BLOCK consecutive positions that start at multiples of
// it: keys as columns, then values as rows (kernels.h), as the compute type has them. A query walks
// its keys in order, eight blocks by eight, with an online softmax, so its result depends on its
// own keys only.
#ifndef COMMON_TENSOR_ATTEND_H
#define COMMON_TENSOR_ATTEND_H

#include "common/tensor/kernels.h"

enum {
    HEAD_SIZE_MAX = 1024,
    // Consecutive positions of one sequence are best in one call with so many query heads of a key
    // head: a block of positions sees no key beyond its own block.
    ATTEND_POSITIONS = ATTENTION_BLOCK,
    ATTEND_HEADS = 2,
    ATTEND_ROWS = ATTEND_POSITIONS * ATTEND_HEADS, // query rows of one call at most
};

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

// struct kv_rows is keys and values [count, D] of consecutive positions, rows `stride` apart.
struct kv_rows {
    const float *key, *value;
    int64_t stride, count;
};

// kv_block_put writes as many positions from `position` on as its block takes, and returns how many
// these are; a sequence's positions are written upwards.
static inline int64_t kv_block_put(const struct kernels *kernels, float *block, int64_t position,
                                   const struct kv_rows *rows, int64_t D)
{
    const int64_t slot = position % ATTENTION_BLOCK, left = ATTENTION_BLOCK - slot;
    const int64_t count = rows->count < left ? rows->count : left;
    kernels->put_columns(block, slot, rows->key, rows->stride, count, D);
    kernels->put_rows(block + columns_floats(kernels->compute, D), slot, rows->value, rows->stride,
                      count, D);
    return count;
}

// kv_blocks_put writes the positions from `position` on into a sequence's blocks, which lie one
// after another.
static inline void kv_blocks_put(const struct kernels *kernels, float *blocks, int64_t position,
                                 struct kv_rows rows, int64_t D)
{
    while (rows.count > 0) {
        float *block = blocks + position / ATTENTION_BLOCK * kv_block_floats(kernels->compute, D);
        const int64_t written = kv_block_put(kernels, block, position, &rows, D);
        position += written;
        rows.key += written * rows.stride;
        rows.value += written * rows.stride;
        rows.count -= written;
    }
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
