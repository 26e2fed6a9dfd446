// Without top-k, top-p and min-p no weight is stored: one pass adds exp((x - max)/T) in blocks, and
// the block that the random number falls into is computed once more. The other settings find a
// cut-off, the last token in the order of likelihood that is kept, by a selection that looks at one
// side of a pivot only (expected time linear in V), and zero what lies behind it.
#include "actor/sampler.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/rng.h"
#include "common/tensor/kernels.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

enum { SUM_BLOCK = 256 }; // weights that are added in one go

#define SMALLEST_TEMPERATURE 1e-30f // below it 1/T is not finite: greedy

struct candidate {
    float logit;
    float weight;
    int32_t id;
};

struct sampler {
    int32_t V;
    int32_t blocks;
    const struct kernels *kernels;
    float *sums;                  // [blocks]
    float *weights;               // [V]
    struct candidate *candidates; // [V]
};

CLEANUP_FUNCTION(struct sampler, sampler_destroy)

int sampler_create(struct sampler **out, int32_t V, struct error *err)
{
    CHECK(V > 0);
    CLEANUP(sampler_destroyp) struct sampler *sampler = calloc(1, sizeof(*sampler));
    if (sampler == NULL) {
        return error_set(err, -ENOMEM, "sampler: out of memory");
    }
    sampler->V = V;
    sampler->blocks = (V + SUM_BLOCK - 1) / SUM_BLOCK;
    sampler->kernels = kernels_best(COMPUTE_F32);
    sampler->sums = calloc((size_t)sampler->blocks, sizeof(*sampler->sums));
    sampler->weights = calloc((size_t)V, sizeof(*sampler->weights));
    sampler->candidates = calloc((size_t)V, sizeof(*sampler->candidates));
    if (sampler->sums == NULL || sampler->weights == NULL || sampler->candidates == NULL) {
        return error_set(err, -ENOMEM, "sampler: no memory for %d tokens", V);
    }
    *out = TAKE(sampler);
    return 0;
}

void sampler_destroy(struct sampler *sampler)
{
    if (sampler != NULL) {
        free(sampler->sums);
        free(sampler->weights);
        free(sampler->candidates);
        free(sampler);
    }
}

static int32_t block_length(const struct sampler *sampler, int32_t block)
{
    int32_t rest = sampler->V - block * SUM_BLOCK;
    return rest < SUM_BLOCK ? rest : SUM_BLOCK;
}

// pick_block finds the block that `target` falls into and takes the sums before it off. The last
// block with any weight is the answer when rounding leaves a rest.
static int32_t pick_block(const struct sampler *sampler, double *target)
{
    int32_t last = 0;
    double rest = *target;
    for (int32_t b = 0; b < sampler->blocks; b++) {
        if (sampler->sums[b] > 0) {
            last = b;
            *target = rest;
            if (rest < (double)sampler->sums[b]) {
                break;
            }
            rest -= (double)sampler->sums[b];
        }
    }
    return last;
}

static int32_t pick_weight(const float *weights, int32_t count, double target)
{
    int32_t last = 0;
    for (int32_t i = 0; i < count; i++) {
        if (weights[i] > 0) {
            last = i;
            if (target < (double)weights[i]) {
                break;
            }
            target -= (double)weights[i];
        }
    }
    return last;
}

static double total_of(const struct sampler *sampler)
{
    double total = 0;
    for (int32_t b = 0; b < sampler->blocks; b++) {
        total += (double)sampler->sums[b];
    }
    return total;
}

static int32_t draw_from_all(struct sampler *sampler, const float *logits, float top, float factor,
                             double uniform)
{
    for (int32_t b = 0; b < sampler->blocks; b++) {
        sampler->sums[b] =
            sampler->kernels->exp_weights(sampler->weights, logits + (int64_t)b * SUM_BLOCK,
                                          block_length(sampler, b), top, factor);
    }
    double target = uniform * total_of(sampler);
    int32_t block = pick_block(sampler, &target);
    int32_t length = block_length(sampler, block);
    (void)sampler->kernels->exp_weights(sampler->weights, logits + (int64_t)block * SUM_BLOCK,
                                        length, top, factor);
    return block * SUM_BLOCK + pick_weight(sampler->weights, length, target);
}

// likelier is the order of likelihood; no two candidates are equal in it.
static bool likelier(const struct candidate *a, const struct candidate *b)
{
    return a->logit != b->logit ? a->logit > b->logit : a->id < b->id;
}

static void swap(struct candidate *a, struct candidate *b)
{
    struct candidate held = *a;
    *a = *b;
    *b = held;
}

// partition puts what is likelier than a pivot before it and returns the pivot's place. The pivot
// is the middle one of three, so that sorted logits are no worst case.
static int32_t partition(struct candidate *c, int32_t count)
{
    struct candidate *first = &c[0], *middle = &c[count / 2], *last = &c[count - 1];
    if (likelier(middle, first)) {
        swap(middle, first);
    }
    if (likelier(last, first)) {
        swap(last, first);
    }
    if (likelier(middle, last)) {
        swap(middle, last); // the median is last now
    }
    int32_t place = 0;
    for (int32_t i = 0; i + 1 < count; i++) {
        if (likelier(&c[i], last)) {
            swap(&c[i], &c[place++]);
        }
    }
    swap(&c[place], last);
    return place;
}

// keep_likeliest moves the shortest run of the likeliest candidates whose measure (number, or
// weight when `by_weight`) reaches `need` to the front and returns its length, at least one.
static int32_t keep_likeliest(struct candidate *c, int32_t count, double need, bool by_weight)
{
    int32_t from = 0, to = count;
    while (to - from > 1) {
        int32_t pivot = from + partition(c + from, to - from);
        double before = by_weight ? 0 : pivot - from;
        for (int32_t i = from; by_weight && i < pivot; i++) {
            before += (double)c[i].weight;
        }
        double with = before + (by_weight ? (double)c[pivot].weight : 1);
        if (before >= need && pivot > from) {
            to = pivot;
        } else if (with >= need) {
            return pivot + 1;
        } else {
            need -= with;
            from = pivot + 1;
        }
    }
    return to > from ? to : from; // `to` is reached only by a rounded sum
}

static double weight_of(const struct candidate *c, int32_t count)
{
    double sum = 0;
    for (int32_t i = 0; i < count; i++) {
        sum += (double)c[i].weight;
    }
    return sum;
}

static int32_t draw_from_kept(struct sampler *sampler, const float *logits, float top, float factor,
                              const struct sampling *sampling, double uniform)
{
    struct candidate *c = sampler->candidates;
    int32_t V = sampler->V, count = 0;
    (void)sampler->kernels->exp_weights(sampler->weights, logits, V, top, factor);
    for (int32_t i = 0; i < V; i++) {
        if (sampler->weights[i] > 0) {
            c[count++] =
                (struct candidate){.logit = logits[i], .weight = sampler->weights[i], .id = i};
        }
    }
    if (sampling->top_k > 0 && sampling->top_k < count) {
        count = keep_likeliest(c, count, sampling->top_k, false);
    }
    if (sampling->top_p > 0 && sampling->top_p < 1) {
        count = keep_likeliest(c, count, (double)sampling->top_p * weight_of(c, count), true);
    }
    for (int32_t i = 0; i < V; i++) {
        sampler->weights[i] = 0;
    }
    for (int32_t i = 0; i < count; i++) {
        sampler->weights[c[i].id] = c[i].weight >= sampling->min_p ? c[i].weight : 0;
    }
    for (int32_t b = 0; b < sampler->blocks; b++) {
        const float *block = sampler->weights + (int64_t)b * SUM_BLOCK;
        sampler->sums[b] = 0;
        for (int32_t i = 0; i < block_length(sampler, b); i++) {
            sampler->sums[b] += block[i];
        }
    }
    double target = uniform * total_of(sampler);
    int32_t block = pick_block(sampler, &target);
    return block * SUM_BLOCK + pick_weight(sampler->weights + (int64_t)block * SUM_BLOCK,
                                           block_length(sampler, block), target);
}

static int32_t first_of(const float *logits, int32_t V, float value)
{
    for (int32_t i = 0; i < V; i++) {
        if (logits[i] == value) {
            return i;
        }
    }
    return 0; // a row of NaN: the weights are broken, and the log-probability will say so
}

int32_t sampler_draw(struct sampler *sampler, const float *logits, const struct sampling *sampling,
                     uint64_t seed, uint32_t sample, uint32_t position)
{
    float top = sampler->kernels->maximum(logits, sampler->V);
    if (!(sampling->temperature > SMALLEST_TEMPERATURE)) {
        return first_of(logits, sampler->V, top);
    }
    float factor = 1.0f / sampling->temperature;
    double uniform = rng_to_uniform(rng_at(seed, sample, position));
    bool cut =
        sampling->top_k > 0 || (sampling->top_p > 0 && sampling->top_p < 1) || sampling->min_p > 0;
    return cut ? draw_from_kept(sampler, logits, top, factor, sampling, uniform)
               : draw_from_all(sampler, logits, top, factor, uniform);
}
