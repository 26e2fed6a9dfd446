// The registry is a list sorted by family (the name without its labels), then by name: Prometheus
// wants the samples of one family together under one HELP and TYPE line.
#include "common/base/metrics.h"

#include "common/base/check.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

static struct {
    pthread_mutex_t lock;
    struct metric *first;
} registry = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int family_length(const char *name)
{
    return (int)strcspn(name, "{");
}

static int compare_names(const char *a, const char *b)
{
    int length_a = family_length(a);
    int length_b = family_length(b);
    int shorter = length_a < length_b ? length_a : length_b;
    int order = memcmp(a, b, (size_t)shorter);
    if (order == 0) {
        order = length_a - length_b;
    }
    return order != 0 ? order : strcmp(a, b);
}

static void register_once(struct metric *metric)
{
    if (atomic_load_explicit(&metric->registered, memory_order_acquire)) {
        return;
    }
    CHECK(pthread_mutex_lock(&registry.lock) == 0);
    if (!atomic_load_explicit(&metric->registered, memory_order_relaxed)) {
        struct metric **place = &registry.first;
        while (*place != NULL && compare_names((*place)->name, metric->name) < 0) {
            place = &(*place)->next;
        }
        metric->next = *place;
        *place = metric;
        atomic_store_explicit(&metric->registered, true, memory_order_release);
    }
    CHECK(pthread_mutex_unlock(&registry.lock) == 0);
}

static void add(struct metric *metric, double amount)
{
    double old = atomic_load_explicit(&metric->value, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&metric->value, &old, old + amount,
                                                  memory_order_relaxed, memory_order_relaxed)) {
    }
}

void metric_add(struct metric *metric, double amount)
{
    CHECK(metric->type == METRIC_COUNTER && amount >= 0);
    register_once(metric);
    add(metric, amount);
}

void metric_set(struct metric *metric, double value)
{
    CHECK(metric->type == METRIC_GAUGE);
    register_once(metric);
    atomic_store_explicit(&metric->value, value, memory_order_relaxed);
}

static double bucket_bound(int bucket)
{
    return 0.0001 * (double)(1 << bucket);
}

void metric_observe(struct metric *metric, double value)
{
    CHECK(metric->type == METRIC_HISTOGRAM);
    register_once(metric);
    int bucket = 0;
    while (bucket < METRIC_BUCKETS - 1 && value > bucket_bound(bucket)) {
        bucket++;
    }
    atomic_fetch_add_explicit(&metric->buckets[bucket], 1, memory_order_relaxed);
    add(metric, value);
}

double metric_value(const struct metric *metric)
{
    return atomic_load_explicit(&metric->value, memory_order_relaxed);
}

// write_histogram prints the buckets, each with all below it, then sum and count.
static void write_histogram(const struct metric *metric, FILE *file)
{
    int family = family_length(metric->name);
    const char *labels = metric->name + family; // {a="b"} or nothing
    int inside = labels[0] == '{' ? (int)strlen(labels) - 2 : 0;
    const char *comma = inside > 0 ? "," : "";
    uint64_t count = 0;
    for (int i = 0; i < METRIC_BUCKETS; i++) {
        count += atomic_load_explicit(&metric->buckets[i], memory_order_relaxed);
        (void)fprintf(file, "%.*s_bucket{%.*s%sle=\"", family, metric->name, inside, labels + 1,
                      comma);
        if (i == METRIC_BUCKETS - 1) {
            (void)fprintf(file, "+Inf\"} %llu\n", (unsigned long long)count);
        } else {
            (void)fprintf(file, "%.10g\"} %llu\n", bucket_bound(i), (unsigned long long)count);
        }
    }
    (void)fprintf(file, "%.*s_sum%s %.15g\n", family, metric->name, labels, metric_value(metric));
    (void)fprintf(file, "%.*s_count%s %llu\n", family, metric->name, labels,
                  (unsigned long long)count);
}

void metrics_write(FILE *file)
{
    static const char *const type_names[] = {"counter", "gauge", "histogram"};
    CHECK(pthread_mutex_lock(&registry.lock) == 0);
    const struct metric *before = NULL;
    for (const struct metric *metric = registry.first; metric != NULL; metric = metric->next) {
        int family = family_length(metric->name);
        if (before == NULL || family_length(before->name) != family ||
            memcmp(before->name, metric->name, (size_t)family) != 0) {
            (void)fprintf(file, "# HELP %.*s %s\n# TYPE %.*s %s\n", family, metric->name,
                          metric->help, family, metric->name, type_names[metric->type]);
        }
        if (metric->type == METRIC_HISTOGRAM) {
            write_histogram(metric, file);
        } else {
            (void)fprintf(file, "%s %.15g\n", metric->name, metric_value(metric));
        }
        before = metric;
    }
    CHECK(pthread_mutex_unlock(&registry.lock) == 0);
}
