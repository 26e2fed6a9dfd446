#include "deploy/cli/progress.h"

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/json.h"

#include <stdarg.h>

#include <string.h>
#include <unistd.h>

enum { BAR_WIDTH = 20, LINE_WIDTH_MAX = 240 };

void progress_init(struct progress *progress, FILE *file, int64_t steps)
{
    *progress = (struct progress){
        .file = file,
        .terminal = isatty(fileno(file)) == 1,
        .steps = steps,
        .step_first = -1,
        .start_ms = clock_ms(),
    };
}

// mean_of averages the members of `object` whose names begin with `prefix`; false when there are
// none.
static bool mean_of(const json_t *object, const char *prefix, double *out)
{
    double sum = 0.0;
    int count = 0;
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach(without_const(object), key, value)
    {
        if (strncmp(key, prefix, strlen(prefix)) == 0 && json_is_number(value)) {
            sum += json_number_value(value);
            count++;
        }
    }
    *out = count > 0 ? sum / count : 0.0;
    return count > 0;
}

struct text {
    char bytes[LINE_WIDTH_MAX * 4]; // the bar's characters take three bytes each
    size_t size;
};

static void put(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void put(struct text *text, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    size_t room = sizeof(text->bytes) - text->size;
    int written = vsnprintf(text->bytes + text->size, room, format, args);
    va_end(args);
    if (written > 0) {
        text->size += (size_t)written < room ? (size_t)written : room - 1;
    }
}

static void put_mean(struct text *text, const json_t *event, const char *name, const char *prefix,
                     bool percent)
{
    double mean = 0.0;
    if (mean_of(event, prefix, &mean)) {
        if (percent) {
            put(text, "  %s %.0f%%", name, 100.0 * mean);
        } else {
            put(text, "  %s %+.2f", name, mean);
        }
    }
}

static void put_rate(struct text *text, const json_t *event)
{
    double seconds = json_number_value(json_object_get(event, "seconds"));
    double tokens = json_number_value(json_object_get(event, "tokens/sampled"));
    double rate = json_number_value(json_object_get(event, "tokens/s"));
    if (rate <= 0.0 && seconds > 0.0) {
        rate = tokens / seconds;
    }
    if (rate > 0.0) {
        put(text, "  %.1fk tok/s", rate / 1000.0);
    }
}

static void put_eta(struct text *text, const struct progress *progress)
{
    int64_t done = progress->step - progress->step_first + 1;
    uint64_t spent_ms = clock_ms() - progress->start_ms;
    if (done > 0 && progress->steps > progress->step) {
        int64_t left = progress->steps - progress->step;
        uint64_t eta_s = spent_ms * (uint64_t)left / (uint64_t)done / 1000;
        put(text, "  eta %u:%02u:%02u", (unsigned)(eta_s / 3600), (unsigned)(eta_s / 60 % 60),
            (unsigned)(eta_s % 60));
    }
}

static void put_bar(struct text *text, const struct progress *progress)
{
    int64_t full = progress->steps > 0 ? progress->step * BAR_WIDTH / progress->steps : 0;
    put(text, "step %lld/%lld [", (long long)progress->step, (long long)progress->steps);
    for (int i = 0; i < BAR_WIDTH; i++) {
        put(text, "%s", i < full ? "█" : "·");
    }
    put(text, "]");
}

// columns counts what a terminal shows: UTF-8 continuation bytes take no place.
static int columns(const char *bytes)
{
    int count = 0;
    for (; *bytes != '\0'; bytes++) {
        count += (*bytes & 0xC0) != 0x80;
    }
    return count;
}

static void draw(struct progress *progress, const struct text *text)
{
    if (!progress->terminal) {
        (void)fprintf(progress->file, "%s\n", text->bytes);
    } else {
        int width = columns(text->bytes);
        int pad = progress->width_drawn > width ? progress->width_drawn - width : 0;
        (void)fprintf(progress->file, "\r%s%*s", text->bytes, pad, "");
        progress->width_drawn = width;
    }
    (void)fflush(progress->file);
}

void progress_event(void *context, const char *line)
{
    struct progress *progress = context;
    CLEANUP(json_decrefp) json_t *event = NULL;
    if (json_parse(&event, line, strlen(line), "event", NULL) < 0 || !json_is_object(event) ||
        !json_is_integer(json_object_get(event, "step"))) {
        progress_finish(progress);
        (void)fprintf(progress->file, "%s\n", line);
        return;
    }
    progress->step = json_integer_value(json_object_get(event, "step"));
    const json_t *steps = json_object_get(event, "steps");
    progress->steps = json_is_integer(steps) ? json_integer_value(steps) : progress->steps;
    if (progress->step_first < 0) {
        progress->step_first = progress->step;
    }
    struct text text = {0};
    put_bar(&text, progress);
    const json_t *loss = json_object_get(event, "loss");
    if (json_is_number(loss)) {
        put(&text, "  loss %.3f", json_number_value(loss));
    }
    put_mean(&text, event, "propose", "reward/propose/", false);
    put_mean(&text, event, "solve", "reward/solve/", false);
    put_mean(&text, event, "valid", "valid/", true);
    put_mean(&text, event, "accuracy", "accuracy/", true);
    put_rate(&text, event);
    put_eta(&text, progress);
    draw(progress, &text);
}

void progress_finish(struct progress *progress)
{
    if (progress->terminal && progress->width_drawn > 0) {
        (void)fputc('\n', progress->file);
        progress->width_drawn = 0;
    }
}
