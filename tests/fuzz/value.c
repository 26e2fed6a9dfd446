// Any bytes are a typed value or not. A value equals itself, its size is what value_span says, and
// its canonical form does not depend on where it lies.
#include "verifier/value.h"
#include "common/base/check.h"
#include "common/base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// [value], whose canonical form is a list's head and the value's own.
static void check_in_list(const uint8_t *data, size_t size, const struct bytes *canonical)
{
    CLEANUP(bytes_finish) struct bytes list = {0};
    CLEANUP(bytes_finish) struct bytes outer = {0};
    bytes_append_u8(&list, VALUE_LIST);
    bytes_append_u32(&list, 1);
    bytes_append(&list, data, size);
    if (value_canonical(&outer, list.data, list.size, NULL) == 0) { // else one too deep
        size_t head = 1 + sizeof(uint32_t);
        CHECK(outer.size == head + canonical->size);
        CHECK(memcmp(outer.data + head, canonical->data, canonical->size) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(bytes_finish) struct bytes canonical = {0};
    struct error err = {0};
    int code = value_canonical(&canonical, data, size, &err);
    size_t span = value_span(data, size);
    CHECK(span <= size);
    if (code < 0) {
        CHECK(code == -EBADMSG && err.text[0] != '\0' && canonical.size == 0);
        return 0;
    }
    CHECK(span == size && canonical.size > 0);
    struct bytes typed = {.data = malloc(size), .size = size, .capacity = size};
    CHECK(typed.data != NULL);
    memcpy(typed.data, data, size);
    CHECK(value_equal(&typed, &typed));
    check_in_list(data, size, &canonical);
    bytes_finish(&typed);
    return 0;
}
