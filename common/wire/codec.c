#include "common/wire/codec.h"

#include "common/base/arena.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/task.h"

#include <errno.h>
#include <stdlib.h>

#define SAME(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), "task.h and proto agree")
SAME(KIND_DEDUCTION, KELVIN__TASK_KIND__DEDUCTION);
SAME(KIND_ABDUCTION, KELVIN__TASK_KIND__ABDUCTION);
SAME(KIND_INDUCTION, KELVIN__TASK_KIND__INDUCTION);
SAME(KIND_ERROR, KELVIN__TASK_KIND__ERROR_DEDUCTION);
SAME(ROLE_PROPOSE, KELVIN__ROLE__PROPOSE);
SAME(ROLE_SOLVE, KELVIN__ROLE__SOLVE);
SAME(OUTCOME_OK, KELVIN__OUTCOME__OK);
SAME(OUTCOME_WRONG, KELVIN__OUTCOME__WRONG);
SAME(OUTCOME_SYNTAX_ERROR, KELVIN__OUTCOME__SYNTAX_ERROR);
SAME(OUTCOME_FORBIDDEN, KELVIN__OUTCOME__FORBIDDEN);
SAME(OUTCOME_RAISED, KELVIN__OUTCOME__RAISED);
SAME(OUTCOME_TIMEOUT, KELVIN__OUTCOME__TIMEOUT);
SAME(OUTCOME_OUT_OF_MEMORY, KELVIN__OUTCOME__OUT_OF_MEMORY);
SAME(OUTCOME_OUTPUT_TOO_LARGE, KELVIN__OUTCOME__OUTPUT_TOO_LARGE);
SAME(OUTCOME_NONDETERMINISTIC, KELVIN__OUTCOME__NONDETERMINISTIC);
SAME(OUTCOME_UNSUPPORTED_VALUE, KELVIN__OUTCOME__UNSUPPORTED_VALUE);
SAME(OUTCOME_CRASHED, KELVIN__OUTCOME__CRASHED);
SAME(OUTCOME_MALFORMED, KELVIN__OUTCOME__MALFORMED);
SAME(OUTCOME_INFRASTRUCTURE, KELVIN__OUTCOME__INFRASTRUCTURE);
SAME(OUTCOME_COPIED, KELVIN__OUTCOME__COPIED);

enum { PACK_BYTES_MIN = 4096 };

struct codec {
    struct arena arena; // the decoded message
    ProtobufCAllocator allocator;
    uint8_t *packed;
    size_t packed_size; // room there
};

// message_alloc packs tighter than arena_alloc: a message has many small pieces.
static void *message_alloc(void *context, size_t size)
{
    struct arena *arena = context;
    if (size > arena->size - arena->used) {
        return NULL; // protobuf-c gives up
    }
    void *piece = arena->base + arena->used;
    arena->used += (size + 15) & ~(size_t)15;
    return piece;
}

static void message_free(void *context, void *piece)
{
    (void)context, (void)piece; // the arena is reset as a whole
}

int codec_create(struct codec **out, struct error *err)
{
    CLEANUP(codec_destroyp) struct codec *codec = calloc(1, sizeof(*codec));
    if (codec == NULL) {
        return error_set(err, -ENOMEM, "codec: out of memory");
    }
    int code = arena_init(&codec->arena, MESSAGE_ARENA_MAX, err);
    if (code < 0) {
        return code;
    }
    codec->allocator = (ProtobufCAllocator){
        .alloc = message_alloc, .free = message_free, .allocator_data = &codec->arena};
    *out = TAKE(codec);
    return 0;
}

void codec_destroy(struct codec *codec)
{
    if (codec == NULL) {
        return;
    }
    arena_finish(&codec->arena);
    free(codec->packed);
    free(codec);
}

int codec_decode(struct codec *codec, const Kelvin__Envelope **out, struct zframe frame,
                 struct error *err)
{
    if (frame.size > MESSAGE_FRAME_MAX) {
        return error_set(err, -EMSGSIZE, "message of %zu bytes; at most %d are read", frame.size,
                         MESSAGE_FRAME_MAX);
    }
    arena_reset(&codec->arena);
    Kelvin__Envelope *envelope =
        kelvin__envelope__unpack(&codec->allocator, frame.size, frame.data);
    if (envelope == NULL) {
        return error_set(err, -EBADMSG, "message of %zu bytes that is no envelope", frame.size);
    }
    int code = codec_check(envelope, err);
    if (code == 0) {
        *out = envelope;
    }
    return code;
}

static int reserve(struct codec *codec, size_t size, struct error *err)
{
    size_t room = codec->packed_size > 0 ? codec->packed_size : PACK_BYTES_MIN;
    while (room < size) {
        room *= 2;
    }
    if (room > codec->packed_size) {
        uint8_t *packed = realloc(codec->packed, room);
        if (packed == NULL) {
            return error_set(err, -ENOMEM, "codec: no memory for a message of %zu bytes", size);
        }
        codec->packed = packed;
        codec->packed_size = room;
    }
    return 0;
}

int codec_encode(struct codec *codec, struct zframe *out, const Kelvin__Envelope *envelope,
                 struct error *err)
{
    Kelvin__Envelope with_version = *envelope;
    with_version.protocol = PROTOCOL_VERSION;
    int code = codec_check(&with_version, err);
    if (code < 0) {
        return code;
    }
    size_t size = kelvin__envelope__get_packed_size(&with_version);
    if (size > MESSAGE_FRAME_MAX) {
        return error_set(err, -EMSGSIZE, "message %s of %zu bytes; at most %d can be sent",
                         codec_body_name(envelope->body_case), size, MESSAGE_FRAME_MAX);
    }
    code = reserve(codec, size, err);
    if (code < 0) {
        return code;
    }
    CHECK(kelvin__envelope__pack(&with_version, codec->packed) == size);
    *out = (struct zframe){.data = codec->packed, .size = size};
    return 0;
}

const char *codec_body_name(Kelvin__Envelope__BodyCase body)
{
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field(&kelvin__envelope__descriptor, (unsigned)body);
    return field != NULL ? field->name : "nothing";
}
