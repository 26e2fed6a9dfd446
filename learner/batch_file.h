// batch_file.h: a batch of sequences as a JSON file, for `kelvin step`: what a training step takes,
// written down so that other implementations can take the same.
//
//   {"sequences": [{"ids": [n], "mask": [n], "advantage": A, "block": b, "behaviour": [n],
//                   "corrected": false}, ...],
//    "blocks": 6, "aggregate": "block", "clip": 0.2 (or "clip_low", "clip_high"), "dual_clip": 0,
//    "is_cap": 2, "entropy_coef": 0, "kl_coef": 0, "lr": 1e-6, "betas": [0.9, 0.999], "eps": 1e-8,
//    "weight_decay": 0, "max_grad_norm": 1}
//
// mask[i] = 1 says that ids[i] was sampled and is trained on; mask[0] is 0. Only "sequences" with
// ids, mask, advantage and behaviour must be there.
#ifndef LEARNER_BATCH_FILE_H
#define LEARNER_BATCH_FILE_H

#include "common/base/error.h"
#include "learner/step.h"

struct batch_file {
    struct sequence *sequences; // [count]; weights as the aggregation makes them
    int32_t count;
    int32_t *block; // [count]
    int32_t blocks;
    struct objective objective;
    struct optimizer optimizer;
    int32_t *ids; // what the sequences point into
    float *floats;
};

// batch_file_read reads `path`; an error names the place ("sequences[3].mask[12]").
// batch_file_finish frees it (a zeroed one is allowed).
int batch_file_read(struct batch_file *out, const char *path, struct error *err);
void batch_file_finish(struct batch_file *file);

#endif
