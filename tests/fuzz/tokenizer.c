// Any bytes are a tokenizer.json that is refused with a sentence, or a tokenizer whose ids of a
// text are its own and decode to that text. (Behind the last NUL of the input stands the text.)
#include "common/text/tokenizer.h"
#include "common/base/check.h"
#include "common/base/cleanup.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

CLEANUP_FUNCTION(struct tokenizer, tokenizer_destroy)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char fallback[] = "def f(x):\n  return 'caf\xc3\xa9' * 12 <|a|>\xff";
    CLEANUP(tokenizer_destroyp) struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    const uint8_t *split = size == 0 ? NULL : memrchr(data, 0, size);
    const char *text = split == NULL ? fallback : (const char *)split + 1;
    size_t text_size = split == NULL ? sizeof(fallback) - 1 : size - (size_t)(split + 1 - data);
    size_t json_size = split == NULL ? size : (size_t)(split - data);
    if (tokenizer_parse(&tokenizer, (const char *)data, json_size, "fuzz", &err) < 0) {
        CHECK(err.text[0] != '\0');
        return 0;
    }
    struct token_list list = {0};
    if (tokenizer_encode(tokenizer, &list, text, text_size, true, &err) == 0) {
        CLEANUP(freep) char *out = NULL;
        size_t out_size = 0;
        CHECK(tokenizer_decode(tokenizer, &out, &out_size, list.ids, list.count, &err) == 0);
    }
    free(list.ids);
    return 0;
}
