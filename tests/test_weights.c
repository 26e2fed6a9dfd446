#include "tests/support.h"

#include "actor/weights.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/rng.h"
#include "common/wire/codec.h"
#include "common/wire/zsock.h"
#include "learner/publish.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

// struct bed is a publisher and a receiver on one loop, with a proxy between them that loses and
// spoils chunks by the odds given.
struct bed {
    uv_loop_t loop;
    void *zmq;
    char dir[64];
    struct shape shape;
    struct params params;
    float *weights;
    struct publish *publish;
    struct weights *receiver;
    struct zsock *front, *back;
    uv_timer_t deadline;
    struct rng rng;
    uint64_t lose, spoil; // one in so many; 0: never
    char identity[256];
    size_t identity_size;
    int requests;   // through the proxy
    int versions;   // received
    int failures;   // given up
    int wanted;     // versions plus failures after which the loop stops
    uint64_t last;  // version
    uint64_t again; // offered when the first request passes; 0: none
    char failure[256];
};

static void close_bed(struct bed *bed)
{
    weights_close(bed->receiver);
    publish_close(bed->publish);
    zsock_close(bed->front);
    zsock_close(bed->back);
    uv_close((uv_handle_t *)&bed->deadline, NULL);
}

static void offer(struct bed *bed, uint64_t version)
{
    struct weights_packed *packed = NULL;
    struct error err = {0};
    assert_int_equal(publish_pack(&packed, bed->publish, version, bed->weights, &err), 0);
    Kelvin__WeightsManifest manifest = *publish_offer(bed->publish, packed);
    if (bed->front != NULL) {
        manifest.endpoint = without_const("inproc://proxy");
    }
    weights_offer(bed->receiver, &manifest);
}

static void change(struct bed *bed, uint64_t elements)
{
    for (uint64_t i = 0; i < elements; i++) {
        bed->weights[rng_below(&bed->rng, bed->params.elements)] =
            (float)rng_normal(&bed->rng) * 0.02f;
    }
}

// A version has exactly the learner's weights, rounded as published, and its files.
static void check_version(struct bed *bed, const struct weights_version *version)
{
    float *mine = calloc(bed->params.elements, sizeof(float));
    assert_non_null(mine);
    struct error err = {0};
    assert_int_equal(weights_version_read(mine, version, &bed->params, &err), 0);
    for (size_t i = 0; i < bed->params.elements; i++) {
        float wanted = version->type == DTYPE_BF16 ? bf16_to_float(bf16_from_float(bed->weights[i]))
                                                   : bed->weights[i];
        if (memcmp(&mine[i], &wanted, sizeof(float)) != 0) {
            fail_msg("element %zu differs", i);
        }
    }
    free(mine);
    char dir[80];
    char path[128];
    (void)snprintf(dir, sizeof(dir), "%s/got", bed->dir);
    (void)snprintf(path, sizeof(path), "%s/tokenizer.json", dir);
    assert_int_equal(file_make_dirs(dir, &err), 0);
    assert_int_equal(weights_version_save_files(version, dir, &err), 0);
    char *text = NULL;
    size_t size = 0;
    assert_int_equal(file_read(&text, &size, path, 100, &err), 0);
    assert_string_equal(text, "{\"a tokenizer\": 1}");
    free(text);
}

static void on_version(void *context, struct weights_version *version)
{
    struct bed *bed = context;
    bed->versions++;
    bed->last = version->version;
    check_version(bed, version);
    if (bed->versions + bed->failures >= bed->wanted) {
        close_bed(bed);
    } else {
        change(bed, 50);
        offer(bed, version->version + 1);
    }
}

static void on_failure(void *context, uint64_t version, const struct error *err)
{
    (void)version;
    struct bed *bed = context;
    bed->failures++;
    memcpy(bed->failure, err->text, sizeof(bed->failure));
    if (bed->versions + bed->failures >= bed->wanted) {
        close_bed(bed);
    }
}

static bool one_in(struct bed *bed, uint64_t odds)
{
    return odds > 0 && rng_below(&bed->rng, odds) == 0;
}

static void on_front(struct zsock *sock, const struct zframes *frames, void *context)
{
    (void)sock;
    struct bed *bed = context;
    memcpy(bed->identity, frames->identity.data, frames->identity.size);
    bed->identity_size = frames->identity.size;
    if (bed->requests++ == 0 && bed->again != 0) {
        offer(bed, bed->again);
        offer(bed, bed->again + 1);
    }
    if (one_in(bed, bed->lose)) {
        clock_fake(clock_ns() + (uint64_t)WEIGHTS_RETRY_MS * 1000000);
        return;
    }
    struct zframes on = {.body = frames->body};
    assert_int_equal(zsock_send(bed->back, &on), 0);
}

static void on_back(struct zsock *sock, const struct zframes *frames, void *context)
{
    (void)sock;
    struct bed *bed = context;
    struct zframes on = *frames;
    on.identity = (struct zframe){bed->identity, bed->identity_size};
    char *spoiled = malloc(frames->raw.size + 1);
    assert_non_null(spoiled);
    if (frames->raw.size > 0 && one_in(bed, bed->spoil)) {
        memcpy(spoiled, frames->raw.data, frames->raw.size);
        spoiled[rng_below(&bed->rng, frames->raw.size)] ^= 1;
        on.raw = (struct zframe){spoiled, frames->raw.size - rng_below(&bed->rng, 2)};
    }
    (void)zsock_send(bed->front, &on);
    free(spoiled);
}

static void on_deadline(uv_timer_t *timer)
{
    (void)timer;
    fail_msg("the weights do not come");
}

static void open_proxy(struct bed *bed)
{
    assert_int_equal(
        zsock_create(&bed->front, &bed->loop, bed->zmq, ZMQ_ROUTER, on_front, bed, NULL), 0);
    assert_int_equal(zsock_create(&bed->back, &bed->loop, bed->zmq, ZMQ_DEALER, on_back, bed, NULL),
                     0);
    assert_int_equal(zsock_bind(bed->front, "inproc://proxy", NULL), 0);
    assert_int_equal(zsock_connect(bed->back, "inproc://weights", NULL), 0);
}

static void make_files(struct bed *bed)
{
    static const char tokenizer[] = "{\"a tokenizer\": 1}";
    char path[128];
    strcpy(bed->dir, "/tmp/kelvin-weights-XXXXXX");
    assert_non_null(mkdtemp(bed->dir));
    (void)snprintf(path, sizeof(path), "%s/config.json", bed->dir);
    assert_int_equal(file_write(path, "{}", 2, NULL), 0);
    (void)snprintf(path, sizeof(path), "%s/tokenizer.json", bed->dir);
    assert_int_equal(file_write(path, tokenizer, sizeof(tokenizer) - 1, NULL), 0);
}

static void open_bed(struct bed *bed, enum dtype type, const char *endpoint, uint64_t seed)
{
    struct error err = {0};
    make_files(bed);
    bed->rng = (struct rng){.key = seed};
    bed->shape = (struct shape){.L = 2,
                                .C = 128,
                                .H = 4,
                                .KV = 2,
                                .D = 32,
                                .F = 512,
                                .V = 5003,
                                .T = 64,
                                .gated = true,
                                .qkv_bias = true};
    assert_int_equal(params_init(&bed->params, &bed->shape, &err), 0);
    bed->weights = calloc(bed->params.elements, sizeof(float));
    assert_non_null(bed->weights);
    change(bed, bed->params.elements);
    assert_int_equal(uv_loop_init(&bed->loop), 0);
    bed->zmq = zmq_ctx_new();
    assert_int_equal(uv_timer_init(&bed->loop, &bed->deadline), 0);
    assert_int_equal(uv_timer_start(&bed->deadline, on_deadline, 30000, 0), 0);
    struct publish_config config = {endpoint, bed->dir, &bed->params, type};
    assert_int_equal(publish_create(&bed->publish, &bed->loop, bed->zmq, &config, &err), 0);
    struct weights_events events = {bed, on_version, on_failure};
    assert_int_equal(
        weights_create(&bed->receiver, &bed->loop, bed->zmq, "tcp://127.0.0.1:1", &events, &err),
        0);
}

static void finish_bed(struct bed *bed)
{
    uv_run(&bed->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&bed->loop), 0);
    assert_int_equal(zmq_ctx_term(bed->zmq), 0);
    assert_int_equal(file_remove_tree(bed->dir, NULL), 0);
    params_finish(&bed->params);
    free(bed->weights);
    clock_fake(0);
}

// Versions arrive exactly, one after another, as bf16 and as f32; after the first only what changed
// travels.
static void test_versions(void **state)
{
    (void)state;
    static const enum dtype types[] = {DTYPE_BF16, DTYPE_F32};
    for (int i = 0; i < 2; i++) {
        struct bed bed = {.wanted = 5};
        open_bed(&bed, types[i], "tcp://*:*", 1); // the receiver must put a host in its place
        offer(&bed, 1);
        uint64_t blob = publish_stats(bed.publish).blob_bytes;
        assert_true(blob > (size_t)2 * WEIGHTS_CHUNK_BYTES);
        (void)uv_run(&bed.loop, UV_RUN_ONCE);
        while (bed.versions < 4) {
            (void)uv_run(&bed.loop, UV_RUN_ONCE);
        }
        assert_true(weights_stats(bed.receiver).bytes < blob + 3 * 50 * (4 + 3));
        assert_true(weights_stats(bed.receiver).deltas > 0);
        finish_bed(&bed);
        assert_int_equal(bed.versions, 5);
        assert_int_equal(bed.last, 5);
        assert_int_equal(bed.failures, 0);
    }
}

// Lost and spoiled chunks are asked for again until every version is right.
static void test_loss_and_corruption(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        struct bed bed = {.wanted = 4, .lose = 4, .spoil = 5};
        open_bed(&bed, DTYPE_F32, "inproc://weights", seed);
        open_proxy(&bed);
        offer(&bed, 1);
        while (bed.versions < 3) {
            (void)uv_run(&bed.loop, UV_RUN_ONCE);
        }
        struct weights_stats stats = weights_stats(bed.receiver);
        print_message("seed %d: %d requests, %d again, %d bad\n", (int)seed, bed.requests,
                      (int)stats.again, (int)stats.bad);
        finish_bed(&bed);
        assert_int_equal(bed.versions, 4);
        assert_int_equal(bed.failures, 0);
    }
}

// When everything is spoiled the version is given up, and the sentence names the address.
static void test_always_spoiled(void **state)
{
    (void)state;
    struct bed bed = {.wanted = 1, .spoil = 1};
    open_bed(&bed, DTYPE_BF16, "inproc://weights", 3);
    open_proxy(&bed);
    offer(&bed, 1);
    finish_bed(&bed);
    assert_int_equal(bed.versions, 0);
    assert_int_equal(bed.failures, 1);
    assert_string_equal(bed.failure, "16 chunks from inproc://proxy had a wrong hash; is another "
                                     "learner there?");
}

// When nothing comes the version is given up after a bounded time.
static void test_all_lost(void **state)
{
    (void)state;
    struct bed bed = {.wanted = 1, .lose = 1};
    open_bed(&bed, DTYPE_BF16, "inproc://weights", 3);
    open_proxy(&bed);
    offer(&bed, 1);
    finish_bed(&bed);
    assert_int_equal(bed.failures, 1);
    assert_non_null(strstr(bed.failure, "no weights came from inproc://proxy for 150 s"));
}

// While one version is fetched two more come: it is gone at the learner, the one between is
// skipped, and the newest is received.
static void test_newest_wins(void **state)
{
    (void)state;
    struct bed bed = {.wanted = 2, .again = 2};
    open_bed(&bed, DTYPE_BF16, "inproc://weights", 4);
    open_proxy(&bed);
    offer(&bed, 1);
    finish_bed(&bed);
    assert_int_equal(bed.failures, 1);
    assert_string_equal(bed.failure, "inproc://proxy no longer holds it");
    assert_int_equal(bed.versions, 1);
    assert_int_equal(bed.last, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_versions),       cmocka_unit_test(test_loss_and_corruption),
        cmocka_unit_test(test_always_spoiled), cmocka_unit_test(test_all_lost),
        cmocka_unit_test(test_newest_wins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
