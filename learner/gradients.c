#include "learner/gradients.h"

#include "common/base/check.h"

#include <string.h>

void gradients_begin(const struct gradients *gradients)
{
    memset(gradients->written, 0, (size_t)gradients->params->count * sizeof(bool));
}

void gradients_end(const struct gradients *gradients)
{
    for (int32_t i = 0; i < gradients->params->count; i++) {
        const struct param *param = &gradients->params->items[i];
        if (!gradients->written[i]) {
            memset(gradients->sums + param->offset, 0, param->count * sizeof(float));
        }
    }
}

// write says that `count` elements from `first` on are written, and returns whether they were not.
static bool write(const struct gradients *gradients, const struct param *first, int64_t count)
{
    bool *written = gradients->written + (first - gradients->params->items);
    const bool fresh = !*written;
    for (const struct param *param = first; count > 0; count -= (int64_t)param++->count) {
        CHECK(*written == !fresh);
        *written++ = true;
    }
    return fresh;
}

struct gradient gradients_product(const struct gradients *gradients, int32_t layer,
                                  enum param_role role, int64_t rows)
{
    const struct param *param = params_find(gradients->params, layer, role);
    const bool fresh = write(gradients, param, rows * param->shape[1]);
    return (struct gradient){.sums = gradients->sums + param->offset, .accumulate = !fresh};
}

float *gradients_sum(const struct gradients *gradients, int32_t layer, enum param_role role,
                     int64_t count)
{
    const struct param *param = params_find(gradients->params, layer, role);
    if (param == NULL) {
        return NULL;
    }
    float *sums = gradients->sums + param->offset;
    if (write(gradients, param, count)) {
        memset(sums, 0, (size_t)count * sizeof(float));
    }
    return sums;
}
