// run_config.h: the one option table of a run. Every program of a run reads the same file with the
// same table, so a key means the same wherever it stands; each uses the sections that concern it.
#ifndef COMMON_BASE_RUN_CONFIG_H
#define COMMON_BASE_RUN_CONFIG_H

#include "common/base/config.h"

enum backend_choice { BACKEND_AUTO, BACKEND_REWIND, BACKEND_ZYGOTE };
enum isolation { ISOLATION_STRICT, ISOLATION_NAMESPACES, ISOLATION_PROCESS };
enum learnability { LEARNABILITY_COMPLEMENT, LEARNABILITY_VARIANCE };
enum proposal_source { PROPOSALS_MODEL, PROPOSALS_GENERATOR };
enum kl_on { KL_ON_ALL, KL_ON_PROPOSER };
enum proposer_baseline { PROPOSER_BLOCK, PROPOSER_INPUT_TYPE };
enum solver_rollouts { ROLLOUTS_FRESH, ROLLOUTS_REUSE };
enum solver_data { DATA_MAX_NEW, DATA_HALF_NEW, DATA_UNIFORM, DATA_RECENT };
enum reference_sampling { REFERENCES_UNIFORM, REFERENCES_RECENT };
enum task_filter { FILTER_ALL, FILTER_NOT_ALWAYS_SOLVED, FILTER_SOMETIMES_SOLVED };
enum whitening { WHITEN_TOKEN, WHITEN_SEQUENCE };
enum baseline { BASELINE_BLOCK, BASELINE_TASK };
enum aggregate { AGGREGATE_BLOCK, AGGREGATE_TOKEN };
enum induction_score { SCORE_BINARY, SCORE_FRACTION, SCORE_ANY };
enum lr_schedule { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE };
enum collective_choice { COLLECTIVE_HOST, COLLECTIVE_NCCL };
enum published_type { PUBLISH_BF16, PUBLISH_F32 };

enum intrinsic_combine { COMBINE_SUM, COMBINE_PRODUCT, COMBINE_SUM_PRODUCT, COMBINE_PRODUCT_SUM };

// Terms of a proposer's intrinsic reward (learner/intrinsic.h).
enum intrinsic_term {
    INTRINSIC_CYCLOMATIC,
    INTRINSIC_HALSTEAD,
    INTRINSIC_DISTANCE,
    INTRINSIC_INPUT,
    INTRINSIC_OUTPUT,
    INTRINSIC_STATEMENTS,
    INTRINSIC_TERMS
};

struct run_config {
    // the run
    char model[CONFIG_STRING_MAX];
    char run_dir[CONFIG_STRING_MAX];
    int64_t steps;
    int64_t seed;
    int64_t actors;
    int64_t verifiers;
    char endpoint[CONFIG_STRING_MAX];
    char weights_endpoint[CONFIG_STRING_MAX];
    int64_t connect_timeout_s;

    struct {
        char style[CONFIG_STRING_MAX];
        int64_t batch;
        int64_t references;
        int64_t inputs;
        int64_t samples;
        int proposals;
        int64_t induction_candidates;
        int solver_rollouts;
        int solver_data;
        int64_t old_tasks;
        int reference_sampling;
        int filter;
        int64_t seed_factor;
        char seed_file[CONFIG_STRING_MAX];
        int64_t tasks_max;
        unsigned types; // bits 1 << enum task_kind: the kinds that are played
        int reward;
        int learnability;
        double proposer_weight;
        bool shuffle_rewards;
        bool propose;
        int64_t warmup_solver_steps;
        int whitening;
        int baseline;
        int proposer_baseline;
        int aggregate;
        double zero_learnability_reward;
        double invalid_reward;
        double duplicate_reward;
        bool refuse_copied_inputs;
        bool hold_out;
        double wrong_reward;
        bool format_reward;
        int induction_score;
        int64_t composite_start;
        double composite_chance;
        int64_t composite_min;
        int64_t composite_max;
        int64_t staleness;
    } azr;

    struct {
        double coef[INTRINSIC_TERMS];
        double cap[INTRINSIC_TERMS];
        int combine;
    } intrinsic;

    struct {
        double temperature, top_p, min_p;
        int64_t top_k;
        int64_t prompt_tokens_max;
        int64_t response_tokens_max;
    } rollout;

    struct {
        double clip_low, clip_high, dual_clip, is_cap, entropy_coef, kl_coef;
        int kl_on;
        char reference[CONFIG_STRING_MAX];
    } loss;

    struct {
        double lr, beta1, beta2, epsilon, weight_decay, grad_norm_max, lr_final;
        int schedule;
        int64_t warmup_steps;
    } optimizer;

    struct {
        int64_t ranks;
        bool start_ranks;
        bool deterministic;
        int collective;
        int64_t rank_limit_s;
        int64_t threads;
        int64_t micro_tokens;
        int compute; // an enum compute of common/tensor/kernels.h
        int published;
        int64_t lease_s;
        char http[CONFIG_STRING_MAX];
    } learner;

    struct {
        int64_t threads;
        int64_t rows;
        int64_t kv_tokens;
        int64_t prefill_rows;
        int64_t capacity;
        char http[CONFIG_STRING_MAX];
    } actor;

    struct {
        int64_t workers;
        bool pin;
        int backend;
        int isolation;
        int64_t timeout_ms;
        int64_t memory_mb;
        int64_t images;
        int64_t images_risky;
        int64_t audit_every;
        bool allow_none;
        bool multiple_functions;
        char forbid[CONFIG_STRING_MAX];
        char http[CONFIG_STRING_MAX];
    } verifier;

    struct {
        int64_t every;
        int64_t keep;
        int64_t keep_every;
    } checkpoint;

    struct {
        char out[CONFIG_STRING_MAX];
        int64_t examples;
        int64_t layers, width, heads, kv_heads, ffn, positions;
        double init_std;
        double prompt_weight;
        double easy, late;
        double scratchpad, scratchpad_late;
    } pretrain;

    struct {
        int64_t tasks;
        char file[CONFIG_STRING_MAX];
        int64_t samples;
    } eval;
};

// run_options is the table of struct run_config.
extern const struct option_table run_options;

// The names of the compute types, in the order of enum compute (common/tensor/kernels.h), then
// NULL.
extern const char *const run_computes[];

// run_config_read applies the defaults, then the file (NULL: none), then `words` (key=value)
// [count].
int run_config_read(struct run_config *config, const char *path, char *const *words, int count,
                    struct error *err);

// run_config_read_folder reads what run_config_write left in a run folder, then `words`; run_dir is
// `run_dir` afterwards, wherever the folder was when it was written.
int run_config_read_folder(struct run_config *config, const char *run_dir, char *const *words,
                           int count, struct error *err);

// run_config_lengths fills in rollout lengths of 0 for a model of `positions`: the paper's 6144 and
// 8096, or the same shares of fewer positions.
void run_config_lengths(struct run_config *config, int64_t positions);

// run_config_endpoints fills empty endpoints with ipc:// sockets in the run folder. -ENAMETOOLONG
// when its path is too long for a socket (107 bytes).
int run_config_endpoints(struct run_config *config, struct error *err);

// run_config_write writes run_dir/config.yaml: every option as it holds in this run.
int run_config_write(const struct run_config *config, struct error *err);

#endif
