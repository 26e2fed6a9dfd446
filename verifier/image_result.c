// What a run says of itself, read from its frames. All of it is a claim: bounds, characters and
// outcomes are checked here, and texts become NUL-terminated copies.
#include "common/text/utf8.h"
#include "verifier/image_state.h"

#include <string.h>

static bool take_run(const uint8_t **at, const uint8_t *end, const uint8_t **data, size_t *size)
{
    if (end - *at < (ptrdiff_t)sizeof(uint32_t)) {
        return false;
    }
    *size = bytes_get_u32(*at);
    *at += sizeof(uint32_t);
    if ((size_t)(end - *at) < *size) {
        return false;
    }
    *data = *at;
    *at += *size;
    return true;
}

// A NUL-terminated copy that lives until the next run.
static const char *keep_text(struct bytes *store, const uint8_t *data, size_t size)
{
    size_t at = store->size;
    bytes_append(store, data, size);
    bytes_append_u8(store, '\0');
    return store->failed ? "" : (const char *)store->data + at;
}

// A copy for a person: what is not printable, or cut in the middle of a character, becomes a mark.
static const char *keep_words(struct bytes *store, const uint8_t *data, size_t size)
{
    size_t start = store->size;
    for (size_t at = 0; at < size;) {
        size_t valid = utf8_valid_prefix((const char *)data + at, size - at);
        bytes_append(store, data + at, valid);
        at += valid;
        if (at < size) {
            bytes_append_u8(store, '?');
            at++;
        }
    }
    bytes_append_u8(store, '\0');
    if (store->failed) {
        return "";
    }
    char *words = (char *)store->data + start;
    for (size_t i = 0; i + 1 < store->size - start; i++) {
        words[i] = (char)((unsigned char)words[i] < ' ' || words[i] == '\x7f' ? '?' : words[i]);
    }
    return words;
}

// Whether the bytes may travel as text.
static bool is_text(const uint8_t *data, size_t size)
{
    return memchr(data, '\0', size) == NULL && utf8_valid_prefix((const char *)data, size) == size;
}

bool image_read_program(struct image *image, struct image_result *result, struct bytes *store)
{
    if (image->program_at == 0) {
        return true;
    }
    const uint8_t *at = image->reply.data + image->program_at - 1;
    const uint8_t *end = at + image->program_size;
    const uint8_t *text = NULL;
    size_t size = 0;
    if (!take_run(&at, end, &text, &size) || !is_text(text, size)) {
        return false;
    }
    result->has_program = true;
    result->normalized = size > 0 ? keep_text(store, text, size) : NULL;
    result->code = at;
    result->code_size = (size_t)(end - at);
    return true;
}

// What a run may say of itself. It may be a forgery, since a program can reach the pipe: how time
// ran out, what equals the gold and whose fault a failure was are for the daemon to say.
static bool can_be_claimed(uint32_t outcome)
{
    switch (outcome) {
    case OUTCOME_OK:
    case OUTCOME_SYNTAX_ERROR:
    case OUTCOME_FORBIDDEN:
    case OUTCOME_RAISED:
    case OUTCOME_OUT_OF_MEMORY:
    case OUTCOME_OUTPUT_TOO_LARGE:
    case OUTCOME_UNSUPPORTED_VALUE:
    case OUTCOME_MALFORMED:
        return true;
    default:
        return false;
    }
}

bool image_read_result(struct image *image, struct image_result *result, struct bytes *store)
{
    const uint8_t *at = image->reply.data + image->result_at - 1;
    const uint8_t *end = at + image->result_size;
    if (image->result_size < sizeof(uint32_t)) {
        return false;
    }
    uint32_t outcome = bytes_get_u32(at);
    at += sizeof(outcome);
    const uint8_t *run[4];
    size_t size[4];
    for (int i = 0; i < 4; i++) {
        if (!take_run(&at, end, &run[i], &size[i])) {
            return false;
        }
    }
    if (at != end || !can_be_claimed(outcome) || size[3] > image->job.output_max ||
        !is_text(run[3], size[3])) {
        return false;
    }
    result->outcome = (enum outcome)outcome;
    result->exception = keep_text(store, run[0], size[0] < 64 ? size[0] : 64);
    if (strspn(result->exception, EXCEPTION_NAME_CHARACTERS) != strlen(result->exception)) {
        return false;
    }
    result->detail = keep_words(store, run[1], size[1] < 200 ? size[1] : 200);
    result->value = run[2];
    result->value_size = size[2];
    result->repr = keep_text(store, run[3], size[3]);
    return true;
}
