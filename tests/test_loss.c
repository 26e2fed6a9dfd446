#include "tests/golden/model.h"

#include "common/base/cleanup.h"
#include "learner/loss.h"
#include "learner/step.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double value_at(const struct objective *objective, double advantage, double logp,
                       double behaviour, double reference)
{
    return loss_token(objective, advantage, false, logp, behaviour, reference).value;
}

// The slope of a token's loss is the derivative of its value: plain, clipped both ways, dual clip,
// KL to a reference and all together, for good and bad advantages.
static void test_slope_is_the_derivative(void **state)
{
    (void)state;
    static const struct objective objectives[] = {
        {.clip_low = 0.2f, .clip_high = 0.2f},
        {.clip_low = 0.2f, .clip_high = 0.28f},
        {.clip_low = 0.2f, .clip_high = 0.28f, .dual_clip = 3.0f},
        {.clip_low = 0.2f, .clip_high = 0.2f, .kl_coef = 0.3f},
        {.clip_low = 0.2f, .clip_high = 0.28f, .dual_clip = 3.0f, .kl_coef = 2.0f},
    };
    static const double ratios[] = {0.3, 0.7, 0.9, 1.1, 1.25, 1.4, 2.7, 4.0};
    const double h = 1e-6;
    for (size_t o = 0; o < sizeof(objectives) / sizeof(*objectives); o++) {
        for (size_t r = 0; r < sizeof(ratios) / sizeof(*ratios); r++) {
            for (int sign = -1; sign <= 1; sign += 2) {
                double A = sign * 1.3, behaviour = -2.0, reference = -2.4;
                double logp = behaviour + log(ratios[r]);
                double up = value_at(&objectives[o], A, logp + h, behaviour, reference);
                double down = value_at(&objectives[o], A, logp - h, behaviour, reference);
                double slope =
                    loss_token(&objectives[o], A, false, logp, behaviour, reference).slope;
                assert_true(fabs((up - down) / (2.0 * h) - slope) < 1e-7);
            }
        }
    }
}

// The clip takes the gradient away exactly where it should: a good token that became likelier than
// 1 + high, a bad one that became rarer than 1 - low, and, with dual clip, a bad one that became
// more than three times as likely.
static void test_clip_takes_the_gradient(void **state)
{
    (void)state;
    const struct objective plain = {.clip_low = 0.2f, .clip_high = 0.28f};
    const struct objective dual = {.clip_low = 0.2f, .clip_high = 0.28f, .dual_clip = 3.0f};
    assert_true(loss_token(&plain, 1.0, false, log(1.3), 0.0, 0.0).slope == 0.0);
    assert_true(loss_token(&plain, 1.0, false, log(1.25), 0.0, 0.0).slope != 0.0);
    assert_true(loss_token(&plain, 1.0, false, log(0.5), 0.0, 0.0).slope != 0.0);
    assert_true(loss_token(&plain, -1.0, false, log(0.7), 0.0, 0.0).slope == 0.0);
    assert_true(loss_token(&plain, -1.0, false, log(4.0), 0.0, 0.0).slope != 0.0);
    assert_true(loss_token(&dual, -1.0, false, log(4.0), 0.0, 0.0).slope == 0.0);
    assert_true(fabs(loss_token(&dual, -1.0, false, log(4.0), 0.0, 0.0).value - 3.0) < 1e-6);
    assert_true(loss_token(&dual, -1.0, false, log(2.5), 0.0, 0.0).slope != 0.0);
}

// Corrected tokens: REINFORCE weighted by the ratio, never by more than the cap, and no clip.
static void test_truncated_importance_sampling(void **state)
{
    (void)state;
    const struct objective objective = {.clip_low = 0.2f, .clip_high = 0.2f, .is_cap = 2.0f};
    struct token_loss low = loss_token(&objective, 1.5, true, log(0.5), 0.0, 0.0);
    struct token_loss high = loss_token(&objective, 1.5, true, log(5.0), 0.0, 0.0);
    assert_true(fabs(low.slope - -0.75) < 1e-12 && !low.clipped);
    assert_true(fabs(high.slope - -3.0) < 1e-12 && !high.clipped);
}

// A token whose probability moved without measure gives finite numbers.
static void test_extreme_tokens_stay_finite(void **state)
{
    (void)state;
    const struct objective objective = {.clip_low = 0.2f, .clip_high = 0.2f, .kl_coef = 0.1f};
    struct token_loss token = loss_token(&objective, -1.0, false, 0.0, -9000.0, -9000.0);
    assert_true(isfinite(token.value) && isfinite(token.slope));
    token = loss_token(&objective, -1.0, false, -9000.0, 0.0, 0.0);
    assert_true(isfinite(token.value) && isfinite(token.slope));
}

// --- through the network ---

enum { COUNT = 2, TOKENS = 24, PROMPT = 6 };

struct network {
    struct shape shape;
    struct params params;
    float *weights, *reference;
    int32_t ids[COUNT][TOKENS];
    float weight[COUNT][TOKENS], behaviour[COUNT][TOKENS];
    struct sequence sequences[COUNT];
};

static int setup(void **state)
{
    struct network *network = calloc(1, sizeof(*network));
    golden_read(&network->shape, &network->params, &network->weights, "qwen2");
    network->reference = calloc(network->params.elements, sizeof(float));
    for (size_t i = 0; i < network->params.elements; i++) {
        network->reference[i] = network->weights[i] * 0.9f;
    }
    for (int k = 0; k < COUNT; k++) {
        for (int i = 0; i < TOKENS; i++) {
            network->ids[k][i] = (k * 97 + i * 31 + i * i * 7) % network->shape.V;
            network->weight[k][i] = i < PROMPT ? 0.0f : 1.0f / (COUNT * (TOKENS - PROMPT));
        }
        network->sequences[k] = (struct sequence){.count = TOKENS,
                                                  .ids = network->ids[k],
                                                  .weight = network->weight[k],
                                                  .behaviour = network->behaviour[k],
                                                  .advantage = k == 0 ? 0.8f : -1.1f};
    }
    *state = network;
    return 0;
}

static int teardown(void **state)
{
    struct network *network = *state;
    free(network->weights);
    free(network->reference);
    params_finish(&network->params);
    free(network);
    return 0;
}

static const struct optimizer still = {
    .lr = 0.0f, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f, .grad_norm_max = 1.0f};

// One step that changes nothing, at the weights `weights`.
static struct step_report measure(const struct network *network, const float *weights,
                                  const struct objective *objective, float *grads,
                                  float *const *logprobs)
{
    const struct trainer_config config = {.compute = COMPUTE_F32,
                                          .published = DTYPE_F32,
                                          .threads = 1,
                                          .micro_tokens = 4096,
                                          .reference = network->reference};
    CLEANUP(trainer_destroyp) struct trainer *trainer = NULL;
    struct error err = {0};
    struct step_report report = {0};
    assert_int_equal(trainer_create(&trainer, &network->shape, weights, &config, &err), 0);
    assert_int_equal(trainer_step(trainer, network->sequences, COUNT, objective, &still, logprobs,
                                  &report, &err),
                     0);
    if (grads != NULL) {
        memcpy(grads, trainer_gradients(trainer), network->params.elements * sizeof(float));
    }
    return report;
}

// The gradient of the whole loss, each of its terms and all of them, predicts how the loss changes
// along it: central difference against |g|².
static void test_gradient_predicts_the_loss(void **state)
{
    struct network *network = *state;
    static const struct objective objectives[] = {
        {.clip_low = 0.2f, .clip_high = 0.28f, .is_cap = 2.0f},
        {.clip_low = 0.2f, .clip_high = 0.28f, .is_cap = 2.0f, .entropy_coef = 0.5f},
        {.clip_low = 0.2f, .clip_high = 0.28f, .is_cap = 2.0f, .kl_coef = 0.7f},
        {.clip_low = 0.2f,
         .clip_high = 0.28f,
         .dual_clip = 3.0f,
         .is_cap = 2.0f,
         .entropy_coef = 0.1f,
         .kl_coef = 0.2f},
    };
    float now[COUNT][TOKENS];
    float *logprobs[COUNT] = {now[0], now[1]};
    size_t elements = network->params.elements;
    CLEANUP(freep) float *grads = calloc(elements, sizeof(float));
    CLEANUP(freep) float *moved = calloc(elements, sizeof(float));
    (void)measure(network, network->weights, &objectives[0], NULL, logprobs);
    for (int k = 0; k < COUNT; k++) { // ratios of 0.5 to 1.4, none at a corner
        for (int i = 0; i < TOKENS; i++) {
            network->behaviour[k][i] = now[k][i] - 0.35f + 0.17f * (float)((i + k) % 7);
        }
    }
    for (size_t o = 0; o < sizeof(objectives) / sizeof(*objectives); o++) {
        (void)measure(network, network->weights, &objectives[o], grads, NULL);
        double square = 0.0;
        for (size_t i = 0; i < elements; i++) {
            square += (double)grads[i] * (double)grads[i];
        }
        double h = 1e-4 / sqrt(square); // a step of length 1e-4
        double loss[2];
        for (int side = 0; side < 2; side++) {
            for (size_t i = 0; i < elements; i++) {
                double step = side == 0 ? h : -h;
                moved[i] = (float)((double)network->weights[i] + step * (double)grads[i]);
            }
            loss[side] = measure(network, moved, &objectives[o], NULL, NULL).loss;
        }
        double predicted = 2.0 * h * square;
        assert_true(fabs((loss[0] - loss[1]) / predicted - 1.0) < 0.01);
    }
}

// Against itself as reference the KL is exactly 0; against other weights it is positive.
static void test_kl_of_equal_weights_is_zero(void **state)
{
    struct network *network = *state;
    const struct objective objective = {
        .clip_low = 0.2f, .clip_high = 0.2f, .is_cap = 2.0f, .kl_coef = 1.0f};
    assert_true(measure(network, network->reference, &objective, NULL, NULL).kl == 0.0);
    assert_true(measure(network, network->weights, &objective, NULL, NULL).kl > 0.0);
}

// A free sequence is not held to the reference: with all free the gradient is, bit for bit, the one
// without kl_coef; with one free only the other counts.
static void test_free_sequences(void **state)
{
    struct network *network = *state;
    const struct objective plain = {.clip_low = 0.2f, .clip_high = 0.2f, .is_cap = 2.0f};
    struct objective held = plain;
    held.kl_coef = 0.7f;
    size_t elements = network->params.elements;
    CLEANUP(freep) float *without = calloc(elements, sizeof(float));
    CLEANUP(freep) float *with = calloc(elements, sizeof(float));
    double both = measure(network, network->weights, &held, NULL, NULL).kl;
    (void)measure(network, network->weights, &plain, without, NULL);
    network->sequences[0].free = true;
    double one = measure(network, network->weights, &held, NULL, NULL).kl;
    assert_true(one > 0.0 && one < both);
    network->sequences[1].free = true;
    assert_true(measure(network, network->weights, &held, with, NULL).kl == 0.0);
    assert_memory_equal(with, without, elements * sizeof(float));
    network->sequences[0].free = network->sequences[1].free = false;
}

// A step whose gradient is not finite changes nothing and says so; the next one trains.
static void test_step_without_finite_norm_is_skipped(void **state)
{
    const struct network *network = *state;
    const struct objective objective = {.clip_low = 0.2f, .clip_high = 0.2f, .is_cap = 2.0f};
    const struct trainer_config config = {
        .compute = COMPUTE_F32, .published = DTYPE_F32, .threads = 1, .micro_tokens = 4096};
    struct optimizer optimizer = still;
    optimizer.lr = 1e-3f;
    CLEANUP(trainer_destroyp) struct trainer *trainer = NULL;
    struct error err = {0};
    struct step_report report = {0};
    struct sequence bad = network->sequences[0];
    bad.advantage = INFINITY;
    assert_int_equal(trainer_create(&trainer, &network->shape, network->weights, &config, &err), 0);
    assert_int_equal(trainer_step(trainer, &bad, 1, &objective, &optimizer, NULL, &report, &err),
                     0);
    assert_true(report.skipped);
    assert_int_equal(report.updates, 0);
    assert_int_equal(*trainer_state(trainer).updates, 0);
    assert_memory_equal(trainer_state(trainer).weights, network->weights,
                        network->params.elements * sizeof(float));
    assert_int_equal(trainer_step(trainer, network->sequences, COUNT, &objective, &optimizer, NULL,
                                  &report, &err),
                     0);
    assert_false(report.skipped);
    assert_int_equal(report.updates, 1);
    assert_int_equal(*trainer_state(trainer).updates, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slope_is_the_derivative),
        cmocka_unit_test(test_clip_takes_the_gradient),
        cmocka_unit_test(test_truncated_importance_sampling),
        cmocka_unit_test(test_extreme_tokens_stay_finite),
        cmocka_unit_test(test_gradient_predicts_the_loss),
        cmocka_unit_test(test_kl_of_equal_weights_is_zero),
        cmocka_unit_test(test_free_sequences),
        cmocka_unit_test(test_step_without_finite_norm_is_skipped),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
