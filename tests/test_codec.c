#include "tests/support.h"

#include "common/base/limits.h"
#include "common/wire/codec.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int setup(void **state)
{
    struct codec *codec = NULL;
    int code = codec_create(&codec, NULL);
    *state = codec;
    return code;
}

static int teardown(void **state)
{
    codec_destroy(*state);
    return 0;
}

static Kelvin__Envelope envelope_of(Kelvin__Envelope__BodyCase body)
{
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.sender = without_const("worker-1");
    envelope.sequence = 7;
    envelope.body_case = body;
    return envelope;
}

// A rollout comes out as it went in.
static void test_round_trip(void **state)
{
    uint32_t tokens[] = {1, 2, 151643};
    float logprobs[] = {-0.5f, -0.0f, -12.25f};
    Kelvin__VersionRun run = KELVIN__VERSION_RUN__INIT;
    run.version = 41;
    run.count = 3;
    Kelvin__VersionRun *runs[] = {&run};
    Kelvin__Rollout rollout = KELVIN__ROLLOUT__INIT;
    rollout.lease = 99;
    rollout.n_tokens = 3;
    rollout.tokens = tokens;
    rollout.n_logprobs = 3;
    rollout.logprobs = logprobs;
    rollout.n_versions = 1;
    rollout.versions = runs;
    rollout.text = without_const("def f(x):\n    return \"\xc3\xa9\"");
    Kelvin__Envelope envelope = envelope_of(KELVIN__ENVELOPE__BODY_ROLLOUT);
    envelope.rollout = &rollout;

    struct zframe frame;
    const Kelvin__Envelope *back = NULL;
    struct error err = {0};
    assert_int_equal(codec_encode(*state, &frame, &envelope, &err), 0);
    assert_int_equal(codec_decode(*state, &back, frame, &err), 0);
    assert_int_equal(back->protocol, PROTOCOL_VERSION);
    assert_string_equal(back->sender, "worker-1");
    assert_int_equal(back->sequence, 7);
    assert_int_equal(back->body_case, KELVIN__ENVELOPE__BODY_ROLLOUT);
    assert_int_equal(back->rollout->lease, 99);
    assert_memory_equal(back->rollout->tokens, tokens, sizeof(tokens));
    assert_memory_equal(back->rollout->logprobs, logprobs, sizeof(logprobs));
    assert_int_equal(back->rollout->versions[0]->version, 41);
    assert_string_equal(back->rollout->text, rollout.text);
    assert_string_equal(codec_body_name(back->body_case), "rollout");

    rollout.n_logprobs = 2;
    assert_int_equal(codec_encode(*state, &frame, &envelope, &err), -EBADMSG);
    assert_string_equal(err.text, "message Rollout: 2 logprobs for 3 tokens");
    rollout.n_logprobs = 3;
    run.count = 2;
    assert_int_equal(codec_encode(*state, &frame, &envelope, &err), -EBADMSG);
    run.count = 3;
    logprobs[1] = NAN;
    assert_int_equal(codec_encode(*state, &frame, &envelope, &err), -EBADMSG);
    assert_string_equal(err.text, "message Rollout: field logprobs is not a finite number");
}

// decode packs without the codec's checks and decodes with them.
static int decode(struct codec *codec, const Kelvin__Envelope *envelope, struct error *err)
{
    size_t size = kelvin__envelope__get_packed_size(envelope);
    uint8_t *packed = malloc(size + 1);
    assert_non_null(packed);
    assert_int_equal(kelvin__envelope__pack(envelope, packed), size);
    const Kelvin__Envelope *back = NULL;
    int code = codec_decode(codec, &back, (struct zframe){packed, size}, err);
    assert_true((code == 0) == (back != NULL));
    free(packed);
    return code;
}

// Another protocol version is named, with the remedy.
static void test_other_protocol(void **state)
{
    Kelvin__Hello hello = KELVIN__HELLO__INIT;
    Kelvin__Envelope envelope = envelope_of(KELVIN__ENVELOPE__BODY_HELLO);
    envelope.hello = &hello;
    envelope.protocol = PROTOCOL_VERSION + 1;
    struct error err = {0};
    assert_int_equal(decode(*state, &envelope, &err), -EPROTONOSUPPORT);
    assert_non_null(strstr(err.text, "install the same version"));
    envelope.protocol = 0; // cut off, not another version
    assert_int_equal(decode(*state, &envelope, &err), -EBADMSG);
    envelope.protocol = PROTOCOL_VERSION;
    assert_int_equal(decode(*state, &envelope, &err), 0);
    envelope.body_case = KELVIN__ENVELOPE__BODY__NOT_SET;
    assert_int_equal(decode(*state, &envelope, &err), -EBADMSG);
}

// Bytes that are not UTF-8 are refused in every form they take.
static void test_text_is_utf8(void **state)
{
    static const char *const bad[] = {"\xff",         "\xc0\x80",         "\xc3",
                                      "\xe0\x9f\xbf", "\xed\xa0\x80",     "\xf4\x90\x80\x80",
                                      "a\x80",        "\xf0\x8f\xbf\xbf", "\xe2\x82"};
    static const char *const good[] = {"", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};
    Kelvin__Hello hello = KELVIN__HELLO__INIT;
    Kelvin__Envelope envelope = envelope_of(KELVIN__ENVELOPE__BODY_HELLO);
    envelope.protocol = PROTOCOL_VERSION;
    envelope.hello = &hello;
    struct error err = {0};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        hello.name = without_const(bad[i]);
        assert_int_equal(decode(*state, &envelope, &err), -EBADMSG);
        assert_string_equal(err.text, "message Hello: field name is not UTF-8");
    }
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
        hello.name = without_const(good[i]);
        assert_int_equal(decode(*state, &envelope, &err), 0);
    }
}

// A value that no enum has, a text that is too long and a list that is too long are refused by
// name.
static void test_bounds(void **state)
{
    Kelvin__VerifyRequest request = KELVIN__VERIFY_REQUEST__INIT;
    Kelvin__Envelope envelope = envelope_of(KELVIN__ENVELOPE__BODY_VERIFY_REQUEST);
    envelope.protocol = PROTOCOL_VERSION;
    envelope.verify_request = &request;
    struct error err = {0};
    request.kind = (Kelvin__TaskKind)9;
    assert_int_equal(decode(*state, &envelope, &err), -EBADMSG);
    assert_string_equal(err.text, "message VerifyRequest: field kind has an unknown value");
    request.kind = KELVIN__TASK_KIND__INDUCTION;

    char *program = malloc(RUN_OUTPUT_BYTES_MAX + 2);
    assert_non_null(program);
    memset(program, 'x', RUN_OUTPUT_BYTES_MAX + 1);
    program[RUN_OUTPUT_BYTES_MAX + 1] = '\0';
    request.program = program;
    assert_int_equal(decode(*state, &envelope, &err), -EBADMSG);
    assert_string_equal(err.text, "message VerifyRequest: field program is too long");
    program[RUN_OUTPUT_BYTES_MAX] = '\0';
    assert_int_equal(decode(*state, &envelope, &err), 0);

    char *inputs[TASK_INPUTS_MAX + 1];
    for (int i = 0; i <= TASK_INPUTS_MAX; i++) {
        inputs[i] = without_const("1");
    }
    request.inputs = inputs;
    request.n_inputs = TASK_INPUTS_MAX + 1;
    assert_int_equal(decode(*state, &envelope, &err), -EBADMSG);
    assert_string_equal(err.text, "message VerifyRequest: field inputs has too many items");
    request.n_inputs = TASK_INPUTS_MAX;
    assert_int_equal(decode(*state, &envelope, &err), 0);
    free(program);
}

// Every shortened message is refused or means something else; none is read beyond its end.
static void test_truncation(void **state)
{
    Kelvin__Hello hello = KELVIN__HELLO__INIT;
    hello.name = without_const("host-1-2");
    hello.capacity = 1000;
    Kelvin__Envelope envelope = envelope_of(KELVIN__ENVELOPE__BODY_HELLO);
    envelope.hello = &hello;
    struct zframe frame;
    assert_int_equal(codec_encode(*state, &frame, &envelope, NULL), 0);
    for (size_t size = 0; size < frame.size; size++) {
        uint8_t *exact = malloc(size + (size == 0)); // so that a sanitizer sees the end
        assert_non_null(exact);
        memcpy(exact, frame.data, size);
        const Kelvin__Envelope *back = NULL;
        assert_true(codec_decode(*state, &back, (struct zframe){exact, size}, NULL) < 0);
        free(exact);
    }
}

// Small bytes cannot ask for much memory: a message that unpacks to more than the arena is refused.
static void test_amplification(void **state)
{
    size_t size = MESSAGE_FRAME_MAX;
    uint8_t *bytes = malloc(size);
    assert_non_null(bytes);
    for (size_t i = 0; i + 1 < size; i += 2) {
        bytes[i] = 0x42; // field 8 of an envelope: unknown, of length
        bytes[i + 1] = 0;
    }
    const Kelvin__Envelope *back = NULL;
    struct error err = {0};
    assert_int_equal(codec_decode(*state, &back, (struct zframe){bytes, size}, &err), -EBADMSG);
    assert_null(back);
    free(bytes);
}

// A manifest whose chunks do not cover its bytes is refused.
static void test_manifest(void **state)
{
    uint8_t hash[WEIGHTS_HASH_BYTES] = {0};
    ProtobufCBinaryData hashes[] = {{sizeof(hash), hash}, {sizeof(hash), hash}};
    Kelvin__WeightsTensor tensor = KELVIN__WEIGHTS_TENSOR__INIT;
    Kelvin__WeightsTensor *tensors[] = {&tensor};
    tensor.offset = 8;
    tensor.size = 4;
    Kelvin__WeightsManifest manifest = KELVIN__WEIGHTS_MANIFEST__INIT;
    manifest.size = 12;
    manifest.chunk_size = 8;
    manifest.n_hashes = 2;
    manifest.hashes = hashes;
    manifest.n_tensors = 1;
    manifest.tensors = tensors;
    Kelvin__Envelope envelope = envelope_of(KELVIN__ENVELOPE__BODY_WEIGHTS_MANIFEST);
    envelope.protocol = PROTOCOL_VERSION;
    envelope.weights_manifest = &manifest;
    assert_int_equal(decode(*state, &envelope, NULL), 0);
    tensor.size = 5;
    assert_int_equal(decode(*state, &envelope, NULL), -EBADMSG);
    tensor.size = UINT64_MAX;
    assert_int_equal(decode(*state, &envelope, NULL), -EBADMSG);
    tensor.size = 4;
    manifest.n_hashes = 1;
    assert_int_equal(decode(*state, &envelope, NULL), -EBADMSG);
    manifest.n_hashes = 2;
    hashes[1].len = 31;
    assert_int_equal(decode(*state, &envelope, NULL), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_protocol, setup, teardown),
        cmocka_unit_test_setup_teardown(test_text_is_utf8, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bounds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_truncation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_amplification, setup, teardown),
        cmocka_unit_test_setup_teardown(test_manifest, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
