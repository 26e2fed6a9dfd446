#include "tests/support.h"

#include "common/base/metrics.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

METRIC(tokens_b, METRIC_COUNTER, "kelvin_test_tokens_total{role=\"b\"}", "Tokens.");
METRIC(tokens_rate, METRIC_GAUGE, "kelvin_test_tokens_total_rate", "Rate.");
METRIC(tokens_a, METRIC_COUNTER, "kelvin_test_tokens_total{role=\"a\"}", "Tokens.");
METRIC(wait, METRIC_HISTOGRAM, "kelvin_test_wait_seconds{kind=\"x\"}", "Wait.");
METRIC(shared, METRIC_COUNTER, "kelvin_test_shared_total", "Counted by two threads.");

static const char *text(void)
{
    static char out[16384];
    FILE *file = fmemopen(out, sizeof(out), "w");
    assert_non_null(file);
    metrics_write(file);
    assert_int_equal(fclose(file), 0);
    return out;
}

// Samples of one family stand together under one HELP and one TYPE line, whatever the order of
// registration.
static void test_families(void **state)
{
    (void)state;
    metric_add(&tokens_b, 2);
    metric_set(&tokens_rate, 0.5);
    metric_add(&tokens_a, 1);
    metric_add(&tokens_a, 1e10);
    const char *out = text();
    assert_non_null(strstr(out, "# HELP kelvin_test_tokens_total Tokens.\n"
                                "# TYPE kelvin_test_tokens_total counter\n"
                                "kelvin_test_tokens_total{role=\"a\"} 10000000001\n"
                                "kelvin_test_tokens_total{role=\"b\"} 2\n"
                                "# HELP kelvin_test_tokens_total_rate Rate.\n"
                                "# TYPE kelvin_test_tokens_total_rate gauge\n"
                                "kelvin_test_tokens_total_rate 0.5\n"));
}

// A histogram's buckets hold all below their bound; its labels stand in every line.
static void test_histogram(void **state)
{
    (void)state;
    metric_observe(&wait, 0.0001);
    metric_observe(&wait, 0.00015);
    metric_observe(&wait, 1000);
    const char *out = text();
    assert_non_null(strstr(out, "_bucket{kind=\"x\",le=\"0.0001\"} 1\n"));
    assert_non_null(strstr(out, "_bucket{kind=\"x\",le=\"0.0002\"} 2\n"));
    assert_non_null(strstr(out, "_bucket{kind=\"x\",le=\"26.2144\"} 2\n"));
    assert_non_null(strstr(out, "_bucket{kind=\"x\",le=\"+Inf\"} 3\n"));
    assert_non_null(strstr(out, "kelvin_test_wait_seconds_sum{kind=\"x\"} 1000.00025\n"));
    assert_non_null(strstr(out, "kelvin_test_wait_seconds_count{kind=\"x\"} 3\n"));
}

static void *count(void *unused)
{
    (void)unused;
    for (int i = 0; i < 10000; i++) {
        metric_add(&shared, 1);
    }
    return NULL;
}

// Two threads that count at once lose nothing and register once.
static void test_threads(void **state)
{
    (void)state;
    pthread_t other;
    assert_int_equal(pthread_create(&other, NULL, count, NULL), 0);
    (void)count(NULL);
    assert_int_equal(pthread_join(other, NULL), 0);
    assert_true(metric_value(&shared) == 20000);
    const char *out = text();
    const char *line = strstr(out, "\nkelvin_test_shared_total ");
    assert_non_null(line);
    assert_null(strstr(line + 1, "\nkelvin_test_shared_total "));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families),
        cmocka_unit_test(test_histogram),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
