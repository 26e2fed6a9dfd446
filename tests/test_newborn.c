#include "tests/support.h"

#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/model/safetensors.h"
#include "learner/newborn.h"

#include <errno.h>
#include <math.h>
#include <string.h>

static struct run_config small_config(void)
{
    struct run_config config;
    char words[][40] = {"pretrain.layers=2", "pretrain.width=64", "pretrain.ffn=96"};
    char *list[] = {words[0], words[1], words[2]};
    assert_int_equal(run_config_read(&config, NULL, list, 3, NULL), 0);
    return config;
}

static float *newborn(const struct shape *shape, struct params *params, double std, uint64_t seed)
{
    assert_int_equal(params_init(params, shape, NULL), 0);
    float *weights = calloc(params->elements, sizeof(*weights));
    assert_non_null(weights);
    newborn_weights(weights, params, shape, std, seed);
    return weights;
}

static double deviation_of(const float *weights, const struct param *param)
{
    double sum = 0.0;
    for (size_t i = 0; i < param->count; i++) {
        sum += (double)weights[param->offset + i] * (double)weights[param->offset + i];
    }
    return sqrt(sum / (double)param->count);
}

// Matrices have the wanted deviation, those that write into the residual stream 1/sqrt(2L) of it;
// gains are one and biases zero; another seed gives other weights.
static void test_weights(void **state)
{
    (void)state;
    const struct run_config config = small_config();
    struct shape shape;
    struct params params, again;
    assert_int_equal(newborn_shape(&shape, &config, NULL), 0);
    CLEANUP(freep) float *weights = newborn(&shape, &params, 0.05, 1);
    CLEANUP(freep) float *other = newborn(&shape, &again, 0.05, 2);
    double q = deviation_of(weights, params_find(&params, 0, PARAM_Q));
    double down = deviation_of(weights, params_find(&params, 1, PARAM_DOWN));
    assert_true(fabs(q - 0.05) < 0.003);
    assert_true(fabs(down - 0.05 / sqrt(2.0 * 2.0)) < 0.0015);
    assert_true(weights[params_find(&params, -1, PARAM_FINAL_NORM)->offset] == 1.0f);
    assert_true(deviation_of(weights, params_find(&params, 1, PARAM_K_BIAS)) == 0.0);
    size_t first = params_find(&params, 0, PARAM_Q)->offset;
    assert_true(weights[first] != other[first]);
    params_finish(&params);
    params_finish(&again);
}

// The folder reads back as the same shape and the same weights, rounded to bf16; it is written
// once.
static void test_folder(void **state)
{
    (void)state;
    char dir[] = "/tmp/kelvin-newborn-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/model", dir);
    const struct run_config config = small_config();
    struct shape shape, read;
    struct params params;
    struct error err = {0};
    assert_int_equal(newborn_shape(&shape, &config, NULL), 0);
    CLEANUP(freep) float *weights = newborn(&shape, &params, 0.06, 3);
    CLEANUP(freep) float *back = calloc(params.elements, sizeof(*back));
    assert_non_null(back);
    assert_int_equal(newborn_write(path, weights, &params, &shape, DTYPE_BF16, &err), 0);
    assert_int_equal(shape_read(&read, path, &err), 0);
    CLEANUP(freep) char *as_made = shape_write_json(&shape, "bfloat16");
    CLEANUP(freep) char *as_read = shape_write_json(&read, "bfloat16");
    assert_string_equal(as_read, as_made);
    enum dtype stored = DTYPE_F32;
    assert_int_equal(safetensors_read(back, &stored, &params, &read, path, &err), 0);
    assert_int_equal(stored, DTYPE_BF16);
    for (size_t i = 0; i < params.elements; i++) {
        assert_true(back[i] == bf16_to_float(bf16_from_float(weights[i])));
    }
    assert_int_equal(newborn_write(path, weights, &params, &shape, DTYPE_BF16, &err), -EEXIST);
    assert_int_equal(file_remove_tree(dir, NULL), 0);
    params_finish(&params);
}

// Options that do not fit each other are named.
static void test_contradictions(void **state)
{
    (void)state;
    struct run_config config = small_config();
    struct shape shape;
    struct error err = {0};
    config.pretrain.heads = 3;
    assert_int_equal(newborn_shape(&shape, &config, &err), -EINVAL);
    assert_non_null(strstr(err.text, "pretrain.width"));
    config.pretrain.heads = 4;
    config.pretrain.kv_heads = 3;
    assert_int_equal(newborn_shape(&shape, &config, &err), -EINVAL);
    assert_non_null(strstr(err.text, "pretrain.kv_heads"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_folder),
        cmocka_unit_test(test_contradictions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
