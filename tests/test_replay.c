#include "tests/support.h"

#include "learner/replay.h"

#include <stdlib.h>

static struct replay *create(int32_t staleness)
{
    struct replay *replay = NULL;
    assert_int_equal(replay_create(&replay, staleness, NULL), 0);
    return replay;
}

static void destroy_all(struct group **groups, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        group_destroy(groups[i]);
    }
    free(groups);
}

// With staleness 0 a batch is the step's groups in slot order, whatever the order in which they
// closed, and it is ready only when all are.
static void test_synchronous(void **state)
{
    (void)state;
    struct replay *replay = create(0);
    struct group *opened[4];
    for (int i = 0; i < 4; i++) {
        opened[i] =
            replay_open(replay, 1, i < 2 ? KIND_DEDUCTION : KIND_INDUCTION, ROLE_PROPOSE, i % 2);
    }
    static const int order[] = {3, 0, 2, 1};
    replay_seal(replay, 1);
    for (int i = 0; i < 4; i++) {
        assert_false(replay_ready(replay, 1));
        opened[order[i]]->state = i == 2 ? GROUP_DROPPED : GROUP_FINISHED;
    }
    assert_true(replay_ready(replay, 1));
    struct group **groups = NULL;
    assert_int_equal(replay_take(replay, 1, &groups), 4);
    for (int i = 0; i < 4; i++) {
        assert_ptr_equal(groups[i], opened[i]);
    }
    assert_int_equal(replay_running(replay), 0);
    destroy_all(groups, 4);
    replay_destroy(replay);
}

// A step that may still open groups is not ready.
static void test_unsealed_waits(void **state)
{
    (void)state;
    struct replay *replay = create(0);
    replay_open(replay, 1, KIND_DEDUCTION, ROLE_PROPOSE, 0)->state = GROUP_FINISHED;
    assert_false(replay_ready(replay, 1));
    replay_seal(replay, 1);
    assert_true(replay_ready(replay, 1));
    replay_destroy(replay);
}

// With staleness 1 a straggler of the running step is overtaken by work of the next one, but not
// when it would become older than the bound.
static void test_straggler(void **state)
{
    (void)state;
    struct replay *replay = create(1);
    struct group *late = replay_open(replay, 1, KIND_DEDUCTION, ROLE_SOLVE, 0);
    struct group *first = replay_open(replay, 1, KIND_DEDUCTION, ROLE_SOLVE, 1);
    replay_seal(replay, 1);
    struct group *next = replay_open(replay, 2, KIND_DEDUCTION, ROLE_SOLVE, 0);
    struct group *last = replay_open(replay, 2, KIND_DEDUCTION, ROLE_SOLVE, 1);
    replay_seal(replay, 2);
    first->state = GROUP_FINISHED;
    assert_false(replay_ready(replay, 1)); // two are wanted
    next->state = GROUP_FINISHED;
    assert_true(replay_ready(replay, 1));
    struct group **groups = NULL;
    assert_int_equal(replay_take(replay, 1, &groups), 2);
    assert_ptr_equal(groups[0], first);
    assert_ptr_equal(groups[1], next);
    destroy_all(groups, 2);

    last->state = GROUP_FINISHED;
    struct group *third = replay_open(replay, 3, KIND_DEDUCTION, ROLE_SOLVE, 0);
    replay_seal(replay, 3);
    third->state = GROUP_FINISHED;
    assert_false(replay_ready(replay, 2)); // the straggler of step 1 must come with it
    late->state = GROUP_FINISHED;
    assert_true(replay_ready(replay, 2));
    assert_int_equal(replay_take(replay, 2, &groups), 2);
    assert_ptr_equal(groups[0], late);
    assert_ptr_equal(groups[1], last);
    destroy_all(groups, 2);
    replay_destroy(replay);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_synchronous),
        cmocka_unit_test(test_unsealed_waits),
        cmocka_unit_test(test_straggler),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
