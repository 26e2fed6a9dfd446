#include "common/base/log.h"

#include "common/base/limits.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static atomic_int log_threshold = LOG_INFO;

void log_setup(enum log_level level)
{
    atomic_store(&log_threshold, (int)level);
}

void log_line(enum log_level level, const char *module, const char *format, ...)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    if ((int)level > atomic_load(&log_threshold)) {
        return;
    }
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    struct tm utc;
    (void)gmtime_r(&now.tv_sec, &utc);

    char line[LOG_LINE_MAX];
    int used = snprintf(line, sizeof(line), "%-5s %02d:%02d:%02d.%03ld %s: ", names[level],
                        utc.tm_hour, utc.tm_min, utc.tm_sec, now.tv_nsec / 1000000, module);
    va_list args;
    va_start(args, format);
    int more = vsnprintf(line + used, sizeof(line) - (size_t)used, format, args);
    va_end(args);
    size_t size = (size_t)used + (more > 0 ? (size_t)more : 0);
    if (size > sizeof(line) - 1) {
        size = sizeof(line) - 1;
    }
    line[size++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, size);
    (void)written; // a log that cannot be written has nobody to tell
}
