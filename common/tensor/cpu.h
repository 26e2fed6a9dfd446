// cpu.h: the kernels that each build of cpu_*.c defines. The build gives KERNELS (the table's name)
// and every function its own prefix, so that several builds link into one program.
#ifndef COMMON_TENSOR_CPU_H
#define COMMON_TENSOR_CPU_H

#include "common/tensor/kernels.h"

#define CPU_PASTE_(a, b) a##_##b
#define CPU_PASTE(a, b)  CPU_PASTE_(a, b)
#define CPU(name)        CPU_PASTE(KERNELS, name)

#define cpu_product               CPU(product)
#define cpu_product_bf16          CPU(product_bf16)
#define cpu_product_amx           CPU(product_amx)
#define cpu_attend                CPU(attend)
#define cpu_attend_bf16           CPU(attend_bf16)
#define cpu_attend_amx            CPU(attend_amx)
#define cpu_pack                  CPU(pack)
#define cpu_pack_bf16             CPU(pack_bf16)
#define cpu_pack_rows_bf16        CPU(pack_rows_bf16)
#define cpu_round_rows            CPU(round_rows)
#define cpu_round_rows_bf16       CPU(round_rows_bf16)
#define cpu_put_columns           CPU(put_columns)
#define cpu_put_columns_bf16      CPU(put_columns_bf16)
#define cpu_put_rows              CPU(put_rows)
#define cpu_put_rows_bf16         CPU(put_rows_bf16)
#define cpu_rmsnorm               CPU(rmsnorm)
#define cpu_rmsnorm_bf16          CPU(rmsnorm_bf16)
#define cpu_rmsnorm_backward      CPU(rmsnorm_backward)
#define cpu_layernorm             CPU(layernorm)
#define cpu_layernorm_bf16        CPU(layernorm_bf16)
#define cpu_layernorm_backward    CPU(layernorm_backward)
#define cpu_add_bias              CPU(add_bias)
#define cpu_bias_backward         CPU(bias_backward)
#define cpu_add                   CPU(add)
#define cpu_rope                  CPU(rope)
#define cpu_swiglu                CPU(swiglu)
#define cpu_swiglu_bf16           CPU(swiglu_bf16)
#define cpu_swiglu_backward       CPU(swiglu_backward)
#define cpu_swiglu_backward_bf16  CPU(swiglu_backward_bf16)
#define cpu_gelu                  CPU(gelu)
#define cpu_gelu_bf16             CPU(gelu_bf16)
#define cpu_gelu_backward         CPU(gelu_backward)
#define cpu_gelu_backward_bf16    CPU(gelu_backward_bf16)
#define cpu_softmax_backward      CPU(softmax_backward)
#define cpu_softmax_backward_bf16 CPU(softmax_backward_bf16)
#define cpu_scale                 CPU(scale)
#define cpu_dots                  CPU(dots)
#define cpu_log_sum_exp           CPU(log_sum_exp)
#define cpu_maximum               CPU(maximum)
#define cpu_exp_weights           CPU(exp_weights)
#define cpu_softmax               CPU(softmax)
#define cpu_softmax_gradient      CPU(softmax_gradient)
#define cpu_adamw                 CPU(adamw)
#define cpu_square_sum            CPU(square_sum)
#define cpu_round_bf16            CPU(round_bf16)
#define cpu_burn                  CPU(burn)
#define cpu_burn_bf16             CPU(burn_bf16)
#define cpu_burn_amx              CPU(burn_amx)

void cpu_product(float *c, int64_t ldc, struct inputs a, struct operand b, int64_t M, int64_t N,
                 int64_t K, bool accumulate);
void cpu_product_bf16(float *c, int64_t ldc, struct inputs a, struct operand b, int64_t M,
                      int64_t N, int64_t K, bool accumulate);
void cpu_product_amx(float *c, int64_t ldc, struct inputs a, struct operand b, int64_t M, int64_t N,
                     int64_t K, bool accumulate);
void cpu_attend(const struct attend *attend);
void cpu_attend_bf16(const struct attend *attend);
void cpu_attend_amx(const struct attend *attend);
void cpu_pack(float *packed, const float *W, int64_t N, int64_t K);
void cpu_pack_bf16(float *packed, const float *W, int64_t N, int64_t K);
void cpu_pack_rows_bf16(float *packed, struct inputs B, int64_t K, int64_t N);
void cpu_round_rows(float *to, const float *x, int64_t x_row, int64_t T, int64_t K);
void cpu_round_rows_bf16(float *to, const float *x, int64_t x_row, int64_t T, int64_t K);
void cpu_put_columns(float *columns, int64_t slot, const float *x, int64_t x_row, int64_t count,
                     int64_t D);
void cpu_put_columns_bf16(float *columns, int64_t slot, const float *x, int64_t x_row,
                          int64_t count, int64_t D);
void cpu_put_rows(float *rows, int64_t slot, const float *x, int64_t x_row, int64_t count,
                  int64_t D);
void cpu_put_rows_bf16(float *rows, int64_t slot, const float *x, int64_t x_row, int64_t count,
                       int64_t D);
void cpu_rmsnorm(float *y, float *rstd, const float *x, const float *gain, int64_t T, int64_t C,
                 float eps);
void cpu_rmsnorm_bf16(float *y, float *rstd, const float *x, const float *gain, int64_t T,
                      int64_t C, float eps);
void cpu_rmsnorm_backward(float *dx, float *dgain, const float *dy, const float *x,
                          const float *rstd, const float *gain, int64_t T, int64_t C);
void cpu_layernorm(float *y, float *mean, float *rstd, const float *x, const float *gain,
                   const float *bias, int64_t T, int64_t C, float eps);
void cpu_layernorm_bf16(float *y, float *mean, float *rstd, const float *x, const float *gain,
                        const float *bias, int64_t T, int64_t C, float eps);
void cpu_layernorm_backward(float *dx, float *dgain, float *dbias, const float *dy, const float *x,
                            const float *mean, const float *rstd, const float *gain, int64_t T,
                            int64_t C);
void cpu_add_bias(float *y, int64_t ld, const float *bias, int64_t T, int64_t C);
void cpu_bias_backward(float *dbias, const float *dy, int64_t ld, int64_t T, int64_t C);
void cpu_add(float *y, const float *x, int64_t n);
void cpu_rope(float *x, int64_t ld, const float *table, const int32_t *position, int64_t T,
              int64_t heads, int64_t D, float sign);
void cpu_swiglu(float *y, const float *gate_up, int64_t T, int64_t F);
void cpu_swiglu_bf16(float *y, const float *gate_up, int64_t T, int64_t F);
void cpu_swiglu_backward(float *dgate_up, float *y, const float *dy, const float *gate_up,
                         int64_t T, int64_t F);
void cpu_swiglu_backward_bf16(float *dgate_up, float *y, const float *dy, const float *gate_up,
                              int64_t T, int64_t F);
void cpu_gelu(float *y, const float *x, int64_t T, int64_t F);
void cpu_gelu_bf16(float *y, const float *x, int64_t T, int64_t F);
void cpu_gelu_backward(float *dx, float *y, const float *dy, const float *x, int64_t T, int64_t F);
void cpu_gelu_backward_bf16(float *dx, float *y, const float *dy, const float *x, int64_t T,
                            int64_t F);
void cpu_softmax_backward(float *p, float *ds, int64_t row, const struct softmax_rows *softmax);
void cpu_softmax_backward_bf16(float *p, float *ds, int64_t row,
                               const struct softmax_rows *softmax);
void cpu_scale(float *y, int64_t y_row, const float *x, int64_t x_row, float factor, int64_t rows,
               int64_t n);
void cpu_dots(float *y, const float *a, const float *b, int64_t row, int64_t rows, int64_t n);
float cpu_log_sum_exp(const float *x, int64_t n);
float cpu_maximum(const float *x, int64_t n);
float cpu_exp_weights(float *y, const float *x, int64_t n, float top, float factor);
struct softmax cpu_softmax(float *weights, const float *x, int64_t n);
void cpu_softmax_gradient(float *weights, const float *x, int64_t n, const struct softmax *softmax,
                          float scale, float entropy_scale);
void cpu_adamw(float *w, float *m, float *v, const float *g, const struct adamw *step, int64_t n);
double cpu_square_sum(const float *x, int64_t n);
void cpu_round_bf16(float *y, const float *x, int64_t n);
double cpu_burn(float *sink, int64_t rounds);
double cpu_burn_bf16(float *sink, int64_t rounds);
double cpu_burn_amx(float *sink, int64_t rounds);

#endif
