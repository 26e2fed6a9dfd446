// collective_nccl.h: the collective table over NCCL, for ranks of one host with a CUDA device each.
//
// It stands on a shared-memory collective (collective.h) over which the ranks meet, hand out calls
// and notice each other's death; arrays are each rank's own, and what they exchange goes through
// NCCL in pieces that are staged in the device's memory. The computing is the CPU's.
#ifndef LEARNER_COLLECTIVE_NCCL_H
#define LEARNER_COLLECTIVE_NCCL_H

#include "learner/collective.h"

struct nccl_options {
    const char *module; // path of kelvin_cuda.so; NULL: beside the program
    uint32_t limit_s;   // an operation that takes longer is an error
    size_t staging;     // bytes of each staging buffer, a multiple of 4096; 0: NCCL_STAGING_BYTES
};

enum { NCCL_STAGING_BYTES = 64 << 20 };

// collective_nccl_check says whether this host can run `ranks` ranks: the module loads, and there
// is a device for each. -ENOENT, -ENODEV with what to do.
int collective_nccl_check(const char *module, int32_t ranks, struct error *err);

// collective_nccl_create makes this rank's end on top of its end of `host`; all ranks call it at
// once. Takes `host` over when it succeeds. Rank r uses device r.
int collective_nccl_create(struct collective **out, struct collective *host,
                           const struct nccl_options *options, struct error *err);

#endif
