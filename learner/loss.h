// loss.h: the objective and its gradient at the head's input. Log-probability over the vocabulary,
// loss and the gradient of the logits are fused in chunks of rows, so [tokens, V] never exists at
// once.
#ifndef LEARNER_LOSS_H
#define LEARNER_LOSS_H

#include "common/model/forward.h"
#include "learner/gradients.h"
#include "learner/step.h"

enum { LOSS_CHUNK_ROWS = 256 }; // rows of a chunk at most

struct loss; // one thread's workspace

// struct loss_sums adds up over tokens; sums of two packs add field by field (maxima by maximum).
struct loss_sums {
    double loss;
    double entropy; // of trained tokens
    double ratio;   // of tokens with behaviour
    double ratio_max;
    double mismatch_max; // of on-policy tokens
    double kl;           // of tokens with behaviour, against the reference model
    int64_t trained;     // tokens with weight
    int64_t compared;    // of these, with behaviour
    int64_t clipped;     // of these, where the clip removed the gradient
};

void loss_sums_add(struct loss_sums *sums, const struct loss_sums *more);

// struct token_loss is the policy loss of one token, unweighted.
struct token_loss {
    double value; // l; corrected sequences: of the surrogate min(rho, cap)·A
    double slope; // d l / d logp
    double ratio;
    double kl;
    bool clipped; // the clip removed the gradient
};

// loss_token is the loss of a token with log-probability `logp` now, `behaviour` when it was
// sampled and `reference` under the reference model (read when kl_coef is not 0). Formulas: AZR.md
// section 6. With ratio ρ = exp(logp - behaviour) and advantage A,
//   l = -min(ρA, clip(ρ)A), or with dual clip and A < 0: l = -max(min(ρA, clip(ρ)A), dual·A);
//   corrected sequences: slope -min(ρ, cap)·A;
//   kl_coef: + kl_coef·(exp(r) - r - 1), r = reference - logp (Schulman's k3 estimator).
// Logarithms of ratios are bounded by ±20, so that no single token makes a step non-finite.
struct token_loss loss_token(const struct objective *objective, double advantage, bool corrected,
                             double logp, double behaviour, double reference);

int loss_create(struct loss **out, const struct model *model, int64_t rows_max, struct error *err);
void loss_destroy(struct loss *loss);

// struct loss_pass is one call, all borrowed: the sequences of `pack` (sequence k of the pack is
// sequences[k]) after forward_run.
struct loss_pass {
    const struct forward *forward;
    const struct model *model;
    const struct pack *pack;
    const struct sequence *const *sequences; // [pack->count]
    const struct objective *objective;
    float *dfinal;                 // [T, C] written: gradient at forward->final
    const struct gradients *grads; // the head's gradient is added
    float *const *logprobs; // NULL, or per sequence NULL or count floats to fill (entry 0 is 0)
    const float *reference; // [T] by a token's own row, as loss_score writes it; or NULL
    struct loss_sums *sums; // added to
};

// loss_run computes loss and gradient: loss_token where there is a behaviour, -logp elsewhere, and
// the entropy bonus.
void loss_run(struct loss *loss, const struct loss_pass *pass);

// loss_score writes out[row] = the log-probability, under pass->model, of each trained token that
// `row` predicts; other rows are untouched. No gradient: grads and dfinal are not read.
void loss_score(struct loss *loss, const struct loss_pass *pass, float *out);

#endif
