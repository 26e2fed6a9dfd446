// Every gradient of every family agrees with central differences of a forward pass in float64 that
// is written here from the formulas, apart from the engine's.
#include "tests/golden/model.h"

#include "common/base/cleanup.h"
#include "common/base/rng.h"
#include "learner/step.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// LONG is more rows than a layer takes at once (BLOCK_ROWS), and more than a chunk of keys.
enum { SHORT = 9, LONG = 300, PROBES = 6, ROW_MAX = 512 };
enum { SAMPLES = 10, PROMPT = 219 }; // more than a step has slices

// What f32 leaves of a gradient that is 0 by symmetry, as that of the bias of k.
#define ROUNDING 1e-6

struct net {
    struct shape shape;
    struct params params;
    double *w; // [params.elements]
    int32_t ids[LONG];
    int count; // of these
};

static const double *at(const struct net *net, int32_t layer, enum param_role role)
{
    const struct param *param = params_find(&net->params, layer, role);
    return param == NULL ? NULL : net->w + param->offset;
}

// y [n] = W [n, k] x (+ bias)
static void linear(double *y, const double *W, const double *bias, const double *x, int n, int k)
{
    for (int i = 0; i < n; i++) {
        double sum = bias == NULL ? 0.0 : bias[i];
        for (int j = 0; j < k; j++) {
            sum += W[i * k + j] * x[j];
        }
        y[i] = sum;
    }
}

// RMSNorm, or LayerNorm where the family has it.
static void norm(double *y, const double *x, const double *gain, const double *bias, int n,
                 bool layer_norm, double eps)
{
    double mean = 0.0, square = 0.0;
    for (int i = 0; i < n && layer_norm; i++) {
        mean += x[i] / n;
    }
    for (int i = 0; i < n; i++) {
        square += (x[i] - mean) * (x[i] - mean) / n;
    }
    for (int i = 0; i < n; i++) {
        y[i] = (x[i] - mean) / sqrt(square + eps) * gain[i] + (bias == NULL ? 0.0 : bias[i]);
    }
}

static void rotate(const struct shape *s, double *head, int position)
{
    for (int i = 0; i < s->D / 2; i++) {
        double angle = position * shape_rope_frequency(s, i);
        double a = head[i], b = head[i + s->D / 2];
        head[i] = a * cos(angle) - b * sin(angle);
        head[i + s->D / 2] = b * cos(angle) + a * sin(angle);
    }
}

// The heads of q or k of one row: their norm and their rotation, where the family has them.
static void finish_heads(const struct shape *s, double *heads, int count, const double *gain, int t)
{
    for (int h = 0; h < count; h++) {
        double plain[ROW_MAX];
        memcpy(plain, heads + h * s->D, (size_t)s->D * sizeof(double));
        if (s->qk_norm) {
            norm(heads + h * s->D, plain, gain, NULL, s->D, false, (double)s->norm_eps);
        }
        if (!s->positions) {
            rotate(s, heads + h * s->D, t);
        }
    }
}

static void attend(const struct shape *s, double *out, const double *q, double (*k)[ROW_MAX],
                   double (*v)[ROW_MAX], int t)
{
    for (int h = 0; h < s->H; h++) {
        int kv = h / (s->H / s->KV);
        double p[LONG], sum = 0.0;
        for (int u = 0; u <= t; u++) {
            double score = 0.0;
            for (int i = 0; i < s->D; i++) {
                score += q[h * s->D + i] * k[u][kv * s->D + i];
            }
            p[u] = exp(score / sqrt(s->D));
            sum += p[u];
        }
        for (int i = 0; i < s->D; i++) {
            double value = 0.0;
            for (int u = 0; u <= t; u++) {
                value += p[u] / sum * v[u][kv * s->D + i];
            }
            out[h * s->D + i] = value;
        }
    }
}

static void feed_forward(const struct net *net, double *x, int32_t l)
{
    const struct shape *s = &net->shape;
    double n[ROW_MAX], up[ROW_MAX], gate[ROW_MAX], y[ROW_MAX];
    norm(n, x, at(net, l, PARAM_NORM2), at(net, l, PARAM_NORM2_BIAS), s->C, s->layer_norm,
         (double)s->norm_eps);
    linear(up, at(net, l, PARAM_UP), at(net, l, PARAM_UP_BIAS), n, s->F, s->C);
    if (s->gated) {
        linear(gate, at(net, l, PARAM_GATE), NULL, n, s->F, s->C);
    }
    for (int i = 0; i < s->F; i++) {
        double u = up[i];
        up[i] = s->gated ? gate[i] / (1.0 + exp(-gate[i])) * u
                         : 0.5 * u * (1.0 + tanh(sqrt(2.0 / M_PI) * (u + 0.044715 * u * u * u)));
    }
    linear(y, at(net, l, PARAM_DOWN), at(net, l, PARAM_DOWN_BIAS), up, s->C, s->F);
    for (int i = 0; i < s->C; i++) {
        x[i] += y[i];
    }
}

static void layer(const struct net *net, double (*x)[ROW_MAX], int32_t l)
{
    const struct shape *s = &net->shape;
    static double q[LONG][ROW_MAX], k[LONG][ROW_MAX], v[LONG][ROW_MAX];
    for (int t = 0; t < net->count; t++) {
        double n[ROW_MAX];
        norm(n, x[t], at(net, l, PARAM_NORM1), at(net, l, PARAM_NORM1_BIAS), s->C, s->layer_norm,
             (double)s->norm_eps);
        linear(q[t], at(net, l, PARAM_Q), at(net, l, PARAM_Q_BIAS), n, s->H * s->D, s->C);
        linear(k[t], at(net, l, PARAM_K), at(net, l, PARAM_K_BIAS), n, s->KV * s->D, s->C);
        linear(v[t], at(net, l, PARAM_V), at(net, l, PARAM_V_BIAS), n, s->KV * s->D, s->C);
        finish_heads(s, q[t], s->H, at(net, l, PARAM_Q_NORM), t);
        finish_heads(s, k[t], s->KV, at(net, l, PARAM_K_NORM), t);
    }
    for (int t = 0; t < net->count; t++) {
        double att[ROW_MAX], y[ROW_MAX];
        attend(s, att, q[t], k, v, t);
        linear(y, at(net, l, PARAM_O), at(net, l, PARAM_O_BIAS), att, s->C, s->H * s->D);
        for (int i = 0; i < s->C; i++) {
            x[t][i] += y[i];
        }
        feed_forward(net, x[t], l);
    }
}

// The mean negative log-probability of ids[1 ..].
static double loss_of(const struct net *net)
{
    const struct shape *s = &net->shape;
    static double x[LONG][ROW_MAX];
    double loss = 0.0;
    for (int t = 0; t < net->count; t++) {
        for (int i = 0; i < s->C; i++) {
            x[t][i] = at(net, -1, PARAM_EMBED)[net->ids[t] * s->C + i];
            x[t][i] += s->positions ? at(net, -1, PARAM_POSITIONS)[t * s->C + i] : 0.0;
        }
    }
    for (int32_t l = 0; l < s->L; l++) {
        layer(net, x, l);
    }
    for (int t = 0; t + 1 < net->count; t++) {
        double n[ROW_MAX], logits[ROW_MAX], sum = 0.0;
        norm(n, x[t], at(net, -1, PARAM_FINAL_NORM), at(net, -1, PARAM_FINAL_NORM_BIAS), s->C,
             s->layer_norm, (double)s->norm_eps);
        linear(logits, at(net, -1, s->tied ? PARAM_EMBED : PARAM_HEAD), NULL, n, s->V, s->C);
        for (int i = 0; i < s->V; i++) {
            sum += exp(logits[i]);
        }
        loss += (log(sum) - logits[net->ids[t + 1]]) / (net->count - 1);
    }
    return loss;
}

static double difference(const struct net *net, size_t element)
{
    const double h = 1e-5;
    double kept = net->w[element], side[2];
    net->w[element] = kept + h;
    side[0] = loss_of(net);
    net->w[element] = kept - h;
    side[1] = loss_of(net);
    net->w[element] = kept;
    return (side[0] - side[1]) / (2.0 * h);
}

// Holds some elements of one parameter: the one with the largest gradient, and others by chance.
static void check_param(const struct net *net, const struct param *param, const float *grads)
{
    struct rng rng = {.key = 5, .stream = (uint64_t)param->offset};
    size_t largest = 0;
    for (size_t i = 0; i < param->count; i++) {
        largest =
            fabsf(grads[param->offset + i]) > fabsf(grads[param->offset + largest]) ? i : largest;
    }
    double scale = fabs((double)grads[param->offset + largest]);
    for (int probe = 0; probe < PROBES; probe++) {
        size_t i = probe == 0 ? largest : rng_below(&rng, param->count);
        double wanted = difference(net, param->offset + i), got = (double)grads[param->offset + i];
        if (fabs(wanted - got) > 2e-3 * scale + ROUNDING) {
            fail_msg("%s[%zu]: gradient %g, difference %g", param->name, i, got, wanted);
        }
    }
}

// check_net holds the gradients of a net at `weights` of `count` tokens.
static void check_net(struct net *net, const float *weights, int count)
{
    struct error err = {0};
    float weight[LONG] = {0};
    assert_true(net->shape.V <= ROW_MAX && net->shape.F <= ROW_MAX && count <= LONG);
    net->count = count;
    net->w = calloc(net->params.elements, sizeof(double));
    assert_non_null(net->w);
    for (int t = 0; t < count; t++) {
        net->ids[t] = (t * 37 + 11) % net->shape.V;
        weight[t] = t == 0 ? 0.0f : 1.0f / (float)(count - 1);
    }
    for (size_t i = 0; i < net->params.elements; i++) {
        net->w[i] = (double)weights[i];
    }
    const struct trainer_config config = {
        .compute = COMPUTE_F32, .published = DTYPE_F32, .threads = 1, .micro_tokens = 64};
    const struct optimizer still = {
        .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f, .grad_norm_max = 1.0f};
    const struct objective objective = {.is_cap = 2.0f};
    const struct sequence sequence = {.count = count, .ids = net->ids, .weight = weight};
    CLEANUP(trainer_destroyp) struct trainer *trainer = NULL;
    struct step_report report = {0};
    assert_int_equal(trainer_create(&trainer, &net->shape, weights, &config, &err), 0);
    assert_int_equal(trainer_step(trainer, &sequence, 1, &objective, &still, NULL, &report, &err),
                     0);
    assert_true(fabs(report.loss - loss_of(net)) < 1e-5);
    for (int32_t i = 0; i < net->params.count; i++) {
        check_param(net, &net->params.items[i], trainer_gradients(trainer));
    }
    free(net->w);
}

static void check_family(const char *family)
{
    struct net net = {0};
    CLEANUP(freep) float *weights = NULL;
    golden_read(&net.shape, &net.params, &weights, family);
    check_net(&net, weights, SHORT);
    params_finish(&net.params);
}

// Two layers and a number of heads to a key head that is odd.
static void net_random(struct net *net, float **weights)
{
    net->shape = (struct shape){.family = FAMILY_QWEN3,
                                .L = 2,
                                .C = 24,
                                .H = 3,
                                .KV = 1,
                                .D = 8,
                                .F = 40,
                                .V = 50,
                                .T = LONG,
                                .norm_eps = 1e-6f,
                                .gated = true,
                                .qk_norm = true,
                                .rope_theta = 10000};
    assert_int_equal(params_init(&net->params, &net->shape, NULL), 0);
    *weights = calloc(net->params.elements, sizeof(**weights));
    assert_non_null(*weights);
    struct rng rng = {.key = 6};
    for (size_t i = 0; i < net->params.elements; i++) {
        (*weights)[i] = (float)(0.3 * rng_normal(&rng));
    }
}

static void test_many_rows(void **state)
{
    (void)state;
    struct net net = {0};
    CLEANUP(freep) float *weights = NULL;
    net_random(&net, &weights);
    check_net(&net, weights, LONG);
    params_finish(&net.params);
}

// Sequences that begin with one prompt, which ends within a block of keys; the last ones go on
// beyond a chunk of them.
struct group {
    int32_t ids[SAMPLES][LONG];
    float weight[SAMPLES][LONG];
    struct sequence sequences[SAMPLES];
};

static void group_init(struct group *group, int32_t V)
{
    memset(group, 0, sizeof(*group));
    for (int32_t k = 0; k < SAMPLES; k++) {
        const int32_t count = PROMPT + 5 + 8 * k;
        for (int32_t i = 0; i < count; i++) {
            group->ids[k][i] = (i < PROMPT ? i * 37 + 11 : i * 17 + k * 29) % V;
            group->weight[k][i] = i < PROMPT ? 0.0f : 0.01f;
        }
        group->sequences[k] =
            (struct sequence){.count = count, .ids = group->ids[k], .weight = group->weight[k]};
    }
}

// group_gradients is the gradient of a step with micro-batches of so many rows, which the caller
// frees.
static float *group_gradients(const struct net *net, const float *weights,
                              const struct group *group, enum compute compute, int32_t rows)
{
    struct error err = {0};
    const struct trainer_config config = {
        .compute = compute, .published = DTYPE_F32, .threads = 1, .micro_tokens = rows};
    const struct optimizer still = {
        .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f, .grad_norm_max = 1.0f};
    const struct objective objective = {.is_cap = 2.0f};
    CLEANUP(trainer_destroyp) struct trainer *trainer = NULL;
    struct step_report report = {0};
    assert_int_equal(trainer_create(&trainer, &net->shape, weights, &config, &err), 0);
    assert_int_equal(
        trainer_step(trainer, group->sequences, SAMPLES, &objective, &still, NULL, &report, &err),
        0);
    float *copy = malloc(net->params.elements * sizeof(*copy));
    assert_non_null(copy);
    memcpy(copy, trainer_gradients(trainer), net->params.elements * sizeof(*copy));
    return copy;
}

// Rows of a prompt that are computed once collect the gradients of all that look at them. Each is
// rounded by itself otherwise, in bf16 to eight bits.
static void check_shared_prompt(enum compute compute, double tolerance)
{
    struct net net = {0};
    struct group group;
    CLEANUP(freep) float *weights = NULL;
    net_random(&net, &weights);
    group_init(&group, net.shape.V);
    CLEANUP(freep) float *apart = group_gradients(&net, weights, &group, compute, 1);
    CLEANUP(freep) float *shared = group_gradients(&net, weights, &group, compute, 4 * LONG);
    for (int32_t i = 0; i < net.params.count; i++) {
        const struct param *param = &net.params.items[i];
        double square = 0.0, off = 0.0;
        for (size_t k = param->offset; k < param->offset + param->count; k++) {
            square += (double)apart[k] * (double)apart[k];
            off += pow((double)apart[k] - (double)shared[k], 2.0);
        }
        if (!(sqrt(off) <= tolerance * sqrt(square))) {
            fail_msg("%s: off by %g of %g", param->name, sqrt(off), sqrt(square));
        }
    }
    params_finish(&net.params);
}

static void test_shared_prompt(void **state)
{
    (void)state;
    check_shared_prompt(COMPUTE_F32, 1e-5);
    check_shared_prompt(COMPUTE_BF16, 1e-2);
    check_shared_prompt(COMPUTE_BF16_AMX, 1e-2);
}

static void test_qwen2(void **state)
{
    (void)state;
    check_family("qwen2");
}

static void test_qwen3(void **state)
{
    (void)state;
    check_family("qwen3");
}

static void test_llama3(void **state)
{
    (void)state;
    check_family("llama3");
}

static void test_gpt2(void **state)
{
    (void)state;
    check_family("gpt2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_qwen2),     cmocka_unit_test(test_qwen3),
        cmocka_unit_test(test_llama3),    cmocka_unit_test(test_gpt2),
        cmocka_unit_test(test_many_rows), cmocka_unit_test(test_shared_prompt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
