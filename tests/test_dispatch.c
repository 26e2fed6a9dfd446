// A step's work from admission to batch, with the hub played by the test: every proposal is valid,
// and the answers to the task of a proposal are right as its number says.
#include "tests/fake/hub.h"

#include "learner/batch.h"
#include "learner/dispatch.h"

#include "proto/queue.pb-c.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SEEDS = 8 };

static int proposals, solves; // prompts asked, since the test began

// Each rollout says in its text what it is: "propose N", or "solve PROGRAM SAMPLE".
static void sample(const struct asked *item)
{
    static int number;
    char text[160];
    bool propose = item->prompt->role == KELVIN__ROLE__PROPOSE;
    proposals += propose;
    solves += !propose;
    for (uint32_t i = 0; i < item->prompt->samples; i++) {
        if (propose) {
            (void)snprintf(text, sizeof(text), "propose %d", number++);
        } else {
            (void)snprintf(text, sizeof(text), "solve %u %s", i, item->prompt->task->program);
        }
        asked_answer(item, i, text);
    }
}

// Programs count up: of program k, k % 3 of every two samples are right.
static void judge(const struct asked *item)
{
    static int programs;
    char program[64] = "";
    char one[] = "1";
    char *list[] = {one};
    Kelvin__Verdict verdict = KELVIN__VERDICT__INIT;
    verdict.formatted = true;
    verdict.program = program;
    if (item->request->check == KELVIN__CHECK__VALIDATE) {
        (void)snprintf(program, sizeof(program), "%d def f(a): return a", programs++);
        verdict.n_inputs = verdict.n_outputs = 1;
        verdict.inputs = verdict.outputs = list;
    } else {
        unsigned number = 0, who = 0;
        assert_int_equal(sscanf(item->request->response, "solve %u %u", &who, &number), 2);
        bool right = who < number % 3;
        verdict.outcome = right ? KELVIN__OUTCOME__OK : KELVIN__OUTCOME__WRONG;
        verdict.score = right ? 1.0F : 0.0F;
    }
    item->verdict_fn(item->context, item->tag, &verdict);
}

// Answers everything that is asked, in turn.
static void pump(void)
{
    while (asked.taken < asked.count) {
        const struct asked *item = asked_next();
        if (item->prompt != NULL) {
            sample(item);
        } else {
            judge(item);
        }
    }
    asked_forget();
}

struct scene {
    char dir[40];
    struct run_config config;
    struct tasks *tasks;
    struct dispatch *dispatch;
    int64_t step;
    struct group **groups;
    int32_t count;
};

static void drop_batch(struct scene *scene)
{
    for (int32_t i = 0; i < scene->count; i++) {
        group_destroy(scene->groups[i]);
    }
    free(scene->groups);
    scene->groups = NULL;
    scene->count = 0;
}

static void on_batch(void *context, int64_t step, struct group **groups, int32_t count)
{
    struct scene *scene = context;
    drop_batch(scene);
    scene->step = step;
    scene->groups = groups;
    scene->count = count;
}

static void on_seeded(void *context)
{
    (void)context;
}

static void on_failed(void *context, const struct error *err)
{
    (void)context;
    fail_msg("%s", err->text);
}

static int setup(void **state)
{
    struct scene *scene = calloc(1, sizeof(*scene));
    char path[64];
    strcpy(scene->dir, "/tmp/kelvin-dispatch-XXXXXX");
    assert_non_null(mkdtemp(scene->dir));
    (void)snprintf(path, sizeof(path), "%s/tasks.db", scene->dir);
    char types[] = "azr.types=deduction", batch[] = "azr.batch=3", samples[] = "azr.samples=2";
    char factor[] = "azr.seed_factor=1", references[] = "azr.references=2";
    char *words[] = {types, batch, samples, factor, references};
    assert_int_equal(run_config_read(&scene->config, NULL, words, 5, NULL), 0);
    assert_int_equal(tasks_open(&scene->tasks, path, 64, NULL), 0);
    for (int i = 0; i < SEEDS; i++) {
        char program[64], text[16];
        char *list[] = {text};
        bool duplicate = false;
        (void)snprintf(program, sizeof(program), "%d seed", 1000 + i);
        (void)snprintf(text, sizeof(text), "%d", i);
        Kelvin__Task task = KELVIN__TASK__INIT;
        task.program = program;
        task.n_inputs = task.n_outputs = 1;
        task.inputs = task.outputs = list;
        assert_int_equal(tasks_add(scene->tasks, &task, NAN, 0, &duplicate, NULL), 0);
    }
    proposals = solves = 0;
    *state = scene;
    return 0;
}

static int teardown(void **state)
{
    struct scene *scene = *state;
    char command[96];
    drop_batch(scene);
    dispatch_destroy(scene->dispatch);
    tasks_close(scene->tasks);
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", scene->dir);
    assert_int_equal(system(command), 0);
    free(scene);
    return 0;
}

static void create(struct scene *scene)
{
    const struct dispatch_events events = {
        .context = scene, .batch = on_batch, .seeded = on_seeded, .failed = on_failed};
    assert_int_equal(
        dispatch_create(&scene->dispatch, NULL, scene->tasks, &scene->config, 100, &events, NULL),
        0);
}

static void start(struct scene *scene)
{
    create(scene);
    dispatch_start(scene->dispatch, 1);
    pump();
    assert_int_equal(scene->step, 1);
}

static void next_step(struct scene *scene)
{
    int64_t step = scene->step;
    dispatch_published(scene->dispatch, (uint64_t)step + 1);
    pump();
    assert_int_equal(scene->step, step + 1);
}

// Rows that the batch of this step trains, by role.
static void count_rows(const struct scene *scene, int rows[ROLES])
{
    struct batch *batch = NULL;
    assert_int_equal(batch_create(&batch, scene->groups, scene->count, &scene->config,
                                  dispatch_trains_proposer(&scene->config, scene->step),
                                  (uint64_t)scene->step, "bench", NULL),
                     0);
    rows[ROLE_PROPOSE] = rows[ROLE_SOLVE] = 0;
    for (int32_t i = 0; i < batch->row_count; i++) {
        rows[batch->rows[i].role]++;
    }
    batch_destroy(batch);
}

static int32_t stored(const struct scene *scene)
{
    return tasks_index(scene->tasks, KIND_DEDUCTION)->count;
}

// The paper's step: B proposals, each estimated by n answers that nobody trains on, then B tasks
// with one fresh answer, the tasks of this step first.
static void test_fresh(void **state)
{
    struct scene *scene = *state;
    int rows[ROLES];
    start(scene);
    count_rows(scene, rows);
    assert_int_equal(rows[ROLE_PROPOSE], 3);
    assert_int_equal(rows[ROLE_SOLVE], 3);
    assert_int_equal(proposals, 3);
    assert_int_equal(solves, 3 + 3);
    assert_int_equal(stored(scene), SEEDS + 3);
    for (int32_t i = 0; i < scene->count; i++) {
        const struct group *group = scene->groups[i];
        if (group->role == ROLE_SOLVE) {
            assert_int_equal(group->task->step, 1); // max_new
        }
    }
}

// With reuse the estimates train the solver, and only what is open is filled up from the store.
static void test_reuse(void **state)
{
    struct scene *scene = *state;
    int rows[ROLES];
    scene->config.azr.solver_rollouts = ROLLOUTS_REUSE;
    start(scene);
    count_rows(scene, rows);
    assert_int_equal(rows[ROLE_PROPOSE], 3);
    assert_int_equal(rows[ROLE_SOLVE], 3 * 2);
    assert_int_equal(solves, 3);
}

// azr.old_tasks of the store come beside the proposals of the step, none of them new, with as many
// answers each.
static void test_old_tasks(void **state)
{
    struct scene *scene = *state;
    int rows[ROLES];
    scene->config.azr.solver_rollouts = ROLLOUTS_REUSE;
    scene->config.azr.old_tasks = 2;
    start(scene);
    count_rows(scene, rows);
    assert_int_equal(rows[ROLE_PROPOSE], 3);
    assert_int_equal(rows[ROLE_SOLVE], (3 + 2) * 2);
    for (int32_t i = 0; i < scene->count; i++) {
        const struct group *group = scene->groups[i];
        assert_true(group->role == ROLE_PROPOSE || group->task->step < 1);
    }
}

// azr.propose: false plays proposals, which feed the store, and trains on answers only.
static void test_solver_only(void **state)
{
    struct scene *scene = *state;
    int rows[ROLES];
    scene->config.azr.propose = false;
    start(scene);
    count_rows(scene, rows);
    assert_int_equal(rows[ROLE_PROPOSE], 0);
    assert_int_equal(rows[ROLE_SOLVE], 3);
    assert_int_equal(stored(scene), SEEDS + 3);
}

// Warm-up steps propose nothing; the step after them does.
static void test_warm_up(void **state)
{
    struct scene *scene = *state;
    int rows[ROLES];
    scene->config.azr.warmup_solver_steps = 1;
    start(scene);
    count_rows(scene, rows);
    assert_int_equal(rows[ROLE_PROPOSE], 0);
    assert_int_equal(rows[ROLE_SOLVE], 3);
    assert_int_equal(proposals, 0);
    next_step(scene);
    count_rows(scene, rows);
    assert_int_equal(rows[ROLE_PROPOSE], 3);
    assert_int_equal(rows[ROLE_SOLVE], 3);
}

// Filters keep tasks out of the store by how often they are solved; three proposals in a row are
// solved never, sometimes and always.
static void test_filters(void **state)
{
    struct scene *scene = *state;
    scene->config.azr.filter = FILTER_SOMETIMES_SOLVED;
    start(scene);
    assert_int_equal(stored(scene), SEEDS + 1);
    scene->config.azr.filter = FILTER_NOT_ALWAYS_SOLVED;
    next_step(scene);
    assert_int_equal(stored(scene), SEEDS + 1 + 2);
    int rows[ROLES];
    count_rows(scene, rows); // what is not stored is trained on all the same
    assert_int_equal(rows[ROLE_PROPOSE], 3);
}

// --- a run with overlapping steps that ends and goes on ---

enum { STEPS = 8, BATCH = 3, AHEAD = 2 };

// struct ledger counts how often each slot of each step was trained on.
struct ledger {
    int trained[STEPS + 1][ROLES][BATCH];
};

static void note(struct ledger *ledger, const struct scene *scene)
{
    for (int32_t i = 0; i < scene->count; i++) {
        const struct group *group = scene->groups[i];
        assert_true(group->step <= STEPS && group->slot < BATCH);
        assert_int_equal(group->state, GROUP_FINISHED);
        assert_true(group->role == ROLE_PROPOSE || group->answers[0].rollout != NULL);
        ledger->trained[group->step][group->role][group->slot]++;
    }
}

// Answers one of the open requests, whichever.
static void pump_one(struct rng *rng)
{
    assert_true(asked.taken < asked.count);
    int which = asked.taken + (int)rng_below(rng, (uint64_t)(asked.count - asked.taken));
    struct asked item = asked.items[which];
    asked.items[which] = asked.items[asked.taken];
    asked.items[asked.taken] = item;
    const struct asked *next = asked_next();
    if (next->prompt != NULL) {
        sample(next);
    } else {
        judge(next);
    }
}

// Groups that a packed queue holds in one state, and all that it holds.
static int groups_in(const uint8_t *bytes, size_t size, enum group_state state, int *all)
{
    Kelvin__Queue *queue = kelvin__queue__unpack(NULL, size, bytes);
    int count = 0;
    assert_non_null(queue);
    for (size_t i = 0; i < queue->n_groups; i++) {
        count += queue->groups[i]->state == state;
    }
    *all = (int)queue->n_groups;
    message_free(queue);
    return count;
}

// Ends the run with work under way, some of it newer than the checkpoint, and goes on from there.
static void restart(struct scene *scene, int64_t step, const uint8_t *bytes, size_t size,
                    struct rng *rng)
{
    int all = 0;
    int running = groups_in(bytes, size, GROUP_RUNNING, &all);
    dispatch_published(scene->dispatch, (uint64_t)step + 1);
    for (uint64_t more = rng_below(rng, 25); more > 0 && asked.taken < asked.count; more--) {
        pump_one(rng);
    }
    dispatch_destroy(scene->dispatch);
    asked_forget();
    drop_batch(scene);
    scene->step = step;
    assert_int_equal(tasks_forget(scene->tasks, step, NULL), 0);
    create(scene);
    assert_int_equal(dispatch_restore(scene->dispatch, bytes, size, NULL), 0);
    dispatch_start(scene->dispatch, step + 1);
    // What was finished is not sampled again: one request for each group under way, and those of
    // the step that is admitted now.
    int admitted = step + 1 + AHEAD <= STEPS ? BATCH : 0;
    assert_int_equal(asked.count, running + admitted);
}

// Plays all steps; the run ends after step `broken` and goes on.
static void play(struct scene *scene, int64_t broken, struct ledger *ledger, struct rng *rng)
{
    create(scene);
    dispatch_start(scene->dispatch, 1);
    for (int64_t step = 1; step <= STEPS; step++) {
        while (scene->step < step) {
            pump_one(rng);
        }
        note(ledger, scene);
        uint8_t *bytes = NULL;
        size_t size = 0;
        dispatch_save(scene->dispatch, &bytes, &size);
        if (step == broken) {
            restart(scene, step, bytes, size, rng);
        } else if (step < STEPS) {
            dispatch_published(scene->dispatch, (uint64_t)step + 1);
        } else {
            assert_null(bytes); // everything was trained on
        }
        free(bytes);
    }
    asked_forget();
}

// With steps that overlap, a run that ends anywhere and goes on from its checkpoint trains on every
// slot of every step once, whatever came in which order, also with filters, which hold the solves
// of a step back.
static void test_queue_survives(void **state)
{
    (void)state;
    for (int round = 0; round < 60; round++) {
        struct rng rng = {.key = (uint64_t)round};
        void *made = NULL;
        struct ledger ledger = {0};
        assert_int_equal(setup(&made), 0);
        struct scene *scene = made;
        scene->config.azr.staleness = AHEAD;
        scene->config.steps = STEPS;
        scene->config.azr.filter = round % 3 == 2 ? FILTER_NOT_ALWAYS_SOLVED : FILTER_ALL;
        play(scene, 1 + round % (STEPS - 1), &ledger, &rng);
        for (int64_t step = 1; step <= STEPS; step++) {
            for (int i = 0; i < ROLES * BATCH; i++) {
                assert_int_equal(ledger.trained[step][i / BATCH][i % BATCH], 1);
            }
        }
        assert_int_equal(teardown(&made), 0);
    }
}

// Bytes that are no queue are refused, and so is a queue where steps do not overlap.
static void test_queue_refused(void **state)
{
    struct scene *scene = *state;
    struct error err = {0};
    scene->config.azr.staleness = AHEAD;
    create(scene);
    const uint8_t garbage[] = {0x0a, 0x7f, 0x01};
    assert_int_equal(dispatch_restore(scene->dispatch, garbage, sizeof(garbage), &err), -EINVAL);
    const uint8_t empty_group[] = {0x12, 0x00};
    assert_int_equal(dispatch_restore(scene->dispatch, empty_group, sizeof(empty_group), &err),
                     -EINVAL);
    assert_non_null(strstr(err.text, "a group that cannot be"));
    scene->config.azr.staleness = 0;
    assert_int_equal(dispatch_restore(scene->dispatch, garbage, sizeof(garbage), &err), -EINVAL);
    assert_non_null(strstr(err.text, "azr.staleness"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_fresh, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reuse, setup, teardown),
        cmocka_unit_test_setup_teardown(test_old_tasks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_solver_only, setup, teardown),
        cmocka_unit_test_setup_teardown(test_warm_up, setup, teardown),
        cmocka_unit_test_setup_teardown(test_filters, setup, teardown),
        cmocka_unit_test(test_queue_survives),
        cmocka_unit_test_setup_teardown(test_queue_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
