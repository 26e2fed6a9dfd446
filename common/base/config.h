// config.h: option tables. One row per option gives parsing, checking, --help and the dump.
//
// A program has one struct of plain values and a table of rows that say where each lies. Options
// are read from a YAML file (nested maps; `optimizer: {lr: 1e-6}` is the option "optimizer.lr") and
// then from `key=value` words, which win. A set is a YAML list, or names separated by commas. An
// unknown key or a bad value is an error with file and line. Typographic quotes around a value, as
// web pages make them, are taken off.
#ifndef COMMON_BASE_CONFIG_H
#define COMMON_BASE_CONFIG_H

#include "common/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { CONFIG_STRING_MAX = 512, CONFIG_KEY_MAX = 64 };

enum option_type { OPTION_INT, OPTION_REAL, OPTION_BOOL, OPTION_STRING, OPTION_CHOICE, OPTION_SET };

struct option {
    const char *key; // dotted
    enum option_type type;
    size_t offset; // of the field: int64_t, double, bool, char[CONFIG_STRING_MAX], int, unsigned
    const char *initial;      // the default, as it would be written in a file
    double min, max;          // INT and REAL
    const char *const *names; // CHOICE: NULL-terminated; the field holds the index. SET: the bits
    const char *help;         // one sentence
};

#define INT_OPTION(type_, key_, field_, initial_, min_, max_, help_)                               \
    {                                                                                              \
        key_, OPTION_INT, offsetof(struct type_, field_), initial_, min_, max_, NULL, help_        \
    }
#define REAL_OPTION(type_, key_, field_, initial_, min_, max_, help_)                              \
    {                                                                                              \
        key_, OPTION_REAL, offsetof(struct type_, field_), initial_, min_, max_, NULL, help_       \
    }
#define BOOL_OPTION(type_, key_, field_, initial_, help_)                                          \
    {                                                                                              \
        key_, OPTION_BOOL, offsetof(struct type_, field_), initial_, 0, 1, NULL, help_             \
    }
#define STRING_OPTION(type_, key_, field_, initial_, help_)                                        \
    {                                                                                              \
        key_, OPTION_STRING, offsetof(struct type_, field_), initial_, 0, 0, NULL, help_           \
    }
#define CHOICE_OPTION(type_, key_, field_, initial_, names_, help_)                                \
    {                                                                                              \
        key_, OPTION_CHOICE, offsetof(struct type_, field_), initial_, 0, 0, names_, help_         \
    }

#define SET_OPTION(type_, key_, field_, initial_, names_, help_)                                   \
    {                                                                                              \
        key_, OPTION_SET, offsetof(struct type_, field_), initial_, 0, 0, names_, help_            \
    }

// struct option_alias is another name of an option.
struct option_alias {
    const char *key, *means;
};

struct option_table {
    const struct option *rows;
    int count;
    const struct option_alias *aliases;
    int alias_count;
};

// config_defaults writes every row's default into `config`.
void config_defaults(void *config, const struct option_table *table);

// config_load reads a YAML file over what is there. On error `config` may be partly written.
int config_load(void *config, const struct option_table *table, const char *path,
                struct error *err);

// config_set reads one "key=value" word. `where` names its source in errors ("command line").
int config_set(void *config, const struct option_table *table, const char *word, const char *where,
               struct error *err);

// config_dump writes all options as YAML that config_load reads back to the same values.
void config_dump(const void *config, const struct option_table *table, FILE *file);

// config_help writes one line per option: key, type, default, range, sentence.
void config_help(const struct option_table *table, FILE *file);

#endif
