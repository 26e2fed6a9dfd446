// gradients.h: the gradients of all parameters, laid out as these are. What nothing has been added
// to yet is unwritten, not zero: to clear a large model and read the zeros again takes a good part
// of a step.
#ifndef LEARNER_GRADIENTS_H
#define LEARNER_GRADIENTS_H

#include "common/model/params.h"

#include <stdbool.h>

struct gradients {
    const struct params *params;
    float *sums;   // [params->elements]
    bool *written; // [params->count] whether each has a meaning
};

// gradients_begin makes all unwritten; gradients_end makes those zero that still are.
void gradients_begin(const struct gradients *gradients);
void gradients_end(const struct gradients *gradients);

// struct gradient is that of a matrix, or of some that lie one after another: where it is, and
// whether a product is to be added to what is there, which it is not at first.
struct gradient {
    float *sums;
    bool accumulate;
};

// gradients_product is where a product shall write the gradient of `rows` rows of a matrix from
// (layer, role) on. It counts as written then.
struct gradient gradients_product(const struct gradients *gradients, int32_t layer,
                                  enum param_role role, int64_t rows);

// gradients_sum is the gradient of `count` elements from (layer, role) on, to be added to: zeros at
// first. NULL where the model lacks the parameter.
float *gradients_sum(const struct gradients *gradients, int32_t layer, enum param_role role,
                     int64_t count);

#endif
