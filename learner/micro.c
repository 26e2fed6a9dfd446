#include "learner/micro.h"

#include "common/base/check.h"
#include "common/model/forward.h"
#include "learner/backward.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

// prompt_tokens is how many tokens stand before the first trained one; 0 when none is trained.
static int32_t prompt_tokens(const struct sequence *sequence)
{
    for (int32_t i = 0; i < sequence->count; i++) {
        if (sequence->weight[i] != 0.0f) {
            return i;
        }
    }
    return 0;
}

// shared_tokens is how many of its first tokens a sequence can take from `owner`: the whole prompt,
// if they have the same.
static int32_t shared_tokens(const struct sequence *owner, const struct sequence *sequence)
{
    const int32_t prompt = prompt_tokens(sequence);
    bool same = prompt_tokens(owner) == prompt &&
                memcmp(owner->ids, sequence->ids, (size_t)prompt * sizeof(*owner->ids)) == 0;
    return same ? prompt : 0;
}

int micros_plan(struct micro *micros, const struct sequence *const *sequences, int32_t count,
                int64_t budget, int64_t *rows_max)
{
    int micro_count = 0;
    int64_t rows = 0;
    int32_t owner = 0;
    for (int32_t k = 0; k < count; k++) {
        CHECK(sequences[k]->count >= 1);
        int32_t shared = micro_count == 0 ? 0 : shared_tokens(sequences[owner], sequences[k]);
        if (micro_count == 0 || rows + sequences[k]->count - shared > budget) {
            micros[micro_count++] = (struct micro){.from = k, .to = k};
            rows = 0;
            shared = 0;
        }
        owner = shared > 0 ? owner : k;
        micros[micro_count - 1].to = k + 1;
        rows += sequences[k]->count - shared;
        *rows_max = rows > *rows_max ? rows : *rows_max;
    }
    return micro_count;
}

void lane_finish(struct lane *lane)
{
    forward_destroy(lane->forward);
    backward_destroy(lane->backward);
    loss_destroy(lane->loss);
    free(lane->dfinal);
    free(lane->reference);
    free(lane->ids);
    free(lane->position);
    free(lane->start);
    free(lane->shared);
    free(lane->base);
    *lane = (struct lane){0};
}

static int lane_init(struct lane *lane, const struct model *model, int64_t rows_max,
                     struct error *err)
{
    CHECK(rows_max > 0);
    size_t rows = (size_t)rows_max;
    lane->dfinal = malloc(rows * (size_t)model->shape.C * sizeof(float));
    lane->reference = malloc(rows * sizeof(float));
    lane->ids = malloc(rows * sizeof(*lane->ids));
    lane->position = malloc(rows * sizeof(*lane->position));
    lane->start = malloc((rows + 1) * sizeof(*lane->start));
    lane->shared = malloc(rows * sizeof(*lane->shared));
    lane->base = malloc(rows * sizeof(*lane->base));
    if (lane->dfinal == NULL || lane->reference == NULL || lane->ids == NULL ||
        lane->position == NULL || lane->start == NULL || lane->shared == NULL ||
        lane->base == NULL) {
        return error_set(err, -ENOMEM, "trainer: no memory for %zu rows", rows);
    }
    int code = forward_create(&lane->forward, model, rows_max, err);
    if (code == 0) {
        code = backward_create(&lane->backward, model, rows_max, err);
    }
    if (code == 0) {
        code = loss_create(&lane->loss, model, rows_max, err);
    }
    lane->rows_max = rows_max;
    return code;
}

int lane_grow(struct lane *lane, const struct model *model, int64_t rows_max, struct error *err)
{
    if (lane->rows_max >= rows_max) {
        return 0;
    }
    lane_finish(lane);
    int code = lane_init(lane, model, rows_max, err);
    if (code < 0) {
        lane_finish(lane);
    }
    return code;
}

// pack_micro lays a micro-batch's sequences out in the lane's arrays.
static struct pack pack_micro(const struct micro_pass *pass, const struct micro *micro,
                              const struct lane *lane)
{
    int32_t T = 0;
    int32_t owner = micro->from;
    for (int32_t k = micro->from; k < micro->to; k++) {
        const struct sequence *sequence = pass->sequences[k];
        const int32_t n = k - micro->from;
        const int32_t shared =
            k == micro->from ? 0 : shared_tokens(pass->sequences[owner], sequence);
        owner = shared > 0 ? owner : k;
        lane->start[n] = T;
        lane->shared[n] = shared;
        lane->base[n] = shared > 0 ? lane->start[owner - micro->from] : T;
        memcpy(lane->ids + T, sequence->ids + shared,
               (size_t)(sequence->count - shared) * sizeof(*lane->ids));
        for (int32_t i = shared; i < sequence->count; i++) {
            lane->position[T++] = i;
        }
    }
    lane->start[micro->to - micro->from] = T;
    return (struct pack){.T = T,
                         .count = micro->to - micro->from,
                         .start = lane->start,
                         .shared = lane->shared,
                         .base = lane->base,
                         .ids = lane->ids,
                         .position = lane->position};
}

// Whether any sequence of a micro-batch is held to the reference model.
static bool needs_reference(const struct micro_pass *pass, const struct micro *micro)
{
    bool needed = false;
    for (int32_t i = micro->from; i < micro->to && pass->objective->kl_coef > 0.0f; i++) {
        needed = needed || !pass->sequences[i]->free;
    }
    return needed;
}

void lane_run(struct lane *lane, const struct micro_pass *pass, const struct micro *micro)
{
    const struct pack pack = pack_micro(pass, micro, lane);
    struct loss_pass policy = {
        .forward = lane->forward,
        .model = pass->model,
        .pack = &pack,
        .sequences = pass->sequences + micro->from,
        .objective = pass->objective,
        .dfinal = lane->dfinal,
        .grads = pass->grads,
        .logprobs = pass->logprobs == NULL ? NULL : pass->logprobs + micro->from,
        .sums = pass->sums,
    };
    if (needs_reference(pass, micro)) {
        struct loss_pass score = policy;
        score.model = pass->reference;
        score.logprobs = NULL;
        forward_run(lane->forward, score.model, &pack);
        loss_score(lane->loss, &score, lane->reference);
        policy.reference = lane->reference;
    }
    forward_run(lane->forward, pass->model, &pack);
    loss_run(lane->loss, &policy);
    backward_run(lane->backward, lane->forward, pass->model, &pack, pass->grads, lane->dfinal);
}
