#include "tests/support.h"

#include "actor/kv_cache.h"
#include "common/base/rng.h"
#include "common/model/decode.h"

#include <stdlib.h>
#include <string.h>

enum { PAGES = 64, TABLES = 12, TABLE_MAX = PAGES };

struct world {
    struct kv_cache *cache;
    struct kv_table tables[TABLES];
    int32_t pages[TABLES][TABLE_MAX];
    bool open[TABLES];
    int32_t tokens[TABLES]; // that the table holds
    int32_t limit[TABLES];  // pages it may reach
};

// The model: what is used is the set of listed pages; a page of several tables is used once.
static void check_world(const struct world *world)
{
    bool used[PAGES] = {false};
    int32_t used_count = 0, promised = 0;
    for (int t = 0; t < TABLES; t++) {
        for (int32_t i = 0; world->open[t] && i < world->tables[t].count; i++) {
            int32_t page = world->tables[t].pages[i];
            assert_in_range(page, 0, PAGES - 1);
            used_count += used[page] ? 0 : 1;
            used[page] = true;
        }
        promised += world->open[t] ? world->tables[t].promised : 0;
    }
    assert_int_equal(kv_cache_available(world->cache), PAGES - used_count - promised);
}

static void open_table(struct world *world, int t, struct rng *rng)
{
    int32_t want = 1 + (int32_t)rng_below(rng, 12);
    bool fits = want <= kv_cache_available(world->cache);
    assert_int_equal(kv_table_open(world->cache, &world->tables[t], want), fits);
    world->open[t] = fits;
    world->tokens[t] = 0;
    world->limit[t] = want;
}

static void fork_table(struct world *world, int t, int parent, struct rng *rng)
{
    int32_t tokens = (int32_t)rng_below(rng, (uint64_t)world->tokens[parent] + 1);
    int32_t promise = kv_pages_for(tokens) - tokens / KV_PAGE_TOKENS + 1;
    if (!kv_table_open(world->cache, &world->tables[t], promise)) {
        return;
    }
    int32_t to = -1, from = -1;
    bool copies =
        kv_table_fork(world->cache, &world->tables[t], &world->tables[parent], tokens, &to, &from);
    assert_int_equal(copies, tokens % KV_PAGE_TOKENS != 0);
    const int32_t full = tokens / KV_PAGE_TOKENS;
    assert_memory_equal(world->pages[t], world->pages[parent], (size_t)full * sizeof(int32_t));
    if (copies) {
        assert_int_equal(to, world->pages[t][full]);
        assert_int_equal(from, world->pages[parent][full]);
        assert_int_not_equal(to, from);
    }
    world->open[t] = true;
    world->tokens[t] = tokens;
    world->limit[t] = world->tables[t].count + world->tables[t].promised;
}

// Through any sequence of open, reach, fork and close, no page is lost, none is given twice, and
// what is available is what is neither listed nor promised.
static void test_random_histories_keep_the_books(void **state)
{
    (void)state;
    struct rng rng = {.key = 11};
    struct world world = {0};
    assert_int_equal(kv_cache_create(&world.cache, PAGES, NULL), 0);
    for (int t = 0; t < TABLES; t++) {
        world.tables[t].pages = world.pages[t];
    }
    for (int i = 0; i < 20000; i++) {
        int t = (int)rng_below(&rng, TABLES), other = (int)rng_below(&rng, TABLES);
        if (!world.open[t] && world.open[other] && rng_below(&rng, 2) == 0) {
            fork_table(&world, t, other, &rng);
        } else if (!world.open[t]) {
            open_table(&world, t, &rng);
        } else if (rng_below(&rng, 4) == 0) {
            kv_table_close(world.cache, &world.tables[t]);
            world.open[t] = false;
        } else if (world.tokens[t] < world.limit[t] * KV_PAGE_TOKENS) {
            int32_t room = world.limit[t] * KV_PAGE_TOKENS - world.tokens[t];
            world.tokens[t] += 1 + (int32_t)rng_below(&rng, (uint64_t)room);
            kv_table_reach(world.cache, &world.tables[t], world.tokens[t] - 1);
            assert_int_equal(world.tables[t].count, kv_pages_for(world.tokens[t]));
        }
        check_world(&world);
    }
    for (int t = 0; t < TABLES; t++) {
        kv_table_close(world.cache, &world.tables[t]);
    }
    assert_int_equal(kv_cache_available(world.cache), PAGES);
    kv_cache_destroy(world.cache);
}

// A promise that is not there is refused and changes nothing.
static void test_a_promise_beyond_the_cache_is_refused(void **state)
{
    (void)state;
    struct kv_cache *cache = NULL;
    int32_t pages[8];
    struct kv_table table = {.pages = pages};
    assert_int_equal(kv_cache_create(&cache, 4, NULL), 0);
    assert_false(kv_table_open(cache, &table, 5));
    assert_int_equal(kv_cache_available(cache), 4);
    assert_true(kv_table_open(cache, &table, 4));
    assert_int_equal(kv_cache_available(cache), 0);
    kv_table_close(cache, &table);
    kv_cache_destroy(cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_histories_keep_the_books),
        cmocka_unit_test(test_a_promise_beyond_the_cache_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
