#include "tests/support.h"

#include "actor/feed.h"
#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/wire/codec.h"
#include "common/wire/loop.h"
#include "common/wire/zsock.h"
#include "tests/toy_folder.h"

#include <zmq.h>

static const char endpoint[] = "inproc://learner";

enum { PATIENCE_MS = 30000, SAMPLES = 3 };

// struct bed is a feed with a real engine around a model of random weights and, on the same loop, a
// learner that is played by the test.
struct bed {
    char folder[64];
    uv_loop_t loop;
    void *zmq;
    struct codec *codec;
    struct zsock *learner;
    struct run_config config;
    struct tokenizer *tokenizer;
    struct engine *engine;
    struct loop_wake *wake;
    struct feed *feed;
    uv_timer_t deadline;
    char identity[256];
    size_t identity_size;
    uint64_t incarnation;
    int hellos, rollouts, rejected, goodbyes, tokens;
    char note[256]; // of the last rejection
    uint32_t samples;
    int ended;
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
    welcome.heartbeat_ms = 100;
    welcome.style = without_const("compact");
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_WELCOME;
    envelope.welcome = &welcome;
    answer(bed, &envelope);
}

// Asks for SAMPLES answers to a deduction task whose program has `statements` lines.
static void say_prompt(struct bed *bed, uint64_t lease, int statements)
{
    char program[8192];
    int used = snprintf(program, sizeof(program), "def f(a):\n");
    for (int i = 0; i < statements; i++) {
        used += snprintf(program + used, sizeof(program) - (size_t)used, " a=a+1\n");
    }
    (void)snprintf(program + used, sizeof(program) - (size_t)used, " return a");
    char input[] = "1";
    char *inputs[] = {input};
    Kelvin__Task task = KELVIN__TASK__INIT;
    task.program = program;
    task.n_inputs = task.n_outputs = 1;
    task.inputs = task.outputs = inputs;
    Kelvin__Sampling sampling = KELVIN__SAMPLING__INIT;
    sampling.temperature = sampling.top_p = 1;
    sampling.tokens_max = 20;
    Kelvin__Prompt prompt = KELVIN__PROMPT__INIT;
    prompt.lease = lease;
    prompt.role = KELVIN__ROLE__SOLVE;
    prompt.task = &task;
    prompt.samples = SAMPLES;
    prompt.seed = 7;
    prompt.sampling = &sampling;
    prompt.version_min = 1;
    prompt.prompt_tokens_max = 200;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_PROMPT;
    envelope.prompt = &prompt;
    answer(bed, &envelope);
}

static void on_rollout(struct bed *bed, const Kelvin__Rollout *rollout)
{
    if (rollout->finish == KELVIN__FINISH__REJECTED) {
        bed->rejected++;
        (void)snprintf(bed->note, sizeof(bed->note), "%s", rollout->note);
    } else {
        bed->rollouts++;
        bed->samples |= 1U << rollout->sample;
        bed->tokens += (int)rollout->n_tokens;
        assert_true(rollout->n_prompt > 0);
        assert_int_equal(rollout->n_versions, 1);
        assert_int_equal(rollout->versions[0]->version, 1);
        assert_string_equal(rollout->numerics, engine_model(bed->engine)->numerics);
    }
    Kelvin__RolloutAck ack = KELVIN__ROLLOUT_ACK__INIT;
    ack.lease = rollout->lease;
    ack.sample = rollout->sample;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_ROLLOUT_ACK;
    envelope.rollout_ack = &ack;
    answer(bed, &envelope);
}

static void on_learner(struct zsock *sock, const struct zframes *frames, void *context)
{
    (void)sock;
    struct bed *bed = context;
    const Kelvin__Envelope *envelope = NULL;
    assert_int_equal(codec_decode(bed->codec, &envelope, frames->body, NULL), 0);
    memcpy(bed->identity, frames->identity.data, frames->identity.size);
    bed->identity_size = frames->identity.size;
    Kelvin__Goodbye goodbye = KELVIN__GOODBYE__INIT;
    Kelvin__Envelope reply = KELVIN__ENVELOPE__INIT;
    switch (envelope->body_case) {
    case KELVIN__ENVELOPE__BODY_HELLO:
        bed->hellos++;
        say_welcome(bed);
        break;
    case KELVIN__ENVELOPE__BODY_ROLLOUT:
        on_rollout(bed, envelope->rollout);
        break;
    case KELVIN__ENVELOPE__BODY_GOODBYE:
        bed->goodbyes++;
        reply.body_case = KELVIN__ENVELOPE__BODY_GOODBYE;
        reply.goodbye = &goodbye;
        answer(bed, &reply);
        break;
    default:
        break;
    }
}

static void notify(void *context)
{
    struct bed *bed = context;
    loop_wake_send(bed->wake);
}

static void on_wake(void *context)
{
    struct bed *bed = context;
    if (bed->feed != NULL) {
        feed_poll(bed->feed);
    }
}

static void on_manifest(void *context, const Kelvin__WeightsManifest *manifest)
{
    (void)context, (void)manifest;
}

static void on_end(void *context, int code, const char *sentence)
{
    struct bed *bed = context;
    (void)sentence;
    assert_int_equal(code, 0);
    bed->ended++;
}

static const char *token_bytes(const void *context, int32_t id, size_t *size)
{
    return tokenizer_token(context, id, size);
}

static void on_deadline(uv_timer_t *timer)
{
    (void)timer;
    fail_msg("nothing came for %d ms", PATIENCE_MS);
}

static void open_engine(struct bed *bed)
{
    char path[96];
    struct model *model = NULL;
    toy_folder(bed->folder, 1);
    (void)snprintf(path, sizeof(path), "%s/tokenizer.json", bed->folder);
    assert_int_equal(tokenizer_create(&bed->tokenizer, path, NULL), 0);
    assert_int_equal(model_load(&model, bed->folder, COMPUTE_AUTO, NULL), 0);
    const struct engine_config engine = {
        .threads = 1,
        .slots = 8,
        .call_rows = 64,
        .kv_tokens = 8192,
        .vocabulary = {.bytes = token_bytes, .context = bed->tokenizer},
        .notify = notify,
        .notify_context = bed};
    assert_int_equal(engine_create(&bed->engine, &engine, model, 1, NULL), 0);
}

static int setup(void **state)
{
    struct bed *bed = calloc(1, sizeof(*bed));
    CHECK(bed != NULL);
    bed->incarnation = 5;
    (void)snprintf(bed->folder, sizeof(bed->folder), "/tmp/kelvin-feed-XXXXXX");
    assert_non_null(mkdtemp(bed->folder));
    bed->zmq = zmq_ctx_new();
    assert_int_equal(uv_loop_init(&bed->loop), 0);
    assert_int_equal(codec_create(&bed->codec, NULL), 0);
    assert_int_equal(uv_timer_init(&bed->loop, &bed->deadline), 0);
    assert_int_equal(uv_timer_start(&bed->deadline, on_deadline, PATIENCE_MS, 0), 0);
    assert_int_equal(loop_wake_create(&bed->wake, &bed->loop, on_wake, bed, NULL), 0);
    open_engine(bed);
    char words[][64] = {"endpoint=inproc://learner", "azr.style=compact", "actor.capacity=16"};
    char *list[] = {words[0], words[1], words[2]};
    assert_int_equal(run_config_read(&bed->config, NULL, list, 3, NULL), 0);
    assert_int_equal(
        zsock_create(&bed->learner, &bed->loop, bed->zmq, ZMQ_ROUTER, on_learner, bed, NULL), 0);
    assert_int_equal(zsock_bind(bed->learner, endpoint, NULL), 0);
    const struct feed_events events = {
        .context = bed, .on_manifest = on_manifest, .on_end = on_end};
    assert_int_equal(feed_open(&bed->feed, &bed->loop, bed->zmq, &bed->config, &events, NULL), 0);
    *state = bed;
    return 0;
}

static int teardown(void **state)
{
    struct bed *bed = *state;
    engine_destroy(bed->engine); // before the wake-up that it uses
    feed_close(bed->feed);
    zsock_close(bed->learner);
    loop_wake_close(bed->wake);
    uv_close((uv_handle_t *)&bed->deadline, NULL);
    (void)uv_run(&bed->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&bed->loop), 0);
    tokenizer_destroy(bed->tokenizer);
    codec_destroy(bed->codec);
    (void)zmq_ctx_term(bed->zmq);
    (void)file_remove_tree(bed->folder, NULL);
    free(bed);
    return 0;
}

static void wait_for(struct bed *bed, const int *counter, int wanted)
{
    while (*counter < wanted) {
        (void)uv_run(&bed->loop, UV_RUN_ONCE);
    }
    assert_int_equal(*counter, wanted);
}

// A prompt that comes before the engine is there waits for it; every sample is sent once.
static void test_prompt_waits_for_the_engine(void **state)
{
    struct bed *bed = *state;
    wait_for(bed, &bed->hellos, 1);
    say_prompt(bed, 1, 1);
    for (int turn = 0; turn < 20; turn++) {
        (void)uv_run(&bed->loop, UV_RUN_NOWAIT);
    }
    assert_int_equal(bed->rollouts, 0);
    feed_start(bed->feed, bed->engine, bed->tokenizer);
    wait_for(bed, &bed->rollouts, SAMPLES);
    assert_int_equal(bed->samples, (1U << SAMPLES) - 1);
    assert_true(bed->tokens >= SAMPLES);
}

// A prompt that does not fit is rejected once, with the reason.
static void test_too_long(void **state)
{
    struct bed *bed = *state;
    wait_for(bed, &bed->hellos, 1);
    feed_start(bed->feed, bed->engine, bed->tokenizer);
    say_prompt(bed, 1, 300);
    wait_for(bed, &bed->rejected, 1);
    assert_non_null(strstr(bed->note, "200"));
    assert_int_equal(bed->rollouts, 0);
}

// A drained feed finishes what it has, says goodbye and ends.
static void test_drain(void **state)
{
    struct bed *bed = *state;
    wait_for(bed, &bed->hellos, 1);
    feed_start(bed->feed, bed->engine, bed->tokenizer);
    say_prompt(bed, 1, 1);
    Kelvin__Drain drain = KELVIN__DRAIN__INIT;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_DRAIN;
    envelope.drain = &drain;
    answer(bed, &envelope);
    wait_for(bed, &bed->ended, 1);
    assert_int_equal(bed->rollouts, SAMPLES);
    assert_int_equal(bed->goodbyes, 1);
}

// What was leased by a learner that is gone is dropped: only the new one's prompt is answered.
static void test_new_learner(void **state)
{
    struct bed *bed = *state;
    wait_for(bed, &bed->hellos, 1);
    say_prompt(bed, 1, 1);
    bed->incarnation = 6; // the prompt is known to come from another one: the worker joins again
    say_prompt(bed, 2, 1);
    wait_for(bed, &bed->hellos, 2);
    say_prompt(bed, 3, 1);
    feed_start(bed->feed, bed->engine, bed->tokenizer);
    wait_for(bed, &bed->rollouts, SAMPLES);
    for (int turn = 0; turn < 20; turn++) {
        (void)uv_run(&bed->loop, UV_RUN_NOWAIT);
    }
    assert_int_equal(bed->rollouts, SAMPLES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_prompt_waits_for_the_engine, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_long, setup, teardown),
        cmocka_unit_test_setup_teardown(test_drain, setup, teardown),
        cmocka_unit_test_setup_teardown(test_new_learner, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
