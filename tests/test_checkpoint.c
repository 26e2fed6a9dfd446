#include "tests/support.h"

#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "learner/checkpoint.h"
#include "tests/toy_folder.h"

#include <errno.h>
#include <math.h>
#include <unistd.h>

// struct place is a run folder, a model and what a trainer would hold.
struct place {
    char folder[64];
    char model[96];
    char run[96];
    struct shape shape;
    struct params params;
    struct checkpoint_target target;
    float *block; // weights, m, v
    struct checkpoint checkpoint;
};

static int setup(void **state)
{
    struct place *place = calloc(1, sizeof(*place));
    (void)snprintf(place->folder, sizeof(place->folder), "/tmp/kelvin-checkpoint-XXXXXX");
    assert_non_null(mkdtemp(place->folder));
    (void)snprintf(place->model, sizeof(place->model), "%s/model", place->folder);
    (void)snprintf(place->run, sizeof(place->run), "%s/run", place->folder);
    toy_folder(place->model, 1);
    assert_int_equal(shape_read(&place->shape, place->model, NULL), 0);
    assert_int_equal(params_init(&place->params, &place->shape, NULL), 0);
    size_t elements = place->params.elements;
    place->block = calloc(3 * elements, sizeof(float));
    for (size_t i = 0; i < 3 * elements; i++) {
        place->block[i] = (float)i * 1e-3F;
    }
    place->target = (struct checkpoint_target){.run_dir = place->run,
                                               .model_dir = place->model,
                                               .shape = &place->shape,
                                               .params = &place->params,
                                               .published = DTYPE_BF16,
                                               .keep = 2,
                                               .keep_every = 10};
    place->checkpoint = (struct checkpoint){.step = 4,
                                            .arrays = {.weights = place->block,
                                                       .m = place->block + elements,
                                                       .v = place->block + 2 * elements,
                                                       .updates = 4},
                                            .seed = 7,
                                            .last_task = 11,
                                            .last_rollout = 12};
    *state = place;
    return 0;
}

static int teardown(void **state)
{
    struct place *place = *state;
    (void)file_remove_tree(place->folder, NULL);
    params_finish(&place->params);
    free(place->block);
    free(place);
    return 0;
}

static void save(struct place *place, int64_t step)
{
    struct error err = {0};
    place->checkpoint.step = step;
    if (checkpoint_save(&place->target, &place->checkpoint, &err) < 0) {
        fail_msg("%s", err.text);
    }
}

// Loads a step into fresh arrays, which the caller frees through weights.
static int load(struct place *place, int64_t step, struct checkpoint *out, struct error *err)
{
    size_t elements = place->params.elements;
    float *block = calloc(3 * elements, sizeof(float));
    *out = (struct checkpoint){
        .step = step,
        .arrays = {.weights = block, .m = block + elements, .v = block + 2 * elements}};
    return checkpoint_load(place->run, &place->params, out, err);
}

// What is loaded is what was saved, to the bit; the folder is a model folder of the published type.
static void test_round_trip(void **state)
{
    struct place *place = *state;
    struct checkpoint loaded;
    struct error err = {0};
    save(place, 4);
    assert_int_equal(load(place, 4, &loaded, &err), 0);
    size_t size = 3 * place->params.elements * sizeof(float);
    assert_memory_equal(loaded.arrays.weights, place->block, size);
    assert_int_equal(loaded.arrays.updates, 4);
    assert_int_equal(loaded.seed, 7);
    assert_int_equal(loaded.last_task, 11);
    assert_int_equal(loaded.last_rollout, 12);
    char path[192];
    checkpoint_path(path, sizeof(path), place->run, 4);
    enum dtype stored = DTYPE_F32;
    assert_int_equal(
        safetensors_read(loaded.arrays.weights, &stored, &place->params, &place->shape, path, &err),
        0);
    assert_int_equal(stored, DTYPE_BF16);
    free(loaded.arrays.weights);
}

// The queue comes back as it was, a damaged one is refused, and a run without one has none.
static void test_queue(void **state)
{
    struct place *place = *state;
    struct checkpoint loaded;
    struct error err = {0};
    uint8_t queue[] = {1, 0, 255, 4, 7};
    place->checkpoint.queue = queue;
    place->checkpoint.queue_size = sizeof(queue);
    save(place, 4);
    assert_int_equal(load(place, 4, &loaded, &err), 0);
    assert_int_equal(loaded.queue_size, sizeof(queue));
    assert_memory_equal(loaded.queue, queue, sizeof(queue));
    free(loaded.queue);
    free(loaded.arrays.weights);

    char path[256];
    checkpoint_path(path, sizeof(path), place->run, 4);
    strcat(path, "/queue.bin"); // NOLINT(clang-analyzer-security.insecureAPI.strcpy)
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fputc(2, file), 2);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(load(place, 4, &loaded, &err), -EINVAL);
    assert_non_null(strstr(err.text, "queue.bin is cut or damaged"));
    free(loaded.arrays.weights);

    place->checkpoint.queue = NULL;
    place->checkpoint.queue_size = 0;
    save(place, 5);
    assert_int_equal(load(place, 5, &loaded, &err), 0);
    assert_null(loaded.queue);
    free(loaded.arrays.weights);
}

// Before the first update the moments are zero and take no room.
static void test_starting_model(void **state)
{
    struct place *place = *state;
    struct checkpoint loaded;
    place->checkpoint.arrays.updates = 0;
    save(place, 0);
    assert_int_equal(load(place, 0, &loaded, NULL), 0);
    size_t elements = place->params.elements;
    assert_memory_equal(loaded.arrays.weights, place->block, elements * sizeof(float));
    for (size_t i = 0; i < 2 * elements; i++) {
        assert_true(loaded.arrays.m[i] == 0.0F);
    }
    free(loaded.arrays.weights);
}

// The newest two stay, and step-0, and every tenth; an unfinished save is no checkpoint.
static void test_keep(void **state)
{
    struct place *place = *state;
    static const int64_t steps[] = {0, 5, 10, 15, 20, 25};
    static const bool stays[] = {true, false, true, false, true, true};
    for (size_t i = 0; i < 6; i++) {
        save(place, steps[i]);
    }
    char path[192];
    for (size_t i = 0; i < 6; i++) {
        checkpoint_path(path, sizeof(path), place->run, steps[i]);
        assert_int_equal(access(path, F_OK) == 0, stays[i]);
    }
    (void)snprintf(path, sizeof(path), "%s/checkpoints/.step-99.tmp", place->run);
    assert_int_equal(file_make_dirs(path, NULL), 0);
    int64_t latest = 0;
    assert_int_equal(checkpoint_latest(place->run, &latest, NULL), 0);
    assert_int_equal(latest, 25);
    struct error err = {0};
    assert_int_equal(checkpoint_find(place->run, 15, &err), -ENOENT);
    assert_non_null(strstr(err.text, "it has 25 20 10 0"));
}

static void test_parse(void **state)
{
    struct place *place = *state;
    char run[96];
    char text[128];
    int64_t step = 0;
    save(place, 3);
    assert_int_equal(checkpoint_parse(run, sizeof(run), &step, place->run, NULL), 0);
    assert_int_equal(step, 3);
    (void)snprintf(text, sizeof(text), "%s@3", place->run);
    step = 0;
    assert_int_equal(checkpoint_parse(run, sizeof(run), &step, text, NULL), 0);
    assert_int_equal(step, 3);
    assert_string_equal(run, place->run);
    static const char *const wrong[] = {"@", "@x", "@-1", "@4", "@3x", "@99999999999999999999"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        (void)snprintf(text, sizeof(text), "%s%s", place->run, wrong[i]);
        assert_true(checkpoint_parse(run, sizeof(run), &step, text, NULL) < 0);
    }
}

// Any byte of trainer.bin that is changed or missing is found.
static void test_damage(void **state)
{
    struct place *place = *state;
    char path[192];
    save(place, 4);
    (void)snprintf(path, sizeof(path), "%s/checkpoints/step-4/trainer.bin", place->run);
    char *bytes = NULL;
    size_t size = 0;
    assert_int_equal(file_read(&bytes, &size, path, 1 << 28, NULL), 0);
    struct rng rng = {.key = 1};
    for (int turn = 0; turn < 40; turn++) {
        struct checkpoint loaded;
        struct error err = {0};
        bool cut = turn % 4 == 0;
        size_t at = turn < 4 ? (size_t)turn * 8 : rng_below(&rng, size);
        bytes[at] ^= 0x10;
        assert_int_equal(file_write(path, bytes, cut ? at : size, NULL), 0);
        bytes[at] ^= 0x10;
        assert_int_equal(load(place, 4, &loaded, &err), -EINVAL);
        assert_non_null(strstr(err.text, path));
        free(loaded.arrays.weights);
    }
    free(bytes);
}

// A number that is not finite is no state to go on from, even when it was saved so.
static void test_not_finite(void **state)
{
    struct place *place = *state;
    struct checkpoint loaded;
    place->checkpoint.arrays.v[5] = NAN;
    save(place, 4);
    assert_int_equal(load(place, 4, &loaded, NULL), -EINVAL);
    free(loaded.arrays.weights);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(test_queue, setup, teardown),
        cmocka_unit_test_setup_teardown(test_starting_model, setup, teardown),
        cmocka_unit_test_setup_teardown(test_keep, setup, teardown),
        cmocka_unit_test_setup_teardown(test_parse, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damage, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_finite, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
