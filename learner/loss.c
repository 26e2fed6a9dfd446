#include "learner/loss.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_ROWS_MAX = 240, CHUNK_ROWS_MIN = 12, CHUNK_FLOATS = 1 << 18 };

// struct target is one row whose logits are wanted: it predicts token `index` of sequence `k`.
struct target {
    int32_t row, k, index;
};

struct loss {
    int64_t chunk_rows;
    float *hidden;          // [chunk, C]
    float *dhidden;         // [chunk, C]
    float *logits;          // [chunk, V]
    struct target *targets; // [rows_max]
};

static void loss_destroyp(struct loss **loss)
{
    loss_destroy(*loss);
}

int loss_create(struct loss **out, const struct model *model, int64_t rows_max, struct error *err)
{
    const struct shape *s = &model->shape;
    CLEANUP(loss_destroyp) struct loss *loss = calloc(1, sizeof(*loss));
    if (loss == NULL) {
        return error_set(err, -ENOMEM, "loss: out of memory");
    }
    int64_t rows = CHUNK_FLOATS / s->V;
    rows -= rows % CHUNK_ROWS_MIN;
    rows = rows < CHUNK_ROWS_MIN ? CHUNK_ROWS_MIN : rows > CHUNK_ROWS_MAX ? CHUNK_ROWS_MAX : rows;
    loss->chunk_rows = rows;
    loss->hidden = malloc((size_t)(rows * s->C) * sizeof(float));
    loss->dhidden = malloc((size_t)(rows * s->C) * sizeof(float));
    loss->logits = malloc((size_t)(rows * s->V) * sizeof(float));
    loss->targets = malloc((size_t)rows_max * sizeof(*loss->targets));
    if (loss->hidden == NULL || loss->dhidden == NULL || loss->logits == NULL ||
        loss->targets == NULL) {
        return error_set(err, -ENOMEM, "loss: out of memory");
    }
    *out = TAKE(loss);
    return 0;
}

void loss_destroy(struct loss *loss)
{
    if (loss != NULL) {
        free(loss->hidden);
        free(loss->dhidden);
        free(loss->logits);
        free(loss->targets);
        free(loss);
    }
}

void loss_sums_add(struct loss_sums *sums, const struct loss_sums *more)
{
    sums->loss += more->loss;
    sums->entropy += more->entropy;
    sums->ratio += more->ratio;
    sums->ratio_max = fmax(sums->ratio_max, more->ratio_max);
    sums->mismatch_max = fmax(sums->mismatch_max, more->mismatch_max);
    sums->trained += more->trained;
    sums->compared += more->compared;
    sums->clipped += more->clipped;
}

// policy_token returns d l / d logp (unweighted) and adds to the sums.
static double policy_token(const struct sequence *sequence, const struct objective *objective,
                           double logp, double behaviour, double *loss, struct loss_sums *sums)
{
    const double A = (double)sequence->advantage;
    double ratio = exp(logp - behaviour);
    sums->compared++;
    sums->ratio += ratio;
    sums->ratio_max = fmax(sums->ratio_max, ratio);
    if (sequence->on_policy) {
        sums->mismatch_max = fmax(sums->mismatch_max, fabs(logp - behaviour));
    }
    if (sequence->corrected) {
        double factor = fmin(ratio, (double)objective->is_cap);
        *loss = -factor * A;
        return -factor * A;
    }
    double low = 1.0 - (double)objective->clip_low, high = 1.0 + (double)objective->clip_high;
    double plain = ratio * A;
    double clipped = fmin(fmax(ratio, low), high) * A;
    double bound = (double)objective->dual_clip * A;
    bool dual = objective->dual_clip > 0.0f && A < 0.0 && fmin(plain, clipped) < bound;
    *loss = dual ? -bound : -fmin(plain, clipped);
    bool flat = dual || clipped < plain;
    sums->clipped += flat;
    return flat ? 0.0 : -ratio * A;
}

// row_gradient turns one row of logits into its gradient in place and returns the token's
// log-probability.
static float row_gradient(const struct model *model, float *logits, const struct sequence *sequence,
                          int32_t index, const struct objective *objective, struct loss_sums *sums)
{
    const int32_t V = model->shape.V, token = sequence->ids[index];
    const double weight = (double)sequence->weight[index];
    float lse = model->kernels->log_sum_exp(logits, V);
    float logp = logits[token] - lse;
    double value = -(double)logp;
    double slope = -1.0;
    if (weight != 0.0 && sequence->behaviour != NULL) {
        slope = policy_token(sequence, objective, (double)logp, (double)sequence->behaviour[index],
                             &value, sums);
    }
    float grad = (float)(weight * slope);
    float entropy_grad = (float)(-(double)objective->entropy_coef * weight);
    float entropy = model->kernels->softmax_gradient(logits, logits, V, lse, -grad, entropy_grad);
    logits[token] += grad;
    if (weight != 0.0) {
        sums->loss += weight * (value - (double)objective->entropy_coef * (double)entropy);
        sums->entropy += (double)entropy;
        sums->trained++;
    }
    return logp;
}

static void run_chunk(const struct loss *loss, const struct loss_pass *pass,
                      const struct target *targets, int64_t rows)
{
    const struct matrix *head = &pass->model->head;
    const struct kernels *k = pass->model->kernels;
    const int64_t C = head->K, V = head->N;
    const struct param *param =
        params_find(&pass->model->params, -1, pass->model->shape.tied ? PARAM_EMBED : PARAM_HEAD);
    for (int64_t r = 0; r < rows; r++) {
        memcpy(loss->hidden + r * C, pass->forward->final + targets[r].row * C,
               (size_t)C * sizeof(float));
    }
    k->product(loss->logits, V, loss->hidden, C, 1, head->packed, rows, V, C, false);
    for (int64_t r = 0; r < rows; r++) {
        const struct target *t = &targets[r];
        float logp = row_gradient(pass->model, loss->logits + r * V, pass->sequences[t->k],
                                  t->index, pass->objective, pass->sums);
        if (pass->logprobs != NULL && pass->logprobs[t->k] != NULL) {
            pass->logprobs[t->k][t->index] = logp;
        }
    }
    k->product(loss->dhidden, C, loss->logits, V, 1, operand_row_major(head->rows, C), rows, C, V,
               false);
    k->product(pass->grads + param->offset, C, loss->logits, 1, V,
               operand_row_major(loss->hidden, C), V, C, rows, true);
    for (int64_t r = 0; r < rows; r++) {
        memcpy(pass->dfinal + targets[r].row * C, loss->dhidden + r * C, (size_t)C * sizeof(float));
    }
}

// list_targets lists the rows whose logits are wanted: those of trained tokens, and all where
// log-probs are asked for.
static int64_t list_targets(const struct loss *loss, const struct loss_pass *pass)
{
    int64_t count = 0;
    for (int32_t k = 0; k < pass->pack->count; k++) {
        const struct sequence *sequence = pass->sequences[k];
        bool all = pass->logprobs != NULL && pass->logprobs[k] != NULL;
        if (all) {
            pass->logprobs[k][0] = 0.0f;
        }
        for (int32_t i = 1; i < sequence->count; i++) {
            if (all || sequence->weight[i] != 0.0f) {
                loss->targets[count++] =
                    (struct target){.row = pass->pack->start[k] + i - 1, .k = k, .index = i};
            }
        }
    }
    return count;
}

void loss_run(struct loss *loss, const struct loss_pass *pass)
{
    int64_t count = list_targets(loss, pass);
    memset(pass->dfinal, 0, (size_t)(pass->pack->T * pass->model->shape.C) * sizeof(float));
    for (int64_t from = 0; from < count; from += loss->chunk_rows) {
        int64_t rows = count - from < loss->chunk_rows ? count - from : loss->chunk_rows;
        run_chunk(loss, pass, loss->targets + from, rows);
    }
}
