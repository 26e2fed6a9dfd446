#include "tests/support.h"

#include "common/base/arena.h"

#include <string.h>

// Pieces are aligned, zeroed, do not overlap, and end exactly at the arena's size.
static void test_pieces(void **state)
{
    (void)state;
    struct arena arena;
    assert_int_equal(arena_init(&arena, 4096, NULL), 0);
    char *first = arena_alloc(&arena, 1);
    char *second = arena_alloc(&arena, 65);
    assert_int_equal((uintptr_t)first % 64, 0);
    assert_int_equal(second - first, 64);
    assert_int_equal(first[0], 0);
    char *rest = arena_alloc(&arena, 4096 - 64 - 128);
    assert_ptr_equal(rest, second + 128);
    memset(rest, 1, 4096 - 64 - 128);
    assert_null(arena_alloc(&arena, 1));
    assert_null(arena_alloc(&arena, SIZE_MAX));
    arena_finish(&arena);
}

// A reset arena hands out the same memory again and leaves its bytes alone.
static void test_reset(void **state)
{
    (void)state;
    struct arena arena;
    assert_int_equal(arena_init(&arena, 100, NULL), 0);
    char *before = arena_alloc(&arena, 100);
    before[99] = 7;
    arena_reset(&arena);
    char *after = arena_alloc(&arena, 100);
    assert_ptr_equal(after, before);
    assert_int_equal(after[99], 7);
    arena_finish(&arena);
    arena_finish(&arena); // a zeroed arena is allowed
}

// What cannot be reserved is an error with the size in it.
static void test_too_much(void **state)
{
    (void)state;
    struct arena arena = {0};
    struct error err = {0};
    assert_true(arena_init(&arena, SIZE_MAX / 2, &err) < 0);
    assert_non_null(strstr(err.text, "cannot reserve"));
    assert_null(arena.base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_reset),
        cmocka_unit_test(test_too_much),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
