#include "learner/loss.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/tensor/memory.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double log_ratio_max = 20.0;

// A chunk's gradient is added to that of the whole head: few rows would be lost on that.
enum { CHUNK_ROWS_MIN = 32, CHUNK_FLOATS = 1 << 24 };

// struct target is one row whose logits are wanted: it predicts token `index` of sequence `k`,
// whose own row is `token_row`. Rows repeat where sequences share them.
struct target {
    int32_t row, token_row, k, index;
};

struct loss {
    int64_t chunk_rows;
    float *hidden;          // [chunk, C] as inputs_own describes
    float *dhidden;         // [chunk, C]
    int64_t width;          // of a row of logits: V, or what its gradients take, where that is more
    float *logits;          // [chunk, width]; their gradients replace them, as inputs_own describes
    float *row;             // [V] of one row: the weights of its softmax, then its gradients
    float *packed;          // `hidden` as the right side of a product
    struct target *targets; // [targets_max], grown as needed
    int64_t targets_max;
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
    rows -= rows % CHUNK_ROWS_MIN; // whole tiles
    rows = rows < CHUNK_ROWS_MIN ? CHUNK_ROWS_MIN : rows > LOSS_CHUNK_ROWS ? LOSS_CHUNK_ROWS : rows;
    loss->chunk_rows = rows;
    loss->hidden = floats_alloc((size_t)(rows * inputs_stride(model->compute, s->C)));
    loss->dhidden = floats_alloc((size_t)(rows * s->C));
    const int64_t gradients = inputs_stride(model->compute, s->V);
    loss->width = gradients > s->V ? gradients : s->V;
    loss->logits = floats_alloc((size_t)(rows * loss->width));
    loss->row = floats_alloc((size_t)s->V);
    loss->packed = floats_alloc((size_t)inputs_count(model->kernels, rows, s->C));
    loss->targets = malloc((size_t)rows_max * sizeof(*loss->targets));
    loss->targets_max = rows_max;
    if (loss->hidden == NULL || loss->dhidden == NULL || loss->logits == NULL ||
        loss->row == NULL || loss->packed == NULL || loss->targets == NULL) {
        return error_set(err, -ENOMEM, "loss: out of memory");
    }
    *out = TAKE(loss);
    return 0;
}

void loss_destroy(struct loss *loss)
{
    if (loss != NULL) {
        floats_free(loss->hidden);
        floats_free(loss->dhidden);
        floats_free(loss->logits);
        floats_free(loss->row);
        floats_free(loss->packed);
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
    sums->kl += more->kl;
    sums->trained += more->trained;
    sums->compared += more->compared;
    sums->clipped += more->clipped;
}

// The logarithm of a ratio, bounded.
static double bounded(double log_ratio)
{
    return fmin(fmax(log_ratio, -log_ratio_max), log_ratio_max);
}

static void add_surrogate(struct token_loss *out, const struct objective *objective, double A)
{
    double low = 1.0 - (double)objective->clip_low, high = 1.0 + (double)objective->clip_high;
    double plain = out->ratio * A;
    double clipped = fmin(fmax(out->ratio, low), high) * A;
    double bound = (double)objective->dual_clip * A;
    bool dual = objective->dual_clip > 0.0f && A < 0.0 && fmin(plain, clipped) < bound;
    out->value = dual ? -bound : -fmin(plain, clipped);
    out->clipped = dual || clipped < plain;
    out->slope = out->clipped ? 0.0 : -plain;
}

struct token_loss loss_token(const struct objective *objective, double advantage, bool corrected,
                             double logp, double behaviour, double reference)
{
    struct token_loss out = {.ratio = exp(bounded(logp - behaviour))};
    if (corrected) {
        out.value = out.slope = -fmin(out.ratio, (double)objective->is_cap) * advantage;
    } else {
        add_surrogate(&out, objective, advantage);
    }
    if (objective->kl_coef > 0.0f) {
        double r = bounded(reference - logp);
        out.kl = exp(r) - r - 1.0;
        out.value += (double)objective->kl_coef * out.kl;
        out.slope += (double)objective->kl_coef * (1.0 - exp(r));
    }
    return out;
}

static struct token_loss policy_token(const struct loss_pass *pass, const struct target *target,
                                      double logp)
{
    const struct sequence *sequence = pass->sequences[target->k];
    double behaviour = (double)sequence->behaviour[target->index];
    bool loose = pass->reference == NULL || sequence->free;
    double reference = loose ? logp : (double)pass->reference[target->token_row];
    struct token_loss token = loss_token(pass->objective, (double)sequence->advantage,
                                         sequence->corrected, logp, behaviour, reference);
    struct loss_sums *sums = pass->sums;
    sums->compared++;
    sums->ratio += token.ratio;
    sums->ratio_max = fmax(sums->ratio_max, token.ratio);
    sums->kl += token.kl;
    sums->clipped += token.clipped;
    if (sequence->on_policy) {
        sums->mismatch_max = fmax(sums->mismatch_max, fabs(logp - behaviour));
    }
    return token;
}

// row_gradient writes the gradient of one row of logits and returns the token's log-probability.
static float row_gradient(float *row, const struct loss_pass *pass, const struct target *target,
                          const float *logits)
{
    const struct model *model = pass->model;
    const struct sequence *sequence = pass->sequences[target->k];
    const int32_t V = model->shape.V, token = sequence->ids[target->index];
    const double weight = (double)sequence->weight[target->index];
    const double entropy_coef = (double)pass->objective->entropy_coef;
    const struct softmax softmax = model->kernels->softmax(row, logits, V);
    float logp = logits[token] - softmax.lse;
    struct token_loss loss = {.value = -(double)logp, .slope = -1.0};
    if (weight != 0.0 && sequence->behaviour != NULL) {
        loss = policy_token(pass, target, (double)logp);
    }
    float grad = (float)(weight * loss.slope);
    float entropy_grad = (float)(-entropy_coef * weight);
    model->kernels->softmax_gradient(row, logits, V, &softmax, -grad, entropy_grad);
    row[token] += grad;
    if (weight != 0.0) {
        pass->sums->loss += weight * (loss.value - entropy_coef * (double)softmax.entropy);
        pass->sums->entropy += (double)softmax.entropy;
        pass->sums->trained++;
    }
    return logp;
}

// The logits of `rows` targets, into loss->logits. Returns the head's inputs.
static struct inputs run_head(const struct loss *loss, const struct loss_pass *pass,
                              const struct target *targets, int64_t rows)
{
    const struct matrix *head = &pass->model->head;
    const struct inputs hidden = inputs_own(pass->model->compute, loss->hidden, head->K);
    for (int64_t r = 0; r < rows; r++) {
        memcpy(loss->hidden + r * hidden.row,
               inputs_from(pass->forward->final, targets[r].row).data,
               (size_t)hidden.row * sizeof(float));
    }
    pass->model->kernels->product(loss->logits, loss->width, hidden, head->packed, rows, head->N,
                                  head->K, false);
    return hidden;
}

static void run_chunk(const struct loss *loss, const struct loss_pass *pass,
                      const struct target *targets, int64_t rows)
{
    const struct matrix *head = &pass->model->head;
    const struct kernels *k = pass->model->kernels;
    const int64_t C = head->K, V = head->N;
    const struct inputs hidden = run_head(loss, pass, targets, rows);
    const struct inputs dlogits = inputs_own(k->compute, loss->logits, V);
    for (int64_t r = 0; r < rows; r++) {
        const struct target *t = &targets[r];
        float logp = row_gradient(loss->row, pass, t, loss->logits + r * loss->width);
        k->round_rows(loss->logits + r * dlogits.row, loss->row, V, 1,
                      V); // over rows that are done
        if (pass->logprobs != NULL && pass->logprobs[t->k] != NULL) {
            pass->logprobs[t->k][t->index] = logp;
        }
    }
    k->product(loss->dhidden, C, dlogits, head->back, rows, C, V, false);
    inputs_pack(k, loss->packed, hidden, rows, C);
    const struct gradient grad =
        gradients_product(pass->grads, -1, pass->model->shape.tied ? PARAM_EMBED : PARAM_HEAD, V);
    k->product(grad.sums, C, inputs_turned(dlogits), operand_inputs(k, loss->packed, hidden, rows),
               V, C, rows, grad.accumulate);
    for (int64_t r = 0; r < rows; r++) {
        k->add(pass->dfinal + targets[r].row * C, loss->dhidden + r * C, C);
    }
}

// Shared rows can be wanted once for each sequence.
static void reserve_targets(struct loss *loss, const struct pack *pack)
{
    int64_t count = 0;
    for (int32_t k = 0; k < pack->count; k++) {
        count += pack_count(pack, k);
    }
    if (count > loss->targets_max) {
        free(loss->targets);
        loss->targets = malloc(((size_t)count + 1) * sizeof(*loss->targets));
        CHECK(loss->targets != NULL);
        loss->targets_max = count;
    }
}

// list_targets lists the rows whose logits are wanted: those of trained tokens, and all where
// log-probs are asked for.
static int64_t list_targets(struct loss *loss, const struct loss_pass *pass)
{
    reserve_targets(loss, pass->pack);
    int64_t count = 0;
    for (int32_t k = 0; k < pass->pack->count; k++) {
        const struct sequence *sequence = pass->sequences[k];
        bool all = pass->logprobs != NULL && pass->logprobs[k] != NULL;
        if (all) {
            pass->logprobs[k][0] = 0.0f;
        }
        for (int32_t i = 1; i < sequence->count; i++) {
            if (all || sequence->weight[i] != 0.0f) {
                loss->targets[count++] = (struct target){.row = pack_row(pass->pack, k, i - 1),
                                                         .token_row = pack_row(pass->pack, k, i),
                                                         .k = k,
                                                         .index = i};
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

void loss_score(struct loss *loss, const struct loss_pass *pass, float *out)
{
    const struct model *model = pass->model;
    const int64_t V = model->shape.V;
    int64_t count = list_targets(loss, pass);
    for (int64_t from = 0; from < count; from += loss->chunk_rows) {
        int64_t rows = count - from < loss->chunk_rows ? count - from : loss->chunk_rows;
        const struct target *targets = loss->targets + from;
        (void)run_head(loss, pass, targets, rows);
        for (int64_t r = 0; r < rows; r++) {
            const float *logits = loss->logits + r * loss->width;
            int32_t token = pass->sequences[targets[r].k]->ids[targets[r].index];
            out[targets[r].token_row] =
                logits[token] - model->kernels->log_sum_exp(logits, (int32_t)V);
        }
    }
}
