#include "tests/support.h"

#include "common/wire/message.h"
#include "learner/batch.h"
#include "learner/generator.h"
#include "learner/seeds.h"

#include <stdlib.h>
#include <string.h>

// A step's groups as a test writes them down, and what must be freed.
struct scene {
    struct run_config config;
    struct replay *replay;
    struct group **groups;
    int32_t count;
};

static int setup(void **state)
{
    struct scene *scene = calloc(1, sizeof(*scene));
    assert_non_null(scene);
    assert_int_equal(run_config_read(&scene->config, NULL, NULL, 0, NULL), 0);
    scene->config.loss.entropy_coef = 0.0;
    scene->config.azr.solver_rollouts = ROLLOUTS_REUSE;
    assert_int_equal(replay_create(&scene->replay, 0, NULL), 0);
    *state = scene;
    return 0;
}

static int teardown(void **state)
{
    struct scene *scene = *state;
    for (int32_t i = 0; i < scene->count; i++) {
        group_destroy(scene->groups[i]);
    }
    free(scene->groups);
    replay_destroy(scene->replay);
    free(scene);
    return 0;
}

// A response of `tokens` tokens (all `id`) to a prompt of two, sampled by version 4.
static void set_play(struct play *play, uint32_t id, size_t tokens, Kelvin__Outcome outcome,
                     bool formatted)
{
    uint32_t prompt[] = {1, 2};
    uint32_t ids[16];
    float logprobs[16];
    for (size_t i = 0; i < tokens; i++) {
        ids[i] = id;
        logprobs[i] = -0.25F * (float)(i + 1);
    }
    char numerics[] = "cpu-f32";
    Kelvin__VersionRun run = KELVIN__VERSION_RUN__INIT;
    run.version = 4;
    run.count = (uint32_t)tokens;
    Kelvin__VersionRun *runs[] = {&run};
    Kelvin__Rollout rollout = KELVIN__ROLLOUT__INIT;
    rollout.n_prompt = 2;
    rollout.prompt = prompt;
    rollout.n_tokens = rollout.n_logprobs = tokens;
    rollout.tokens = ids;
    rollout.logprobs = logprobs;
    rollout.n_versions = 1;
    rollout.versions = runs;
    rollout.numerics = numerics;
    play->rollout = message_copy(&rollout.base);
    Kelvin__Verdict verdict = KELVIN__VERDICT__INIT;
    verdict.outcome = outcome;
    verdict.formatted = formatted;
    verdict.score = outcome == KELVIN__OUTCOME__OK ? 1.0F : 0.0F;
    play->verdict = message_copy(&verdict.base);
}

static struct group *add_proposal(struct scene *scene, int32_t slot, double accuracy)
{
    struct group *group = replay_open(scene->replay, 1, KIND_DEDUCTION, ROLE_PROPOSE, slot);
    set_play(&group->proposal, 10 + (uint32_t)slot, 3, KELVIN__OUTCOME__OK, true);
    group->valid = true;
    group->accuracy = accuracy;
    group->state = GROUP_FINISHED;
    return group;
}

static struct batch *build(struct scene *scene, const char *numerics)
{
    replay_seal(scene->replay, 1);
    scene->count = replay_take(scene->replay, 1, &scene->groups);
    struct batch *batch = NULL;
    assert_int_equal(
        batch_create(&batch, scene->groups, scene->count, &scene->config, true, 4, numerics, NULL),
        0);
    return batch;
}

// Two proposals with a = 1/4 and 3/4 give rewards 3/4 and 1/4 and opposite advantages; every token
// of the only block weighs one over all its tokens; prompt tokens weigh nothing.
static void test_proposals(void **state)
{
    struct scene *scene = *state;
    add_proposal(scene, 0, 0.25);
    add_proposal(scene, 1, 0.75);
    struct batch *batch = build(scene, "cpu-f32");
    assert_int_equal(batch->count, 2);
    assert_int_equal(batch->kinds[KIND_DEDUCTION].valid, 2);
    assert_float_equal(batch->kinds[KIND_DEDUCTION].proposer_reward, 0.5, 1e-12);
    const struct sequence *first = &batch->sequences[0];
    assert_int_equal(first->count, 5);
    assert_float_equal(first->weight[1], 0.0, 0.0);
    assert_float_equal(first->weight[2], 1.0F / 6.0F, 1e-7);
    assert_float_equal(first->behaviour[4], -0.75, 0.0);
    assert_true(first->advantage > 0.0F);
    assert_float_equal(first->advantage, -batch->sequences[1].advantage, 1e-6);
    assert_true(first->on_policy);
    assert_false(first->corrected);
    batch_destroy(batch);
}

// Reused estimates are the solver's rows; equal ones are merged into one with their summed weight;
// both blocks weigh the same.
static void test_reuse_and_merge(void **state)
{
    struct scene *scene = *state;
    struct group *group = add_proposal(scene, 0, 2.0 / 3.0);
    add_proposal(scene, 1, 0.5);
    group_expect(group, 3);
    set_play(&group->answers[0], 7, 2, KELVIN__OUTCOME__OK, true);
    set_play(&group->answers[1], 8, 2, KELVIN__OUTCOME__WRONG, true);
    set_play(&group->answers[2], 7, 2, KELVIN__OUTCOME__OK, true);
    struct batch *batch = build(scene, "cpu-f32");
    assert_int_equal(batch->row_count, 5);
    assert_int_equal(batch->count, 4);
    double sums[2] = {0};
    double heaviest = 0.0;
    for (int32_t i = 0; i < batch->count; i++) {
        const struct sequence *sequence = &batch->sequences[i];
        bool solver = sequence->ids[2] < 10;
        for (int32_t k = 0; k < sequence->count; k++) {
            sums[solver] += (double)sequence->weight[k];
            heaviest =
                (double)sequence->weight[k] > heaviest ? (double)sequence->weight[k] : heaviest;
        }
    }
    assert_float_equal(sums[0], 0.5, 1e-6);
    assert_float_equal(sums[1], 0.5, 1e-6);
    assert_float_equal((float)heaviest, 2.0F / 12.0F,
                       1e-6); // two of six solver tokens, half the loss
    assert_float_equal(batch->kinds[KIND_DEDUCTION].accuracy, 2.0F / 3.0F, 1e-6);
    batch_destroy(batch);
}

// Fresh mode: estimates are judged, but train nothing.
static void test_fresh_estimates(void **state)
{
    struct scene *scene = *state;
    scene->config.azr.solver_rollouts = ROLLOUTS_FRESH;
    struct group *group = add_proposal(scene, 0, 0.5);
    add_proposal(scene, 1, 1.0);
    group_expect(group, 2);
    set_play(&group->answers[0], 7, 2, KELVIN__OUTCOME__OK, true);
    set_play(&group->answers[1], 8, 2, KELVIN__OUTCOME__WRONG, true);
    struct batch *batch = build(scene, "cpu-f32");
    assert_int_equal(batch->row_count, 2);
    assert_int_equal(batch->kinds[KIND_DEDUCTION].answers, 2);
    assert_int_equal(batch->tokens_sampled, 3 + 3 + 2 + 2);
    batch_destroy(batch);
}

// Rows without advantage are left out unless the entropy bonus moves them.
static void test_nothing_to_learn(void **state)
{
    struct scene *scene = *state;
    add_proposal(scene, 0, 0.5);
    add_proposal(scene, 1, 0.5);
    struct batch *batch = build(scene, "cpu-f32");
    assert_int_equal(batch->row_count, 2);
    assert_int_equal(batch->count, 0);
    batch_destroy(batch);
    scene->config.loss.entropy_coef = 0.001;
    assert_int_equal(
        batch_create(&batch, scene->groups, scene->count, &scene->config, true, 4, "cpu-f32", NULL),
        0);
    assert_int_equal(batch->count, 2);
    batch_destroy(batch);
}

// Another numerics id is corrected and never called on-policy; a dropped group is counted only.
static void test_foreign_numerics(void **state)
{
    struct scene *scene = *state;
    add_proposal(scene, 0, 0.25);
    add_proposal(scene, 1, 0.75);
    add_proposal(scene, 2, 0.75)->state = GROUP_DROPPED;
    struct batch *batch = build(scene, "cuda-bf16");
    assert_int_equal(batch->count, 2);
    assert_false(batch->sequences[0].on_policy);
    assert_true(batch->sequences[0].corrected);
    assert_int_equal(batch->kinds[KIND_DEDUCTION].dropped, 1);
    assert_int_equal(batch->kinds[KIND_DEDUCTION].proposals, 2);
    batch_destroy(batch);
}

// azr.proposer_weight: a proposer's block has so many times the weight of a solver's.
static void test_proposer_weight(void **state)
{
    struct scene *scene = *state;
    scene->config.azr.proposer_weight = 0.25;
    struct group *group = add_proposal(scene, 0, 0.5);
    add_proposal(scene, 1, 0.25);
    group_expect(group, 2);
    set_play(&group->answers[0], 7, 2, KELVIN__OUTCOME__OK, true);
    set_play(&group->answers[1], 8, 4, KELVIN__OUTCOME__WRONG, true);
    struct batch *batch = build(scene, "cpu-f32");
    double sums[2] = {0};
    for (int32_t i = 0; i < batch->count; i++) {
        const struct sequence *sequence = &batch->sequences[i];
        for (int32_t k = 0; k < sequence->count; k++) {
            sums[sequence->ids[2] < 10] += (double)sequence->weight[k];
        }
    }
    assert_float_equal(sums[0], 0.2, 1e-6); // 1/4 to 1, of a sum of 1
    assert_float_equal(sums[1], 0.8, 1e-6);
    batch_destroy(batch);
}

// With azr.hold_out an induction answer that is a program kept for tests is judged and counted, but
// not trained on.
static void test_withheld_answers(void **state)
{
    struct scene *scene = *state;
    char held[64] = "", free_to_use[64] = "";
    for (int i = 0; held[0] == '\0' || free_to_use[0] == '\0'; i++) {
        char program[64];
        (void)snprintf(program, sizeof(program), "def f(a):\n a=a+%d\n return a", i);
        memcpy(generator_held_out(program) ? held : free_to_use, program, sizeof(program));
    }
    struct group *group = replay_open(scene->replay, 1, KIND_INDUCTION, ROLE_SOLVE, 0);
    group_expect(group, 3);
    group->state = GROUP_FINISHED;
    for (int i = 0; i < 3; i++) {
        struct play *play = &group->answers[i];
        set_play(play, 7 + (uint32_t)i, 2, KELVIN__OUTCOME__OK, true);
        play->verdict->program = strdup(i == 1 ? held : free_to_use);
    }
    scene->config.azr.hold_out = true;
    struct batch *batch = build(scene, "cpu-f32");
    assert_int_equal(batch->row_count, 2);
    assert_int_equal(batch->kinds[KIND_INDUCTION].answers, 3);
    assert_int_equal(batch->kinds[KIND_INDUCTION].answers_withheld, 1);
    assert_true(batch->rows[1].play == &group->answers[2]);
    batch_destroy(batch);
    scene->config.azr.hold_out = false;
    assert_int_equal(
        batch_create(&batch, scene->groups, scene->count, &scene->config, true, 4, "cpu-f32", NULL),
        0);
    assert_int_equal(batch->row_count, 3);
    batch_destroy(batch);
}

// azr.proposer_baseline: input_type: a valid proposal is held against those with inputs of its
// type, whatever others earn; an invalid one against the block.
static void test_baseline_by_input_type(void **state)
{
    struct scene *scene = *state;
    static const struct {
        const char *input;
        double accuracy;
    } cases[] = {{"3", 0.25},  {"-4", 0.75},  {"[1, 2]", 0.5},
                 {"[3]", 0.5}, {"'ab'", 0.5}, {"", 0.0}};
    for (int32_t i = 0; i < 6; i++) {
        struct group *group = add_proposal(scene, i, cases[i].accuracy);
        group->valid = cases[i].input[0] != '\0';
        if (group->valid) {
            const char *inputs[] = {cases[i].input};
            group->task = task_create(KIND_DEDUCTION, "def f(a):\n return a", inputs, NULL, 1, "");
        } else {
            group->proposal.verdict->outcome = KELVIN__OUTCOME__RAISED;
        }
    }
    scene->config.azr.proposer_baseline = PROPOSER_INPUT_TYPE;
    struct batch *batch = build(scene, "cpu-f32");
    const struct batch_row *rows = batch->rows;
    assert_float_equal(rows[0].advantage, -rows[1].advantage, 1e-6);
    assert_true(rows[0].advantage > 0.0F);
    assert_float_equal(rows[2].advantage, 0.0, 0.0); // both lists earned the same
    assert_float_equal(rows[3].advantage, 0.0, 0.0);
    assert_true(rows[4].advantage > 0.0F); // the only string: 0.5, and the block's mean is 0.25
    assert_true(rows[5].advantage < 0.0F);
    batch_destroy(batch);
}

// loss.kl_on: proposer holds proposals to the reference model, those without advantage too, and
// leaves answers free; without loss.kl_coef nothing is held.
static void test_held_to_the_reference(void **state)
{
    struct scene *scene = *state;
    struct group *group = add_proposal(scene, 0, 0.5);
    add_proposal(scene, 1, 0.5); // no spread: no advantage
    group_expect(group, 2);
    set_play(&group->answers[0], 7, 2, KELVIN__OUTCOME__OK, true);
    set_play(&group->answers[1], 8, 2, KELVIN__OUTCOME__WRONG, true);
    scene->config.loss.kl_coef = 0.5;
    scene->config.loss.kl_on = KL_ON_PROPOSER;
    struct batch *batch = build(scene, "cpu-f32");
    assert_int_equal(batch->count, 4);
    for (int32_t i = 0; i < batch->count; i++) {
        assert_int_equal(batch->sequences[i].free, batch->sequences[i].ids[2] < 10);
    }
    batch_destroy(batch);
    for (int on = 0; on < 2; on++) { // held: all, then none
        scene->config.loss.kl_on = KL_ON_ALL;
        scene->config.loss.kl_coef = on == 0 ? 0.5 : 0.0;
        assert_int_equal(batch_create(&batch, scene->groups, scene->count, &scene->config, true, 4,
                                      "cpu-f32", NULL),
                         0);
        assert_int_equal(batch->count, on == 0 ? 4 : 2);
        for (int32_t i = 0; i < batch->count; i++) {
            assert_int_equal(batch->sequences[i].free, on);
        }
        batch_destroy(batch);
    }
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

// azr.shuffle_rewards: every block keeps its rewards, in another order; the same seed and step give
// the same order.
static void test_shuffled_rewards(void **state)
{
    enum { COUNT = 12 };
    struct scene *scene = *state;
    for (int32_t i = 0; i < COUNT; i++) {
        struct group *group = add_proposal(scene, i, (i + 1) / 16.0);
        group_expect(group, 1);
        set_play(&group->answers[0], 7, 2, KELVIN__OUTCOME__WRONG, true);
    }
    struct batch *plain = build(scene, "cpu-f32");
    struct batch *mixed[2];
    scene->config.azr.shuffle_rewards = true;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(batch_create(&mixed[i], scene->groups, scene->count, &scene->config, true,
                                      4, "cpu-f32", NULL),
                         0);
    }
    double before[COUNT], after[COUNT];
    int count = 0, moved = 0;
    for (int32_t i = 0; i < plain->row_count; i++) {
        assert_true(mixed[0]->rows[i].reward == mixed[1]->rows[i].reward);
        if (plain->rows[i].role == ROLE_SOLVE) {
            assert_true(mixed[0]->rows[i].reward == -0.5); // no proposer's reward came here
            continue;
        }
        before[count] = plain->rows[i].reward;
        after[count++] = mixed[0]->rows[i].reward;
        moved += plain->rows[i].reward != mixed[0]->rows[i].reward;
    }
    assert_int_equal(count, COUNT);
    assert_true(moved > COUNT / 2);
    qsort(before, COUNT, sizeof(*before), compare_doubles);
    qsort(after, COUNT, sizeof(*after), compare_doubles);
    assert_memory_equal(before, after, sizeof(before));
    batch_destroy(plain);
    batch_destroy(mixed[0]);
    batch_destroy(mixed[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_proposals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reuse_and_merge, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fresh_estimates, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_to_learn, setup, teardown),
        cmocka_unit_test_setup_teardown(test_foreign_numerics, setup, teardown),
        cmocka_unit_test_setup_teardown(test_proposer_weight, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shuffled_rewards, setup, teardown),
        cmocka_unit_test_setup_teardown(test_withheld_answers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_baseline_by_input_type, setup, teardown),
        cmocka_unit_test_setup_teardown(test_held_to_the_reference, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
