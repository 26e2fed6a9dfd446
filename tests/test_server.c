// The verifier's front, whose learner sends it rubbish or vanishes: every good request gets one
// verdict, nothing else does, and no work is left behind.
#include "tests/support.h"

#include "common/base/cleanup.h"
#include "common/base/limits.h"
#include "common/wire/codec.h"
#include "verifier/server.h"
#include "verifier/service.h"

#include <stdlib.h>
#include <string.h>
#include <zmq.h>

static const char endpoint[] = "inproc://verifier-learner";

enum { GOOD_ID = 77, LOOPS = 6 };

struct bed {
    uv_loop_t loop;
    void *zmq;
    struct run_config config;
    struct service service;
    struct server *server;
    struct codec *codec;
    struct zsock *learner;
    char identity[256];
    size_t identity_size;
    bool ready;
    bool ended;
    bool joined;
    int verdicts;
    uint64_t last_id;
    int last_outcome;
};

static void on_ready(void *context, const struct error *failure)
{
    struct bed *bed = context;
    if (failure != NULL) {
        fail_msg("%s", failure->text);
    }
    bed->ready = true;
    uv_stop(&bed->loop);
}

static void on_end(void *context, int code, const char *sentence)
{
    struct bed *bed = context;
    (void)code;
    (void)sentence;
    bed->ended = true;
    uv_stop(&bed->loop);
}

static void send_bytes(struct bed *bed, const void *data, size_t size)
{
    struct zframes frames = {.identity = {bed->identity, bed->identity_size}, .body = {data, size}};
    assert_int_equal(zsock_send(bed->learner, &frames), 0);
}

static struct zframe encode(struct bed *bed, Kelvin__Envelope *envelope)
{
    struct zframe frame = {0};
    envelope->sender = without_const("learner");
    envelope->incarnation = 1;
    assert_int_equal(codec_encode(bed->codec, &frame, envelope, NULL), 0);
    return frame;
}

static void say_welcome(struct bed *bed)
{
    Kelvin__Welcome welcome = KELVIN__WELCOME__INIT;
    welcome.incarnation = 1;
    welcome.style = without_const("compact");
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_WELCOME;
    envelope.welcome = &welcome;
    struct zframe frame = encode(bed, &envelope);
    send_bytes(bed, frame.data, frame.size);
}

static struct zframe request(struct bed *bed, uint64_t id, const char *program)
{
    char *inputs[] = {without_const("1")};
    Kelvin__VerifyRequest request = KELVIN__VERIFY_REQUEST__INIT;
    request.id = id;
    request.check = KELVIN__CHECK__RUN;
    request.program = without_const(program);
    request.inputs = inputs;
    request.n_inputs = 1;
    request.timeout_ms = 200;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_VERIFY_REQUEST;
    envelope.verify_request = &request;
    return encode(bed, &envelope);
}

static void on_learner(struct zsock *sock, const struct zframes *frames, void *context)
{
    struct bed *bed = context;
    const Kelvin__Envelope *envelope = NULL;
    (void)sock;
    assert_int_equal(codec_decode(bed->codec, &envelope, frames->body, NULL), 0);
    memcpy(bed->identity, frames->identity.data, frames->identity.size);
    bed->identity_size = frames->identity.size;
    if (envelope->body_case == KELVIN__ENVELOPE__BODY_HELLO) {
        say_welcome(bed);
        bed->joined = true;
    } else if (envelope->body_case == KELVIN__ENVELOPE__BODY_VERDICT) {
        bed->verdicts++;
        bed->last_id = envelope->verdict->id;
        bed->last_outcome = (int)envelope->verdict->outcome;
    }
    uv_stop(&bed->loop);
}

// A worker that has joined.
static int setup(void **state)
{
    static struct bed bed;
    char backend[] = "verifier.backend=zygote";
    char isolation[] = "verifier.isolation=process";
    char workers[] = "verifier.workers=1";
    char *words[] = {backend, isolation, workers};
    const struct server_config config = {
        .endpoint = endpoint, .engine = "test", .capacity = 16, .connect_timeout_ms = 60000};
    bed = (struct bed){0};
    assert_int_equal(uv_loop_init(&bed.loop), 0);
    bed.zmq = zmq_ctx_new();
    assert_int_equal(run_config_read(&bed.config, NULL, words, 3, NULL), 0);
    assert_int_equal(codec_create(&bed.codec, NULL), 0);
    assert_int_equal(
        zsock_create(&bed.learner, &bed.loop, bed.zmq, ZMQ_ROUTER, on_learner, &bed, NULL), 0);
    assert_int_equal(zsock_bind(bed.learner, endpoint, NULL), 0);
    assert_int_equal(service_open(&bed.service, &bed.loop, &bed.config, true, on_ready, &bed, NULL),
                     0);
    while (!bed.ready) {
        (void)uv_run(&bed.loop, UV_RUN_ONCE);
    }
    assert_int_equal(server_open(&bed.server, &bed.loop, bed.zmq, bed.service.judge, &config,
                                 on_end, &bed, NULL),
                     0);
    while (!bed.joined) {
        (void)uv_run(&bed.loop, UV_RUN_ONCE);
    }
    *state = &bed;
    return 0;
}

static int teardown(void **state)
{
    struct bed *bed = *state;
    server_close(bed->server);
    service_close(&bed->service);
    zsock_close(bed->learner);
    while (uv_run(&bed->loop, UV_RUN_DEFAULT) != 0) { // a message may have stopped it
    }
    codec_destroy(bed->codec);
    assert_int_equal(uv_loop_close(&bed->loop), 0);
    assert_int_equal(zmq_ctx_term(bed->zmq), 0);
    return 0;
}

static void expect_one_good_verdict(struct bed *bed)
{
    struct zframe frame = request(bed, GOOD_ID, "def f(x):\n    return x + 1");
    send_bytes(bed, frame.data, frame.size);
    while (bed->verdicts == 0 && !bed->ended) {
        (void)uv_run(&bed->loop, UV_RUN_ONCE);
    }
    assert_false(bed->ended);
    assert_int_equal(bed->verdicts, 1);
    assert_int_equal(bed->last_id, GOOD_ID);
    assert_int_equal(bed->last_outcome, KELVIN__OUTCOME__OK);
    assert_int_equal(judge_stats(bed->service.judge).open, 0);
}

// A request that is cut off anywhere is no request.
static void test_truncated_frames(void **state)
{
    struct bed *bed = *state;
    struct zframe frame = request(bed, 1, "def f(x):\n    return x");
    CLEANUP(freep) uint8_t *copy = malloc(frame.size);
    assert_non_null(copy);
    memcpy(copy, frame.data, frame.size);
    for (size_t size = 0; size < frame.size; size++) {
        send_bytes(bed, copy, size);
    }
    expect_one_good_verdict(bed);
}

// Nor is one that is larger than a message may be, or says that it is.
static void test_oversized_frames(void **state)
{
    struct bed *bed = *state;
    size_t size = (size_t)MESSAGE_FRAME_MAX + 1;
    CLEANUP(freep) uint8_t *large = malloc(size);
    assert_non_null(large);
    memset(large, 'x', size);
    send_bytes(bed, large, size);
    // Field 30, a request, that claims four gigabytes.
    static const uint8_t claim[] = {0x08, 0x01, 0xf2, 0x01, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x08};
    send_bytes(bed, claim, sizeof(claim));
    expect_one_good_verdict(bed);
}

// Bodies that no learner sends, and bytes that only begin like an envelope.
static void test_forged_frames(void **state)
{
    struct bed *bed = *state;
    Kelvin__Verdict verdict = KELVIN__VERDICT__INIT;
    Kelvin__Hello hello = KELVIN__HELLO__INIT;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_VERDICT;
    envelope.verdict = &verdict;
    struct zframe frame = encode(bed, &envelope);
    send_bytes(bed, frame.data, frame.size);
    envelope.body_case = KELVIN__ENVELOPE__BODY_HELLO;
    envelope.hello = &hello;
    frame = encode(bed, &envelope);
    send_bytes(bed, frame.data, frame.size);
    uint8_t noise[64] = {0x08, 0x01}; // protocol 1
    for (uint32_t seed = 1; seed < 200; seed++) {
        uint32_t random = seed;
        for (size_t i = 2; i < sizeof(noise); i++) {
            random = random * 1664525 + 1013904223;
            noise[i] = (uint8_t)(random >> 24);
        }
        send_bytes(bed, noise, sizeof(noise));
    }
    expect_one_good_verdict(bed);
}

// A learner that goes away leaves its requests behind: they end, and nobody waits for them.
static void test_a_learner_vanishes(void **state)
{
    struct bed *bed = *state;
    for (uint64_t id = 1; id <= LOOPS; id++) {
        char program[64];
        (void)snprintf(program, sizeof(program), "def f(x):\n    while True: pass # %d", (int)id);
        struct zframe frame = request(bed, id, program);
        send_bytes(bed, frame.data, frame.size);
    }
    while (judge_stats(bed->service.judge).open < LOOPS) {
        (void)uv_run(&bed->loop, UV_RUN_ONCE);
    }
    zsock_close(bed->learner);
    bed->learner = NULL;
    while (judge_stats(bed->service.judge).open > 0) {
        (void)uv_run(&bed->loop, UV_RUN_ONCE);
    }
    assert_int_equal(judge_stats(bed->service.judge).verdicts[OUTCOME_TIMEOUT], LOOPS);
    struct pool_stats stats = pool_stats(bed->service.pool);
    assert_int_equal(stats.lost, 0);
    assert_int_equal(stats.waiting, 0);
}

// Closed with requests in flight, the daemon forgets them.
static void test_closed_in_flight(void **state)
{
    struct bed *bed = *state;
    struct zframe frame = request(bed, 1, "def f(x):\n    while True: pass");
    send_bytes(bed, frame.data, frame.size);
    while (judge_stats(bed->service.judge).open == 0) {
        (void)uv_run(&bed->loop, UV_RUN_ONCE);
    }
    assert_int_equal(bed->verdicts, 0); // the rest is in the teardown
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_truncated_frames, setup, teardown),
        cmocka_unit_test_setup_teardown(test_oversized_frames, setup, teardown),
        cmocka_unit_test_setup_teardown(test_forged_frames, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_learner_vanishes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_closed_in_flight, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
