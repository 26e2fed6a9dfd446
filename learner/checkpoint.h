// checkpoint.h: a step on disk, from which a run goes on bit for bit.
//
// RUN/checkpoints/step-N/ holds the model as a Hugging Face folder (config.json, tokenizer files,
// model.safetensors as published) and `trainer.bin`: f32 master weights and both moments with a
// hash over all. It is written beside its final name, synced and renamed, so a folder that has the
// name is whole. The task store is not copied: it goes back to the end of any step (tasks.h), and
// every random number is a function of (seed, step, slot).
#ifndef LEARNER_CHECKPOINT_H
#define LEARNER_CHECKPOINT_H

#include "common/base/error.h"
#include "common/model/params.h"
#include "common/model/shape.h"
#include "common/tensor/tensor.h"

#include <stdint.h>

// struct trainer_arrays is what a trainer holds, flat [params->elements] each.
struct trainer_arrays {
    float *weights, *m, *v;
    int64_t updates; // done by the optimizer
};

struct checkpoint_target {
    const char *run_dir;
    const char *model_dir; // whose config.json and tokenizer files are copied
    const struct shape *shape;
    const struct params *params;
    enum dtype published;
    int32_t keep; // checkpoints that stay; the oldest others are removed
};

// checkpoint_save writes step-N; on failure nothing of that name is left. Any thread.
int checkpoint_save(const struct checkpoint_target *target, int64_t step,
                    const struct trainer_arrays *arrays, struct error *err);

// checkpoint_latest finds the newest step that is on disk; 0 when there is none.
int checkpoint_latest(const char *run_dir, int64_t *step, struct error *err);

// checkpoint_path writes the folder of a step.
void checkpoint_path(char *out, size_t size, const char *run_dir, int64_t step);

// checkpoint_load fills the arrays. A file that is cut, damaged, of another model or of a newer
// program is -EINVAL, and so is a weight that is not finite; the arrays may be partly written then.
int checkpoint_load(const char *run_dir, int64_t step, const struct params *params,
                    struct trainer_arrays *arrays, struct error *err);

#endif
