#include "tests/support.h"

#include "common/base/rng.h"
#include "common/wire/delta.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { SIZE = 100003 }; // not a multiple of an element

// A delta turns the base into the next array exactly, whatever changed.
static void test_round_trip(void **state)
{
    (void)state;
    uint8_t *base = malloc(SIZE);
    uint8_t *next = malloc(SIZE);
    uint8_t *delta = malloc(4 * SIZE);
    assert_non_null(base);
    assert_non_null(next);
    assert_non_null(delta);
    struct rng rng = {.key = 1};
    for (int round = 0; round < 40; round++) {
        size_t element = round % 2 == 0 ? 2 : 4;
        for (int i = 0; i < SIZE; i++) {
            base[i] = (uint8_t)rng_next(&rng);
        }
        memcpy(next, base, SIZE);
        uint64_t changes = round == 0 ? 0 : rng_below(&rng, (uint64_t)1 << (round % 17));
        for (uint64_t i = 0; i < changes; i++) {
            next[rng_below(&rng, SIZE - 3)] ^= 0x5A;
        }
        size_t size = 0;
        assert_int_equal(delta_encode(delta, &size, (size_t)4 * SIZE, base, next, SIZE, element),
                         0);
        assert_true(size <= changes * (element + 3));
        assert_int_equal(delta_apply(base, SIZE, element, delta, size), 0);
        assert_memory_equal(base, next, SIZE);
        if (size > 0) {
            assert_int_equal(delta_apply(base, SIZE, element, delta, size - 1), -EBADMSG);
        }
    }
    free(base);
    free(next);
    free(delta);
}

// A delta that is not shorter than asked for is refused, and so is a change behind the last whole
// element.
static void test_too_big(void **state)
{
    (void)state;
    uint8_t base[11] = {0};
    uint8_t next[11] = {1};
    uint8_t delta[64];
    size_t size = 0;
    assert_int_equal(delta_encode(delta, &size, 6, base, next, sizeof(base), 2), -E2BIG);
    assert_int_equal(delta_encode(delta, &size, 7, base, next, sizeof(base), 2), 0);
    next[10] = 1;
    assert_int_equal(delta_encode(delta, &size, 64, base, next, sizeof(base), 2), -E2BIG);
}

// A delta that would write outside the array is refused.
static void test_outside(void **state)
{
    (void)state;
    uint8_t array[4] = {0};
    static const uint8_t beyond[] = {2, 0xFF, 0xFF};
    static const uint8_t endless[] = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01, 0, 0};
    assert_int_equal(delta_apply(array, sizeof(array), 2, beyond, sizeof(beyond)), -EBADMSG);
    assert_int_equal(delta_apply(array, sizeof(array), 2, endless, sizeof(endless)), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_too_big),
        cmocka_unit_test(test_outside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
