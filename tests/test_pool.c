// Runs wait for images, the one with the oldest deadline first; images are audited and retired.
#include "tests/support.h"

#include "common/base/check.h"
#include "common/base/metrics.h"
#include "verifier/literal.h"
#include "verifier/pool.h"
#include "verifier/protocol.h"
#include "verifier/rewind.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RUNS_MAX = 16, MEMORY_MB = 64, DESCRIPTORS_MAX = 256 };

static const char source[] = "def f(x):\n    return x + 1";

struct fixture {
    uv_loop_t loop;
    struct pool *pool;
    struct pool_config config;
    struct bytes arguments;
    bool ready;
    struct pool_run run[RUNS_MAX];
    int done[RUNS_MAX]; // numbers of runs, in the order of their ends
    int variant[RUNS_MAX];
    double audits[RUNS_MAX]; // before the end of each
    int done_count;
    int follow_up; // the run that the end of number 0 submits; 0: none
};

// A counter's value in the text of all metrics; 0 before its first use.
static double counter(const char *name)
{
    char *text = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&text, &size);
    assert_non_null(file);
    metrics_write(file);
    (void)fclose(file);
    double value = 0.0;
    for (const char *at = text; (at = strstr(at, name)) != NULL; at += strlen(name)) {
        if ((at == text || at[-1] == '\n') && at[strlen(name)] == ' ') {
            value = strtod(at + strlen(name), NULL);
        }
    }
    free(text);
    return value;
}

static double audits_now(void)
{
    return counter("kelvin_verifier_audits_total");
}

static void on_ready(void *context, const struct error *failure)
{
    struct fixture *fixture = context;
    assert_null(failure);
    fixture->ready = true;
}

static void submit(struct fixture *fixture, int number)
{
    pool_submit(fixture->pool, &fixture->run[number]);
}

static void on_done(struct pool_run *run, int variant, const struct image_result *result)
{
    struct fixture *fixture = run->context;
    int number = (int)(run - fixture->run);
    assert_int_equal(result->outcome, OUTCOME_OK);
    assert_string_equal(result->repr, "2");
    fixture->audits[number] = audits_now();
    fixture->variant[number] = variant;
    fixture->done[fixture->done_count++] = number;
    if (number == 0 && fixture->follow_up > 0) {
        submit(fixture, fixture->follow_up);
    }
}

static void open_pool(struct fixture *fixture, uint64_t retire_runs, uint32_t audit_every)
{
    struct error err = {0};
    memset(fixture, 0, sizeof(*fixture));
    assert_int_equal(uv_loop_init(&fixture->loop), 0);
    fixture->config = (struct pool_config){.workers = 1,
                                           .backend = BACKEND_REWIND,
                                           .isolation = ISOLATION_PROCESS,
                                           .memory_mb = MEMORY_MB,
                                           .retire_runs = retire_runs,
                                           .audit_every = audit_every,
                                           .forbidden = ""};
    assert_int_equal(literal_parse_arguments(&fixture->arguments, "1", 1, NULL), 0);
    for (int i = 0; i < RUNS_MAX; i++) {
        fixture->run[i] = (struct pool_run){
            .job = {.flags = IMAGE_ENTRY,
                    .timeout_ms = 10000,
                    .output_max = 100,
                    .source = source,
                    .source_size = sizeof(source) - 1,
                    .arguments = fixture->arguments.data,
                    .arguments_size = fixture->arguments.size},
            .variant = POOL_ANY_VARIANT,
            .deadline_ns = 1,
            .done = on_done,
            .context = fixture,
        };
    }
    assert_int_equal(
        pool_create(&fixture->pool, &fixture->loop, &fixture->config, on_ready, fixture, &err), 0);
    while (!fixture->ready) {
        (void)uv_run(&fixture->loop, UV_RUN_ONCE);
    }
}

static void await(struct fixture *fixture, int count)
{
    while (fixture->done_count < count) {
        (void)uv_run(&fixture->loop, UV_RUN_ONCE);
    }
}

static void close_pool(struct fixture *fixture)
{
    pool_close(fixture->pool);
    (void)uv_run(&fixture->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&fixture->loop), 0);
    bytes_finish(&fixture->arguments);
}

// One worker is busy; what waits for it goes on in the order of deadlines.
static void test_oldest_deadline_first(void **state)
{
    static struct fixture fixture;
    static const uint64_t deadlines[] = {9, 4, 2, 8, 1, 6};
    static const int order[] = {0, 4, 2, 1, 5, 3};
    (void)state;
    open_pool(&fixture, 1000, 1000000);
    for (int i = 0; i < 6; i++) {
        fixture.run[i].deadline_ns = deadlines[i];
        submit(&fixture, i);
    }
    await(&fixture, 6);
    assert_memory_equal(fixture.done, order, sizeof(order));
    close_pool(&fixture);
}

// Every run is audited here. The next one does not wait for that where another image is there, and
// gets an image that has been audited where none is.
static void test_an_audit_keeps_no_run_waiting(void **state)
{
    static struct fixture fixture;
    (void)state;
    open_pool(&fixture, 1000, 1);
    double before = audits_now();
    fixture.follow_up = 1;
    submit(&fixture, 0);
    await(&fixture, 2);
    assert_int_not_equal(fixture.variant[1], fixture.variant[0]);
    assert_true(fixture.audits[1] == before); // not yet
    fixture.run[2].variant = fixture.variant[0];
    submit(&fixture, 2);
    await(&fixture, 3);
    assert_true(fixture.audits[2] >= before + 1);
    while (audits_now() < before + 3) { // nothing else makes them go on
        (void)uv_run(&fixture.loop, UV_RUN_ONCE);
    }
    assert_int_equal(pool_stats(fixture.pool).lost, 0);
    close_pool(&fixture);
}

// Changes the last byte that the file of an image's memory holds below `size`.
static void change_last_byte(int file, off_t size)
{
    uint8_t byte = 0;
    off_t end = 0;
    for (off_t data = 0; (data = lseek(file, end, SEEK_DATA)) >= 0 && data < size;) {
        end = lseek(file, data, SEEK_HOLE);
    }
    assert_true(end > 0 && end <= size);
    assert_int_equal(pread(file, &byte, 1, end - 1), 1);
    byte ^= 1;
    assert_int_equal(pwrite(file, &byte, 1, end - 1), 1);
}

// A byte that differs after a run costs the image its life, and is counted; runs go on elsewhere.
static void test_a_difference_is_an_alarm(void **state)
{
    static struct fixture fixture;
    (void)state;
    open_pool(&fixture, 1000, 1);
    double before = counter("kelvin_verifier_audits_failed_total");
    submit(&fixture, 0);
    await(&fixture, 1);
    int changed = 0;
    for (int file = 0; file < DESCRIPTORS_MAX; file++) {
        char path[64];
        char name[64];
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
        ssize_t size = readlink(path, name, sizeof(name) - 1);
        name[size < 0 ? 0 : size] = '\0';
        if (strstr(name, "memfd:kelvin-image") != NULL) {
            change_last_byte(file,
                             (lseek(file, 0, SEEK_END) - (off_t)sizeof(struct image_orders)) / 2);
            changed++;
        }
    }
    assert_int_equal(changed, 2);
    while (pool_stats(fixture.pool).lost == 0) {
        (void)uv_run(&fixture.loop, UV_RUN_ONCE);
    }
    assert_true(counter("kelvin_verifier_audits_failed_total") == before + 1);
    fixture.run[1].variant = fixture.variant[0];
    submit(&fixture, 1);
    await(&fixture, 2);
    assert_int_equal(pool_stats(fixture.pool).lost, 1);
    close_pool(&fixture);
}

// An image is replaced after its number of runs, also when its last one is audited.
static void test_images_are_retired(void **state)
{
    static struct fixture fixture;
    (void)state;
    for (uint32_t audit_every = 1; audit_every < 1000; audit_every += 900) {
        open_pool(&fixture, 3, audit_every);
        for (int i = 0; i < 12; i++) {
            submit(&fixture, i);
        }
        await(&fixture, 12);
        assert_true(pool_stats(fixture.pool).retired >= 2);
        assert_int_equal(pool_stats(fixture.pool).lost, 0);
        close_pool(&fixture);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_oldest_deadline_first),
        cmocka_unit_test(test_an_audit_keeps_no_run_waiting),
        cmocka_unit_test(test_a_difference_is_an_alarm),
        cmocka_unit_test(test_images_are_retired),
    };
    struct error why = {0};
    if (rewind_probe(&why) < 0) {
        print_message("not tested without rewind: %s\n", why.text);
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
