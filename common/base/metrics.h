// metrics.h: counters, gauges and histograms, read out as Prometheus text.
//
// A metric is a static variable where it is counted; its first use registers it. Updates are
// atomic, from any thread. The registry is one of the two globals.
#ifndef COMMON_BASE_METRICS_H
#define COMMON_BASE_METRICS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum metric_type { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

enum { METRIC_BUCKETS = 20 }; // upper bounds 0.0001 s · 2^i, the last is +Inf

struct metric {
    const char *name; // kelvin_actor_tokens_total, optionally with {label="x"}
    const char *help;
    enum metric_type type;
    atomic_bool registered;
    _Atomic double value; // counter, gauge; sum of a histogram
    atomic_uint_fast64_t buckets[METRIC_BUCKETS];
    struct metric *next;
};

#define METRIC(variable_, type_, name_, help_)                                                     \
    static struct metric variable_ = {.name = name_, .help = help_, .type = type_}

void metric_add(struct metric *metric, double amount);    // counter
void metric_set(struct metric *metric, double value);     // gauge
void metric_observe(struct metric *metric, double value); // histogram, seconds
double metric_value(const struct metric *metric);

// metrics_write prints every registered metric in Prometheus text format.
void metrics_write(FILE *file);

#endif
