#include "tests/support.h"

#include "common/base/ring.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

enum { ITEMS = 200000 };

// A full ring refuses and keeps what it has; an empty one gives NULL.
static void test_bounds(void **state)
{
    (void)state;
    struct ring *ring = NULL;
    int items[3] = {0};
    assert_int_equal(ring_create(&ring, 2, NULL), 0);
    assert_null(ring_pop(ring));
    assert_true(ring_push(ring, &items[0]));
    assert_true(ring_push(ring, &items[1]));
    assert_false(ring_push(ring, &items[2]));
    assert_ptr_equal(ring_pop(ring), &items[0]);
    assert_true(ring_push(ring, &items[2]));
    assert_ptr_equal(ring_pop(ring), &items[1]);
    assert_ptr_equal(ring_pop(ring), &items[2]);
    assert_null(ring_pop(ring));
    ring_destroy(ring);
    ring_destroy(NULL);
}

struct item {
    int number;
};

struct flow {
    struct ring *ring;
    struct item *items;
};

static void *produce(void *context)
{
    struct flow *flow = context;
    for (int i = 0; i < ITEMS; i++) {
        flow->items[i].number = i;
        while (!ring_push(flow->ring, &flow->items[i])) {
            (void)sched_yield();
        }
    }
    return NULL;
}

// Between two threads every item arrives, in order, with what was written to it before.
static void test_two_threads(void **state)
{
    (void)state;
    struct flow flow = {.items = calloc(ITEMS, sizeof(struct item))};
    assert_non_null(flow.items);
    assert_int_equal(ring_create(&flow.ring, 64, NULL), 0);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, produce, &flow), 0);
    for (int i = 0; i < ITEMS;) {
        const struct item *item = ring_pop(flow.ring);
        if (item == NULL) {
            (void)sched_yield();
            continue;
        }
        assert_int_equal(item->number, i);
        i++;
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
    ring_destroy(flow.ring);
    free(flow.items);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_two_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
