// Any bytes are a model.safetensors that is refused with a sentence that names the file, or one
// whose weights are all finite.
#include "common/model/safetensors.h"
#include "common/base/cleanup.h"
#include "tests/fuzz/folder.h"

#include <math.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct shape shape;
    struct error err = {0};
    enum dtype stored = DTYPE_F32;
    CHECK(shape_of_family(&shape, "llama", 5));
    shape.L = shape.H = shape.KV = 1;
    shape.C = shape.D = shape.F = 16;
    shape.V = 2;
    CLEANUP(params_finish) struct params params = {0};
    CHECK(params_init(&params, &shape, &err) == 0);
    CLEANUP(freep) float *weights = malloc(params.elements * sizeof(*weights));
    fuzz_file("model.safetensors", data, size);
    if (safetensors_read(weights, &stored, &params, &shape, fuzz_dir, &err) < 0) {
        CHECK(strstr(err.text, "model.safetensors") != NULL);
        return 0;
    }
    for (size_t i = 0; i < params.elements; i++) {
        CHECK(isfinite(weights[i]));
    }
    return 0;
}
