#include "tests/support.h"

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/wire/codec.h"
#include "common/wire/worker.h"
#include "common/wire/zsock.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <zmq.h>

static const char endpoint[] = "inproc://learner";

// struct bed is a worker and, on the same loop, a learner that is played by the test: `script` is
// called for each message that reaches it.
struct bed {
    uv_loop_t loop;
    void *zmq;
    struct codec *codec;
    struct zsock *learner;
    struct worker *worker;
    uv_timer_t deadline;
    void (*script)(struct bed *bed, const Kelvin__Envelope *envelope);
    char identity[256];
    size_t identity_size;
    uint64_t incarnation;
    int hellos, beats, rollouts, verdicts, goodbyes; // that the learner saw
    int welcomes, forgets, prompts, drains;          // that the worker's owner saw
    int end_code;
    char end_sentence[800];
    bool ended;
};

static void answer(struct bed *bed, Kelvin__Envelope *envelope)
{
    struct zframes frames = {.identity = {bed->identity, bed->identity_size}};
    envelope->sender = without_const("learner");
    envelope->incarnation = bed->incarnation;
    assert_int_equal(codec_encode(bed->codec, &frames.body, envelope, NULL), 0);
    assert_int_equal(zsock_send(bed->learner, &frames), 0);
}

static void say_welcome(struct bed *bed)
{
    Kelvin__Welcome welcome = KELVIN__WELCOME__INIT;
    welcome.incarnation = bed->incarnation;
    welcome.heartbeat_ms = 1;
    welcome.style = without_const("compact");
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_WELCOME;
    envelope.welcome = &welcome;
    answer(bed, &envelope);
}

static void say_prompt(struct bed *bed, uint64_t lease)
{
    Kelvin__Prompt prompt = KELVIN__PROMPT__INIT;
    prompt.lease = lease;
    prompt.samples = 1;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_PROMPT;
    envelope.prompt = &prompt;
    answer(bed, &envelope);
}

static void say_ack(struct bed *bed, const Kelvin__Rollout *rollout)
{
    Kelvin__RolloutAck ack = KELVIN__ROLLOUT_ACK__INIT;
    ack.lease = rollout->lease;
    ack.sample = rollout->sample;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_ROLLOUT_ACK;
    envelope.rollout_ack = &ack;
    answer(bed, &envelope);
}

static void say_goodbye(struct bed *bed)
{
    Kelvin__Goodbye goodbye = KELVIN__GOODBYE__INIT;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_GOODBYE;
    envelope.goodbye = &goodbye;
    answer(bed, &envelope);
}

static void say_refuse(struct bed *bed, bool rejoin)
{
    Kelvin__Refuse refuse = KELVIN__REFUSE__INIT;
    refuse.reason = without_const("who are you");
    refuse.rejoin = rejoin;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_REFUSE;
    envelope.refuse = &refuse;
    answer(bed, &envelope);
}

static void say_drain(struct bed *bed)
{
    Kelvin__Drain drain = KELVIN__DRAIN__INIT;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_DRAIN;
    envelope.drain = &drain;
    answer(bed, &envelope);
}

static void on_learner(struct zsock *sock, const struct zframes *frames, void *context)
{
    (void)sock;
    struct bed *bed = context;
    const Kelvin__Envelope *envelope = NULL;
    assert_int_equal(codec_decode(bed->codec, &envelope, frames->body, NULL), 0);
    assert_string_equal(envelope->sender, worker_name(bed->worker));
    memcpy(bed->identity, frames->identity.data, frames->identity.size);
    bed->identity_size = frames->identity.size;
    bed->hellos += envelope->body_case == KELVIN__ENVELOPE__BODY_HELLO;
    bed->beats += envelope->body_case == KELVIN__ENVELOPE__BODY_HEARTBEAT;
    bed->rollouts += envelope->body_case == KELVIN__ENVELOPE__BODY_ROLLOUT;
    bed->verdicts += envelope->body_case == KELVIN__ENVELOPE__BODY_VERDICT;
    bed->goodbyes += envelope->body_case == KELVIN__ENVELOPE__BODY_GOODBYE;
    bed->script(bed, envelope);
}

static void on_welcome(void *context, const Kelvin__Welcome *welcome)
{
    struct bed *bed = context;
    assert_string_equal(welcome->style, "compact");
    bed->welcomes++;
}

static void on_forget(void *context)
{
    struct bed *bed = context;
    bed->forgets++;
}

// The owner answers every prompt at once with an empty rollout.
static void on_prompt(void *context, const Kelvin__Prompt *prompt)
{
    struct bed *bed = context;
    Kelvin__Rollout rollout = KELVIN__ROLLOUT__INIT;
    rollout.lease = prompt->lease;
    bed->prompts++;
    assert_int_equal(worker_send_rollout(bed->worker, &rollout, NULL), 0);
}

static void on_drain(void *context, const char *reason)
{
    (void)reason;
    struct bed *bed = context;
    bed->drains++;
    worker_leave(bed->worker, "drained");
}

static void on_beat(void *context, Kelvin__Heartbeat *beat)
{
    (void)context;
    beat->free = 3;
}

static void close_bed(struct bed *bed)
{
    worker_close(bed->worker);
    zsock_close(bed->learner);
    uv_close((uv_handle_t *)&bed->deadline, NULL);
}

static void on_end(void *context, int code, const char *sentence)
{
    struct bed *bed = context;
    assert_false(bed->ended);
    bed->ended = true;
    bed->end_code = code;
    (void)snprintf(bed->end_sentence, sizeof(bed->end_sentence), "%s", sentence);
    close_bed(bed);
}

static void on_deadline(uv_timer_t *timer)
{
    (void)timer;
    fail_msg("the worker hangs");
}

// run plays one script until the worker ends.
static void run(struct bed *bed, void (*script)(struct bed *, const Kelvin__Envelope *))
{
    static const struct worker_events events = {NULL, on_welcome, on_forget, on_prompt, NULL,
                                                NULL, on_drain,   on_beat,   on_end};
    struct worker_events mine = events;
    mine.context = bed;
    struct worker_config config = {endpoint, KELVIN__WORKER_KIND__ACTOR, 4, "test", 60000};
    struct error err = {0};
    bed->incarnation = 1;
    bed->script = script;
    assert_int_equal(uv_loop_init(&bed->loop), 0);
    bed->zmq = zmq_ctx_new();
    assert_int_equal(uv_timer_init(&bed->loop, &bed->deadline), 0);
    assert_int_equal(uv_timer_start(&bed->deadline, on_deadline, 20000, 0), 0);
    assert_int_equal(codec_create(&bed->codec, &err), 0);
    assert_int_equal(
        zsock_create(&bed->learner, &bed->loop, bed->zmq, ZMQ_ROUTER, on_learner, bed, &err), 0);
    assert_int_equal(zsock_bind(bed->learner, endpoint, &err), 0);
    assert_int_equal(worker_create(&bed->worker, &bed->loop, bed->zmq, &config, &mine, &err), 0);
    uv_run(&bed->loop, UV_RUN_DEFAULT);
    assert_true(bed->ended);
    codec_destroy(bed->codec);
    assert_int_equal(uv_loop_close(&bed->loop), 0);
    assert_int_equal(zmq_ctx_term(bed->zmq), 0);
    clock_fake(0);
}

static void script_orderly(struct bed *bed, const Kelvin__Envelope *envelope)
{
    switch (envelope->body_case) {
    case KELVIN__ENVELOPE__BODY_HELLO:
        assert_int_equal(envelope->hello->capacity, 4);
        assert_string_equal(envelope->hello->engine, "test");
        say_welcome(bed);
        say_prompt(bed, 1);
        say_prompt(bed, 2);
        break;
    case KELVIN__ENVELOPE__BODY_ROLLOUT:
        if (envelope->rollout->lease == 2) {
            say_drain(bed); // before the acknowledgements: the goodbye has to wait for them
        }
        break;
    case KELVIN__ENVELOPE__BODY_HEARTBEAT:
        assert_int_equal(envelope->heartbeat->free, 3);
        break;
    default:
        say_goodbye(bed);
        break;
    }
}

static void script_ack_late(struct bed *bed, const Kelvin__Envelope *envelope)
{
    script_orderly(bed, envelope);
    if (envelope->body_case == KELVIN__ENVELOPE__BODY_ROLLOUT) {
        assert_int_equal(bed->goodbyes, 0);
        say_ack(bed, envelope->rollout);
    }
}

// A worker joins, answers its leases, and when it is drained says goodbye after the last
// acknowledgement.
static void test_orderly(void **state)
{
    (void)state;
    struct bed bed = {0};
    run(&bed, script_ack_late);
    assert_int_equal(bed.end_code, 0);
    assert_string_equal(bed.end_sentence, "left");
    assert_int_equal(bed.hellos, 1);
    assert_int_equal(bed.welcomes, 1);
    assert_int_equal(bed.forgets, 0);
    assert_int_equal(bed.prompts, 2);
    assert_int_equal(bed.rollouts, 2);
    assert_int_equal(bed.goodbyes, 1);
}

static void script_rejoin(struct bed *bed, const Kelvin__Envelope *envelope)
{
    switch (envelope->body_case) {
    case KELVIN__ENVELOPE__BODY_HELLO:
        say_welcome(bed);
        if (bed->hellos == 1) {
            say_prompt(bed, 7);
        }
        break;
    case KELVIN__ENVELOPE__BODY_ROLLOUT:
        assert_int_equal(envelope->rollout->lease, 7);
        if (bed->rollouts == 1) {
            say_refuse(bed, true); // the acknowledgement is lost with the connection
        } else {
            say_ack(bed, envelope->rollout);
            say_drain(bed);
        }
        break;
    case KELVIN__ENVELOPE__BODY_GOODBYE:
        say_goodbye(bed);
        break;
    default:
        break;
    }
}

// After a rejoin the owner is told to forget, and a rollout that was not acknowledged comes again.
static void test_rejoin(void **state)
{
    (void)state;
    struct bed bed = {0};
    run(&bed, script_rejoin);
    assert_int_equal(bed.end_code, 0);
    assert_int_equal(bed.hellos, 2);
    assert_int_equal(bed.forgets, 1);
    assert_int_equal(bed.welcomes, 2);
    assert_int_equal(bed.rollouts, 2);
}

static void script_new_learner(struct bed *bed, const Kelvin__Envelope *envelope)
{
    switch (envelope->body_case) {
    case KELVIN__ENVELOPE__BODY_HELLO:
        say_welcome(bed);
        if (bed->hellos == 1) {
            say_prompt(bed, 7);
        } else {
            say_drain(bed);
        }
        break;
    case KELVIN__ENVELOPE__BODY_ROLLOUT:
        bed->incarnation = 2; // another learner at the same address
        say_prompt(bed, 8);
        break;
    case KELVIN__ENVELOPE__BODY_GOODBYE:
        say_goodbye(bed);
        break;
    default:
        break;
    }
}

// A new learner gets neither work done for the old one nor answers to leases it never gave; its
// work counts only after it has welcomed the worker.
static void test_new_learner(void **state)
{
    (void)state;
    struct bed bed = {0};
    run(&bed, script_new_learner);
    assert_int_equal(bed.end_code, 0);
    assert_int_equal(bed.hellos, 2);
    assert_int_equal(bed.forgets, 1);
    assert_int_equal(bed.prompts, 1);
    assert_int_equal(bed.rollouts, 1);
}

static void script_silent_once(struct bed *bed, const Kelvin__Envelope *envelope)
{
    if (envelope->body_case == KELVIN__ENVELOPE__BODY_HELLO) {
        say_welcome(bed);
        if (bed->hellos == 2) {
            say_drain(bed);
        }
    } else if (envelope->body_case == KELVIN__ENVELOPE__BODY_GOODBYE) {
        say_goodbye(bed);
    } else if (bed->beats == 2) {
        clock_fake(clock_ns() + (uint64_t)HEARTBEAT_LOST_MS * 1000000);
    }
}

// A learner that is silent for HEARTBEAT_LOST_MS is connected to and greeted again.
static void test_silent_learner(void **state)
{
    (void)state;
    struct bed bed = {0};
    run(&bed, script_silent_once);
    assert_int_equal(bed.end_code, 0);
    assert_int_equal(bed.hellos, 2);
    assert_int_equal(bed.forgets, 1);
}

static void script_never(struct bed *bed, const Kelvin__Envelope *envelope)
{
    assert_int_equal(envelope->body_case, KELVIN__ENVELOPE__BODY_HELLO);
    clock_fake(clock_ns() + (uint64_t)(bed->hellos == 1 ? 59999 : 1) * 1000000);
}

// Without an answer the worker ends at its deadline and names the address.
static void test_nobody_answers(void **state)
{
    (void)state;
    struct bed bed = {0};
    run(&bed, script_never);
    assert_int_equal(bed.end_code, -ETIMEDOUT);
    assert_string_equal(bed.end_sentence,
                        "no learner answered at inproc://learner for 60 s; is it running, and is "
                        "this its endpoint? (connect_timeout_s sets how long a worker waits)");
    assert_int_equal(bed.welcomes, 0);
}

static void script_refuse(struct bed *bed, const Kelvin__Envelope *envelope)
{
    (void)envelope;
    say_refuse(bed, false);
}

// A refused worker ends with the learner's reason.
static void test_refused(void **state)
{
    (void)state;
    struct bed bed = {0};
    run(&bed, script_refuse);
    assert_int_equal(bed.end_code, -EPERM);
    assert_string_equal(bed.end_sentence, "the learner refuses this worker: who are you");
}

// An endpoint that cannot work is an error at once.
static void test_bad_endpoint(void **state)
{
    (void)state;
    uv_loop_t loop;
    void *zmq = zmq_ctx_new();
    struct worker *worker = NULL;
    struct worker_events events = {NULL, on_welcome, on_forget, NULL,  NULL,
                                   NULL, on_drain,   NULL,      on_end};
    struct worker_config config = {"nonsense", KELVIN__WORKER_KIND__ACTOR, 1, "", 1};
    struct error err = {0};
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(worker_create(&worker, &loop, zmq, &config, &events, &err), -EINVAL);
    assert_non_null(strstr(err.text, "cannot connect to nonsense"));
    assert_null(worker);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    zmq_ctx_term(zmq);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_orderly),        cmocka_unit_test(test_rejoin),
        cmocka_unit_test(test_new_learner),    cmocka_unit_test(test_silent_learner),
        cmocka_unit_test(test_nobody_answers), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_bad_endpoint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
