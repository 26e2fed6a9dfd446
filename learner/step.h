// step.h: one optimizer step on one rank: forward, loss, backward, clip, AdamW.
//
// A trainer owns f32 master weights, gradients and moments, the model in compute form (the weights
// as published), and `threads` workers, each with its activations. Sequences are packed into
// micro-batches by a token budget without padding; a prompt that several sequences in a row begin
// with is computed once for those in one micro-batch, which changes no log-probability. Gradients
// are summed in a fixed order, so a step's result depends on the set and order of the sequences
// only, not on timing, and not on the number of threads or ranks.
#ifndef LEARNER_STEP_H
#define LEARNER_STEP_H

#include "common/base/error.h"
#include "common/model/model.h"

// struct sequence is one prompt with its response, borrowed for the call.
struct sequence {
    int32_t count;      // tokens
    const int32_t *ids; // [count]
    const float *
        weight; // [count] weight of token i in the loss, normalisation included; 0 = not trained on
    const float *
        behaviour; // [count] log-prob under the sampling policy; NULL: next-token loss -weight·logp
    float advantage;
    bool on_policy; // sampled by the version that the trainer holds, under its numerics id:
                    // mismatch must be 0
    bool free;      // kl_coef does not hold it to the reference model
    bool corrected; // stale-KV or foreign numerics: truncated importance sampling, cap is_cap
};

// struct objective: AZR.md section 6.
struct objective {
    float clip_low, clip_high; // ρ is clipped to [1-low, 1+high]
    float dual_clip;           // 0: off; else the bound for A < 0
    float is_cap;              // cap of the truncated importance weight of `corrected` sequences
    float entropy_coef;        // bonus per token, weighted as the token
    float kl_coef;             // penalty for leaving the reference model; 0: off
};

struct optimizer {
    float lr, beta1, beta2, epsilon, weight_decay, grad_norm_max;
};

struct step_report {
    double loss;
    double grad_norm; // before the clip
    double entropy;   // mean over trained tokens, nats
    double kl;        // mean over trained tokens against the reference; a free one counts as 0
    double ratio_mean;
    double ratio_max;
    double clipped;      // share of trained tokens whose gradient the clip removed
    double mismatch_max; // max |logp_now - behaviour| over on_policy sequences' trained tokens
    int64_t tokens;      // of all sequences
    int64_t tokens_trained;
    int64_t updates; // done since the start: fewer than steps where some were skipped
    bool skipped;    // the norm was not finite: nothing was changed
};

struct trainer;
struct collective;

struct trainer_config {
    enum compute compute;
    enum dtype
        published; // DTYPE_BF16: the forward pass sees rounded weights, as actors do; DTYPE_F32
    int32_t threads;
    int32_t micro_tokens; // token budget of a micro-batch, shared ones counted once; a longer
                          // sequence runs alone
    bool any_order;       // one gradient a thread, which takes less memory: threads and ranks then
                          // change the order of its sum; false: the model's size alone decides it
    struct collective *collective; // NULL: one rank; else this rank's end, borrowed
    const float *reference; // weights of the reference model for kl_coef [params->elements], read
                            // once by trainer_create; NULL: none
};

// trainer_create takes a copy of `weights` [params->elements], of rank 0; other ranks may pass
// NULL. All ranks call it at once, with the same shape and config but for the threads.
int trainer_create(struct trainer **out, const struct shape *shape, const float *weights,
                   const struct trainer_config *config, struct error *err);
void trainer_destroy(struct trainer *trainer);

// trainer_step runs one step. `logprobs`, if not NULL, receives per sequence k a pointer to count
// floats to fill (log-prob of ids[i] given ids[0..i-1]; entry 0 is 0). Engine thread. On rank 0;
// the other ranks are in trainer_serve.
int trainer_step(struct trainer *trainer, const struct sequence *sequences, int32_t count,
                 const struct objective *objective, const struct optimizer *optimizer,
                 float *const *logprobs, struct step_report *report, struct error *err);

// trainer_serve does the part of a rank other than 0 in every step, until rank 0 destroys its
// trainer (0) or a rank cannot go on (an error).
int trainer_serve(struct trainer *trainer, struct error *err);

// trainer_gradients is the gradient of the last step, before the clip [params->elements]; over NCCL
// what this rank has summed of it.
const float *trainer_gradients(const struct trainer *trainer);

// trainer_state gives the flat arrays for checkpoints and publishing: master weights, first and
// second moments [params->elements] each, and the count of updates done. Valid until the next step;
// writing to them must be followed by trainer_refresh. On rank 0 the weights are those that all
// ranks computed; the moments too, after trainer_collect.
struct trainer_state {
    float *weights, *m, *v;
    int64_t *updates;
};
struct trainer_state trainer_state(struct trainer *trainer);
int trainer_collect(struct trainer *trainer, struct error *err); // between two steps
void trainer_refresh(struct trainer *trainer);

// trainer_model is the model in compute form, with the weights as published.
const struct model *trainer_model(const struct trainer *trainer);

static inline void trainer_destroyp(struct trainer **trainer)
{
    trainer_destroy(*trainer);
}

#endif
