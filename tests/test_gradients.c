// Gradients: what nothing was added to counts as zero, whatever lay there before; the first to
// write a matrix adds to nothing, the next to what is there.
#include "tests/support.h"

#include "common/base/check.h"
#include "learner/gradients.h"

#include <math.h>
#include <string.h>

enum { C = 16, D = 16, F = 32, V = 8 };
enum { QKV = 4 * D }; // two heads, one key head

// struct net is a model's parameters and gradients, of which nothing is said yet: not numbers.
struct net {
    struct params params;
    struct gradients gradients;
};

static void net_init(struct net *net)
{
    struct shape shape = {0};
    CHECK(shape_of_family(&shape, "qwen2", strlen("qwen2")));
    shape.L = 2;
    shape.C = C;
    shape.H = 2;
    shape.KV = 1;
    shape.D = D;
    shape.F = F;
    shape.V = V;
    shape.T = 4;
    CHECK(params_init(&net->params, &shape, NULL) == 0);
    net->gradients =
        (struct gradients){.params = &net->params,
                           .sums = test_malloc(net->params.elements * sizeof(float)),
                           .written = test_malloc((size_t)net->params.count * sizeof(bool))};
    for (size_t i = 0; i < net->params.elements; i++) {
        net->gradients.sums[i] = NAN;
    }
    memset(net->gradients.written, true, (size_t)net->params.count * sizeof(bool));
}

static void net_finish(struct net *net)
{
    test_free(net->gradients.sums);
    test_free(net->gradients.written);
    params_finish(&net->params);
}

static void test_what_is_not_written_is_zero(void **state)
{
    (void)state;
    struct net net;
    net_init(&net);
    gradients_begin(&net.gradients);
    float *written = gradients_sum(&net.gradients, 1, PARAM_NORM2, C);
    written[3] = 5.0f;
    gradients_end(&net.gradients);
    for (int32_t i = 0; i < net.params.count; i++) {
        const struct param *param = &net.params.items[i];
        for (size_t k = 0; k < param->count; k++) {
            const float *at = net.gradients.sums + param->offset + k;
            assert_true(*at == (at == written + 3 ? 5.0f : 0.0f));
        }
    }
    net_finish(&net);
}

static void test_sums_begin_with_zeros_once(void **state)
{
    (void)state;
    struct net net;
    net_init(&net);
    gradients_begin(&net.gradients);
    float *bias = gradients_sum(&net.gradients, 0, PARAM_Q_BIAS, QKV);
    for (int i = 0; i < QKV; i++) { // k's and v's too
        assert_true(bias[i] == 0.0f);
        bias[i] = 1.0f;
    }
    assert_ptr_equal(gradients_sum(&net.gradients, 0, PARAM_Q_BIAS, QKV), bias);
    gradients_end(&net.gradients);
    assert_true(bias[0] == 1.0f && bias[QKV - 1] == 1.0f);
    assert_null(gradients_sum(&net.gradients, 0, PARAM_NORM1_BIAS, C));
    net_finish(&net);
}

static void test_products_add_to_nothing_once(void **state)
{
    (void)state;
    struct net net;
    net_init(&net);
    gradients_begin(&net.gradients);
    struct gradient gates = gradients_product(&net.gradients, 1, PARAM_GATE, 2L * F);
    assert_false(gates.accumulate);
    for (int i = 0; i < 2 * F * C; i++) {
        gates.sums[i] = 2.0f;
    }
    gradients_end(&net.gradients);
    assert_true(gates.sums[0] == 2.0f && gates.sums[2 * F * C - 1] == 2.0f);
    gates = gradients_product(&net.gradients, 1, PARAM_GATE, 2L * F);
    assert_true(gates.accumulate);
    gradients_begin(&net.gradients); // the next step
    gates = gradients_product(&net.gradients, 1, PARAM_GATE, 2L * F);
    assert_false(gates.accumulate);
    net_finish(&net);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_not_written_is_zero),
        cmocka_unit_test(test_sums_begin_with_zeros_once),
        cmocka_unit_test(test_products_add_to_nothing_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
