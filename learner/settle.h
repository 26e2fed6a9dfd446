// settle.h: what of a run's configuration only the model can decide.
#ifndef LEARNER_SETTLE_H
#define LEARNER_SETTLE_H

#include "common/base/run_config.h"
#include "common/model/params.h"
#include "common/model/shape.h"
#include "common/text/tokenizer.h"

// settle_config fills in the prompt style (azr.style: auto) and the lengths of rollouts that are
// left to the model, and refuses, with a sentence, a style that has no form for what is played.
int settle_config(struct run_config *config, const struct shape *shape,
                  const struct tokenizer *tokenizer, struct error *err);

// settle_model reads the model folder `dir` and settles `config` by it: the shape, the parameter
// table and the weights (f32, fresh; the caller frees them, also after an error).
int settle_model(struct run_config *config, const char *dir, struct shape *shape,
                 struct params *params, float **weights, struct error *err);

#endif
