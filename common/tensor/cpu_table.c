// The tables of one build of cpu_*.c.
#include "common/tensor/amx.h"
#include "common/tensor/cpu.h"

#define CPU_TEXT_(name) #name
#define CPU_TEXT(name)  CPU_TEXT_(name)

#if !defined(__AVX512BF16__) // whose instruction is of no use to f32
extern const struct kernels CPU(f32);
#endif
extern const struct kernels CPU(bf16), CPU(bf16_amx);

// What is the same in all.
#define F32_KERNELS                                                                                \
    .rmsnorm = cpu_rmsnorm, .rmsnorm_backward = cpu_rmsnorm_backward,                              \
    .layernorm_backward = cpu_layernorm_backward, .add_bias = cpu_add_bias,                        \
    .bias_backward = cpu_bias_backward, .add = cpu_add, .rope = cpu_rope, .scale = cpu_scale,      \
    .dots = cpu_dots, .log_sum_exp = cpu_log_sum_exp, .maximum = cpu_maximum,                      \
    .exp_weights = cpu_exp_weights, .softmax = cpu_softmax,                                        \
    .softmax_gradient = cpu_softmax_gradient, .adamw = cpu_adamw, .square_sum = cpu_square_sum,    \
    .round_bf16 = cpu_round_bf16

// What is the same in both tables of bf16.
#define BF16_KERNELS                                                                               \
    F32_KERNELS, .pack = cpu_pack_bf16, .pack_rows = cpu_pack_rows_bf16,                           \
                 .round_rows = cpu_round_rows_bf16, .put_columns = cpu_put_columns_bf16,           \
                 .put_rows = cpu_put_rows_bf16, .rmsnorm_inputs = cpu_rmsnorm_bf16,                \
                 .layernorm = cpu_layernorm_bf16, .swiglu = cpu_swiglu_bf16,                       \
                 .swiglu_backward = cpu_swiglu_backward_bf16, .gelu = cpu_gelu_bf16,               \
                 .gelu_backward = cpu_gelu_backward_bf16,                                          \
                 .softmax_backward = cpu_softmax_backward_bf16

#if !defined(__AVX512BF16__)
const struct kernels CPU(f32) = {
    F32_KERNELS,
    .name = CPU_TEXT(KERNELS),
    .compute = COMPUTE_F32,
    .product = cpu_product,
    .attend = cpu_attend,
    .pack = cpu_pack,
    .round_rows = cpu_round_rows,
    .put_columns = cpu_put_columns,
    .put_rows = cpu_put_rows,
    .rmsnorm_inputs = cpu_rmsnorm,
    .layernorm = cpu_layernorm,
    .swiglu = cpu_swiglu,
    .swiglu_backward = cpu_swiglu_backward,
    .gelu = cpu_gelu,
    .gelu_backward = cpu_gelu_backward,
    .softmax_backward = cpu_softmax_backward,
    .burn = cpu_burn,
};
#endif

const struct kernels CPU(bf16) = {
    BF16_KERNELS,
    .name = CPU_TEXT(KERNELS),
    .compute = COMPUTE_BF16,
    .product = cpu_product_bf16,
    .attend = cpu_attend_bf16,
    .burn = cpu_burn_bf16,
};

// The build for AVX512-BF16 has the tile unit's instructions too, and a host needs both for it.
const struct kernels CPU(bf16_amx) = {
    BF16_KERNELS,
#if defined(AMX_UNIT)
    .name = "amx",
#else
    .name = CPU_TEXT(KERNELS),
#endif
    .compute = COMPUTE_BF16_AMX,
    .product = cpu_product_amx,
    .attend = cpu_attend_amx,
    .burn = cpu_burn_amx,
};
