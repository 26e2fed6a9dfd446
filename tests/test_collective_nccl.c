// The table over NCCL, its module and its staging, with a stand-in for NCCL and the devices
// (fake/nccl.c) that is as asynchronous and stricter. What only a GPU can show is not shown here.
#include "tests/golden/model.h"

#include "common/base/cleanup.h"
#include "learner/collective_nccl.h"
#include "learner/step.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LIMIT_S = 60, STAGING = 4096, TRAIN_STAGING = 1 << 16, RANKS_TESTED = 4 };

// What a rank does; rank 0 in the test's process, each other in one of its own, whose exit code is
// the result.
typedef int rank_fn(struct collective *collective);

static const struct nccl_options usual = {
    .module = FAKE_MODULE, .limit_s = LIMIT_S, .staging = STAGING};

static int as_rank(struct collective *host, const struct nccl_options *options, rank_fn *fn)
{
    struct collective *collective = NULL;
    struct error err = {0};
    if (collective_nccl_create(&collective, host, options, &err) < 0) {
        (void)fprintf(stderr, "rank %d: %s\n", host->rank, err.text);
        return 99;
    }
    int result = fn(collective);
    collective_close(collective);
    return result;
}

static int end_of(pid_t child)
{
    int status = 0;
    assert_true(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Runs fn as each of `ranks` ranks; results[r] is what it returned.
static void run_ranks(int *results, int32_t ranks, const struct nccl_options *options, rank_fn *fn)
{
    struct collective *host = NULL;
    struct error err = {0};
    pid_t children[RANKS_MAX];
    assert_int_equal(collective_host_create(&host, ranks, NULL, LIMIT_S, &err), 0);
    for (int32_t r = 1; r < ranks; r++) {
        children[r] = fork();
        assert_true(children[r] >= 0);
        if (children[r] == 0) {
            _exit(collective_host_fork(host, r, &err) < 0 ? 98 : as_rank(host, options, fn));
        }
    }
    results[0] = as_rank(host, options, fn);
    for (int32_t r = 1; r < ranks; r++) {
        results[r] = end_of(children[r]);
    }
}

static void expect_all(int32_t ranks, size_t staging, rank_fn *fn)
{
    int results[RANKS_MAX];
    struct nccl_options options = usual;
    options.staging = staging;
    run_ranks(results, ranks, &options, fn);
    for (int32_t r = 0; r < ranks; r++) {
        assert_int_equal(results[r], 0);
    }
}

// --- refusals ---

// Without the module, with a file that is none, without a device and with too few, the reason comes
// before anything is begun.
static void test_refusals(void **state)
{
    (void)state;
    struct error err = {0};
    assert_int_equal(collective_nccl_check("/nowhere/kelvin_cuda.so", 2, &err), -ENOENT);
    assert_non_null(strstr(err.text, "needs /nowhere/kelvin_cuda.so"));
    assert_non_null(strstr(err.text, "learner.collective=host"));
    assert_int_equal(collective_nccl_check("/proc/self/status", 2, &err), -ENOENT);
    assert_non_null(strstr(err.text, "cannot load"));
    assert_int_equal(collective_nccl_check(FAKE_MODULE, 2, &err), 0);
    assert_int_equal(setenv("FAKE_NCCL_DEVICES", "1", 1), 0);
    assert_int_equal(collective_nccl_check(FAKE_MODULE, 1, &err), 0);
    assert_int_equal(collective_nccl_check(FAKE_MODULE, 2, &err), -ENODEV);
    assert_non_null(strstr(err.text, "for each of 2 ranks, and 1 can be used"));
    assert_int_equal(setenv("FAKE_NCCL_DEVICES", "0", 1), 0);
    assert_int_equal(collective_nccl_check(FAKE_MODULE, 1, &err), -ENODEV);
    assert_non_null(strstr(err.text, "there is no driver"));
    assert_int_equal(unsetenv("FAKE_NCCL_DEVICES"), 0);
}

// The module that ships loads on any host, and says so where there is no device.
static void test_real_module_loads(void **state)
{
    (void)state;
    struct error err = {0};
    int code = collective_nccl_check(REAL_MODULE, 1, &err);
    assert_true(code == 0 || (code == -ENODEV && strstr(err.text, "no CUDA device") != NULL));
}

// --- operations ---

// Odd enough for runs of different lengths, a cut last item, and many turns of the small buffers.
enum { ITEM = 400, ITEMS = 23, SIZE = ITEM * ITEMS - 120, CELLS = SIZE / 4, SLICES = 7 };

static float cell(int slice, int i)
{
    return (float)((slice + 1) * (i % 1013) + slice);
}

static int check_scatter(struct collective *collective)
{
    void *slices[SLICES];
    struct error err = {0};
    for (int s = 0; s < SLICES; s++) {
        float *cells = slices[s] = collective->ops->alloc(collective, SIZE);
        bool owned =
            s >= collective_from(collective, SLICES) && s < collective_to(collective, SLICES);
        for (int i = 0; owned && i < CELLS; i++) {
            cells[i] = cell(s, i);
        }
    }
    int code = collective->ops->scatter(collective, slices, SLICES, SIZE, ITEM, ITEMS, &err);
    for (int s = 0; s < SLICES; s++) {
        const float *cells = slices[s];
        int to = collective_to(collective, ITEMS) * ITEM / 4;
        for (int i = collective_from(collective, ITEMS) * ITEM / 4; i < to && i < CELLS; i++) {
            code = cells[i] == cell(s, i) ? code : -1;
        }
        collective->ops->release(collective, slices[s], SIZE);
    }
    return code == 0 ? 0 : 1;
}

static int check_reduce(struct collective *collective)
{
    float *cells = collective->ops->alloc(collective, SIZE);
    struct error err = {0};
    for (int i = 0; i < CELLS; i++) {
        cells[i] = cell(collective->rank, i); // whole numbers: exact in any order
    }
    int code = collective->ops->reduce(collective, cells, SIZE, ITEM, ITEMS, &err);
    int to = collective_to(collective, ITEMS) * ITEM / 4;
    for (int i = collective_from(collective, ITEMS) * ITEM / 4; i < to && i < CELLS; i++) {
        float sum = 0.0f;
        for (int r = 0; r < collective->ranks; r++) {
            sum += cell(r, i);
        }
        code = cells[i] == sum ? code : -1;
    }
    collective->ops->release(collective, cells, SIZE);
    return code == 0 ? 0 : 2;
}

static int check_gather(struct collective *collective)
{
    float *cells = collective->ops->alloc(collective, SIZE);
    struct error err = {0};
    int to = collective_to(collective, ITEMS) * ITEM / 4;
    for (int i = collective_from(collective, ITEMS) * ITEM / 4; i < to && i < CELLS; i++) {
        cells[i] = cell(3, i);
    }
    int code = collective->ops->gather(collective, cells, SIZE, ITEM, ITEMS, &err);
    for (int i = 0; i < CELLS; i++) {
        code = cells[i] == cell(3, i) ? code : -1;
    }
    collective->ops->release(collective, cells, SIZE);
    return code == 0 ? 0 : 4;
}

static int check_spread(struct collective *collective)
{
    float *cells = collective->ops->alloc(collective, SIZE);
    struct error err = {0};
    for (int i = 0; collective->rank == 0 && i < CELLS; i++) {
        cells[i] = cell(5, i);
    }
    int code = collective->ops->spread(collective, cells, SIZE, &err);
    for (int i = 0; i < CELLS; i++) {
        code = cells[i] == cell(5, i) ? code : -1;
    }
    collective->ops->release(collective, cells, SIZE);
    return code == 0 ? 0 : 8;
}

static int check_operations(struct collective *collective)
{
    int wrong = 0;
    for (int round = 0; round < 2; round++) { // the second on used buffers
        wrong |= check_scatter(collective) | check_reduce(collective) | check_gather(collective) |
                 check_spread(collective);
    }
    return wrong;
}

// Every rank reads what the contract promises it, on 2, 3 and 4 ranks.
static void test_operations(void **state)
{
    (void)state;
    for (int32_t ranks = 2; ranks <= RANKS_TESTED; ranks++) {
        expect_all(ranks, STAGING, check_operations);
    }
}

// --- training ---

enum { COUNT = 6, TOKENS = 24, PROMPT = 6, STEPS = 3 };

static struct network {
    struct shape shape;
    struct params params;
    float *weights;
    int32_t ids[COUNT][TOKENS];
    float weight[COUNT][TOKENS];
    struct sequence sequences[COUNT];
    struct trainer_config config;
    float *result[3]; // weights and moments at rank 0
} network;

static int setup(void **state)
{
    (void)state;
    golden_read(&network.shape, &network.params, &network.weights, "qwen2");
    for (int k = 0; k < COUNT; k++) {
        for (int i = 0; i < TOKENS; i++) {
            network.ids[k][i] = (k * 97 + i * 31 + i * i * 7) % network.shape.V;
            network.weight[k][i] = i < PROMPT ? 0.0f : 1.0f / (COUNT * (TOKENS - PROMPT));
        }
        network.sequences[k] =
            (struct sequence){.count = TOKENS, .ids = network.ids[k], .weight = network.weight[k]};
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    params_finish(&network.params);
    free(network.weights);
    return 0;
}

// Trains as rank 0, then resumes: moments written from outside reach the other ranks too.
static int lead(struct trainer *trainer, struct error *err)
{
    static const struct objective objective = {.clip_low = 0.2f, .clip_high = 0.2f};
    static const struct optimizer optimizer = {
        .lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f, .grad_norm_max = 1.0f};
    struct step_report report;
    struct trainer_state state = trainer_state(trainer);
    int code = 0;
    for (int step = 0; code == 0 && step < STEPS; step++) {
        code = trainer_step(trainer, network.sequences, COUNT, &objective, &optimizer, NULL,
                            &report, err);
        code = code < 0 ? code : trainer_collect(trainer, err);
        if (code == 0 && step == 0) {
            for (size_t i = 0; i < network.params.elements; i++) {
                state.m[i] *= 0.5f;
                state.weights[i] *= 0.99f;
            }
            trainer_refresh(trainer);
        }
    }
    float *const arrays[3] = {state.weights, state.m, state.v};
    for (int i = 0; i < 3; i++) {
        network.result[i] = malloc(network.params.elements * sizeof(float));
        memcpy(network.result[i], arrays[i], network.params.elements * sizeof(float));
    }
    return code;
}

static int train(struct collective *collective)
{
    CLEANUP(trainer_destroyp) struct trainer *trainer = NULL;
    struct error err = {0};
    struct trainer_config config = network.config;
    config.collective = collective;
    int code = trainer_create(&trainer, &network.shape, network.weights, &config, &err);
    if (code == 0) {
        code = collective == NULL || collective->rank == 0 ? lead(trainer, &err)
                                                           : trainer_serve(trainer, &err);
    }
    if (code < 0) {
        (void)fprintf(stderr, "%s\n", err.text);
    }
    return code < 0 ? 1 : 0;
}

static double distance(const float *a, const float *b)
{
    double most = 0.0;
    for (size_t i = 0; i < network.params.elements; i++) {
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
    }
    return most;
}

// With the order fixed, 2 and 4 ranks over NCCL end with the bits of one rank: weights and moments,
// over steps, collections and a change from outside.
static void test_exact_training(void **state)
{
    (void)state;
    float *one[3];
    network.config = (struct trainer_config){
        .compute = COMPUTE_F32, .published = DTYPE_BF16, .threads = 1, .micro_tokens = 32};
    assert_int_equal(train(NULL), 0);
    memcpy(one, network.result, sizeof(one));
    for (int32_t ranks = 2; ranks <= RANKS_TESTED; ranks += 2) {
        expect_all(ranks, TRAIN_STAGING, train);
        for (int i = 0; i < 3; i++) {
            assert_memory_equal(network.result[i], one[i], network.params.elements * sizeof(float));
            free(network.result[i]);
        }
    }
    for (int i = 0; i < 3; i++) {
        free(one[i]);
    }
}

// In NCCL's own order they end close by.
static void test_summed_by_nccl(void **state)
{
    (void)state;
    float *one[3];
    network.config = (struct trainer_config){.compute = COMPUTE_F32,
                                             .published = DTYPE_F32,
                                             .threads = 1,
                                             .micro_tokens = 32,
                                             .any_order = true};
    assert_int_equal(train(NULL), 0);
    memcpy(one, network.result, sizeof(one));
    for (int32_t ranks = 2; ranks <= RANKS_TESTED; ranks += 2) {
        expect_all(ranks, TRAIN_STAGING, train);
        assert_true(distance(network.result[1], one[1]) < 1e-5);
        assert_true(distance(network.result[1], one[1]) > 0.0); // the order is another one
        for (int i = 0; i < 3; i++) {
            free(network.result[i]);
        }
    }
    for (int i = 0; i < 3; i++) {
        free(one[i]);
    }
}

// --- faults ---

// Gathers until an error; its code.
static int gather_on(struct collective *collective)
{
    float *cells = collective->ops->alloc(collective, SIZE);
    struct error err = {0};
    int code = 0;
    for (int i = 0; code == 0 && i < 100; i++) {
        code = collective->ops->gather(collective, cells, SIZE, ITEM, ITEMS, &err);
    }
    int again = collective->ops->gather(collective, cells, SIZE, ITEM, ITEMS, NULL);
    collective->ops->release(collective, cells, SIZE);
    if (code < 0) {
        collective->ops->give_up(collective, err.text);
    }
    return again < 0 ? -code : 97; // what has failed stays failed
}

static int fail_as_rank_1(struct collective *collective)
{
    if (collective->rank == 1) {
        (void)setenv("FAKE_NCCL_FAIL", "9", 1);
    }
    return gather_on(collective);
}

// A call that fails is an error of its rank, and the others do not wait for it.
static void test_failure(void **state)
{
    (void)state;
    int results[RANKS_MAX];
    run_ranks(results, 3, &usual, fail_as_rank_1);
    assert_int_equal(results[1], EIO);
    assert_int_equal(results[0], EPIPE);
    assert_int_equal(results[2], EPIPE);
}

static int hang_as_rank_1(struct collective *collective)
{
    if (collective->rank == 1) {
        (void)setenv("FAKE_NCCL_HANG", "9", 1);
    }
    return gather_on(collective);
}

// An operation that never ends ends at the limit, for all.
static void test_limit(void **state)
{
    (void)state;
    int results[RANKS_MAX];
    struct nccl_options options = usual;
    options.limit_s = 1;
    run_ranks(results, 2, &options, hang_as_rank_1);
    for (int32_t r = 0; r < 2; r++) { // whoever sees it first tells the other
        assert_true(results[r] == ETIMEDOUT || results[r] == EPIPE);
    }
    assert_true(results[0] == ETIMEDOUT || results[1] == ETIMEDOUT);
}

static int die_as_rank_1(struct collective *collective)
{
    if (collective->rank == 1) {
        (void)kill(getpid(), SIGKILL);
    }
    return gather_on(collective);
}

// A rank that dies ends the operations of the others, long before the limit.
static void test_death(void **state)
{
    (void)state;
    int results[RANKS_MAX];
    run_ranks(results, 2, &usual, die_as_rank_1);
    assert_int_equal(results[1], 128 + SIGKILL);
    assert_int_equal(results[0], EPIPE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),       cmocka_unit_test(test_real_module_loads),
        cmocka_unit_test(test_operations),     cmocka_unit_test(test_exact_training),
        cmocka_unit_test(test_summed_by_nccl), cmocka_unit_test(test_failure),
        cmocka_unit_test(test_limit),          cmocka_unit_test(test_death),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
