// backward.h: the forward pass read upwards: from the gradient at the head's input to the gradient
// of every parameter.
#ifndef LEARNER_BACKWARD_H
#define LEARNER_BACKWARD_H

#include "common/model/forward.h"
#include "learner/gradients.h"

struct backward; // one thread's workspace

int backward_create(struct backward **out, const struct model *model, int64_t rows_max,
                    struct error *err);
void backward_destroy(struct backward *backward);

// backward_run adds d loss / d parameter to `grads` for the rows of the last forward_run of `pack`.
//   dfinal  [T, C]  gradient at forward->final; overwritten
// The head's own gradient is not in it (loss.h adds that).
void backward_run(struct backward *backward, struct forward *forward, const struct model *model,
                  const struct pack *pack, const struct gradients *grads, float *dfinal);

#endif
