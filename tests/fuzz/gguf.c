// Any bytes are a GGUF file that is refused with a sentence that names it, or one whose parts are
// too, or whose weights are finite and whose tokenizer is text.
#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/model/gguf_model.h"
#include "deploy/cli/import_tokenizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ELEMENTS_MAX = 1 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_weights(const struct gguf *gguf, const struct shape *shape)
{
    struct error err = {0};
    CLEANUP(params_finish) struct params params = {0};
    CHECK(params_init(&params, shape, &err) == 0);
    if (params.elements > ELEMENTS_MAX) {
        return;
    }
    CLEANUP(freep) float *weights = malloc(params.elements * sizeof(*weights));
    if (gguf_weights(weights, &params, shape, gguf, &err) < 0) {
        CHECK(strstr(err.text, "fuzz.gguf") != NULL);
        return;
    }
    for (size_t i = 0; i < params.elements; i++) {
        CHECK(isfinite(weights[i]));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *gguf = NULL;
    struct shape shape;
    struct error err = {0};
    if (gguf_parse(&gguf, data, size, "fuzz.gguf", &err) < 0) {
        CHECK(strstr(err.text, "fuzz.gguf") != NULL);
        return 0;
    }
    if (gguf_shape(&shape, gguf, &err) == 0) {
        read_weights(gguf, &shape);
    } else {
        CHECK(strstr(err.text, "fuzz.gguf") != NULL);
    }
    CLEANUP(freep) char *tokenizer = import_tokenizer(gguf, &err);
    CLEANUP(freep) char *config = import_tokenizer_config(gguf, &err);
    CHECK((tokenizer != NULL && config != NULL) || strstr(err.text, "fuzz.gguf") != NULL);
    gguf_close(gguf);
    return 0;
}
