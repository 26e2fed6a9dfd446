// Any text is a literal and an argument list, or not; nothing reads past its end. A literal with a
// canonical form equals itself, also between spaces and in brackets, and is one argument.
#include "verifier/literal.h"
#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "verifier/value.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// The text between two others, in a block of its own size.
static int parse_between(struct bytes *out, const char *before, const uint8_t *data, size_t size,
                         const char *after)
{
    size_t lead = strlen(before);
    size_t whole = lead + size + strlen(after);
    CLEANUP(freep) char *text = malloc(whole + 1);
    CHECK(text != NULL);
    memcpy(text, before, lead);
    memcpy(text + lead, data, size);
    memcpy(text + lead + size, after, strlen(after) + 1);
    char *exact = realloc(text, whole == 0 ? 1 : whole);
    CHECK(exact != NULL);
    text = exact;
    struct error err = {0};
    int code = literal_parse(out, text, whole, &err);
    CHECK(code == 0 || (code == -EBADMSG && err.text[0] != '\0'));
    CHECK(code == 0 || out->size == 0);
    return code;
}

static void check_value(const struct bytes *typed, const uint8_t *data, size_t size)
{
    CLEANUP(bytes_finish) struct bytes canonical = {0};
    CLEANUP(bytes_finish) struct bytes spaced = {0};
    CLEANUP(bytes_finish) struct bytes listed = {0};
    if (value_canonical(&canonical, typed->data, typed->size, NULL) < 0) {
        return; // deeper, or more, than a value may be
    }
    CHECK(value_span(typed->data, typed->size) == typed->size);
    CHECK(value_equal(typed, typed));
    CHECK(parse_between(&spaced, " \n", data, size, "\t ") == 0 && value_equal(typed, &spaced));
    if (parse_between(&listed, "[", data, size, "]") == 0) {
        CHECK(listed.data[0] == VALUE_LIST && !value_equal(typed, &listed));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(bytes_finish) struct bytes typed = {0};
    CLEANUP(bytes_finish) struct bytes arguments = {0};
    struct error err = {0};
    if (parse_between(&typed, "", data, size, "") == 0) {
        check_value(&typed, data, size);
    }
    int code = literal_parse_arguments(&arguments, (const char *)data, size, &err);
    CHECK(code == 0 || (code == -EBADMSG && err.text[0] != '\0'));
    CHECK(code < 0 || arguments.size >= 2 * sizeof(uint32_t));
    return 0;
}
