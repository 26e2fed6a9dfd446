#include "learner/task_index.h"

#include "common/base/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int task_index_init(struct task_index *index, int32_t max, struct error *err)
{
    CHECK(max > 0);
    struct task_entry *entries = calloc((size_t)max, sizeof(*entries));
    if (entries == NULL) {
        return error_set(err, -ENOMEM, "tasks: no memory for an index of %d tasks", max);
    }
    *index = (struct task_index){.entries = entries, .max = max};
    return 0;
}

void task_index_finish(struct task_index *index)
{
    free(index->entries);
    *index = (struct task_index){0};
}

uint64_t task_index_add(struct task_index *index, struct task_entry entry)
{
    uint64_t left = 0;
    if (index->count == index->max) {
        int32_t oldest = 0;
        while (oldest < index->count && index->entries[oldest].step == 0) {
            oldest++;
        }
        if (oldest == index->count) {
            return entry.id;
        }
        left = index->entries[oldest].id;
        index->count--;
        memmove(&index->entries[oldest], &index->entries[oldest + 1],
                (size_t)(index->count - oldest) * sizeof(*index->entries));
    }
    index->entries[index->count++] = entry;
    return left;
}

bool task_index_has(const struct task_index *index, uint64_t digest)
{
    for (int32_t i = 0; i < index->count; i++) {
        if (index->entries[i].digest == digest) {
            return true;
        }
    }
    return false;
}

// A pool is the positions that may still be drawn, with the sum of their weights.
struct pool {
    int32_t *positions;
    int32_t count;
};

static struct pool pool_create(const struct task_index *index)
{
    struct pool pool = {.positions = calloc((size_t)index->max, sizeof(int32_t))};
    CHECK(pool.positions != NULL);
    return pool;
}

static void pool_fill(struct pool *pool, const struct task_index *index, int64_t from, int64_t to)
{
    pool->count = 0;
    for (int32_t i = 0; i < index->count; i++) {
        if (index->entries[i].step >= from && index->entries[i].step < to) {
            pool->positions[pool->count++] = i;
        }
    }
}

static uint64_t take(struct pool *pool, const struct task_index *index, int32_t at)
{
    uint64_t id = index->entries[pool->positions[at]].id;
    pool->positions[at] = pool->positions[--pool->count];
    return id;
}

static int32_t draw_uniform(struct pool *pool, const struct task_index *index, uint64_t *ids,
                            int32_t count, struct rng *rng)
{
    int32_t drawn = 0;
    while (drawn < count && pool->count > 0) {
        int32_t at = (int32_t)rng_below(rng, (uint64_t)pool->count);
        ids[drawn++] = take(pool, index, at);
    }
    return drawn;
}

// recent_place draws a place of the pool, each with weight step + 1.
static int32_t recent_place(const struct pool *pool, const struct task_index *index,
                            struct rng *rng)
{
    uint64_t total = 0;
    for (int32_t i = 0; i < pool->count; i++) {
        total += (uint64_t)index->entries[pool->positions[i]].step + 1;
    }
    uint64_t left = rng_below(rng, total);
    for (int32_t at = 0;; at++) {
        uint64_t weight = (uint64_t)index->entries[pool->positions[at]].step + 1;
        if (left < weight) {
            return at;
        }
        left -= weight;
    }
}

static int32_t draw_recent(struct pool *pool, const struct task_index *index, uint64_t *ids,
                           int32_t count, struct rng *rng)
{
    int32_t drawn = 0;
    while (drawn < count && pool->count > 0) {
        ids[drawn++] = take(pool, index, recent_place(pool, index, rng));
    }
    return drawn;
}

const struct task_entry *task_index_draw(const struct task_index *index,
                                         enum reference_sampling mode, struct rng *rng)
{
    CHECK(index->count > 0);
    if (mode == REFERENCES_UNIFORM) {
        return &index->entries[rng_below(rng, (uint64_t)index->count)];
    }
    struct pool pool = pool_create(index);
    pool_fill(&pool, index, 0, INT64_MAX);
    const int32_t at = pool.positions[recent_place(&pool, index, rng)];
    free(pool.positions);
    return &index->entries[at];
}

int32_t task_index_sample(const struct task_index *index, uint64_t *ids, int32_t count,
                          enum reference_sampling mode, struct rng *rng)
{
    struct pool pool = pool_create(index);
    pool_fill(&pool, index, 0, INT64_MAX);
    int32_t drawn = mode == REFERENCES_RECENT ? draw_recent(&pool, index, ids, count, rng)
                                              : draw_uniform(&pool, index, ids, count, rng);
    free(pool.positions);
    return drawn;
}

// The share of new tasks first, then uniformly from all that were not drawn.
static int32_t draw_new_first(struct pool *pool, const struct task_index *index, uint64_t *ids,
                              int32_t count, int32_t new_max, int64_t since, struct rng *rng)
{
    pool_fill(pool, index, since, INT64_MAX);
    int32_t drawn = draw_uniform(pool, index, ids, new_max, rng);
    pool->count = 0;
    for (int32_t i = 0; i < index->count; i++) {
        bool chosen = false;
        for (int32_t k = 0; k < drawn && !chosen; k++) {
            chosen = ids[k] == index->entries[i].id;
        }
        if (!chosen) {
            pool->positions[pool->count++] = i;
        }
    }
    return drawn + draw_uniform(pool, index, ids + drawn, count - drawn, rng);
}

int32_t task_index_select(const struct task_index *index, uint64_t *ids, int32_t count,
                          enum solver_data mode, int64_t since, struct rng *rng)
{
    struct pool pool = pool_create(index);
    int32_t drawn = 0;
    switch (mode) {
    case DATA_MAX_NEW:
        drawn = draw_new_first(&pool, index, ids, count, count, since, rng);
        break;
    case DATA_HALF_NEW:
        drawn = draw_new_first(&pool, index, ids, count, count / 2, since, rng);
        break;
    case DATA_RECENT:
        pool_fill(&pool, index, 0, INT64_MAX);
        drawn = draw_recent(&pool, index, ids, count, rng);
        break;
    case DATA_UNIFORM:
        pool_fill(&pool, index, 0, INT64_MAX);
        drawn = draw_uniform(&pool, index, ids, count, rng);
        break;
    }
    free(pool.positions);
    return drawn;
}

int32_t task_index_fill(const struct task_index *index, uint64_t *ids, int32_t count,
                        enum solver_data mode, int64_t before, struct rng *rng)
{
    struct pool pool = pool_create(index);
    pool_fill(&pool, index, 0, before);
    int32_t drawn = mode == DATA_RECENT ? draw_recent(&pool, index, ids, count, rng)
                                        : draw_uniform(&pool, index, ids, count, rng);
    free(pool.positions);
    return drawn;
}
