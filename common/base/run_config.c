#include "common/base/run_config.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/limits.h"

#include <errno.h>
#include <string.h>
#include <sys/un.h>

static const char *const backend_names[] = {"auto", "rewind", "zygote", NULL};
static const char *const isolation_names[] = {"strict", "namespaces", "process", NULL};
static const char *const type_names[] = {"deduction", "abduction", "induction", "error", NULL};
static const char *const reward_names[] = {"learnability_and_accuracy", NULL};
static const char *const learnability_names[] = {"complement", "variance", NULL};
static const char *const proposals_names[] = {"model", "generator", NULL};
static const char *const rollouts_names[] = {"fresh", "reuse", NULL};
static const char *const data_names[] = {"max_new", "half_new", "uniform", "recent", NULL};
static const char *const references_names[] = {"uniform", "recent", NULL};
static const char *const filter_names[] = {"all", "not_always_solved", "sometimes_solved", NULL};
static const char *const whitening_names[] = {"token", "sequence", NULL};
static const char *const baseline_names[] = {"block", "task", NULL};
static const char *const kl_on_names[] = {"all", "proposer", NULL};
static const char *const proposer_baseline_names[] = {"block", "input_type", NULL};
static const char *const aggregate_names[] = {"block", "token", NULL};
static const char *const score_names[] = {"binary", "fraction", "any", NULL};
static const char *const combine_names[] = {"sum", "product", "sum_product", "product_sum", NULL};
static const char *const schedule_names[] = {"constant", "linear", "cosine", NULL};
const char *const run_computes[] = {"auto", "f32", "bf16", "bf16-amx", NULL};
static const char *const collective_names[] = {"host", "nccl", NULL};
static const char *const published_names[] = {"bf16", "f32", NULL};

#define INT(key, field, initial, min, max, help)                                                   \
    INT_OPTION(run_config, key, field, initial, min, max, help)
#define REAL(key, field, initial, min, max, help)                                                  \
    REAL_OPTION(run_config, key, field, initial, min, max, help)
#define BOOL(key, field, initial, help)   BOOL_OPTION(run_config, key, field, initial, help)
#define STRING(key, field, initial, help) STRING_OPTION(run_config, key, field, initial, help)
#define CHOICE(key, field, initial, names, help)                                                   \
    CHOICE_OPTION(run_config, key, field, initial, names, help)

// clang-format off: one row, one line.
static const struct option rows[] = {
    STRING("model", model, "",
           "folder of the starting model (config.json, tokenizer.json, model.safetensors)"),
    STRING("run_dir", run_dir, "", "run folder; empty: runs/DATE-TIME"),
    INT("steps", steps, "500", 1, 1e9, "optimizer steps, then the run ends"),
    INT("seed", seed, "1", 0, 9e15, "of every random number of the run"),
    INT("actors", actors, "1", 0, WORKERS_MAX, "actor processes that `kelvin train` starts"),
    INT("verifiers", verifiers, "1", 0, WORKERS_MAX,
        "verifier processes that `kelvin train` starts"),
    STRING("endpoint", endpoint, "", "control socket; empty: ipc:// in the run folder"),
    STRING("weights_endpoint", weights_endpoint, "",
           "weight socket; empty: ipc:// in the run folder"),
    INT("connect_timeout_s", connect_timeout_s, "60", 1, 86400,
        "a worker gives up when no learner answers for so long"),

    STRING("azr.style", azr.style, "auto",
           "prompt style: compact, azr, chatml, llama3; auto: compact where the tokenizer has its "
           "tags, else azr"),
    INT("azr.batch", azr.batch, "64", 1, 65536,
        "B: proposals, and tasks to solve, per task type and step"),
    INT("azr.references", azr.references, "-1", -1, TASK_REFERENCES_MAX,
        "K: stored tasks shown to a proposer; -1: 6, or 2 in style compact"),
    INT("azr.inputs", azr.inputs, "0", 0, TASK_INPUTS_MAX,
        "N: inputs of an induction task, at least 2; 0: 10, or 4 in style compact"),
    INT("azr.samples", azr.samples, "8", 2, SAMPLES_MAX,
        "n: solver rollouts that estimate a proposal's accuracy"),
    CHOICE("azr.proposals", azr.proposals, "model", proposals_names,
           "who makes new tasks: the model, or, as a control, the program generator of `kelvin "
           "pretrain` (style compact)"),
    INT("azr.induction_candidates", azr.induction_candidates, "1", 1, INDUCTION_CANDIDATES_MAX,
        "stored programs drawn for an induction proposal; the shortest is shown"),
    CHOICE("azr.solver_rollouts", azr.solver_rollouts, "fresh", rollouts_names,
           "train on fresh rollouts, or reuse the n estimation rollouts"),
    CHOICE("azr.solver_data", azr.solver_data, "max_new", data_names,
           "which tasks are solved: new ones first, half, uniform, recent"),
    INT("azr.old_tasks", azr.old_tasks, "0", 0, 65536,
        "older tasks per type and step that are solved beside the new ones (azr.solver_rollouts: "
        "reuse), against forgetting"),
    CHOICE("azr.reference_sampling", azr.reference_sampling, "uniform", references_names,
           "which stored tasks are references"),
    CHOICE("azr.filter", azr.filter, "all", filter_names, "which valid tasks enter the store"),
    INT("azr.seed_factor", azr.seed_factor, "4", 1, 1024,
        "seeding ends at batch × this many valid tasks"),
    STRING("azr.seed_file", azr.seed_file, "",
           "JSON lines to seed the stores from, as every run leaves them in seeds.jsonl; several "
           "files with commas; empty: propose from the zero triplet"),
    INT("azr.tasks_max", azr.tasks_max, "16384", 16, 1 << 24,
        "tasks kept per type; the oldest non-seed leaves"),
    SET_OPTION(run_config, "azr.types", azr.types, "deduction,abduction,induction", type_names,
               "task types that are played"),
    BOOL("azr.propose", azr.propose, "true", "train the proposer; false: solver only"),
    INT("azr.warmup_solver_steps", azr.warmup_solver_steps, "0", 0, 1e9,
        "first steps that train the solver only"),
    CHOICE("azr.whitening", azr.whitening, "token", whitening_names,
           "TRR++ weighs a response by its tokens or once"),
    CHOICE("azr.baseline", azr.baseline, "block", baseline_names,
           "mean over the block, or over a task's n rollouts"),
    CHOICE(
        "azr.proposer_baseline", azr.proposer_baseline, "block", proposer_baseline_names,
        "of a valid proposal: mean over the block, or over its valid proposals with inputs of the "
        "same type, so that no type is favoured"),
    CHOICE("azr.aggregate", azr.aggregate, "block", aggregate_names,
           "every block weighs the same, or every token"),
    CHOICE("azr.reward", azr.reward, "learnability_and_accuracy", reward_names,
           "proposer: azr.learnability of its task; solver: 1 for the right answer"),
    CHOICE("azr.learnability", azr.learnability, "complement", learnability_names,
           "of a task solved at rate a, 0 < a < 1: 1 - a, or 4a(1 - a), which is highest in the "
           "middle"),
    REAL("azr.zero_learnability_reward", azr.zero_learnability_reward, "-0.5", -1, 1,
         "a proposal that is always or never solved"),
    REAL("azr.invalid_reward", azr.invalid_reward, "-1", -1, 0,
         "an invalid proposal, or a wrong format in either role"),
    REAL("azr.duplicate_reward", azr.duplicate_reward, "1", -1, 1,
         "of a valid proposal that the store holds already; 1: as any other"),
    BOOL("azr.refuse_copied_inputs", azr.refuse_copied_inputs, "false",
         "a proposal with the input of a task that its proposer was shown is invalid"),
    BOOL("azr.hold_out", azr.hold_out, "false",
         "train on no proposal and no induction answer that is a program which `kelvin eval` keeps "
         "for tests (a sixteenth)"),
    REAL("azr.proposer_weight", azr.proposer_weight, "1", 0.001, 1000,
         "weight of a proposer's block in the loss beside a solver's"),
    BOOL("azr.shuffle_rewards", azr.shuffle_rewards, "false",
         "a control: rewards are dealt out at random within their block, so that none is earned"),
    REAL("azr.wrong_reward", azr.wrong_reward, "-0.5", -1, 0, "a well-formatted wrong answer"),
    BOOL("azr.format_reward", azr.format_reward, "true",
         "a response in the wrong form earns invalid_reward; false: only its content counts"),
    CHOICE("azr.induction_score", azr.induction_score, "binary", score_names,
           "all hidden pairs, their share, or any"),
    REAL("azr.composite_chance", azr.composite_chance, "0", 0, 1,
         "share of proposals whose f must call stored functions g_0, g_1, ...; 0 is off"),
    INT("azr.composite_min", azr.composite_min, "1", 1, COMPOSITES_MAX, "fewest such functions"),
    INT("azr.composite_max", azr.composite_max, "3", 1, COMPOSITES_MAX, "most such functions"),
    INT("azr.composite_start", azr.composite_start, "1", 1, 1e9, "first step that has them"),
    INT("azr.staleness", azr.staleness, "0", 0, STALENESS_MAX,
        "S: versions that data may be old; 0 is synchronous"),

    REAL("intrinsic.cyclomatic", intrinsic.coef[0], "0", 0, 100,
         "proposer: coefficient of the cyclomatic complexity of a proposed program / 10; 0 is off"),
    REAL("intrinsic.cyclomatic_cap", intrinsic.cap[0], "0.5", 0, 100, "most that this term gives"),
    REAL("intrinsic.halstead", intrinsic.coef[1], "0", 0, 100,
         "proposer: coefficient of the Halstead's effort and volume with the complexity; 0 is off"),
    REAL("intrinsic.halstead_cap", intrinsic.cap[1], "0.5", 0, 100, "most that this term gives"),
    REAL("intrinsic.distance", intrinsic.coef[2], "0", 0, 100,
         "proposer: coefficient of the mean tree distance to the references shown; 0 is off"),
    REAL("intrinsic.distance_cap", intrinsic.cap[2], "0.5", 0, 100, "most that this term gives"),
    REAL("intrinsic.input", intrinsic.coef[3], "0", 0, 100,
         "proposer: coefficient of the rarity of the input in the store (abduction, induction); 0 "
         "is off"),
    REAL("intrinsic.input_cap", intrinsic.cap[3], "0.5", 0, 100, "most that this term gives"),
    REAL("intrinsic.output", intrinsic.coef[4], "0", 0, 100,
         "proposer: coefficient of the rarity of the output in the store (deduction, error, "
         "induction); 0 is off"),
    REAL("intrinsic.output_cap", intrinsic.cap[4], "0.5", 0, 100, "most that this term gives"),
    REAL("intrinsic.statements", intrinsic.coef[5], "0", 0, 100,
         "proposer: coefficient of the rarity of a proposed program's statements in the store, "
         "numbers and strings aside; 0 is off"),
    REAL("intrinsic.statements_cap", intrinsic.cap[5], "0.5", 0, 100, "most that this term gives"),
    CHOICE("intrinsic.combine", intrinsic.combine, "sum", combine_names,
           "learnability + sum of terms, × product, + product, × sum; only where it is positive"),

    REAL("rollout.temperature", rollout.temperature, "1", 0, 10,
         "sampling temperature; 0 is greedy"),
    REAL("rollout.top_p", rollout.top_p, "1", 0, 1, "nucleus; 1 is off"),
    INT("rollout.top_k", rollout.top_k, "0", 0, 1 << 20, "best k; 0 is off"),
    REAL("rollout.min_p", rollout.min_p, "0", 0, 1, "share of the best probability; 0 is off"),
    INT("rollout.prompt_tokens_max", rollout.prompt_tokens_max, "0", 0, PROMPT_TOKENS_MAX,
        "longest prompt; 0: 6144, or less where the model has few positions"),
    INT("rollout.response_tokens_max", rollout.response_tokens_max, "0", 0, RESPONSE_TOKENS_MAX,
        "longest response; 0: 8096, or less likewise"),

    REAL("loss.clip_low", loss.clip_low, "0.2", 0, 1, "ratio is clipped below 1 minus this"),
    REAL("loss.clip_high", loss.clip_high, "0.2", 0, 10, "ratio is clipped above 1 plus this"),
    REAL("loss.dual_clip", loss.dual_clip, "0", 0, 100,
         "bound for negative advantages (3 in the literature); 0 is off"),
    REAL("loss.is_cap", loss.is_cap, "2", 1, 100,
         "cap of truncated importance sampling where numerics differ"),
    REAL("loss.entropy_coef", loss.entropy_coef, "0.001", 0, 1, "entropy bonus"),
    REAL("loss.kl_coef", loss.kl_coef, "0", 0, 100,
         "penalty on the KL divergence to a reference model; 0 is off"),
    CHOICE("loss.kl_on", loss.kl_on, "all", kl_on_names,
           "the responses that it holds to the reference model: all, or a proposer's only"),
    STRING("loss.reference", loss.reference, "",
           "folder of the reference model; empty: the starting model"),

    REAL("optimizer.lr", optimizer.lr, "1e-6", 0, 1, "AdamW step size"),
    REAL("optimizer.beta1", optimizer.beta1, "0.9", 0, 0.9999, "AdamW first moment"),
    REAL("optimizer.beta2", optimizer.beta2, "0.999", 0, 0.999999, "AdamW second moment"),
    REAL("optimizer.epsilon", optimizer.epsilon, "1e-8", 1e-16, 1, "AdamW epsilon"),
    REAL("optimizer.weight_decay", optimizer.weight_decay, "0", 0, 1, "AdamW decoupled decay"),
    REAL("optimizer.grad_norm_max", optimizer.grad_norm_max, "1", 0, 1e9,
         "gradient norm is clipped to this"),
    CHOICE("optimizer.schedule", optimizer.schedule, "constant", schedule_names,
           "step size after the warm-up"),
    INT("optimizer.warmup_steps", optimizer.warmup_steps, "0", 0, 1e9, "steps of linear warm-up"),
    REAL("optimizer.lr_final", optimizer.lr_final, "0.1", 0, 1,
         "share of lr at the last step (linear, cosine)"),

    INT("learner.ranks", learner.ranks, "1", 1, 8, "processes that share a training step"),
    BOOL("learner.start_ranks", learner.start_ranks, "true",
         "rank 0 starts the other ranks; false: they are started by hand, with --rank"),
    BOOL("learner.deterministic", learner.deterministic, "true",
         "sum gradients in one order, whatever the ranks and threads; false takes less memory"),
    CHOICE("learner.collective", learner.collective, "host", collective_names,
           "how ranks exchange gradients and weights: host: shared memory; nccl: over their CUDA "
           "devices, one each, through kelvin_cuda.so, while the CPU computes; with deterministic: "
           "false NCCL then adds the gradients, in its own order"),
    INT("learner.rank_limit_s", learner.rank_limit_s, "600", 1, 86400,
        "a rank that does not come to a meeting for so long ends the run"),
    INT("learner.threads", learner.threads, "0", 0, 1024,
        "threads of a rank; 0: the cores, shared out"),
    INT("learner.micro_tokens", learner.micro_tokens, "2048", 64, 1 << 20,
        "token budget of a micro-batch"),
    CHOICE("learner.compute", learner.compute, "auto", run_computes,
           "what products are computed in, by actors and learner: f32; bf16: both sides rounded to "
           "bf16 and added in f32; bf16-amx: the same in the order of Intel's tile unit; auto: "
           "bf16-amx "
           "where the host has that unit, bf16 on AMD with AVX512-BF16, else f32. Each has the "
           "same bits "
           "on every host, so name one where hosts differ in kind"),
    CHOICE("learner.published", learner.published, "bf16", published_names,
           "type of the published weights"),
    INT("learner.lease_s", learner.lease_s, "600", 1, 86400,
        "a leased prompt goes back to the queue after so long"),
    STRING(
        "learner.http", learner.http, "",
        "address of /metrics and /healthz, like 127.0.0.1:9400; port 0: a free one; empty: none"),

    INT("actor.threads", actor.threads, "0", 0, 1024, "actor threads; 0: one per core"),
    INT("actor.rows", actor.rows, "64", 1, 4096, "sequences that run at once in a thread"),
    INT("actor.kv_tokens", actor.kv_tokens, "65536", 1024, 1 << 28,
        "KV cache, in tokens, per thread"),
    INT("actor.prefill_rows", actor.prefill_rows, "256", 32, 8192,
        "rows of one engine call, prompt chunks included"),
    INT("actor.capacity", actor.capacity, "1024", 1, CREDITS_MAX,
        "samples that an actor takes at once"),
    STRING("actor.http", actor.http, "",
           "likewise, of an actor; with several on a host use port 0, the log names it"),

    INT("verifier.workers", verifier.workers, "0", 0, 1024,
        "sandboxes that run at once; 0: one per core"),
    BOOL("verifier.pin", verifier.pin, "true",
         "keep each worker on one processor; false where several verifiers share a host"),
    CHOICE("verifier.backend", verifier.backend, "auto", backend_names,
           "rewind (Linux 6.7 and later) or zygote"),
    CHOICE("verifier.isolation", verifier.isolation, "namespaces", isolation_names,
           "least isolation that is accepted"),
    INT("verifier.timeout_ms", verifier.timeout_ms, "10000", 10, 600000,
        "wall time of one run; what it has to wait for a processor is not counted"),
    INT("verifier.memory_mb", verifier.memory_mb, "256", 64, 65536, "address space of one run"),
    INT("verifier.images", verifier.images, "2", 2, 8,
        "k: interpreters that must agree on a proposal"),
    INT("verifier.images_risky", verifier.images_risky, "4", 2, 8,
        "k for a program whose text looks as if it depended on what differs (sets, hash, id, ...)"),
    INT("verifier.audit_every", verifier.audit_every, "100", 1, 1e9,
        "rewinds, on average, between two full comparisons with the snapshot"),
    BOOL("verifier.allow_none", verifier.allow_none, "false", "accept programs that return None"),
    BOOL("verifier.multiple_functions", verifier.multiple_functions, "false",
         "accept helpers and classes beside f"),
    STRING("verifier.forbid", verifier.forbid, "", "more forbidden modules, separated by spaces"),
    STRING("verifier.http", verifier.http, "", "likewise, of a verifier"),

    INT("checkpoint.every", checkpoint.every, "50", 0, 1e9,
        "steps between checkpoints; 0: only the last"),
    INT("checkpoint.keep", checkpoint.keep, "3", 1, 1000,
        "newest checkpoints kept, besides step-0"),
    INT("checkpoint.keep_every", checkpoint.keep_every, "0", 0, 1e9,
        "checkpoints whose step is a multiple of this stay for ever; 0: none"),

    STRING("pretrain.out", pretrain.out, "",
           "folder of the model that `kelvin pretrain` makes; it must not exist yet"),
    INT("pretrain.examples", pretrain.examples, "96", 1, 4096, "generated examples in a step"),
    INT("pretrain.layers", pretrain.layers, "4", 1, 64, "layers of the new model"),
    INT("pretrain.width", pretrain.width, "128", 16, 4096, "width of its residual stream"),
    INT("pretrain.heads", pretrain.heads, "4", 1, 64, "its query heads; they divide the width"),
    INT("pretrain.kv_heads", pretrain.kv_heads, "2", 1, 64,
        "its key and value heads; they divide the query heads"),
    INT("pretrain.ffn", pretrain.ffn, "320", 16, 16384, "hidden width of its feed-forward part"),
    INT("pretrain.positions", pretrain.positions, "1024", 64, 32768, "its longest sequence"),
    REAL("pretrain.init_std", pretrain.init_std, "0.06", 1e-4, 1,
         "standard deviation of its first weights"),
    REAL("pretrain.prompt_weight", pretrain.prompt_weight, "0.2", 0, 1,
         "loss weight of a prompt token; a response token has 1"),
    REAL("pretrain.easy", pretrain.easy, "0.1", 0, 1,
         "first share of the steps, with programs of one or two statements"),
    REAL("pretrain.late", pretrain.late, "0.2", 0, 1,
         "last share of the steps, with pretrain.scratchpad_late"),
    REAL("pretrain.scratchpad", pretrain.scratchpad, "0.5", 0, 1,
         "share of deduction and abduction answers that show their work"),
    REAL("pretrain.scratchpad_late", pretrain.scratchpad_late, "0.25", 0, 1,
         "the same in the last steps"),

    INT("eval.tasks", eval.tasks, "200", 2, EVAL_TASKS_MAX,
        "held-out tasks a type that `kelvin eval` plays"),
    STRING("eval.file", eval.file, "",
           "JSON lines of tasks to measure on, in the form of azr.seed_file; empty: held-out "
           "programs of the generator"),
    INT("eval.samples", eval.samples, "8", 1, SAMPLES_MAX,
        "answers a task where it samples; a greedy answer comes once"),
};
// clang-format on

// The names of the keys in the paper's quick start.
static const struct option_alias aliases[] = {
    {"model_name", "model"},           {"task_types", "azr.types"},
    {"reward_function", "azr.reward"}, {"learning_rate", "optimizer.lr"},
    {"batch_size", "azr.batch"},
};

const struct option_table run_options = {.rows = rows,
                                         .count = (int)(sizeof(rows) / sizeof(*rows)),
                                         .aliases = aliases,
                                         .alias_count = (int)(sizeof(aliases) / sizeof(*aliases))};

int run_config_read(struct run_config *config, const char *path, char *const *words, int count,
                    struct error *err)
{
    config_defaults(config, &run_options);
    int code = path == NULL ? 0 : config_load(config, &run_options, path, err);
    for (int i = 0; code == 0 && i < count; i++) {
        code = config_set(config, &run_options, words[i], "command line", err);
    }
    return code;
}

int run_config_read_folder(struct run_config *config, const char *run_dir, char *const *words,
                           int count, struct error *err)
{
    char path[CONFIG_STRING_MAX + 16];
    if (strlen(run_dir) >= CONFIG_STRING_MAX) {
        return error_set(err, -ENAMETOOLONG, "the name of the run folder is too long");
    }
    (void)snprintf(path, sizeof(path), "%s/config.yaml", run_dir);
    int code = run_config_read(config, path, words, count, err);
    if (code == 0) {
        (void)snprintf(config->run_dir, sizeof(config->run_dir), "%s", run_dir);
    }
    return code;
}

void run_config_lengths(struct run_config *config, int64_t positions)
{
    enum { PROMPT = 6144, RESPONSE = 8096 };
    bool few = positions < PROMPT + RESPONSE;
    if (config->rollout.response_tokens_max == 0) {
        config->rollout.response_tokens_max =
            few ? positions * RESPONSE / (PROMPT + RESPONSE) : RESPONSE;
    }
    if (config->rollout.prompt_tokens_max == 0) {
        int64_t left = positions - config->rollout.response_tokens_max;
        config->rollout.prompt_tokens_max = left < PROMPT ? left : PROMPT;
    }
}

static int socket_in_run(char *out, const char *run_dir, const char *name, struct error *err)
{
    if (out[0] != '\0') {
        return 0;
    }
    int length = snprintf(out, CONFIG_STRING_MAX, "ipc://%s/%s", run_dir, name);
    size_t path_max = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;
    if (length < 0 || (size_t)length - strlen("ipc://") > path_max) {
        return error_set(err, -ENAMETOOLONG,
                         "run_dir %s is too long for a socket's name; choose a shorter one or set "
                         "endpoint and weights_endpoint",
                         run_dir);
    }
    return 0;
}

int run_config_endpoints(struct run_config *config, struct error *err)
{
    int code = socket_in_run(config->endpoint, config->run_dir, "control.sock", err);
    return code < 0 ? code
                    : socket_in_run(config->weights_endpoint, config->run_dir, "weights.sock", err);
}

int run_config_write(const struct run_config *config, struct error *err)
{
    CLEANUP(freep) char *text = NULL;
    size_t size = 0;
    char path[CONFIG_STRING_MAX + 16];
    FILE *file = open_memstream(&text, &size);
    CHECK(file != NULL);
    config_dump(config, &run_options, file);
    CHECK(fclose(file) == 0);
    (void)snprintf(path, sizeof(path), "%s/config.yaml", config->run_dir);
    return file_write(path, text, size, err);
}
