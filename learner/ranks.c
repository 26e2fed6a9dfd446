// A block is a head, the sequences as structs (their pointers count for nothing), then for each
// sequence its ids, weights and behaviour, and at the end room for the log-probabilities.
#include "learner/ranks.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct head {
    _Alignas(16) struct objective objective;
    struct optimizer optimizer;
    int32_t count;
    bool want_logprobs;
};

static size_t tokens_of(const struct sequence *sequences, int32_t count)
{
    size_t tokens = 0;
    for (int32_t k = 0; k < count; k++) {
        tokens += (size_t)sequences[k].count;
    }
    return tokens;
}

// Points the lists of `step` at the arrays behind the structs.
static int lay_out(struct ranks_step *step, void *block, struct error *err)
{
    struct head *head = block;
    size_t count = (size_t)head->count;
    struct sequence *packed = (struct sequence *)(head + 1);
    *step = (struct ranks_step){.objective = head->objective,
                                .optimizer = head->optimizer,
                                .count = head->count,
                                .want_logprobs = head->want_logprobs};
    struct sequence *sequences = calloc(count + 1, sizeof(*sequences));
    float **lists = head->want_logprobs ? calloc(count + 1, sizeof(float *)) : NULL;
    step->sequences = sequences;
    step->logprobs = lists;
    if (sequences == NULL || (head->want_logprobs && lists == NULL)) {
        ranks_step_finish(step);
        return error_set(err, -ENOMEM, "no memory for %zu sequences", count);
    }
    float *at = (float *)(packed + count);
    float *logprobs = at + 3 * tokens_of(packed, head->count);
    for (size_t k = 0; k < count; k++) {
        struct sequence *sequence = &sequences[k];
        size_t tokens = (size_t)packed[k].count;
        *sequence = packed[k];
        sequence->ids = (const int32_t *)at;
        sequence->weight = at + tokens;
        sequence->behaviour = packed[k].behaviour == NULL ? NULL : at + 2 * tokens;
        at += 3 * tokens;
        if (lists != NULL) {
            lists[k] = logprobs;
            logprobs += tokens;
        }
    }
    return 0;
}

int ranks_pack(struct ranks_step *out, struct collective *collective,
               const struct sequence *sequences, int32_t count, const struct objective *objective,
               const struct optimizer *optimizer, bool want_logprobs, struct error *err)
{
    size_t tokens = tokens_of(sequences, count);
    size_t size = sizeof(struct head) + (size_t)count * sizeof(*sequences) +
                  tokens * sizeof(float) * (want_logprobs ? 4 : 3);
    struct head *head = collective->ops->block(collective, size);
    if (head == NULL) {
        return error_set(err, -ENOMEM, "no shared memory for a batch of %zu tokens", tokens);
    }
    *head = (struct head){.objective = *objective,
                          .optimizer = *optimizer,
                          .count = count,
                          .want_logprobs = want_logprobs};
    struct sequence *packed = (struct sequence *)(head + 1);
    memcpy(packed, sequences, (size_t)count * sizeof(*sequences));
    float *at = (float *)(packed + count);
    for (int32_t k = 0; k < count; k++) {
        size_t row = (size_t)sequences[k].count;
        memcpy(at, sequences[k].ids, row * sizeof(int32_t));
        memcpy(at + row, sequences[k].weight, row * sizeof(float));
        if (sequences[k].behaviour != NULL) {
            memcpy(at + 2 * row, sequences[k].behaviour, row * sizeof(float));
        }
        at += 3 * row;
    }
    return lay_out(out, head, err);
}

int ranks_unpack(struct ranks_step *out, const struct collective_call *call, struct error *err)
{
    CHECK(call->kind == RANKS_STEP && call->size >= sizeof(struct head));
    return lay_out(out, call->block, err);
}

void ranks_step_finish(struct ranks_step *step)
{
    free(without_const(step->sequences));
    free(without_const(step->logprobs));
    *step = (struct ranks_step){0};
}
