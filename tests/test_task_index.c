#include "tests/support.h"

#include "learner/task_index.h"

static struct task_index filled(int32_t max, int seeds, int steps, int each)
{
    struct task_index index;
    assert_int_equal(task_index_init(&index, max, NULL), 0);
    uint64_t id = 1;
    for (int i = 0; i < seeds; i++, id++) {
        assert_int_equal(task_index_add(&index, (struct task_entry){.id = id, .digest = id}), 0);
    }
    for (int step = 1; step <= steps; step++) {
        for (int i = 0; i < each; i++, id++) {
            (void)task_index_add(&index, (struct task_entry){.id = id, .step = step, .digest = id});
        }
    }
    return index;
}

static int count_between(const uint64_t *ids, int32_t count, uint64_t first, uint64_t last)
{
    int found = 0;
    for (int32_t i = 0; i < count; i++) {
        found += ids[i] >= first && ids[i] <= last;
    }
    return found;
}

static void assert_distinct(const uint64_t *ids, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        assert_int_equal(count_between(ids, count, ids[i], ids[i]), 1);
    }
}

// A full index lets the oldest task go that is not a seed, and says which.
static void test_oldest_leaves(void **state)
{
    (void)state;
    struct task_index index = filled(4, 2, 2, 1); // ids 1 2 (seeds) 3 4
    assert_int_equal(task_index_add(&index, (struct task_entry){.id = 5, .step = 3}), 3);
    assert_int_equal(task_index_add(&index, (struct task_entry){.id = 6, .step = 3}), 4);
    assert_int_equal(index.count, 4);
    assert_int_equal(index.entries[0].id, 1);
    assert_int_equal(index.entries[3].id, 6);
    task_index_finish(&index);
}

// An index full of seeds takes nothing more.
static void test_seeds_stay(void **state)
{
    (void)state;
    struct task_index index = filled(2, 2, 0, 0);
    assert_int_equal(task_index_add(&index, (struct task_entry){.id = 9, .step = 1}), 9);
    assert_int_equal(index.count, 2);
    assert_true(task_index_has(&index, 2));
    assert_false(task_index_has(&index, 9));
    task_index_finish(&index);
}

// References are distinct, no more than there are, and the same for the same generator.
static void test_sample(void **state)
{
    (void)state;
    struct task_index index = filled(64, 10, 0, 0);
    for (int mode = REFERENCES_UNIFORM; mode <= REFERENCES_RECENT; mode++) {
        uint64_t first[12];
        uint64_t second[12];
        struct rng rng = {.key = 1, .stream = 2};
        struct rng again = rng;
        assert_int_equal(task_index_sample(&index, first, 6, (enum reference_sampling)mode, &rng),
                         6);
        assert_int_equal(
            task_index_sample(&index, second, 6, (enum reference_sampling)mode, &again), 6);
        assert_memory_equal(first, second, 6 * sizeof(*first));
        assert_distinct(first, 6);
        assert_int_equal(task_index_sample(&index, first, 12, (enum reference_sampling)mode, &rng),
                         10);
        assert_distinct(first, 10);
    }
    task_index_finish(&index);
}

// Recent sampling prefers late steps: of 1 seed against 1 task of step 99, the latter nearly
// always.
static void test_recent(void **state)
{
    (void)state;
    struct task_index index;
    assert_int_equal(task_index_init(&index, 8, NULL), 0);
    (void)task_index_add(&index, (struct task_entry){.id = 1, .step = 0});
    (void)task_index_add(&index, (struct task_entry){.id = 2, .step = 99});
    struct rng rng = {.key = 3};
    int late = 0;
    for (int i = 0; i < 1000; i++) {
        uint64_t id = 0;
        assert_int_equal(task_index_sample(&index, &id, 1, REFERENCES_RECENT, &rng), 1);
        late += id == 2;
    }
    assert_in_range(late, 970, 1000);
    task_index_finish(&index);
}

// The selection example of the original: 256 seeds and 40 tasks of step 4; at step 5 max_new takes
// the 40 and 24 others.
static void test_select_max_new(void **state)
{
    (void)state;
    struct task_index index = filled(1024, 256, 0, 0);
    for (uint64_t id = 257; id < 297; id++) {
        (void)task_index_add(&index, (struct task_entry){.id = id, .step = 4});
    }
    uint64_t ids[64];
    struct rng rng = {.key = 5};
    assert_int_equal(task_index_select(&index, ids, 64, DATA_MAX_NEW, 4, &rng), 64);
    assert_distinct(ids, 64);
    assert_int_equal(count_between(ids, 64, 257, 296), 40);

    assert_int_equal(task_index_select(&index, ids, 64, DATA_HALF_NEW, 4, &rng), 64);
    assert_distinct(ids, 64);
    assert_in_range(count_between(ids, 64, 257, 296), 32, 40);
    assert_int_equal(count_between(ids, 32, 257, 296), 32);

    assert_int_equal(task_index_select(&index, ids, 64, DATA_UNIFORM, 4, &rng), 64);
    assert_distinct(ids, 64);
    assert_int_equal(task_index_select(&index, ids, 64, DATA_RECENT, 4, &rng), 64);
    assert_distinct(ids, 64);
    task_index_finish(&index);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_oldest_leaves),  cmocka_unit_test(test_seeds_stay),
        cmocka_unit_test(test_sample),         cmocka_unit_test(test_recent),
        cmocka_unit_test(test_select_max_new),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
