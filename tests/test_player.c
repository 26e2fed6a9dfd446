// The hub is played by the test: what the player asks is kept, and answered when a test says so.
#include "tests/fake/hub.h"

#include "common/base/check.h"
#include "learner/generator.h"
#include "learner/player.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const Kelvin__Prompt *next_prompt(struct asked **item)
{
    *item = asked_next();
    assert_non_null((*item)->prompt);
    return (*item)->prompt;
}

static const Kelvin__VerifyRequest *next_request(struct asked **item)
{
    *item = asked_next();
    assert_non_null((*item)->request);
    return (*item)->request;
}

static void answer_rollout(const struct asked *item, uint32_t sample, const char *text)
{
    char *words = strdup(text);
    asked_answer(item, sample, words);
    free(words);
}

static void answer_rejected(const struct asked *item)
{
    Kelvin__Rollout rollout = KELVIN__ROLLOUT__INIT;
    rollout.lease = 1;
    rollout.finish = KELVIN__FINISH__REJECTED;
    item->rollout_fn(item->context, item->tag, &rollout);
}

static void answer_verdict(const struct asked *item, Kelvin__Outcome outcome, const char *program,
                           float score)
{
    char *text = strdup(program);
    char one[] = "1", two[] = "2";
    char *inputs[] = {one}, *outputs[] = {two};
    Kelvin__Verdict verdict = KELVIN__VERDICT__INIT;
    verdict.outcome = outcome;
    verdict.formatted = true;
    verdict.program = text;
    verdict.score = score;
    verdict.n_inputs = verdict.n_outputs = 1;
    verdict.inputs = inputs;
    verdict.outputs = outputs;
    item->verdict_fn(item->context, item->tag, &verdict);
    free(text);
}

// struct scene is a player over a store of `count` tasks of deduction, the last of them composite.
struct scene {
    char dir[40];
    struct run_config config;
    struct tasks *tasks;
    struct replay *replay;
    struct player player;
    int validated, closed;
};

static bool on_validated(void *context, struct group *group)
{
    struct scene *scene = context;
    (void)group;
    scene->validated++;
    return true;
}

static void on_closed(void *context, struct group *group)
{
    struct scene *scene = context;
    (void)group;
    scene->closed++;
}

static void on_failed(void *context, const struct error *err)
{
    (void)context;
    fail_msg("%s", err->text);
}

static void add_task(struct scene *scene, int number, const char *body)
{
    char program[128], text[16];
    char *list[] = {text};
    bool duplicate = false;
    (void)snprintf(program, sizeof(program), "%s # %d", body, number);
    (void)snprintf(text, sizeof(text), "%d", number);
    Kelvin__Task task = KELVIN__TASK__INIT;
    task.program = program;
    task.n_inputs = task.n_outputs = 1;
    task.inputs = task.outputs = list;
    assert_int_equal(tasks_add(scene->tasks, &task, NAN, 0, &duplicate, NULL), 0);
}

static int setup(void **state)
{
    struct scene *scene = calloc(1, sizeof(*scene));
    char path[64];
    strcpy(scene->dir, "/tmp/kelvin-player-XXXXXX");
    assert_non_null(mkdtemp(scene->dir));
    (void)snprintf(path, sizeof(path), "%s/tasks.db", scene->dir);
    assert_int_equal(run_config_read(&scene->config, NULL, NULL, 0, NULL), 0);
    scene->config.azr.samples = 2;
    assert_int_equal(tasks_open(&scene->tasks, path, 64, NULL), 0);
    assert_int_equal(replay_create(&scene->replay, 0, NULL), 0);
    player_init(&scene->player, NULL, scene->tasks, &scene->config, 100);
    scene->player.context = scene;
    scene->player.validated = on_validated;
    scene->player.closed = on_closed;
    scene->player.failed = on_failed;
    for (int i = 0; i < 5; i++) {
        add_task(scene, i, "def f(a):\n    return a");
    }
    add_task(scene, 5, "def g_0(a):\n    return a\n\ndef f(a):\n    return g_0(a)");
    *state = scene;
    return 0;
}

static int teardown(void **state)
{
    struct scene *scene = *state;
    char command[96];
    asked_forget();
    replay_destroy(scene->replay);
    tasks_close(scene->tasks);
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", scene->dir);
    assert_int_equal(system(command), 0);
    free(scene);
    return 0;
}

static struct group *propose(struct scene *scene, int32_t slot)
{
    struct group *group = replay_open(scene->replay, 1, KIND_DEDUCTION, ROLE_PROPOSE, slot);
    player_propose(&scene->player, group);
    return group;
}

// A proposal sees K whole tasks; what comes is validated with the programs of those as references;
// a valid one is estimated by n answers, and its accuracy is their mean.
static void test_proposal_is_played(void **state)
{
    struct scene *scene = *state;
    scene->config.azr.references = 3;
    struct group *group = propose(scene, 0);
    struct asked *item = NULL;
    const Kelvin__Prompt *prompt = next_prompt(&item);
    assert_int_equal(prompt->n_references, 3);
    assert_int_equal(prompt->n_composites, 0);
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < i; k++) { // without replacement
            assert_true(group->parents[i] != group->parents[k]);
        }
    }
    answer_rollout(item, 0, "a proposal");
    const Kelvin__VerifyRequest *request = next_request(&item);
    assert_int_equal(request->check, KELVIN__CHECK__VALIDATE);
    assert_true(request->describe);
    assert_int_equal(request->n_references, 3);
    assert_string_equal(request->references[1], item->request->references[1]);
    assert_int_equal(request->n_helpers, 0);
    assert_int_equal(request->n_shown_inputs, 0);
    answer_verdict(item, KELVIN__OUTCOME__OK, "def f(a):\n    return a + 1", 1.0F);
    assert_int_equal(scene->validated, 1);
    prompt = next_prompt(&item);
    assert_int_equal(prompt->role, KELVIN__ROLE__SOLVE);
    assert_int_equal(prompt->samples, 2);
    answer_rollout(item, 0, "right");
    answer_rollout(item, 1, "wrong");
    for (uint32_t i = 0; i < 2; i++) {
        request = next_request(&item);
        assert_int_equal(request->check, KELVIN__CHECK__JUDGE);
        answer_verdict(item, i == 0 ? KELVIN__OUTCOME__OK : KELVIN__OUTCOME__WRONG, "",
                       i == 0 ? 1.0F : 0.0F);
    }
    assert_int_equal(scene->closed, 1);
    assert_int_equal(group->state, GROUP_FINISHED);
    assert_true(group->accuracy == 0.5);
}

// references: 0 shows nothing (the ablation), and needs no store.
static void test_no_references(void **state)
{
    struct scene *scene = *state;
    struct asked *item = NULL;
    scene->config.azr.references = 0;
    (void)propose(scene, 0);
    assert_int_equal(next_prompt(&item)->n_references, 0);
}

// A set of references that does not fit is drawn anew 8 times, then shortened one by one until
// nothing is left to leave out.
static void test_references_that_do_not_fit(void **state)
{
    struct scene *scene = *state;
    struct asked *item = NULL;
    scene->config.azr.references = 2;
    struct group *group = propose(scene, 0);
    static const size_t wanted[] = {2, 2, 2, 2, 2, 2, 2, 2, 1, 0};
    for (size_t i = 0; i < sizeof(wanted) / sizeof(*wanted); i++) {
        assert_int_equal(next_prompt(&item)->n_references, wanted[i]);
        answer_rejected(item);
    }
    assert_int_equal(asked.taken, asked.count);
    assert_int_equal(group->state, GROUP_DROPPED);
    assert_int_equal(scene->closed, 1);
}

// With composites the proposal asks for stored functions under their new names, composites left
// out, shows them, and has the result validated with them in front.
static void test_composites(void **state)
{
    struct scene *scene = *state;
    struct asked *item = NULL;
    scene->config.azr.references = 6;
    scene->config.azr.composite_chance = 1.0;
    scene->config.azr.composite_min = scene->config.azr.composite_max = 5;
    (void)propose(scene, 0);
    for (int i = 0; i < 5; i++) {
        char name[8], renamed[64];
        const Kelvin__VerifyRequest *request = next_request(&item);
        (void)snprintf(name, sizeof(name), "g_%d", i);
        (void)snprintf(renamed, sizeof(renamed), "def %s(a):\n    return a", name);
        assert_int_equal(request->check, KELVIN__CHECK__RENAME);
        assert_string_equal(request->answer, name);
        assert_null(strstr(request->program, "def g_0("));
        answer_verdict(item, KELVIN__OUTCOME__OK, renamed, 0.0F);
    }
    const Kelvin__Prompt *prompt = next_prompt(&item);
    assert_int_equal(prompt->n_composites, 5);
    assert_string_equal(prompt->composites[4], "def g_4(a):\n    return a");
    answer_rollout(item, 0, "a proposal");
    const Kelvin__VerifyRequest *request = next_request(&item);
    assert_int_equal(request->n_helpers, 5);
    assert_string_equal(request->helpers[0], "def g_0(a):\n    return a");
}

// A function that cannot be renamed, too few references or an early step: the proposal does
// without.
static void test_composites_are_optional(void **state)
{
    struct scene *scene = *state;
    struct asked *item = NULL;
    scene->config.azr.references = 6;
    scene->config.azr.composite_chance = 1.0;
    scene->config.azr.composite_min = scene->config.azr.composite_max = 2;
    (void)propose(scene, 0);
    (void)next_request(&item);
    answer_verdict(item, KELVIN__OUTCOME__MALFORMED, "", 0.0F);
    (void)next_request(&item);
    answer_verdict(item, KELVIN__OUTCOME__OK, "def g_1(a):\n    return a", 0.0F);
    assert_int_equal(next_prompt(&item)->n_composites, 0);
    scene->config.azr.references = 2;
    (void)propose(scene, 1);
    assert_int_equal(next_prompt(&item)->n_composites, 0);
    scene->config.azr.references = 6;
    scene->config.azr.composite_start = 2;
    (void)propose(scene, 2);
    assert_int_equal(next_prompt(&item)->n_composites, 0);
}

// With azr.refuse_copied_inputs the verifier is told the inputs that the proposer saw.
static void test_shown_inputs(void **state)
{
    struct scene *scene = *state;
    scene->config.azr.references = 3;
    scene->config.azr.refuse_copied_inputs = true;
    (void)propose(scene, 0);
    struct asked *item = NULL;
    const Kelvin__Prompt *prompt = next_prompt(&item);
    char *seen[3];
    for (int i = 0; i < 3; i++) {
        seen[i] = strdup(prompt->references[i]->inputs[0]);
    }
    answer_rollout(item, 0, "a proposal");
    const Kelvin__VerifyRequest *request = next_request(&item);
    assert_int_equal(request->n_shown_inputs, 3);
    for (int i = 0; i < 3; i++) {
        assert_string_equal(request->shown_inputs[i], seen[i]);
        free(seen[i]);
    }
}

// An infrastructure failure drops a group; it never becomes a score.
static void test_infrastructure_drops(void **state)
{
    struct scene *scene = *state;
    struct asked *item = NULL;
    struct group *group = propose(scene, 0);
    (void)next_prompt(&item);
    answer_rollout(item, 0, "a proposal");
    (void)next_request(&item);
    answer_verdict(item, KELVIN__OUTCOME__INFRASTRUCTURE, "", 0.0F);
    assert_int_equal(group->state, GROUP_DROPPED);
    assert_int_equal(scene->validated, 1);
    assert_false(group->valid);
}

// azr.proposals: generator asks no actor for a proposal: a program that no test holds is validated
// with its inputs; one that fails is replaced by another; a valid one is estimated.
static void test_generated_proposals(void **state)
{
    struct scene *scene = *state;
    struct asked *item = NULL;
    scene->config.azr.proposals = PROPOSALS_GENERATOR;
    scene->config.azr.inputs = 4;
    struct group *group = replay_open(scene->replay, 1, KIND_INDUCTION, ROLE_PROPOSE, 0);
    player_propose(&scene->player, group);
    char first[512];
    const Kelvin__VerifyRequest *request = next_request(&item);
    assert_int_equal(request->check, KELVIN__CHECK__VALIDATE);
    assert_int_equal(request->n_inputs, 4);
    assert_false(generator_held_out(request->program));
    (void)snprintf(first, sizeof(first), "%s", request->program);
    answer_verdict(item, KELVIN__OUTCOME__RAISED, first, 0.0F);
    assert_int_equal(scene->validated, 0);
    request = next_request(&item);
    assert_int_equal(request->check, KELVIN__CHECK__VALIDATE);
    assert_string_not_equal(request->program, first);
    char program[] = "def f(a):\n return a", one[] = "1", two[] = "2";
    char *pair[] = {one, two};
    Kelvin__Verdict verdict = KELVIN__VERDICT__INIT;
    verdict.outcome = KELVIN__OUTCOME__OK;
    verdict.program = program;
    verdict.n_inputs = verdict.n_outputs = 2;
    verdict.inputs = verdict.outputs = pair;
    item->verdict_fn(item->context, item->tag, &verdict);
    assert_int_equal(scene->validated, 1);
    const Kelvin__Prompt *prompt = next_prompt(&item);
    assert_int_equal(prompt->role, KELVIN__ROLE__SOLVE);
    assert_string_equal(prompt->task->program, program);
}

// With azr.induction_candidates an induction proposal is shown the shortest of the programs drawn.
static void test_short_induction_programs(void **state)
{
    struct scene *scene = *state;
    struct asked *item = NULL;
    scene->config.azr.induction_candidates = 64; // the long one of six would have to come each time
    for (int32_t slot = 0; slot < 50; slot++) {  // one draw in six would show the long one
        struct group *group = replay_open(scene->replay, 1, KIND_INDUCTION, ROLE_PROPOSE, slot);
        player_propose(&scene->player, group);
        assert_null(strstr(next_prompt(&item)->task->program, "g_0"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_proposal_is_played, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_references, setup, teardown),
        cmocka_unit_test_setup_teardown(test_references_that_do_not_fit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_composites, setup, teardown),
        cmocka_unit_test_setup_teardown(test_composites_are_optional, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shown_inputs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_infrastructure_drops, setup, teardown),
        cmocka_unit_test_setup_teardown(test_generated_proposals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_short_induction_programs, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
