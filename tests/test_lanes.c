// Lanes: as many runs go on as there are lanes, an image keeps its lane where it can, and pinned
// lanes use the processors that this thread may use, evenly.
#include "tests/support.h"

#include "verifier/lanes.h"

#include <sched.h>

static void test_lanes_are_taken_once(void **state)
{
    struct lanes *lanes = NULL;
    (void)state;
    assert_int_equal(lanes_create(&lanes, 3, false, NULL), 0);
    assert_false(lanes_is_free(lanes, -1));
    int first = lanes_take(lanes, -1);
    int second = lanes_take(lanes, first);
    int third = lanes_take(lanes, 1);
    assert_true(first != second && second != third && first != third);
    assert_int_equal(lanes_free(lanes), 0);
    lanes_leave(lanes, second);
    assert_true(lanes_is_free(lanes, second));
    assert_false(lanes_is_free(lanes, third));
    assert_int_equal(lanes_take(lanes, third), second);
    lanes_destroy(lanes);
}

static void test_a_wish_for_a_free_lane_is_granted(void **state)
{
    struct lanes *lanes = NULL;
    (void)state;
    assert_int_equal(lanes_create(&lanes, 4, true, NULL), 0);
    assert_int_equal(lanes_take(lanes, 2), 2);
    assert_int_not_equal(lanes_take(lanes, 2), 2);
    lanes_leave(lanes, 2);
    assert_int_equal(lanes_take(lanes, 2), 2);
    lanes_destroy(lanes);
}

static void test_pinned_lanes_share_the_processors(void **state)
{
    cpu_set_t allowed;
    int uses[CPU_SETSIZE] = {0};
    struct lanes *lanes = NULL;
    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
    int processors = CPU_COUNT(&allowed);
    assert_int_equal(lanes_create(&lanes, 2 * processors, true, NULL), 0);
    for (int i = 0; i < 2 * processors; i++) {
        int processor = lanes_processor(lanes, i);
        assert_true(processor >= 0 && CPU_ISSET((size_t)processor, &allowed));
        assert_int_not_equal(++uses[processor], 3);
    }
    lanes_destroy(lanes);
}

static void test_lanes_that_are_not_pinned_run_anywhere(void **state)
{
    struct lanes *lanes = NULL;
    (void)state;
    assert_int_equal(lanes_create(&lanes, 1, false, NULL), 0);
    lanes_settle(lanes);
    assert_int_equal(lanes_processor(lanes, 0), -1);
    lanes_destroy(lanes);
}

static void test_a_single_lane_shares_its_processor_with_the_thread(void **state)
{
    cpu_set_t before;
    cpu_set_t after;
    struct lanes *lanes = NULL;
    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
    assert_int_equal(lanes_create(&lanes, 1, true, NULL), 0);
    assert_int_equal(lanes_processor(lanes, 0), -1); // images may start anywhere
    lanes_settle(lanes);
    assert_int_equal(sched_getaffinity(0, sizeof(after), &after), 0);
    assert_int_equal(CPU_COUNT(&after), 1);
    assert_true(CPU_ISSET((size_t)lanes_processor(lanes, 0), &after));
    assert_int_equal(sched_setaffinity(0, sizeof(before), &before), 0);
    lanes_destroy(lanes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lanes_are_taken_once),
        cmocka_unit_test(test_a_wish_for_a_free_lane_is_granted),
        cmocka_unit_test(test_pinned_lanes_share_the_processors),
        cmocka_unit_test(test_lanes_that_are_not_pinned_run_anywhere),
        cmocka_unit_test(test_a_single_lane_shares_its_processor_with_the_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
