// checkpoint.h: a step on disk, from which a run goes on bit for bit.
//
// RUN/checkpoints/step-N/ holds the model as a Hugging Face folder (config.json, tokenizer files,
// model.safetensors as published), `trainer.bin`: f32 master weights and both moments with a hash
// over all, whatever the number of ranks, and `state.json`: step, version, seed and where the store
// stood. With azr.staleness above 0 `queue.bin` holds the work that is on its way (queue.h), with
// its hash. It is written beside its final name, synced and renamed, so a folder that has the name
// is whole. The task store is not copied: it goes back to the end of any step (tasks.h), every
// random number is a function of (seed, step, slot), and what was leased when a run ends is asked
// for again.
//
// step-0 is the starting model; it stays as long as the run, since a run goes on, forks and replays
// from it.
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

// struct checkpoint is what a step leaves.
struct checkpoint {
    int64_t step;
    struct trainer_arrays arrays;
    uint64_t seed;
    int64_t last_task, last_rollout; // ids in the store at the end of the step
    uint8_t *queue;                  // [queue_size] work on its way (dispatch_save), or NULL
    size_t queue_size;
};

struct checkpoint_target {
    const char *run_dir;
    const char *model_dir; // whose config.json and tokenizer files are copied
    const struct shape *shape;
    const struct params *params;
    enum dtype published;
    int32_t keep;       // newest checkpoints that stay, besides step-0 ...
    int64_t keep_every; // ... and those whose step is a multiple of this; 0: none
};

// checkpoint_save writes step-N and then removes what need not be kept; on failure nothing of that
// name is left. Any thread, one at a time.
int checkpoint_save(const struct checkpoint_target *target, const struct checkpoint *checkpoint,
                    struct error *err);

// checkpoint_latest finds the newest step that is on disk; -1 when there is none.
int checkpoint_latest(const char *run_dir, int64_t *step, struct error *err);

// checkpoint_find says whether step-N is there: 0, or -ENOENT with a sentence that lists what is.
int checkpoint_find(const char *run_dir, int64_t step, struct error *err);

// checkpoint_parse reads "RUN@STEP", or "RUN" for its newest one, and checks that it is there.
int checkpoint_parse(char *run_dir, size_t size, int64_t *step, const char *text,
                     struct error *err);

// checkpoint_path writes the folder of a step.
void checkpoint_path(char *out, size_t size, const char *run_dir, int64_t step);

// checkpoint_load fills the arrays and the rest of `checkpoint` for its step. A file that is cut,
// damaged, of another model or of a newer program is -EINVAL, and so is a number that is not
// finite; the arrays may be partly written then. The caller frees `queue`.
int checkpoint_load(const char *run_dir, const struct params *params, struct checkpoint *checkpoint,
                    struct error *err);

#endif
