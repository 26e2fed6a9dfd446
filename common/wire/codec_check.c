// The walk over a message is driven by protobuf-c's own descriptors, so a field that is added to a
// .proto is checked at once: with the bounds of the table below if it has a row there, with narrow
// default bounds otherwise.
#include "common/wire/codec.h"

#include "common/base/check.h"
#include "common/base/limits.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum {
    FIELD_BYTES_MAX = NAME_BYTES_MAX, // of a string without a row
    FIELD_COUNT_MAX = 64,             // items of a list without a row
    WALK_DEPTH_MAX = 6,               // envelope, body, task, ...: the schema is no deeper
    WEIGHTS_TENSORS_MAX = 65536,
    WEIGHTS_CHUNKS_MAX = 131072,
};

// struct bound is what one field may hold: bytes of each text, items of the list. In the table the
// rows of one message stand together.
struct bound {
    const ProtobufCMessageDescriptor *message;
    const char *field;
    uint32_t size_max;
    uint32_t count_max;
};

static const struct bound bounds[] = {
    {&kelvin__hello__descriptor, "name", NAME_BYTES_MAX, 0},
    {&kelvin__goodbye__descriptor, "reason", SENTENCE_BYTES_MAX, 0},
    {&kelvin__drain__descriptor, "reason", SENTENCE_BYTES_MAX, 0},
    {&kelvin__refuse__descriptor, "reason", SENTENCE_BYTES_MAX, 0},
    {&kelvin__task__descriptor, "program", PROGRAM_BYTES_MAX, 0},
    {&kelvin__task__descriptor, "inputs", INPUT_BYTES_MAX, TASK_INPUTS_MAX},
    {&kelvin__task__descriptor, "outputs", OUTPUT_BYTES_MAX, TASK_INPUTS_MAX},
    {&kelvin__task__descriptor, "message", MESSAGE_BYTES_MAX, 0},
    {&kelvin__task__descriptor, "parents", 0, TASK_REFERENCES_MAX},
    {&kelvin__prompt__descriptor, "references", 0, TASK_REFERENCES_MAX},
    {&kelvin__prompt__descriptor, "composites", PROGRAM_BYTES_MAX, COMPOSITES_MAX},
    {&kelvin__rollout__descriptor, "note", SENTENCE_BYTES_MAX, 0},
    {&kelvin__rollout__descriptor, "prompt", 0, PROMPT_TOKENS_MAX},
    {&kelvin__rollout__descriptor, "tokens", 0, RESPONSE_TOKENS_MAX},
    {&kelvin__rollout__descriptor, "logprobs", 0, RESPONSE_TOKENS_MAX},
    {&kelvin__rollout__descriptor, "text", RESPONSE_BYTES_MAX, 0},
    {&kelvin__rollout__descriptor, "versions", 0, RESPONSE_TOKENS_MAX},
    {&kelvin__verify_request__descriptor, "response", RESPONSE_BYTES_MAX, 0},
    {&kelvin__verify_request__descriptor, "program", RUN_OUTPUT_BYTES_MAX, 0},
    {&kelvin__verify_request__descriptor, "inputs", INPUT_BYTES_MAX, TASK_INPUTS_MAX},
    {&kelvin__verify_request__descriptor, "outputs", OUTPUT_BYTES_MAX, TASK_INPUTS_MAX},
    {&kelvin__verify_request__descriptor, "answer", RESPONSE_BYTES_MAX, 0},
    {&kelvin__verify_request__descriptor, "references", PROGRAM_BYTES_MAX, TASK_REFERENCES_MAX},
    {&kelvin__verify_request__descriptor, "helpers", PROGRAM_BYTES_MAX, COMPOSITES_MAX},
    {&kelvin__verify_request__descriptor, "shown_inputs", INPUT_BYTES_MAX, TASK_REFERENCES_MAX},
    {&kelvin__verdict__descriptor, "program", PROGRAM_BYTES_MAX, 0},
    {&kelvin__verdict__descriptor, "inputs", INPUT_BYTES_MAX, TASK_INPUTS_MAX},
    {&kelvin__verdict__descriptor, "outputs", RUN_OUTPUT_BYTES_MAX, TASK_INPUTS_MAX},
    {&kelvin__verdict__descriptor, "message", MESSAGE_BYTES_MAX, 0},
    {&kelvin__verdict__descriptor, "answer", RESPONSE_BYTES_MAX, 0},
    {&kelvin__verdict__descriptor, "detail", SENTENCE_BYTES_MAX, 0},
    {&kelvin__weights_manifest__descriptor, "tensors", 0, WEIGHTS_TENSORS_MAX},
    {&kelvin__weights_manifest__descriptor, "files", 0, WEIGHTS_FILES_MAX},
    {&kelvin__weights_manifest__descriptor, "hashes", WEIGHTS_HASH_BYTES, WEIGHTS_CHUNKS_MAX},
    {&kelvin__weights_manifest__descriptor, "endpoint", ENDPOINT_BYTES_MAX, 0},
};

static const struct bound *const bounds_end = bounds + sizeof(bounds) / sizeof(*bounds);

// The rows of a message, which stand together.
static const struct bound *rows_of(const ProtobufCMessageDescriptor *message)
{
    const struct bound *row = bounds;
    while (row < bounds_end && row->message != message) {
        row++;
    }
    return row;
}

static struct bound bound_of(const struct bound *row, const ProtobufCMessageDescriptor *message,
                             const ProtobufCFieldDescriptor *field)
{
    for (; row < bounds_end && row->message == message; row++) {
        if (strcmp(row->field, field->name) == 0) {
            return *row;
        }
    }
    return (struct bound){message, field->name, FIELD_BYTES_MAX, FIELD_COUNT_MAX};
}

// utf8_length is the length of the sequence that begins at `p`, or 0 when it is none of RFC 3629's:
// overlong forms, surrogates and what lies above U+10FFFF are not.
static int utf8_length(const uint8_t *p, const uint8_t *end)
{
    static const struct {
        uint8_t first, last, low, high; // range of the first byte, and of the second after it
        int length;
    } forms[] = {
        {0xC2, 0xDF, 0x80, 0xBF, 2}, {0xE0, 0xE0, 0xA0, 0xBF, 3}, {0xE1, 0xEC, 0x80, 0xBF, 3},
        {0xED, 0xED, 0x80, 0x9F, 3}, {0xEE, 0xEF, 0x80, 0xBF, 3}, {0xF0, 0xF0, 0x90, 0xBF, 4},
        {0xF1, 0xF3, 0x80, 0xBF, 4}, {0xF4, 0xF4, 0x80, 0x8F, 4},
    };
    if (*p < 0x80) {
        return 1;
    }
    size_t form = 0;
    while (form < sizeof(forms) / sizeof(*forms) && *p > forms[form].last) {
        form++;
    }
    if (form == sizeof(forms) / sizeof(*forms) || *p < forms[form].first ||
        end - p < forms[form].length || p[1] < forms[form].low || p[1] > forms[form].high) {
        return 0;
    }
    for (int i = 2; i < forms[form].length; i++) {
        if ((p[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    return forms[form].length;
}

static bool utf8_valid(const char *text, size_t size)
{
    const uint8_t *p = (const uint8_t *)text;
    const uint8_t *end = p + size;
    int length = 1;
    while (p < end && length > 0) {
        uint64_t eight = 0;
        if ((size_t)(end - p) >= sizeof(eight)) { // most text is ASCII
            memcpy(&eight, p, sizeof(eight));
            if ((eight & 0x8080808080808080U) == 0) {
                p += sizeof(eight);
                continue;
            }
        }
        length = utf8_length(p, end);
        p += length;
    }
    return length > 0;
}

static int bad_field(const ProtobufCMessageDescriptor *message,
                     const ProtobufCFieldDescriptor *field, const char *what, struct error *err)
{
    return error_set(err, -EBADMSG, "message %s: field %s %s", message->short_name, field->name,
                     what);
}

static int check_text(const char *text, const struct bound *bound,
                      const ProtobufCFieldDescriptor *field, struct error *err)
{
    if (text == NULL) {
        return bad_field(bound->message, field, "is missing", err);
    }
    size_t size = strnlen(text, (size_t)bound->size_max + 1);
    if (size > bound->size_max) {
        return bad_field(bound->message, field, "is too long", err);
    }
    return utf8_valid(text, size) ? 0 : bad_field(bound->message, field, "is not UTF-8", err);
}

static int check_message(const ProtobufCMessage *message, int depth, struct error *err);

// check_value checks one value, or one item of a list.
static int check_value(const char *value, const struct bound *bound,
                       const ProtobufCFieldDescriptor *field, int depth, struct error *err)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_STRING:
        return check_text(*(const char *const *)(const void *)value, bound, field, err);
    case PROTOBUF_C_TYPE_BYTES:
        if (((const ProtobufCBinaryData *)(const void *)value)->len > bound->size_max) {
            return bad_field(bound->message, field, "is too long", err);
        }
        return 0;
    case PROTOBUF_C_TYPE_ENUM: {
        int number = *(const int *)(const void *)value;
        if (protobuf_c_enum_descriptor_get_value(field->descriptor, number) == NULL) {
            return bad_field(bound->message, field, "has an unknown value", err);
        }
        return 0;
    }
    case PROTOBUF_C_TYPE_FLOAT:
        if (!isfinite(*(const float *)(const void *)value)) {
            return bad_field(bound->message, field, "is not a finite number", err);
        }
        return 0;
    case PROTOBUF_C_TYPE_DOUBLE:
        if (!isfinite(*(const double *)(const void *)value)) {
            return bad_field(bound->message, field, "is not a finite number", err);
        }
        return 0;
    case PROTOBUF_C_TYPE_MESSAGE: {
        const ProtobufCMessage *inner = *(const ProtobufCMessage *const *)(const void *)value;
        return inner == NULL ? 0 : check_message(inner, depth + 1, err);
    }
    default:
        return 0; // whole numbers and bools: any value is one
    }
}

static size_t item_size(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_DOUBLE:
        return sizeof(double);
    case PROTOBUF_C_TYPE_ENUM:
        return sizeof(int);
    default:
        return 0; // numbers need no look at each item
    }
}

// Log-probabilities are most of what a rollout holds, so they are looked at many at once: an
// exponent of all ones is an infinity or no number.
static bool floats_are_finite(const float *items, size_t count)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = 0;
        memcpy(&bits, &items[i], sizeof(bits));
        bad |= (bits & 0x7f800000U) == 0x7f800000U;
    }
    return bad == 0;
}

static int check_list(const char *member, size_t count, const struct bound *bound,
                      const ProtobufCFieldDescriptor *field, int depth, struct error *err)
{
    if (count > bound->count_max) {
        return bad_field(bound->message, field, "has too many items", err);
    }
    size_t size = item_size(field->type);
    const char *items = *(const char *const *)(const void *)member;
    if (field->type == PROTOBUF_C_TYPE_FLOAT) {
        return floats_are_finite((const float *)(const void *)items, count)
                   ? 0
                   : bad_field(bound->message, field, "is not a finite number", err);
    }
    for (size_t i = 0; size > 0 && i < count; i++) {
        int code = check_value(items + i * size, bound, field, depth, err);
        if (code < 0) {
            return code;
        }
    }
    return 0;
}

static int check_message(const ProtobufCMessage *message, int depth, struct error *err)
{
    const ProtobufCMessageDescriptor *descriptor = message->descriptor;
    const struct bound *rows = rows_of(descriptor);
    CHECK(depth < WALK_DEPTH_MAX);
    if (message->n_unknown_fields > 0) { // a peer of this protocol's version sends none
        return error_set(err, -EBADMSG, "message %s: has a field that is not known",
                         descriptor->short_name);
    }
    for (unsigned i = 0; i < descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &descriptor->fields[i];
        const char *base = (const char *)message;
        const void *quantifier = base + field->quantifier_offset;
        struct bound bound = bound_of(rows, descriptor, field);
        int code = 0;
        if (field->label == PROTOBUF_C_LABEL_REPEATED) {
            code = check_list(base + field->offset, *(const size_t *)quantifier, &bound, field,
                              depth, err);
        } else if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) == 0 ||
                   *(const uint32_t *)quantifier == field->id) {
            code = check_value(base + field->offset, &bound, field, depth, err);
        }
        if (code < 0) {
            return code;
        }
    }
    return 0;
}

static int check_rollout(const Kelvin__Rollout *rollout, struct error *err)
{
    if (rollout->n_logprobs != rollout->n_tokens) {
        return error_set(err, -EBADMSG, "message Rollout: %zu logprobs for %zu tokens",
                         rollout->n_logprobs, rollout->n_tokens);
    }
    uint64_t sampled = 0;
    for (size_t i = 0; i < rollout->n_versions; i++) {
        sampled += rollout->versions[i]->count;
    }
    if (sampled != rollout->n_tokens) {
        return error_set(err, -EBADMSG, "message Rollout: versions of %llu tokens, %zu tokens",
                         (unsigned long long)sampled, rollout->n_tokens);
    }
    return 0;
}

static int check_task(const Kelvin__Task *task, struct error *err)
{
    if (task != NULL && task->n_outputs > task->n_inputs) {
        return error_set(err, -EBADMSG, "message Task: %zu outputs for %zu inputs", task->n_outputs,
                         task->n_inputs);
    }
    return 0;
}

static int check_prompt(const Kelvin__Prompt *prompt, struct error *err)
{
    bool shows_task =
        prompt->role == KELVIN__ROLE__SOLVE || prompt->kind == KELVIN__TASK_KIND__INDUCTION;
    if (shows_task && prompt->task == NULL) {
        return error_set(err, -EBADMSG, "message Prompt: without a task");
    }
    if (prompt->samples == 0 || prompt->samples > SAMPLES_MAX) {
        return error_set(err, -EBADMSG, "message Prompt: %u samples; 1 to %d are possible",
                         prompt->samples, SAMPLES_MAX);
    }
    if (prompt->prompt_tokens_max > PROMPT_TOKENS_MAX) {
        return error_set(err, -EBADMSG, "message Prompt: more than %d tokens", PROMPT_TOKENS_MAX);
    }
    int code = check_task(prompt->task, err);
    for (size_t i = 0; code == 0 && i < prompt->n_references; i++) {
        code = check_task(prompt->references[i], err);
    }
    return code;
}

static bool inside(uint64_t offset, uint64_t size, uint64_t whole)
{
    return offset <= whole && size <= whole - offset;
}

// file_name_safe: a receiver may write the file into a folder of its own, and nowhere else.
static bool file_name_safe(const char *name)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t size = strlen(name);
    return size > 0 && name[0] != '.' && strspn(name, allowed) == size;
}

static int check_manifest(const Kelvin__WeightsManifest *manifest, struct error *err)
{
    uint64_t size = manifest->size;
    uint32_t chunk = manifest->chunk_size;
    bool whole = chunk > 0 && chunk <= RAW_FRAME_MAX && size > 0 &&
                 size <= (uint64_t)WEIGHTS_BLOB_MAX_GB << 30 &&
                 manifest->n_hashes == (size + chunk - 1) / chunk;
    for (size_t i = 0; whole && i < manifest->n_hashes; i++) {
        whole = manifest->hashes[i].len == WEIGHTS_HASH_BYTES;
    }
    for (size_t i = 0; whole && i < manifest->n_tensors; i++) {
        whole = inside(manifest->tensors[i]->offset, manifest->tensors[i]->size, size);
    }
    for (size_t i = 0; whole && i < manifest->n_files; i++) {
        whole = inside(manifest->files[i]->offset, manifest->files[i]->size, size) &&
                file_name_safe(manifest->files[i]->name);
    }
    return whole ? 0
                 : error_set(err, -EBADMSG,
                             "message WeightsManifest: version %llu does not describe whole chunks",
                             (unsigned long long)manifest->version);
}

int codec_check(const Kelvin__Envelope *envelope, struct error *err)
{
    if (envelope->protocol == 0) { // an empty frame, say: no peer of another version
        return error_set(err, -EBADMSG, "message without a protocol version");
    }
    if (envelope->protocol != PROTOCOL_VERSION) {
        return error_set(
            err, -EPROTONOSUPPORT,
            "the peer speaks protocol %u and this program %d: install the same version "
            "of kelvin on both",
            envelope->protocol, PROTOCOL_VERSION);
    }
    if (envelope->body_case == KELVIN__ENVELOPE__BODY__NOT_SET) {
        return error_set(err, -EBADMSG, "message without a body");
    }
    int code = check_message(&envelope->base, 0, err);
    if (code < 0) {
        return code;
    }
    switch (envelope->body_case) {
    case KELVIN__ENVELOPE__BODY_ROLLOUT:
        return check_rollout(envelope->rollout, err);
    case KELVIN__ENVELOPE__BODY_PROMPT:
        return check_prompt(envelope->prompt, err);
    case KELVIN__ENVELOPE__BODY_WEIGHTS_MANIFEST:
        return check_manifest(envelope->weights_manifest, err);
    default:
        return 0;
    }
}
