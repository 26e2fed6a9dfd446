// model.h: a model of the golden data as flat weights, for the tests that train it.
#ifndef TESTS_GOLDEN_MODEL_H
#define TESTS_GOLDEN_MODEL_H

#include "tests/support.h"

#include "common/model/safetensors.h"

#include <stdio.h>
#include <stdlib.h>

// golden_read reads family `name` ("qwen2", ...); the caller frees the weights and finishes params.
static inline void golden_read(struct shape *shape, struct params *params, float **weights,
                               const char *name)
{
    char dir[512];
    struct error err = {0};
    enum dtype stored = DTYPE_F32;
    (void)snprintf(dir, sizeof(dir), GOLDEN_DIR "/%s", name);
    assert_int_equal(shape_read(shape, dir, &err), 0);
    assert_int_equal(params_init(params, shape, &err), 0);
    *weights = calloc(params->elements, sizeof(float));
    assert_non_null(*weights);
    if (safetensors_read(*weights, &stored, params, shape, dir, &err) < 0) {
        fail_msg("%s", err.text);
    }
}

#endif
