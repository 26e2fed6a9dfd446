#include "tests/support.h"

#include "common/base/clock.h"
#include "learner/collective.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LIMIT_S = 20, CELLS = 24 };

// What another rank does, in a process of its own; its result is the exit code.
typedef int rank_fn(struct collective *collective);

static pid_t start(struct collective *collective, int32_t rank, rank_fn *fn)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct error err = {0};
        int code = collective_host_fork(collective, rank, &err);
        _exit(code < 0 ? 99 : fn(collective));
    }
    return child;
}

static int end_of(pid_t child)
{
    int status = 0;
    assert_true(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Fills the own cells with squares and sums all up.
static int exchange(struct collective *collective, int64_t *cells)
{
    struct error err = {0};
    for (int32_t i = collective_from(collective, CELLS); i < collective_to(collective, CELLS);
         i++) {
        cells[i] = (int64_t)i * i;
    }
    int code = collective->ops->gather(collective, cells, CELLS * sizeof(*cells), sizeof(*cells),
                                       CELLS, &err);
    int64_t sum = 0;
    for (int i = 0; i < CELLS; i++) {
        sum += cells[i];
    }
    return code < 0 ? 98 : (int)(sum % 97);
}

static int serve_exchange(struct collective *collective)
{
    int64_t *cells = collective->ops->alloc(collective, CELLS * sizeof(*cells));
    struct collective_call call = {0};
    struct error err = {0};
    if (cells == NULL || collective->ops->hear(collective, &call, &err) < 0 || call.kind != 7 ||
        strcmp(call.block, "to all") != 0) {
        return 97;
    }
    int result = exchange(collective, cells);
    return collective->ops->end(collective, &err) < 0 ? 96 : result;
}

// Three ranks hear what rank 0 tells, and each reads what the others wrote.
static void test_ranks_exchange(void **state)
{
    (void)state;
    struct collective *collective = NULL;
    struct error err = {0};
    assert_int_equal(collective_host_create(&collective, 3, NULL, LIMIT_S, &err), 0);
    pid_t one = start(collective, 1, serve_exchange);
    pid_t two = start(collective, 2, serve_exchange);
    int64_t *cells = collective->ops->alloc(collective, CELLS * sizeof(*cells));
    char *block = collective->ops->block(collective, 7);
    memcpy(block, "to all", 7);
    assert_int_equal(collective->ops->tell(collective, 7, &err), 0);
    int sum = exchange(collective, cells);
    assert_int_equal(collective->ops->end(collective, &err), 0);
    assert_int_equal(sum, (23 * 24 * 47 / 6) % 97);
    assert_int_equal(end_of(one), sum);
    assert_int_equal(end_of(two), sum);
    collective->ops->release(collective, cells, CELLS * sizeof(*cells));
    collective_close(collective);
}

static int die(struct collective *collective)
{
    (void)collective;
    (void)kill(getpid(), SIGKILL);
    return 0;
}

// A rank that dies is an error that names it, at the next meeting and long before the limit.
static void test_dead_rank_is_an_error(void **state)
{
    (void)state;
    struct collective *collective = NULL;
    struct error err = {0};
    assert_int_equal(collective_host_create(&collective, 2, NULL, 600, &err), 0);
    pid_t child = start(collective, 1, die);
    uint64_t since = clock_ms();
    assert_int_equal(collective->ops->tell(collective, 1, &err), -EPIPE);
    assert_true(clock_ms() - since < 60000);
    char text[64];
    (void)snprintf(text, sizeof(text), "rank 1 (process %d) has died", child);
    assert_string_equal(err.text, text);
    assert_int_equal(end_of(child), 128 + SIGKILL);
    collective_close(collective);
}

static int sleep_on(struct collective *collective)
{
    (void)collective;
    while (pause() != 0) {
    }
    return 0;
}

// A rank that lives but does not come is an error at the time limit.
static void test_absent_rank_is_an_error(void **state)
{
    (void)state;
    struct collective *collective = NULL;
    struct error err = {0};
    assert_int_equal(collective_host_create(&collective, 2, NULL, 1, &err), 0);
    pid_t child = start(collective, 1, sleep_on);
    assert_int_equal(collective->ops->tell(collective, 1, &err), -ETIMEDOUT);
    assert_string_equal(err.text, "rank 1 has not come to the next call within 1 s");
    assert_int_equal(kill(child, SIGKILL), 0);
    (void)end_of(child);
    collective_close(collective);
}

static int give_up(struct collective *collective)
{
    collective->ops->give_up(collective, "out of memory");
    return 0;
}

// What a rank says when it gives up reaches the others.
static void test_failure_is_told(void **state)
{
    (void)state;
    struct collective *collective = NULL;
    struct error err = {0};
    assert_int_equal(collective_host_create(&collective, 2, NULL, LIMIT_S, &err), 0);
    pid_t child = start(collective, 1, give_up);
    assert_int_equal(end_of(child), 0);
    assert_int_equal(collective->ops->tell(collective, 1, &err), -EPIPE);
    assert_string_equal(err.text, "rank 1: out of memory");
    collective_close(collective);
}

static int hear_once(struct collective *collective)
{
    struct collective_call call = {0};
    struct error err = {0};
    return collective->ops->hear(collective, &call, &err) == -EPIPE ? 3 : 4;
}

// A rank that waits for its next call ends when rank 0 does.
static void test_rank_0_is_missed(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t first = fork();
    assert_true(first >= 0);
    if (first == 0) { // rank 0, which dies once rank 1 waits
        struct collective *collective = NULL;
        if (collective_host_create(&collective, 2, NULL, LIMIT_S, NULL) < 0) {
            _exit(1);
        }
        pid_t second = fork();
        if (second == 0) {
            char result =
                (char)(collective_host_fork(collective, 1, NULL) < 0 ? 9 : hear_once(collective));
            _exit(write(ends[1], &result, 1) == 1 ? 0 : 1);
        }
        _exit(0);
    }
    assert_int_equal(end_of(first), 0);
    char result = 0;
    assert_int_equal(read(ends[0], &result, 1), 1);
    assert_int_equal(result, 3);
    (void)close(ends[0]);
    (void)close(ends[1]);
}

// Ranks that are started by hand find rank 0 by its file; a seat is taken once, and a file that a
// dead rank 0 left behind leads nowhere.
static void test_join_by_file(void **state)
{
    (void)state;
    char dir[] = "/tmp/kelvin-ranks-XXXXXX";
    char path[64];
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/ranks", dir);
    struct collective *first = NULL;
    struct collective *second = NULL;
    struct collective *third = NULL;
    struct error err = {0};
    assert_int_equal(collective_host_create(&first, 2, path, LIMIT_S, &err), 0);
    assert_int_equal(collective_host_join(&second, 1, path, LIMIT_S, &err), 0);
    assert_int_equal(second->ranks, 2);
    assert_int_equal(collective_host_join(&third, 1, path, LIMIT_S, &err), -EEXIST);
    assert_int_equal(collective_host_join(&third, 2, path, LIMIT_S, &err), -EINVAL);
    collective_close(second);
    collective_close(first);
    assert_int_equal(access(path, F_OK), -1);
    FILE *file = fopen(path, "w");
    assert_true(fprintf(file, "%d 0 1\n", getpid()) > 0);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(collective_host_join(&third, 1, path, 0, &err), -ETIMEDOUT);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks_exchange),
        cmocka_unit_test(test_dead_rank_is_an_error),
        cmocka_unit_test(test_absent_rank_is_an_error),
        cmocka_unit_test(test_failure_is_told),
        cmocka_unit_test(test_rank_0_is_missed),
        cmocka_unit_test(test_join_by_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
