// log.h: one line an event, `level time module: sentence key=value …`, on standard error.
//
// The level and the name shown are process-wide (one of the two globals that Kelvin has; the other
// is the metric registry). Lines are written with one write(2), so lines of several threads do not
// mix.
#ifndef COMMON_BASE_LOG_H
#define COMMON_BASE_LOG_H

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

// log_setup sets the least important level that is written (default LOG_INFO). Any thread.
void log_setup(enum log_level level);

// log_line writes one line; longer ones are cut at LOG_LINE_MAX bytes. Any thread.
void log_line(enum log_level level, const char *module, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define log_error(module, ...) log_line(LOG_ERROR, module, __VA_ARGS__)
#define log_warn(module, ...)  log_line(LOG_WARN, module, __VA_ARGS__)
#define log_info(module, ...)  log_line(LOG_INFO, module, __VA_ARGS__)
#define log_debug(module, ...) log_line(LOG_DEBUG, module, __VA_ARGS__)

#endif
