// Any bytes are a config.json that is refused with a sentence, or one whose shape can be listed and
// written, and then reads back as the same.
#include "common/base/cleanup.h"
#include "common/model/params.h"
#include "tests/fuzz/folder.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct shape shape, again;
    struct error err = {0};
    fuzz_file("config.json", data, size);
    if (shape_read(&shape, fuzz_dir, &err) < 0) {
        CHECK(err.text[0] != '\0');
        return 0;
    }
    CLEANUP(params_finish) struct params params = {0};
    CHECK(params_init(&params, &shape, &err) == 0);
    CLEANUP(freep) char *text = shape_write_json(&shape, "bfloat16");
    fuzz_file("config.json", (const uint8_t *)text, strlen(text));
    if (shape_read(&again, fuzz_dir, &err) < 0) {
        (void)fprintf(stderr, "%s\n%s\n", err.text, text);
        abort();
    }
    CLEANUP(freep) char *text_again = shape_write_json(&again, "bfloat16");
    CHECK(strcmp(text, text_again) == 0);
    return 0;
}
