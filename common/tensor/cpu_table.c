// The table of one build of cpu_*.c.
#include "common/tensor/cpu.h"

#define CPU_TEXT_(name) #name
#define CPU_TEXT(name)  CPU_TEXT_(name)

extern const struct kernels CPU(table);

const struct kernels CPU(table) = {
    .name = CPU_TEXT(KERNELS),
    .product = cpu_product,
    .rmsnorm = cpu_rmsnorm,
    .rmsnorm_backward = cpu_rmsnorm_backward,
    .layernorm = cpu_layernorm,
    .layernorm_backward = cpu_layernorm_backward,
    .add_bias = cpu_add_bias,
    .bias_backward = cpu_bias_backward,
    .add = cpu_add,
    .rope = cpu_rope,
    .swiglu = cpu_swiglu,
    .swiglu_backward = cpu_swiglu_backward,
    .gelu = cpu_gelu,
    .gelu_backward = cpu_gelu_backward,
    .softmax_block = cpu_softmax_block,
    .softmax_finish = cpu_softmax_finish,
    .softmax_backward = cpu_softmax_backward,
    .scale = cpu_scale,
    .dot = cpu_dot,
    .log_sum_exp = cpu_log_sum_exp,
    .maximum = cpu_maximum,
    .exp_weights = cpu_exp_weights,
    .softmax_gradient = cpu_softmax_gradient,
    .adamw = cpu_adamw,
    .square_sum = cpu_square_sum,
    .round_bf16 = cpu_round_bf16,
    .burn = cpu_burn,
};
