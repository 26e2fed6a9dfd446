#include "tests/support.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/wire/codec.h"
#include "common/wire/zsock.h"
#include "learner/hub.h"
#include "learner/watch.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <zmq.h>

static const char endpoint[] = "inproc://hub";

enum { TURNS_MAX = 20000, SEEN_MAX = 64 };

// struct bed is a hub and, on the same loop, workers that are played by the test: bare sockets.
struct bed {
    uv_loop_t loop;
    uv_idle_t idle; // turns never sleep
    void *zmq;
    struct codec *codec;
    struct hub *hub;
    struct zsock *workers[2];
    Kelvin__Envelope__BodyCase seen[2][SEEN_MAX]; // that each worker got
    uint64_t lease[2];                            // of the last work
    bool rejoin[2];                               // of the last Refuse
    int count[2];
    int verdicts, rollouts;
    Kelvin__Outcome outcome;
};

static int index_of(const struct bed *bed, const struct zsock *sock)
{
    return sock == bed->workers[0] ? 0 : 1;
}

static void on_worker(struct zsock *sock, const struct zframes *frames, void *context)
{
    struct bed *bed = context;
    int worker = index_of(bed, sock);
    const Kelvin__Envelope *envelope = NULL;
    assert_int_equal(codec_decode(bed->codec, &envelope, frames->body, NULL), 0);
    if (envelope->body_case == KELVIN__ENVELOPE__BODY_VERIFY_REQUEST) {
        bed->lease[worker] = envelope->verify_request->id;
    } else if (envelope->body_case == KELVIN__ENVELOPE__BODY_PROMPT) {
        bed->lease[worker] = envelope->prompt->lease;
    } else if (envelope->body_case == KELVIN__ENVELOPE__BODY_REFUSE) {
        bed->rejoin[worker] = envelope->refuse->rejoin;
    }
    assert_true(bed->count[worker] < SEEN_MAX);
    bed->seen[worker][bed->count[worker]++] = envelope->body_case;
}

static void on_idle(uv_idle_t *idle)
{
    (void)idle;
}

static void connect_worker(struct bed *bed, int worker)
{
    assert_int_equal(
        zsock_create(&bed->workers[worker], &bed->loop, bed->zmq, ZMQ_DEALER, on_worker, bed, NULL),
        0);
    assert_int_equal(zsock_connect(bed->workers[worker], endpoint, NULL), 0);
}

static int setup(void **state)
{
    struct bed *bed = calloc(1, sizeof(*bed));
    CHECK(bed != NULL);
    clock_fake(1000000000);
    bed->zmq = zmq_ctx_new();
    assert_int_equal(uv_loop_init(&bed->loop), 0);
    assert_int_equal(uv_idle_init(&bed->loop, &bed->idle), 0);
    assert_int_equal(uv_idle_start(&bed->idle, on_idle), 0);
    assert_int_equal(codec_create(&bed->codec, NULL), 0);
    const struct hub_config config = {.endpoint = endpoint,
                                      .style = "compact",
                                      .incarnation = 5,
                                      .lease_ms = 60000,
                                      .requests_max = 8};
    assert_int_equal(hub_create(&bed->hub, &bed->loop, bed->zmq, &config, NULL), 0);
    connect_worker(bed, 0);
    connect_worker(bed, 1);
    *state = bed;
    return 0;
}

static int teardown(void **state)
{
    struct bed *bed = *state;
    hub_close(bed->hub);
    zsock_close(bed->workers[0]);
    zsock_close(bed->workers[1]);
    uv_close((uv_handle_t *)&bed->idle, NULL);
    (void)uv_run(&bed->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&bed->loop), 0);
    codec_destroy(bed->codec);
    (void)zmq_ctx_term(bed->zmq);
    clock_fake(0);
    free(bed);
    return 0;
}

static void send_as(struct bed *bed, int worker, Kelvin__Envelope *envelope)
{
    struct zframes frames = {0};
    envelope->sender = without_const(worker == 0 ? "w0" : "w1");
    envelope->incarnation = 5;
    assert_int_equal(codec_encode(bed->codec, &frames.body, envelope, NULL), 0);
    assert_int_equal(zsock_send(bed->workers[worker], &frames), 0);
}

static void say_hello(struct bed *bed, int worker, Kelvin__WorkerKind kind)
{
    Kelvin__Hello hello = KELVIN__HELLO__INIT;
    hello.kind = kind;
    hello.name = without_const(worker == 0 ? "w0" : "w1");
    hello.capacity = 4;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_HELLO;
    envelope.hello = &hello;
    send_as(bed, worker, &envelope);
}

static void say_beat(struct bed *bed, int worker)
{
    Kelvin__Heartbeat beat = KELVIN__HEARTBEAT__INIT;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_HEARTBEAT;
    envelope.heartbeat = &beat;
    send_as(bed, worker, &envelope);
}

static void say_verdict(struct bed *bed, int worker, uint64_t id, Kelvin__Outcome outcome)
{
    Kelvin__Verdict verdict = KELVIN__VERDICT__INIT;
    verdict.id = id;
    verdict.outcome = outcome;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_VERDICT;
    envelope.verdict = &verdict;
    send_as(bed, worker, &envelope);
}

// Turns the loop until a worker has got `count` messages.
static void wait_count(struct bed *bed, int worker, int count)
{
    for (int turn = 0; turn < TURNS_MAX && bed->count[worker] < count; turn++) {
        (void)uv_run(&bed->loop, UV_RUN_NOWAIT);
    }
    assert_int_equal(bed->count[worker], count);
}

static void turn_some(struct bed *bed)
{
    for (int turn = 0; turn < 50; turn++) {
        (void)uv_run(&bed->loop, UV_RUN_NOWAIT);
    }
}

static void on_verdict(void *context, uint64_t tag, const Kelvin__Verdict *verdict)
{
    struct bed *bed = context;
    assert_int_equal(tag, 9);
    bed->outcome = verdict->outcome;
    bed->verdicts++;
}

static void ask_verify(struct bed *bed)
{
    Kelvin__VerifyRequest request = KELVIN__VERIFY_REQUEST__INIT;
    request.program = without_const("def f(a): return a");
    assert_int_equal(hub_verify(bed->hub, &request, on_verdict, bed, 9), 0);
}

// Hello is welcomed, every heartbeat and the goodbye are answered: a worker knows that it is heard.
static void test_answers(void **state)
{
    struct bed *bed = *state;
    say_hello(bed, 0, KELVIN__WORKER_KIND__VERIFIER);
    wait_count(bed, 0, 1);
    assert_int_equal(bed->seen[0][0], KELVIN__ENVELOPE__BODY_WELCOME);
    say_beat(bed, 0);
    wait_count(bed, 0, 2);
    assert_int_equal(bed->seen[0][1], KELVIN__ENVELOPE__BODY_HEARTBEAT);
    assert_int_equal(hub_stats(bed->hub, KELVIN__WORKER_KIND__VERIFIER).workers, 1);
    Kelvin__Goodbye goodbye = KELVIN__GOODBYE__INIT;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_GOODBYE;
    envelope.goodbye = &goodbye;
    send_as(bed, 0, &envelope);
    wait_count(bed, 0, 3);
    assert_int_equal(bed->seen[0][2], KELVIN__ENVELOPE__BODY_GOODBYE);
    assert_int_equal(hub_stats(bed->hub, KELVIN__WORKER_KIND__VERIFIER).workers, 0);
}

// Who is not known is asked to say hello again; so is one that comes over another connection.
static void test_rejoin(void **state)
{
    struct bed *bed = *state;
    say_beat(bed, 0);
    wait_count(bed, 0, 1);
    assert_int_equal(bed->seen[0][0], KELVIN__ENVELOPE__BODY_REFUSE);
    assert_true(bed->rejoin[0]);
    say_hello(bed, 0, KELVIN__WORKER_KIND__VERIFIER);
    wait_count(bed, 0, 2);
    zsock_close(bed->workers[0]);
    connect_worker(bed, 0);
    say_beat(bed, 0);
    wait_count(bed, 0, 3);
    assert_int_equal(bed->seen[0][2], KELVIN__ENVELOPE__BODY_REFUSE);
    assert_int_equal(hub_stats(bed->hub, KELVIN__WORKER_KIND__VERIFIER).workers, 0);
}

// A verdict counts once; `infrastructure` is asked of another worker and answered by the hub when
// all have failed.
static void test_verdicts(void **state)
{
    struct bed *bed = *state;
    say_hello(bed, 0, KELVIN__WORKER_KIND__VERIFIER);
    wait_count(bed, 0, 1);
    ask_verify(bed);
    wait_count(bed, 0, 2);
    say_verdict(bed, 0, bed->lease[0], KELVIN__OUTCOME__WRONG);
    say_verdict(bed, 0, bed->lease[0], KELVIN__OUTCOME__OK);
    turn_some(bed);
    assert_int_equal(bed->verdicts, 1);
    assert_int_equal(bed->outcome, KELVIN__OUTCOME__WRONG);
    assert_int_equal(hub_stats(bed->hub, KELVIN__WORKER_KIND__VERIFIER).late, 1);
    ask_verify(bed);
    for (int attempt = 0; attempt < LEASE_ATTEMPTS_MAX; attempt++) {
        wait_count(bed, 0, 3 + attempt);
        say_verdict(bed, 0, bed->lease[0], KELVIN__OUTCOME__INFRASTRUCTURE);
    }
    turn_some(bed);
    assert_int_equal(bed->verdicts, 2);
    assert_int_equal(bed->outcome, KELVIN__OUTCOME__INFRASTRUCTURE);
}

// The work of a worker that cannot be reached any more goes to another one, with the first lease
// that finds its socket closed (0MQ closes it in a thread of its own, after a while).
static void test_gone(void **state)
{
    struct bed *bed = *state;
    say_hello(bed, 0, KELVIN__WORKER_KIND__VERIFIER);
    wait_count(bed, 0, 1);
    ask_verify(bed);
    wait_count(bed, 0, 2);
    zsock_close(bed->workers[0]);
    bed->workers[0] = NULL;
    int asked = 1;
    while (asked < 8 && hub_stats(bed->hub, KELVIN__WORKER_KIND__VERIFIER).workers == 1) {
        for (int turn = 0; turn < TURNS_MAX / 4; turn++) {
            (void)uv_run(&bed->loop, UV_RUN_NOWAIT);
        }
        ask_verify(bed);
        asked++;
    }
    assert_int_equal(hub_stats(bed->hub, KELVIN__WORKER_KIND__VERIFIER).workers, 0);
    assert_int_equal(hub_stats(bed->hub, KELVIN__WORKER_KIND__VERIFIER).waiting, asked);
    say_hello(bed, 1, KELVIN__WORKER_KIND__VERIFIER);
    wait_count(bed, 1, asked < 4 ? 1 + asked : 5); // it has four credits
    assert_int_equal(bed->seen[1][1], KELVIN__ENVELOPE__BODY_VERIFY_REQUEST);
}

// An actor is told of the newest weights when it joins, when they come, and again when it stays
// behind.
static void test_announce(void **state)
{
    struct bed *bed = *state;
    uint8_t hash[WEIGHTS_HASH_BYTES] = {0};
    ProtobufCBinaryData hashes = {.len = sizeof(hash), .data = hash};
    Kelvin__WeightsManifest manifest = KELVIN__WEIGHTS_MANIFEST__INIT;
    manifest.version = 3;
    manifest.size = 4;
    manifest.chunk_size = 16;
    manifest.n_hashes = 1;
    manifest.hashes = &hashes;
    manifest.endpoint = without_const("inproc://weights");
    hub_announce(bed->hub, &manifest);
    say_hello(bed, 0, KELVIN__WORKER_KIND__ACTOR);
    wait_count(bed, 0, 2);
    assert_int_equal(bed->seen[0][1], KELVIN__ENVELOPE__BODY_WEIGHTS_MANIFEST);
    manifest.version = 4;
    hub_announce(bed->hub, &manifest);
    wait_count(bed, 0, 3);
    say_beat(bed, 0); // of version 0
    wait_count(bed, 0, 4);
    turn_some(bed);
    assert_int_equal(bed->count[0], 4);
    clock_fake(13000000000);
    say_beat(bed, 0);
    wait_count(bed, 0, 6);
    assert_int_equal(bed->seen[0][5], KELVIN__ENVELOPE__BODY_WEIGHTS_MANIFEST);
}

// When the bound of requests is reached the hub says so; drained workers get no more work.
static void test_bound_and_drain(void **state)
{
    struct bed *bed = *state;
    for (int i = 0; i < 8; i++) {
        ask_verify(bed);
    }
    Kelvin__VerifyRequest request = KELVIN__VERIFY_REQUEST__INIT;
    assert_int_equal(hub_verify(bed->hub, &request, on_verdict, bed, 9), -EAGAIN);
    hub_drain(bed->hub, "the end");
    say_hello(bed, 0, KELVIN__WORKER_KIND__VERIFIER);
    wait_count(bed, 0, 2);
    turn_some(bed);
    assert_int_equal(bed->seen[0][1], KELVIN__ENVELOPE__BODY_DRAIN);
    assert_int_equal(bed->count[0], 2);
}

// Who is waited for is named, and nobody when nothing is asked for.
static void test_watch(void **state)
{
    (void)state;
    struct hub_stats actors = {.workers = 1};
    struct hub_stats verifiers = {0};
    assert_null(watch_sentence(&actors, &verifiers));
    actors.leased = 3;
    assert_string_equal(watch_sentence(&actors, &verifiers), "actors owe rollouts");
    actors.workers = 0;
    assert_string_equal(watch_sentence(&actors, &verifiers), "no actor is there");
    verifiers.waiting = 1;
    assert_string_equal(watch_sentence(&actors, &verifiers), "no verifier is there");
    verifiers.workers = 2;
    assert_string_equal(watch_sentence(&actors, &verifiers), "verifiers owe verdicts");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_answers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rejoin, setup, teardown),
        cmocka_unit_test_setup_teardown(test_verdicts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_announce, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bound_and_drain, setup, teardown),
        cmocka_unit_test(test_watch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
