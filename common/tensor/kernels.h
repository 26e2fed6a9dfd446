// kernels.h: the operations of the engine on plain f32 arrays in host memory, as a table per
// instruction set.
//
// A table also has a compute type, which is what its product does: f32 multiplies as the numbers
// are; bf16 and bf16-amx round both sides to bf16 and add in f32, each in its own order. All else
// computes in f32 in all; what only products read is written as they read it (struct inputs).
//
// Every kernel runs on the calling thread, allocates nothing and never fails. The result of a row
// depends on that row's inputs only, bit for bit, and is the same in every table of its compute
// type: sums run in an order that is part of each contract. Matrices are row-major; a stride is in
// elements.
#ifndef COMMON_TENSOR_KERNELS_H
#define COMMON_TENSOR_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum compute { COMPUTE_AUTO, COMPUTE_F32, COMPUTE_BF16, COMPUTE_BF16_AMX };

enum {
    PANEL = 16,           // columns of a packed panel
    PACKED_DEPTH = 32,    // a panel of pairs is filled up with zeros to a multiple of so many rows
    ATTENTION_BLOCK = 32, // keys of one block; a KV page holds one block a layer and head
    CACHE_LINE = 64,      // bytes; a vector or a tile's row that lies in two takes twice as long
};

// struct operand is the right side B [K, N] of a product: panel p (columns 16p ..) starts at data +
// p*panel_stride and row k of it lies k*row_stride further. A plain row-major B has panel_stride 16
// and row_stride N; a packed one K*16 and 16. Where `pairs` is set, an element is not a float but
// the four bytes of two bf16, those of rows 2k (low half) and 2k+1 of one column, and row k of the
// operand is these two: only products in bf16 take it. If K is odd, the number that completes the
// last pair is any finite one.
struct operand {
    const float *data;
    int64_t panel_stride;
    int64_t row_stride;
    const float *next; // as many elements that are read after the product, fetched meanwhile; may
                       // be NULL
    bool pairs;
};

// struct inputs is numbers that go into products: element (m, k) lies at data + m*row + k*col, of
// which one is 1: a transposed left side needs no copy. Where `pairs` is set, the numbers that are
// side by side lie pair after pair, and go on with zeros up to a multiple of PACKED_DEPTH: row m
// from data + m*row on, or column k from data + k*col on. Only products in bf16 take these.
struct inputs {
    const float *data;
    int64_t row, col;
    bool pairs;
};

struct adamw {
    float lr, beta1, beta2, epsilon, weight_decay;
    float grad_scale;               // the norm clip's factor
    float correction1, correction2; // 1 - beta^t
};

// struct softmax is that of one row: log-sum-exp, the sum of the weights, and the entropy in nats.
struct softmax {
    float lse, total, entropy;
};

// struct softmax_rows is rows of 32 scores, one block of keys, and of the gradients of the weights
// that they came to.
struct softmax_rows {
    const float *score, *dp;  // [rows, ATTENTION_BLOCK]
    const float *lse, *delta; // [rows] of all the row's scores; the sum of its p * dp
    const int32_t *valid;     // [rows] keys that a row sees
    int64_t rows;
};

struct attend;

struct kernels {
    const char *name; // "portable", "avx2", "avx512", "avx512bf16", "amx"
    enum compute compute;

    // c [M, N] (stride ldc) = a [M, K] · b, plus what was in c when `accumulate`. Each result is
    // chains of fused multiply-adds. f32: one over k upwards. bf16: one over 1, 0, 3, 2, 5, 4 ..,
    // as VDPBF16PS computes. bf16-amx: of each 32 k, one over the even and one over the odd ones,
    // from zero; their sum is added to what came before, as TDPBF16PS computes. In both, what is
    // missing of K is zeros, and every input and result that is subnormal counts as a zero of its
    // sign. Results that are not finite are so in every table, but NaNs may differ.
    void (*product)(float *c, int64_t ldc, struct inputs a, struct operand b, int64_t M, int64_t N,
                    int64_t K, bool accumulate);

    // Writes x [T, K] (stride x_row) as inputs_own describes.
    void (*round_rows)(float *to, const float *x, int64_t x_row, int64_t T, int64_t K);

    // Packs W [N, K], row-major, as the operand Wᵀ of this table's products: panels of 16 columns,
    // those beyond N zero. operand_packed says where they lie.
    void (*pack)(float *packed, const float *W, int64_t N, int64_t K);

    // Packs B [K, N], whose col is 1, as the operand B of this table's products; NULL where they
    // read it best as it lies (f32).
    void (*pack_rows)(float *packed, struct inputs B, int64_t K, int64_t N);

    // Writes x [count, D] (stride x_row) as columns from `slot` on of an operand [D, 32] that
    // operand_packed describes, or as rows of an operand [32, D] that operand_rows does: keys and
    // values, one position after another. Slots are written upwards: what was in those above is
    // gone.
    void (*put_columns)(float *columns, int64_t slot, const float *x, int64_t x_row, int64_t count,
                        int64_t D);
    void (*put_rows)(float *rows, int64_t slot, const float *x, int64_t x_row, int64_t count,
                     int64_t D);

    // y = x / rms(x) * gain; rstd [T] keeps 1/rms for the backward pass. x, y [T, C];
    // rmsnorm_inputs writes y as inputs_own describes.
    void (*rmsnorm)(float *y, float *rstd, const float *x, const float *gain, int64_t T, int64_t C,
                    float eps);
    void (*rmsnorm_inputs)(float *y, float *rstd, const float *x, const float *gain, int64_t T,
                           int64_t C, float eps);
    // dx += the gradient through rmsnorm, dgain += its own. dy [T, C].
    void (*rmsnorm_backward)(float *dx, float *dgain, const float *dy, const float *x,
                             const float *rstd, const float *gain, int64_t T, int64_t C);
    // LayerNorm with bias; mean and rstd [T] are kept. y is as inputs_own describes.
    void (*layernorm)(float *y, float *mean, float *rstd, const float *x, const float *gain,
                      const float *bias, int64_t T, int64_t C, float eps);
    void (*layernorm_backward)(float *dx, float *dgain, float *dbias, const float *dy,
                               const float *x, const float *mean, const float *rstd,
                               const float *gain, int64_t T, int64_t C);

    // y [T, C] (stride ld) += bias [C]; and its gradient dbias += column sums of dy, rows upwards.
    void (*add_bias)(float *y, int64_t ld, const float *bias, int64_t T, int64_t C);
    void (*bias_backward)(float *dbias, const float *dy, int64_t ld, int64_t T, int64_t C);

    // y += x over n elements.
    void (*add)(float *y, const float *x, int64_t n);

    // Rotary embedding in place on `heads` heads of size D in each row (stride ld); cosine and sine
    // [D/2] of row t lie at table + 2*(D/2)*position[t]. `sign` is 1, or -1 for the backward pass.
    // Pairs are (i, i + D/2).
    void (*rope)(float *x, int64_t ld, const float *table, const int32_t *position, int64_t T,
                 int64_t heads, int64_t D, float sign);

    // y [T, F] = silu(gate) * up, and its gradients; gate_up and dgate_up are [T, 2F], gate first.
    // y and dgate_up are as inputs_own describes; the backward pass writes y again: it is cheaper
    // to compute than to keep.
    void (*swiglu)(float *y, const float *gate_up, int64_t T, int64_t F);
    void (*swiglu_backward)(float *dgate_up, float *y, const float *dy, const float *gate_up,
                            int64_t T, int64_t F);
    // y [T, F] = gelu(x), tanh form, likewise; dx = dy * gelu'(x) in floats, and y again.
    void (*gelu)(float *y, const float *x, int64_t T, int64_t F);
    void (*gelu_backward)(float *dx, float *y, const float *dy, const float *x, int64_t T,
                          int64_t F);

    // The queries of one call over their keys (attend.h).
    void (*attend)(const struct attend *attend);
    // p = exp(score - lse[r]) for the first valid[r] of 32 keys, else 0; ds = p * (dp - delta[r]).
    // Rows of both lie `row` floats apart and are written as products read them.
    void (*softmax_backward)(float *p, float *ds, int64_t row, const struct softmax_rows *softmax);
    // y [rows, n] (stride y_row) = x (stride x_row) * factor.
    void (*scale)(float *y, int64_t y_row, const float *x, int64_t x_row, float factor,
                  int64_t rows, int64_t n);
    // y [rows] = the sums of a*b along rows of n, `row` apart: in sixteen lanes, then the tree of
    // vec.h.
    void (*dots)(float *y, const float *a, const float *b, int64_t row, int64_t rows, int64_t n);

    // log-sum-exp of x [n]: maximum, then sums of exp(x - max) in sixteen lanes.
    float (*log_sum_exp)(const float *x, int64_t n);
    // the largest of x [n], n > 0.
    float (*maximum)(const float *x, int64_t n);
    // y = exp((x - top) * factor) over n elements; the sum of y returned, in sixteen lanes.
    float (*exp_weights)(float *y, const float *x, int64_t n, float top, float factor);
    // The same, and what else softmax_gradient needs: weights [n] = exp(x - max).
    struct softmax (*softmax)(float *weights, const float *x, int64_t n);
    // Replaces the weights that `softmax` has found by p * (scale - entropy_scale * (log p +
    // entropy)), where p is the softmax of x.
    void (*softmax_gradient)(float *weights, const float *x, int64_t n,
                             const struct softmax *softmax, float scale, float entropy_scale);

    // One AdamW update over n elements (PyTorch's formula, decoupled decay).
    void (*adamw)(float *w, float *m, float *v, const float *g, const struct adamw *step,
                  int64_t n);
    // the sum of squares of x [n] in double, in blocks of 4096.
    double (*square_sum)(const float *x, int64_t n);
    // y = x rounded to bf16 (nearest even) and widened.
    void (*round_bf16)(float *y, const float *x, int64_t n);

    // Keeps the units that multiply in this compute type busy for `rounds` and returns how many
    // operations that were: the peak that a benchmark compares with. *sink is read and written, any
    // number.
    double (*burn)(float *sink, int64_t rounds);
};

// kernels_best is the fastest table of a compute type that this host runs; kernels_find one by
// name, NULL when the host or the build lacks it. AUTO stands for the type that is fastest here.
const struct kernels *kernels_best(enum compute compute);
const struct kernels *kernels_find(const char *name, enum compute compute);

// operand_row_major is B [K, N] as it lies in memory.
static inline struct operand operand_row_major(const float *data, int64_t N)
{
    return (struct operand){.data = data, .panel_stride = PANEL, .row_stride = N};
}

// operand_panels is B in panels of `depth` rows each, of floats or of pairs.
static inline struct operand operand_panels(const float *data, int64_t depth, bool pairs)
{
    return (struct operand){
        .data = data, .panel_stride = depth * PANEL, .row_stride = PANEL, .pairs = pairs};
}

// packed_depth is how many elements a packed panel has in each column.
static inline int64_t packed_depth(enum compute compute, int64_t K)
{
    return compute == COMPUTE_F32 ? K : (K + PACKED_DEPTH - 1) / PACKED_DEPTH * PACKED_DEPTH / 2;
}

// packed_count is the length of a packed W [N, K] in floats.
static inline int64_t packed_count(enum compute compute, int64_t N, int64_t K)
{
    return (N + PANEL - 1) / PANEL * PANEL * packed_depth(compute, K);
}

static inline struct operand operand_packed(enum compute compute, const float *packed, int64_t K)
{
    return operand_panels(packed, packed_depth(compute, K), compute != COMPUTE_F32);
}

// inputs_rows is a matrix of floats whose rows are so far apart, inputs_turned the transpose of
// any.
static inline struct inputs inputs_rows(const float *data, int64_t row)
{
    return (struct inputs){.data = data, .row = row, .col = 1};
}

static inline struct inputs inputs_turned(struct inputs inputs)
{
    return (struct inputs){
        .data = inputs.data, .row = inputs.col, .col = inputs.row, .pairs = inputs.pairs};
}

// inputs_stride is how many floats such rows of pairs lie apart: an odd number of cache lines, so
// that a column of them does not meet in one place of a cache.
static inline int64_t inputs_stride(enum compute compute, int64_t K)
{
    return compute == COMPUTE_F32 ? K : packed_depth(compute, K) | 16;
}

// inputs_own is rows of K numbers, inputs_stride apart, as products of a compute type read them
// without a copy.
static inline struct inputs inputs_own(enum compute compute, const float *data, int64_t K)
{
    return (struct inputs){
        .data = data, .row = inputs_stride(compute, K), .col = 1, .pairs = compute != COMPUTE_F32};
}

// inputs_from is the inputs from row t on.
static inline struct inputs inputs_from(struct inputs inputs, int64_t t)
{
    inputs.data += t * inputs.row;
    return inputs;
}

// operand_from is the operand from row `k` on, in pairs an even one.
static inline struct operand operand_from(struct operand operand, int64_t k)
{
    operand.data += (operand.pairs ? k / 2 : k) * operand.row_stride;
    return operand;
}

// operand_inputs is B [K, N], whose col is 1, as a product that reads it often reads it best: as it
// lies, or in `packed` [inputs_count], once inputs_pack has put it there.
static inline struct operand operand_inputs(const struct kernels *kernels, const float *packed,
                                            struct inputs B, int64_t K)
{
    return kernels->pack_rows == NULL ? operand_row_major(B.data, B.row)
                                      : operand_packed(kernels->compute, packed, K);
}

static inline void inputs_pack(const struct kernels *kernels, float *packed, struct inputs B,
                               int64_t K, int64_t N)
{
    if (kernels->pack_rows != NULL) {
        kernels->pack_rows(packed, B, K, N);
    }
}

static inline int64_t inputs_count(const struct kernels *kernels, int64_t K, int64_t N)
{
    return kernels->pack_rows == NULL ? 0 : packed_count(kernels->compute, N, K);
}

// Operands of ATTENTION_BLOCK columns or rows, and how many floats they take.
static inline int64_t columns_floats(enum compute compute, int64_t D)
{
    return ATTENTION_BLOCK * packed_depth(compute, D);
}

static inline int64_t rows_depth(enum compute compute)
{
    return compute == COMPUTE_F32 ? ATTENTION_BLOCK : ATTENTION_BLOCK / 2;
}

static inline int64_t rows_floats(enum compute compute, int64_t D)
{
    return rows_depth(compute) * ((D + PANEL - 1) / PANEL * PANEL);
}

static inline struct operand operand_rows(enum compute compute, const float *rows)
{
    return operand_panels(rows, rows_depth(compute), compute != COMPUTE_F32);
}

#endif
