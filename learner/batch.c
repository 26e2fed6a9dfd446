#include "learner/batch.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "learner/baselines.h"
#include "learner/draw.h"
#include "learner/generator.h"
#include "learner/reward.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void batch_destroy(struct batch *batch)
{
    if (batch != NULL) {
        free(batch->sequences);
        free(batch->rows);
        free(batch->floats);
        free(batch->ids);
        free(batch);
    }
}

CLEANUP_FUNCTION(struct batch, batch_destroy)

static int32_t rows_at_most(struct group *const *groups, int32_t count)
{
    int32_t rows = 0;
    for (int32_t i = 0; i < count; i++) {
        rows += 1 + groups[i]->answer_count;
    }
    return rows;
}

static void add_row(struct batch *batch, const struct group *group, const struct play *play,
                    enum role role, double reward)
{
    struct batch_kind *kind = &batch->kinds[group->kind];
    int64_t tokens = (int64_t)play->rollout->n_tokens;
    if (role == ROLE_PROPOSE) {
        kind->proposer_reward += reward;
        kind->proposer_rows++;
        kind->proposer_tokens += tokens;
    } else {
        kind->solver_reward += reward;
        kind->solver_rows++;
        kind->solver_tokens += tokens;
    }
    batch->rows[batch->row_count++] =
        (struct batch_row){.group = group, .play = play, .role = role, .reward = reward};
}

static void add_intrinsic(struct batch_kind *kind, const struct intrinsic *intrinsic)
{
    for (int i = 0; i < INTRINSIC_TERMS; i++) {
        if (!isnan(intrinsic->value[i])) {
            kind->intrinsic[i] += intrinsic->value[i];
            kind->intrinsic_counts[i]++;
        }
    }
}

static void add_proposal(struct batch *batch, const struct group *group,
                         const struct run_config *config, bool propose)
{
    struct batch_kind *kind = &batch->kinds[group->kind];
    struct proposal_result result = {.outcome = (enum outcome)group->proposal.verdict->outcome,
                                     .formatted = group->proposal.verdict->formatted,
                                     .duplicate = group->duplicate,
                                     .accuracy = group->accuracy,
                                     .intrinsic = group->intrinsic};
    kind->proposals++;
    kind->valid += result.outcome == OUTCOME_OK;
    kind->formatted += result.formatted;
    kind->duplicates += result.duplicate;
    if (result.outcome == OUTCOME_OK) {
        kind->learnability +=
            reward_learnability((enum learnability)config->azr.learnability, result.accuracy, 0.0);
        add_intrinsic(kind, &group->intrinsic);
    }
    if (propose) {
        add_row(batch, group, &group->proposal, ROLE_PROPOSE, reward_propose(config, &result));
    }
}

// An answer to an induction task can be a program that is kept for tests.
static bool is_withheld(const struct run_config *config, const struct group *group,
                        const struct play *play)
{
    return config->azr.hold_out && group->kind == KIND_INDUCTION &&
           generator_held_out(play->verdict->program);
}

static void add_answers(struct batch *batch, const struct group *group,
                        const struct run_config *config, bool train)
{
    struct batch_kind *kind = &batch->kinds[group->kind];
    for (int32_t i = 0; i < group->answer_count; i++) {
        const struct play *play = &group->answers[i];
        if (play->verdict == NULL) {
            continue; // the task's prompt was too long to be asked
        }
        struct answer_result result = {.outcome = (enum outcome)play->verdict->outcome,
                                       .formatted = play->verdict->formatted,
                                       .score = (double)play->verdict->score};
        kind->answers++;
        kind->accuracy += result.score;
        kind->scratchpads += play->verdict->scratchpad;
        bool withheld = is_withheld(config, group, play);
        kind->answers_withheld += withheld;
        if (train && !withheld) {
            add_row(batch, group, play, ROLE_SOLVE, reward_solve(config, &result));
        }
    }
}

static void count_sampled(struct batch *batch, const struct group *group)
{
    if (group->proposal.rollout != NULL) {
        batch->tokens_sampled += (int64_t)group->proposal.rollout->n_tokens;
    }
    for (int32_t i = 0; i < group->answer_count; i++) {
        if (group->answers[i].rollout != NULL) {
            batch->tokens_sampled += (int64_t)group->answers[i].rollout->n_tokens;
        }
    }
}

static void add_group(struct batch *batch, const struct group *group,
                      const struct run_config *config, bool propose)
{
    count_sampled(batch, group);
    if (group->state == GROUP_DROPPED) {
        batch->kinds[group->kind].dropped++;
        batch->kinds[group->kind].withheld += group->withheld;
        return;
    }
    if (group->role == ROLE_PROPOSE) {
        add_proposal(batch, group, config, propose);
        add_answers(batch, group, config, config->azr.solver_rollouts == ROLLOUTS_REUSE);
    } else {
        add_answers(batch, group, config, true);
    }
}

// Trained tokens and how old they are, in versions.
static void measure_rows(struct batch *batch, uint64_t version)
{
    double age = 0.0;
    for (int32_t i = 0; i < batch->row_count; i++) {
        const Kelvin__Rollout *rollout = batch->rows[i].play->rollout;
        batch->tokens_trained += (int64_t)rollout->n_tokens;
        for (size_t k = 0; k < rollout->n_versions; k++) {
            const Kelvin__VersionRun *run = rollout->versions[k];
            age += run->version < version ? (double)(version - run->version) * run->count : 0.0;
        }
    }
    batch->staleness = batch->tokens_trained > 0 ? age / (double)batch->tokens_trained : 0.0;
}

// Sums become means.
static void finish_kinds(struct batch *batch)
{
    for (int i = 0; i < KINDS; i++) {
        struct batch_kind *kind = &batch->kinds[i];
        kind->accuracy /= kind->answers > 0 ? kind->answers : 1;
        kind->learnability /= kind->valid > 0 ? kind->valid : 1;
        kind->proposer_reward /= kind->proposer_rows > 0 ? kind->proposer_rows : 1;
        kind->solver_reward /= kind->solver_rows > 0 ? kind->solver_rows : 1;
        for (int term = 0; term < INTRINSIC_TERMS; term++) {
            int32_t count = kind->intrinsic_counts[term];
            kind->intrinsic[term] /= count > 0 ? count : 1;
        }
    }
}

// The control azr.shuffle_rewards: the rewards of a block change places at random.
static void shuffle_rewards(struct batch *batch, uint64_t seed, uint64_t step)
{
    CLEANUP(freep) int32_t *rows = calloc((size_t)batch->row_count + 1, sizeof(*rows));
    CHECK(rows != NULL);
    struct rng rng = {.key = seed, .stream = draw_stream((int64_t)step, DRAW_SHUFFLE)};
    for (int block = 0; block < BLOCKS; block++) {
        int32_t count = 0;
        for (int32_t i = 0; i < batch->row_count; i++) {
            if (block_of(batch->rows[i].group->kind, batch->rows[i].role) == block) {
                rows[count++] = i;
            }
        }
        for (int32_t i = count - 1; i > 0; i--) {
            double *a = &batch->rows[rows[i]].reward;
            double *b = &batch->rows[rows[rng_below(&rng, (uint64_t)i + 1)]].reward;
            double kept = *a;
            *a = *b;
            *b = kept;
        }
    }
}

// Advantages of all rows.
static int compute_advantages(struct batch *batch, const struct run_config *config,
                              struct error *err)
{
    size_t count = (size_t)batch->row_count + 1;
    CLEANUP(freep) struct response *responses = calloc(count, sizeof(*responses));
    CLEANUP(freep) float *advantages = calloc(count, sizeof(*advantages));
    CLEANUP(freep) int32_t *baselines = calloc(count, sizeof(*baselines));
    if (responses == NULL || advantages == NULL || baselines == NULL) {
        return error_set(err, -ENOMEM, "batch: no memory for %d rows", batch->row_count);
    }
    baselines_number(baselines, batch->rows, batch->row_count, config);
    for (int32_t i = 0; i < batch->row_count; i++) {
        const struct batch_row *row = &batch->rows[i];
        responses[i] = (struct response){.reward = row->reward,
                                         .tokens = (int32_t)row->play->rollout->n_tokens,
                                         .block = block_of(row->group->kind, row->role),
                                         .baseline = baselines[i]};
    }
    trr_advantage(advantages, responses, batch->row_count, (enum whitening)config->azr.whitening);
    for (int32_t i = 0; i < batch->row_count; i++) {
        batch->rows[i].advantage = advantages[i];
    }
    return 0;
}

static double role_weight(const struct run_config *config, int block)
{
    return block % ROLES == ROLE_PROPOSE ? config->azr.proposer_weight : 1.0;
}

// The weight of a token, by block (AZR.md section 6). A proposer's block counts
// azr.proposer_weight times in the mean over blocks, or its tokens in the mean over tokens.
static void token_weights(const struct batch *batch, const struct run_config *config,
                          float weights[BLOCKS])
{
    int64_t tokens[BLOCKS] = {0};
    double sum = 0.0;
    bool by_block = config->azr.aggregate == AGGREGATE_BLOCK;
    for (int32_t i = 0; i < batch->row_count; i++) {
        const struct batch_row *row = &batch->rows[i];
        int64_t count = (int64_t)row->play->rollout->n_tokens;
        tokens[block_of(row->group->kind, row->role)] += count;
    }
    for (int b = 0; b < BLOCKS; b++) {
        double share = tokens[b] == 0 ? 0.0 : by_block ? 1.0 : (double)tokens[b];
        sum += share * role_weight(config, b);
    }
    for (int b = 0; b < BLOCKS; b++) {
        double divisor = by_block ? sum * (double)tokens[b] : sum;
        weights[b] = tokens[b] > 0 ? (float)(role_weight(config, b) / divisor) : 0.0F;
    }
}

// Whether loss.kl_coef holds a row to the reference model.
static bool is_held(const struct run_config *config, const struct batch_row *row)
{
    return config->loss.kl_coef > 0.0 &&
           (config->loss.kl_on == KL_ON_ALL || row->role == ROLE_PROPOSE);
}

static bool sampled_by(const Kelvin__Rollout *rollout, uint64_t version)
{
    for (size_t i = 0; i < rollout->n_versions; i++) {
        if (rollout->versions[i]->version != version) {
            return false;
        }
    }
    return rollout->n_versions > 0;
}

// Where the arrays of the next sequence go.
struct cursor {
    int32_t *ids;
    float *floats;
};

static struct sequence write_sequence(struct cursor *cursor, const struct batch_row *row,
                                      float weight, uint64_t version, const char *numerics)
{
    const Kelvin__Rollout *rollout = row->play->rollout;
    size_t prompt = rollout->n_prompt;
    size_t count = prompt + rollout->n_tokens;
    int32_t *ids = cursor->ids;
    float *weights = cursor->floats;
    float *behaviour = weights + count;
    for (size_t i = 0; i < count; i++) {
        bool response = i >= prompt;
        ids[i] = (int32_t)(response ? rollout->tokens[i - prompt] : rollout->prompt[i]);
        weights[i] = response ? weight : 0.0F;
        behaviour[i] = response ? rollout->logprobs[i - prompt] : 0.0F;
    }
    cursor->ids += count;
    cursor->floats += 2 * count;
    bool foreign = strcmp(rollout->numerics, numerics) != 0;
    return (struct sequence){.count = (int32_t)count,
                             .ids = ids,
                             .weight = weights,
                             .behaviour = behaviour,
                             .advantage = row->advantage,
                             .on_policy = !foreign && sampled_by(rollout, version),
                             .corrected = foreign};
}

static uint64_t hash_of(const struct sequence *sequence)
{
    uint64_t hash = 1469598103934665603ULL; // FNV-1a over the ids
    for (int32_t i = 0; i < sequence->count; i++) {
        hash = (hash ^ (uint64_t)(uint32_t)sequence->ids[i]) * 1099511628211ULL;
    }
    return hash;
}

static bool same_sequence(const struct sequence *a, const struct sequence *b)
{
    size_t count = (size_t)a->count;
    if (a->count != b->count || a->advantage != b->advantage || a->on_policy != b->on_policy ||
        a->corrected != b->corrected || a->free != b->free ||
        memcmp(a->ids, b->ids, count * sizeof(*a->ids)) != 0 ||
        memcmp(a->behaviour, b->behaviour, count * sizeof(*a->behaviour)) != 0) {
        return false;
    }
    for (int32_t i = 0; i < a->count; i++) { // where the response begins
        if ((a->weight[i] == 0.0F) != (b->weight[i] == 0.0F)) {
            return false;
        }
    }
    return true;
}

// An open-addressing table of sequence numbers + 1, twice as large as it can get full.
struct seen {
    int32_t *slots;
    uint64_t mask;
};

// The earlier sequence that equals `sequence`, or NULL after remembering it as number `index`.
static struct sequence *find_same(struct seen *seen, struct sequence *sequences, int32_t index,
                                  const struct sequence *sequence)
{
    uint64_t at = hash_of(sequence) & seen->mask;
    for (; seen->slots[at] != 0; at = (at + 1) & seen->mask) {
        struct sequence *other = &sequences[seen->slots[at] - 1];
        if (same_sequence(other, sequence)) {
            return other;
        }
    }
    seen->slots[at] = index + 1;
    return NULL;
}

static void add_weight(const struct batch *batch, struct sequence *sequence, float weight)
{
    float *weights = batch->floats + (sequence->weight - batch->floats);
    for (int32_t i = 0; i < sequence->count; i++) {
        weights[i] += weights[i] > 0.0F ? weight : 0.0F;
    }
}

static int alloc_sequences(struct batch *batch, struct seen *seen, struct error *err)
{
    size_t tokens = 0;
    size_t slots = 16;
    for (int32_t i = 0; i < batch->row_count; i++) {
        const Kelvin__Rollout *rollout = batch->rows[i].play->rollout;
        tokens += rollout->n_prompt + rollout->n_tokens;
    }
    while (slots < 2 * (size_t)batch->row_count) {
        slots *= 2;
    }
    batch->sequences = calloc((size_t)batch->row_count + 1, sizeof(*batch->sequences));
    batch->ids = calloc(tokens + 1, sizeof(*batch->ids));
    batch->floats = calloc(2 * tokens + 1, sizeof(*batch->floats));
    *seen = (struct seen){.slots = calloc(slots, sizeof(*seen->slots)), .mask = slots - 1};
    if (batch->sequences == NULL || batch->ids == NULL || batch->floats == NULL ||
        seen->slots == NULL) {
        free(seen->slots);
        return error_set(err, -ENOMEM, "batch: no memory for %zu tokens", tokens);
    }
    return 0;
}

static int build_sequences(struct batch *batch, const struct run_config *config, uint64_t version,
                           const char *numerics, struct error *err)
{
    float weights[BLOCKS];
    token_weights(batch, config, weights);
    struct seen seen = {0};
    int code = alloc_sequences(batch, &seen, err);
    if (code < 0) {
        return code;
    }
    struct cursor cursor = {.ids = batch->ids, .floats = batch->floats};
    bool entropy = config->loss.entropy_coef > 0.0;
    for (int32_t i = 0; i < batch->row_count; i++) {
        const struct batch_row *row = &batch->rows[i];
        bool held = is_held(config, row);
        if (row->advantage == 0.0F && !entropy && !held) {
            continue; // it would move nothing
        }
        float weight = weights[block_of(row->group->kind, row->role)];
        struct cursor before = cursor;
        struct sequence sequence = write_sequence(&cursor, row, weight, version, numerics);
        sequence.free = !held;
        struct sequence *same = find_same(&seen, batch->sequences, batch->count, &sequence);
        if (same != NULL) {
            add_weight(batch, same, weight);
            cursor = before; // its place is used again
        } else {
            batch->sequences[batch->count++] = sequence;
        }
    }
    free(seen.slots);
    return 0;
}

int batch_create(struct batch **out, struct group *const *groups, int32_t count,
                 const struct run_config *config, bool propose, uint64_t version,
                 const char *numerics, struct error *err)
{
    CLEANUP(batch_destroyp) struct batch *batch = calloc(1, sizeof(*batch));
    if (batch == NULL) {
        return error_set(err, -ENOMEM, "batch: out of memory");
    }
    batch->rows = calloc((size_t)rows_at_most(groups, count) + 1, sizeof(*batch->rows));
    if (batch->rows == NULL) {
        return error_set(err, -ENOMEM, "batch: out of memory");
    }
    for (int32_t i = 0; i < count; i++) {
        add_group(batch, groups[i], config, propose);
    }
    finish_kinds(batch);
    measure_rows(batch, version);
    if (config->azr.shuffle_rewards) {
        shuffle_rewards(batch, (uint64_t)config->seed, version);
    }
    int code = compute_advantages(batch, config, err);
    code = code < 0 ? code : build_sequences(batch, config, version, numerics, err);
    if (code < 0) {
        return code;
    }
    *out = TAKE(batch);
    return 0;
}
