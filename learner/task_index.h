// task_index.h: which tasks of one kind are in the store, in memory: enough to draw references and
// solver tasks without touching the database.
//
// Entries stand in the order in which they came. Seeds (step 0) never leave; when the index is full
// the oldest other one does. Every draw is a pure function of the entries and the generator given,
// so a run can be repeated.
#ifndef LEARNER_TASK_INDEX_H
#define LEARNER_TASK_INDEX_H

#include "common/base/error.h"
#include "common/base/rng.h"
#include "common/base/run_config.h"

#include <stdbool.h>
#include <stdint.h>

struct task_entry {
    uint64_t id;
    int64_t step;    // that proposed it; 0 = seed
    uint64_t digest; // of its normalized program and inputs
    uint32_t size;   // of its program, in bytes
};

struct task_index {
    struct task_entry *entries; // oldest first
    int32_t count;
    int32_t max;
};

// task_index_init makes room for `max` entries; task_index_finish frees it (a zeroed one is
// allowed).
int task_index_init(struct task_index *index, int32_t max, struct error *err);
void task_index_finish(struct task_index *index);

// task_index_add appends an entry. The id that had to leave is returned, 0 when none had to. When
// all others are seeds, the entry itself is the one that leaves.
uint64_t task_index_add(struct task_index *index, struct task_entry entry);

// task_index_has says whether a task with this digest is there.
bool task_index_has(const struct task_index *index, uint64_t digest);

// task_index_draw draws one entry, REFERENCES_UNIFORM or with weight step + 1 (REFERENCES_RECENT).
// The index must not be empty; the entry is valid until the next one is added.
const struct task_entry *task_index_draw(const struct task_index *index,
                                         enum reference_sampling mode, struct rng *rng);

// task_index_sample draws min(count, entries) ids without replacement, REFERENCES_UNIFORM or with
// weight step + 1 (REFERENCES_RECENT), in the order drawn. Returns how many.
int32_t task_index_sample(const struct task_index *index, uint64_t *ids, int32_t count,
                          enum reference_sampling mode, struct rng *rng);

// task_index_select draws min(count, entries) ids to solve, without replacement. Entries of step
// `since` and later are new. DATA_MAX_NEW: as many new ones as fit, the rest uniformly from the
// others; DATA_HALF_NEW: at most half of them new; DATA_UNIFORM; DATA_RECENT: weight step + 1.
int32_t task_index_select(const struct task_index *index, uint64_t *ids, int32_t count,
                          enum solver_data mode, int64_t since, struct rng *rng);

// task_index_fill draws from the entries before step `before` only, with weight step + 1 for
// DATA_RECENT and uniformly for the others.
int32_t task_index_fill(const struct task_index *index, uint64_t *ids, int32_t count,
                        enum solver_data mode, int64_t before, struct rng *rng);

#endif
