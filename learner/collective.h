// collective.h: what the ranks of one learner do together, behind one table: each rank trains its
// slices of a step's micro-batches, sums one shard of the gradient over all slices in their order,
// and updates that shard of the weights (ZeRO-1). Since the order of a sum is that of the slices
// and not of the ranks, the number of ranks changes no bit.
//
// Ranks call the same functions in the same order. No call waits for ever: a rank that died is
// -EPIPE, one that does not come within the time limit -ETIMEDOUT, and each error names it.
//
// Items of an array belong to ranks in runs: rank r of N owns [items·r/N, items·(r+1)/N).
#ifndef LEARNER_COLLECTIVE_H
#define LEARNER_COLLECTIVE_H

#include "common/base/error.h"

#include <stddef.h>
#include <stdint.h>

enum { RANKS_MAX = 8 };

struct collective {
    const struct collective_ops *ops;
    int32_t rank, ranks;
};

// struct collective_call is what rank 0 wants done: a number and a block of bytes.
struct collective_call {
    uint32_t kind;
    void *block;
    size_t size;
};

struct collective_ops {
    const char *name;

    // alloc is zeroed memory, aligned to 64 bytes, for arrays that the calls below exchange; NULL
    // when there is none. It may be the same memory at all ranks or each one's own. release takes
    // what alloc gave.
    void *(*alloc)(struct collective *collective, size_t size);
    void (*release)(struct collective *collective, void *data, size_t size);

    // Arrays have `items` items of `item` bytes, `size` bytes in all (the last item may be cut).

    // scatter: slice s is complete at the rank that owns it among `count` slices; afterwards each
    // rank can read its own items in every slice.
    int (*scatter)(struct collective *collective, void *const *slices, int32_t count, size_t size,
                   size_t item, int32_t items, struct error *err);

    // reduce: `data` is each rank's own array of floats; afterwards a rank's own items hold the sum
    // over the ranks, added in whatever order. NULL where scatter is as cheap.
    int (*reduce)(struct collective *collective, float *data, size_t size, size_t item,
                  int32_t items, struct error *err);

    // gather: afterwards every rank can read all of `data`, each item as its owner wrote it.
    int (*gather)(struct collective *collective, void *data, size_t size, size_t item,
                  int32_t items, struct error *err);

    // spread: afterwards every rank can read rank 0's `size` bytes in `data`.
    int (*spread)(struct collective *collective, void *data, size_t size, struct error *err);

    // block: rank 0's bytes for the next call, valid until the one after it. tell hands them to
    // the others, who wait in hear (as long as rank 0 lives). end: all have finished the call.
    void *(*block)(struct collective *collective, size_t size);
    int (*tell)(struct collective *collective, uint32_t kind, struct error *err);
    int (*hear)(struct collective *collective, struct collective_call *call, struct error *err);
    int (*end)(struct collective *collective, struct error *err);

    // check says, without waiting, whether another rank has died or given up.
    int (*check)(struct collective *collective, struct error *err);

    // give_up tells the others that this rank cannot go on; their calls return -EPIPE with `text`.
    void (*give_up)(struct collective *collective, const char *text);
    void (*close)(struct collective *collective);
};

static inline int32_t collective_from(const struct collective *collective, int32_t items)
{
    return collective == NULL ? 0
                              : (int32_t)((int64_t)items * collective->rank / collective->ranks);
}

static inline int32_t collective_to(const struct collective *collective, int32_t items)
{
    return collective == NULL
               ? items
               : (int32_t)((int64_t)items * (collective->rank + 1) / collective->ranks);
}

// collective_close accepts NULL.
static inline void collective_close(struct collective *collective)
{
    if (collective != NULL) {
        collective->ops->close(collective);
    }
}

// --- over shared memory, for ranks on one host (collective_host.c) ---

// collective_host_create makes rank 0's end of a learner of `ranks` ranks. With `path`, a file that
// tells collective_host_join where to find it. A wait of more than `limit_s` is an error.
int collective_host_create(struct collective **out, int32_t ranks, const char *path,
                           uint32_t limit_s, struct error *err);

// collective_host_join waits at most `limit_s` for the file of rank 0 and takes seat `rank`.
int collective_host_join(struct collective **out, int32_t rank, const char *path, uint32_t limit_s,
                         struct error *err);

// collective_host_fork makes the collective of a parent, in a child that it forked, the child's end
// as `rank`.
int collective_host_fork(struct collective *collective, int32_t rank, struct error *err);

#endif
