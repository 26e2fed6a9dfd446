// A training step on the golden batch equals float64 PyTorch within the tolerances of
// data/train/README.md: loss, gradient norm, every gradient, the weights after one and after two
// updates; packed in one micro-batch or many, in either order, with one thread or three.
#include "tests/golden/model.h"

#include "common/base/cleanup.h"
#include "common/base/json.h"
#include "learner/step.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SEQUENCES_MAX = 16, TOKENS_MAX = 256 };

struct batch {
    int count;
    struct sequence sequences[SEQUENCES_MAX];
    int32_t ids[SEQUENCES_MAX][TOKENS_MAX];
    float weight[SEQUENCES_MAX][TOKENS_MAX];
    float behaviour[SEQUENCES_MAX][TOKENS_MAX];
    int block[SEQUENCES_MAX];
};

struct golden {
    struct shape shape;
    struct params params;
    float *weights, *grads, *after, *after2;
    json_t *loss;
    struct batch batch;
};

// read_arrays reads a safetensors file outside a model folder: the reader wants a folder, so it
// gets a link to the file in one.
static float *read_arrays(const struct golden *golden, const char *name)
{
    char dir[] = "/tmp/kelvin-golden-XXXXXX", link[128], target[512];
    struct error err = {0};
    enum dtype stored = DTYPE_F32;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(link, sizeof(link), "%s/model.safetensors", dir);
    (void)snprintf(target, sizeof(target), GOLDEN_DIR "/%s.safetensors", name);
    assert_int_equal(symlink(target, link), 0);
    float *data = calloc(golden->params.elements, sizeof(float));
    if (safetensors_read(data, &stored, &golden->params, &golden->shape, dir, &err) < 0) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(unlink(link), 0);
    assert_int_equal(rmdir(dir), 0);
    return data;
}

static void read_sequence(struct batch *batch, int k, const json_t *item, int *block_tokens)
{
    const json_t *ids = json_object_get(item, "ids");
    struct sequence *sequence = &batch->sequences[k];
    *sequence = (struct sequence){.count = (int32_t)json_array_size(ids),
                                  .ids = batch->ids[k],
                                  .weight = batch->weight[k],
                                  .behaviour = batch->behaviour[k]};
    assert_true(sequence->count <= TOKENS_MAX);
    sequence->advantage = (float)json_number_value(json_object_get(item, "advantage"));
    batch->block[k] = (int)json_integer_value(json_object_get(item, "block"));
    for (int i = 0; i < sequence->count; i++) {
        size_t at = (size_t)i;
        batch->ids[k][i] = (int32_t)json_integer_value(json_array_get(ids, at));
        batch->behaviour[k][i] =
            (float)json_number_value(json_array_get(json_object_get(item, "behaviour"), at));
        batch->weight[k][i] =
            (float)json_integer_value(json_array_get(json_object_get(item, "mask"), at));
        block_tokens[batch->block[k]] += batch->weight[k][i] != 0.0f;
    }
}

// Each of the three blocks weighs a third, and its tokens share that evenly.
static void read_batch(struct batch *batch)
{
    CLEANUP(json_decrefp) json_t *root = NULL;
    int block_tokens[3] = {0};
    assert_int_equal(json_read_file(&root, GOLDEN_DIR "/train/batch.json", NULL), 0);
    const json_t *list = json_object_get(root, "sequences");
    batch->count = (int)json_array_size(list);
    assert_true(batch->count > 0 && batch->count <= SEQUENCES_MAX);
    for (int k = 0; k < batch->count; k++) {
        read_sequence(batch, k, json_array_get(list, (size_t)k), block_tokens);
    }
    for (int k = 0; k < batch->count; k++) {
        for (int i = 0; i < batch->sequences[k].count; i++) {
            batch->weight[k][i] /= 3.0f * (float)block_tokens[batch->block[k]];
        }
    }
}

static int setup(void **state)
{
    struct golden *golden = calloc(1, sizeof(*golden));
    golden_read(&golden->shape, &golden->params, &golden->weights, "qwen2");
    golden->grads = read_arrays(golden, "train/grads");
    golden->after = read_arrays(golden, "train/after");
    golden->after2 = read_arrays(golden, "train/after2");
    assert_int_equal(json_read_file(&golden->loss, GOLDEN_DIR "/train/loss.json", NULL), 0);
    read_batch(&golden->batch);
    *state = golden;
    return 0;
}

static int teardown(void **state)
{
    struct golden *golden = *state;
    free(golden->weights);
    free(golden->grads);
    free(golden->after);
    free(golden->after2);
    json_decref(golden->loss);
    params_finish(&golden->params);
    free(golden);
    return 0;
}

static void check_grads(const struct golden *golden, const float *grads)
{
    for (int32_t p = 0; p < golden->params.count; p++) {
        const struct param *param = &golden->params.items[p];
        double difference = 0.0, length = 0.0;
        for (size_t i = param->offset; i < param->offset + param->count; i++) {
            double d = (double)grads[i] - (double)golden->grads[i];
            difference += d * d;
            length += (double)golden->grads[i] * (double)golden->grads[i];
        }
        if (sqrt(difference) > 1e-4 * sqrt(length)) {
            fail_msg("gradient of %s is off by %g", param->name, sqrt(difference / length));
        }
    }
}

// within returns the share of weights that lie within `bound`; *worst is the largest distance.
static double within(const struct golden *golden, const float *have, const float *want,
                     double bound, double *worst)
{
    size_t inside = 0, count = 0;
    *worst = 0.0;
    for (int32_t p = 0; p < golden->params.count; p++) {
        const struct param *param = &golden->params.items[p];
        for (size_t i = param->offset; i < param->offset + param->count; i++) {
            double distance = fabs((double)have[i] - (double)want[i]);
            *worst = fmax(*worst, distance);
            inside += distance <= bound;
            count++;
        }
    }
    return (double)inside / (double)count;
}

static void check_steps(const struct golden *golden, const struct trainer_config *config,
                        const struct sequence *sequences)
{
    static const struct objective objective = {.clip_low = 0.2f, .clip_high = 0.2f, .is_cap = 2.0f};
    static const struct optimizer optimizer = {
        .lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f, .grad_norm_max = 1.0f};
    CLEANUP(trainer_destroyp) struct trainer *trainer = NULL;
    struct error err = {0};
    struct step_report report;
    double worst = 0.0;
    assert_int_equal(trainer_create(&trainer, &golden->shape, golden->weights, config, &err), 0);

    const int count = golden->batch.count;
    assert_int_equal(
        trainer_step(trainer, sequences, count, &objective, &optimizer, NULL, &report, &err), 0);
    double loss = json_number_value(json_object_get(golden->loss, "loss"));
    double norm = json_number_value(json_object_get(golden->loss, "grad_norm"));
    assert_true(fabs(report.loss - loss) <= 1e-5);
    assert_true(fabs(report.grad_norm - norm) <= 1e-4 * norm);
    check_grads(golden, trainer_gradients(trainer));
    const float *weights = trainer_state(trainer).weights;
    assert_true(within(golden, weights, golden->after, 1e-6, &worst) >= 0.999);
    assert_true(worst <= 5e-4);

    assert_int_equal(
        trainer_step(trainer, sequences, count, &objective, &optimizer, NULL, &report, &err), 0);
    assert_true(within(golden, weights, golden->after2, 1e-6, &worst) >= 0.5);
    assert_true(within(golden, weights, golden->after2, 5e-6, &worst) >= 0.99);
    assert_true(worst <= 1e-3);
}

static void test_one_micro_batch(void **state)
{
    const struct golden *golden = *state;
    const struct trainer_config config = {
        .compute = COMPUTE_F32, .published = DTYPE_F32, .threads = 1, .micro_tokens = 4096};
    check_steps(golden, &config, golden->batch.sequences);
}

static void test_many_micro_batches_reversed(void **state)
{
    const struct golden *golden = *state;
    const struct trainer_config config = {
        .compute = COMPUTE_F32, .published = DTYPE_F32, .threads = 3, .micro_tokens = 1};
    struct sequence reversed[SEQUENCES_MAX];
    for (int k = 0; k < golden->batch.count; k++) {
        reversed[k] = golden->batch.sequences[golden->batch.count - 1 - k];
    }
    check_steps(golden, &config, reversed);
}

// The number of threads changes no bit of the weights.
static void test_threads_change_nothing(void **state)
{
    const struct golden *golden = *state;
    static const struct objective objective = {.clip_low = 0.2f, .clip_high = 0.2f, .is_cap = 2.0f};
    static const struct optimizer optimizer = {
        .lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f, .grad_norm_max = 1.0f};
    struct trainer *trainers[2] = {NULL, NULL};
    struct error err = {0};
    struct step_report report;
    for (int i = 0; i < 2; i++) {
        const struct trainer_config config = {.compute = COMPUTE_F32,
                                              .published = DTYPE_BF16,
                                              .threads = 1 + 3 * i,
                                              .micro_tokens = 64};
        assert_int_equal(
            trainer_create(&trainers[i], &golden->shape, golden->weights, &config, &err), 0);
        assert_int_equal(trainer_step(trainers[i], golden->batch.sequences, golden->batch.count,
                                      &objective, &optimizer, NULL, &report, &err),
                         0);
    }
    assert_memory_equal(trainer_state(trainers[0]).weights, trainer_state(trainers[1]).weights,
                        golden->params.elements * sizeof(float));
    trainer_destroy(trainers[0]);
    trainer_destroy(trainers[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_micro_batch),
        cmocka_unit_test(test_many_micro_batches_reversed),
        cmocka_unit_test(test_threads_change_nothing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
