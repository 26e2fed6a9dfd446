// A copy of a message holds what the message held, in memory of its own: it packs to the same bytes
// after the original has been scribbled over and freed. (Sanitizers see what is left or freed
// twice.)
#include "tests/support.h"

#include "common/base/cleanup.h"
#include "common/wire/message.h"
#include "proto/envelope.pb-c.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static uint8_t *pack(const ProtobufCMessage *message, size_t *size)
{
    *size = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = malloc(*size + 1);
    assert_non_null(bytes);
    assert_int_equal(protobuf_c_message_pack(message, bytes), *size);
    return bytes;
}

// Overwrites the payload that the original owns, then frees it.
static void scribble(Kelvin__Envelope *original)
{
    if (original->body_case == KELVIN__ENVELOPE__BODY_ROLLOUT) {
        memset(original->rollout->text, 'x', strlen(original->rollout->text));
        memset(original->rollout->tokens, 1, original->rollout->n_tokens * sizeof(uint32_t));
        original->rollout->versions[0]->count = 77;
    }
    if (original->body_case == KELVIN__ENVELOPE__BODY_WEIGHTS_MANIFEST) {
        memset(original->weights_manifest->hashes[1].data, 1, 1);
    }
    message_free(original);
}

// `envelope` may borrow; the original is what protobuf-c makes of its bytes.
static void expect_copied(const Kelvin__Envelope *envelope)
{
    size_t size = 0;
    size_t copied_size = 0;
    CLEANUP(freep) uint8_t *bytes = pack(&envelope->base, &size);
    Kelvin__Envelope *original = kelvin__envelope__unpack(NULL, size, bytes);
    assert_non_null(original);
    Kelvin__Envelope *copy = message_copy(&original->base);
    Kelvin__Envelope *borrowed = message_copy(&envelope->base); // of text that is not on the heap
    scribble(original);
    CLEANUP(freep) uint8_t *copied = pack(&copy->base, &copied_size);
    assert_int_equal(copied_size, size);
    assert_memory_equal(copied, bytes, size);
    CLEANUP(freep) uint8_t *again = pack(&borrowed->base, &copied_size);
    assert_int_equal(copied_size, size);
    assert_memory_equal(again, bytes, size);
    message_free(copy);
    message_free(borrowed);
}

// Numbers, lists of numbers, texts, unset texts, and lists of messages.
static void test_rollout(void **state)
{
    (void)state;
    uint32_t prompt[] = {1, 2, 70000}, tokens[] = {5, 6};
    float logprobs[] = {-0.5F, -1.25F};
    char text[] = "ab\xc3\xa9", sender[] = "someone";
    Kelvin__VersionRun first = KELVIN__VERSION_RUN__INIT;
    Kelvin__VersionRun second = KELVIN__VERSION_RUN__INIT;
    Kelvin__VersionRun *runs[] = {&first, &second};
    first.version = 1ULL << 40;
    second.count = 3;
    Kelvin__Rollout rollout = KELVIN__ROLLOUT__INIT;
    rollout.lease = 99;
    rollout.n_prompt = 3;
    rollout.prompt = prompt;
    rollout.n_tokens = rollout.n_logprobs = 2;
    rollout.tokens = tokens;
    rollout.logprobs = logprobs;
    rollout.text = text;
    rollout.n_versions = 2;
    rollout.versions = runs;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.sender = sender;
    envelope.body_case = KELVIN__ENVELOPE__BODY_ROLLOUT;
    envelope.rollout = &rollout;
    expect_copied(&envelope);
}

// Messages in messages, lists of texts, empty ones among them.
static void test_prompt(void **state)
{
    (void)state;
    char program[] = "def f(a): return a", empty[] = "", input[] = "(1, 2)";
    char *inputs[] = {input, empty};
    char *composites[] = {program, empty};
    Kelvin__Task task = KELVIN__TASK__INIT;
    task.kind = KELVIN__TASK_KIND__INDUCTION;
    task.program = program;
    task.n_inputs = 2;
    task.inputs = inputs;
    Kelvin__Task other = KELVIN__TASK__INIT;
    Kelvin__Task *references[] = {&other, &task};
    Kelvin__Sampling sampling = KELVIN__SAMPLING__INIT;
    sampling.temperature = 0.75F;
    Kelvin__Prompt prompt = KELVIN__PROMPT__INIT;
    prompt.task = &task;
    prompt.n_references = 2;
    prompt.references = references;
    prompt.sampling = &sampling;
    prompt.scratchpad = true;
    prompt.n_composites = 2;
    prompt.composites = composites;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_PROMPT;
    envelope.prompt = &prompt;
    expect_copied(&envelope);
}

// Lists of bytes, and bytes of no length.
static void test_manifest(void **state)
{
    (void)state;
    uint8_t hash[] = {0, 255, 3};
    ProtobufCBinaryData hashes[] = {{.len = 0, .data = NULL}, {.len = 3, .data = hash}};
    Kelvin__WeightsManifest manifest = KELVIN__WEIGHTS_MANIFEST__INIT;
    manifest.version = 7;
    manifest.n_hashes = 2;
    manifest.hashes = hashes;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_WEIGHTS_MANIFEST;
    envelope.weights_manifest = &manifest;
    expect_copied(&envelope);
}

// Nothing set at all.
static void test_empty(void **state)
{
    (void)state;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    expect_copied(&envelope);
    message_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rollout),
        cmocka_unit_test(test_prompt),
        cmocka_unit_test(test_manifest),
        cmocka_unit_test(test_empty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
