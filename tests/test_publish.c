#include "tests/support.h"

#include "common/base/file.h"
#include "learner/publish.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

static struct params params;
static char dir[] = "/tmp/kelvin-publish-XXXXXX";

static int setup(void **state)
{
    (void)state;
    struct shape shape = {
        .L = 1, .C = 16, .H = 2, .KV = 1, .D = 8, .F = 32, .V = 40, .T = 8, .gated = true};
    return mkdtemp(dir) == NULL ? -1 : params_init(&params, &shape, NULL);
}

static int teardown(void **state)
{
    (void)state;
    params_finish(&params);
    return file_remove_tree(dir, NULL);
}

static int try(const char *endpoint, struct error *err, struct publish **out, uv_loop_t *loop,
               void *zmq)
{
    struct publish_config config = {endpoint, dir, &params, DTYPE_BF16};
    return publish_create(out, loop, zmq, &config, err);
}

static void write_file(const char *name)
{
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    assert_int_equal(file_write(path, "{}", 2, NULL), 0);
}

// A model folder without tokenizer and an address in use are errors that name them; a manifest has
// the tensors of the parameter table, in place.
static void test_create(void **state)
{
    (void)state;
    uv_loop_t loop;
    void *zmq = zmq_ctx_new();
    struct publish *publish = NULL;
    struct publish *second = NULL;
    struct error err = {0};
    assert_int_equal(uv_loop_init(&loop), 0);
    write_file("config.json");
    assert_int_equal(try("inproc://w", &err, &publish, &loop, zmq), -ENOENT);
    assert_non_null(strstr(err.text, "tokenizer.json"));
    write_file("tokenizer.json");
    assert_int_equal(try("inproc://w", &err, &publish, &loop, zmq), 0);
    assert_int_equal(try("inproc://w", &err, &second, &loop, zmq), -EADDRINUSE);
    assert_non_null(strstr(err.text, "inproc://w"));

    float *weights = calloc(params.elements, sizeof(float));
    assert_non_null(weights);
    struct weights_packed *packed = NULL;
    assert_int_equal(publish_pack(&packed, publish, 9, weights, &err), 0);
    const Kelvin__WeightsManifest *manifest = publish_offer(publish, packed);
    assert_int_equal(manifest->version, 9);
    assert_int_equal(manifest->n_tensors, params.count);
    assert_int_equal(manifest->n_files, 2);
    assert_int_equal(manifest->n_hashes, 1);
    assert_int_equal(manifest->size, params.elements * 2 + 4);
    assert_string_equal(manifest->tensors[1]->name, params.items[1].name);
    assert_int_equal(manifest->tensors[1]->offset, params.items[1].offset * 2);
    assert_int_equal(publish_stats(publish).version, 9);
    free(weights);

    publish_close(publish);
    publish_close(NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    assert_int_equal(zmq_ctx_term(zmq), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_create)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
