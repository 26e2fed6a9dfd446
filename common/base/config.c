// Values travel as text: a default, a file's scalar and a command-line word all go through
// assign(). A YAML file is read as libyaml's event stream; the path of keys from the root to a
// scalar, joined by dots, is the option's name.
#include "common/base/config.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/limits.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { CONFIG_DEPTH_MAX = 4, CONFIG_WHERE_MAX = 300, CONFIG_LIST_MAX = 256 };

static void *field_of(void *config, const struct option *option)
{
    return (char *)config + option->offset;
}

static const void *field_of_const(const void *config, const struct option *option)
{
    return (const char *)config + option->offset;
}

static int bad_value(const struct option *option, const char *text, const char *where,
                     const char *wanted, struct error *err)
{
    return error_set(err, -EINVAL, "%s: %s: \"%s\" is not %s", where, option->key, text, wanted);
}

static int out_of_range(const struct option *option, const char *text, const char *where,
                        struct error *err)
{
    return error_set(err, -ERANGE, "%s: %s: %s is out of range; it must be %.10g to %.10g", where,
                     option->key, text, option->min, option->max);
}

static int assign_number(void *field, const struct option *option, const char *text,
                         const char *where, struct error *err)
{
    char *end = NULL;
    errno = 0;
    double real = strtod(text, &end);
    bool whole = option->type == OPTION_INT;
    if (end == text || *end != '\0' || !isfinite(real) || (whole && real != trunc(real))) {
        return bad_value(option, text, where, whole ? "a whole number" : "a number", err);
    }
    if (real < option->min || real > option->max) {
        return out_of_range(option, text, where, err);
    }
    if (whole) { // every bound lies below 2^53, so the double is exact
        *(int64_t *)field = (int64_t)real;
    } else {
        *(double *)field = real;
    }
    return 0;
}

static int none_of(const struct option *option, const char *text, const char *where,
                   struct error *err)
{
    char names[160] = "";
    size_t used = 0;
    for (int i = 0; option->names[i] != NULL; i++) {
        int more = snprintf(names + used, sizeof(names) - used, "%s%s", i > 0 ? ", " : "",
                            option->names[i]);
        used += more > 0 && (size_t)more < sizeof(names) - used ? (size_t)more : 0;
    }
    return error_set(err, -EINVAL, "%s: %s: \"%s\" is none of %s", where, option->key, text, names);
}

static int find_name(const struct option *option, const char *text)
{
    for (int i = 0; option->names[i] != NULL; i++) {
        if (strcmp(option->names[i], text) == 0) {
            return i;
        }
    }
    return -1;
}

// A copy of `text` without the typographic quotes around it.
static void unquote(char *out, size_t size, const char *text)
{
    static const char *const quotes[] = {"\xe2\x80\x9c", "\xe2\x80\x9d"};
    size_t length = strlen(text);
    for (int i = 0; i < 2; i++) {
        if (length >= 3 && memcmp(text, quotes[i], 3) == 0) {
            text += 3;
            length -= 3;
        }
        if (length >= 3 && memcmp(text + length - 3, quotes[i], 3) == 0) {
            length -= 3;
        }
    }
    (void)snprintf(out, size, "%.*s", (int)length, text);
}

static int assign_set(unsigned *field, const struct option *option, const char *text,
                      const char *where, struct error *err)
{
    unsigned bits = 0;
    char words[CONFIG_STRING_MAX + 8];
    char *rest = words;
    (void)snprintf(words, sizeof(words), "%s", text);
    while (rest != NULL) {
        const char *word = strsep(&rest, ", ");
        int index = find_name(option, word);
        if (word[0] != '\0' && index < 0) {
            return none_of(option, word, where, err);
        }
        bits |= index < 0 ? 0 : 1U << index;
    }
    *field = bits;
    return bits != 0 ? 0 : none_of(option, text, where, err);
}

static int assign_choice(int *field, const struct option *option, const char *text,
                         const char *where, struct error *err)
{
    int index = find_name(option, text);
    if (index < 0) {
        return none_of(option, text, where, err);
    }
    *field = index;
    return 0;
}

static int assign(void *config, const struct option *option, const char *written, const char *where,
                  struct error *err)
{
    void *field = field_of(config, option);
    char text[CONFIG_STRING_MAX + 8];
    unquote(text, sizeof(text), written);
    switch (option->type) {
    case OPTION_INT:
    case OPTION_REAL:
        return assign_number(field, option, text, where, err);
    case OPTION_BOOL:
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0) {
            return bad_value(option, text, where, "true or false", err);
        }
        *(bool *)field = text[0] == 't';
        return 0;
    case OPTION_CHOICE:
        return assign_choice(field, option, text, where, err);
    case OPTION_SET:
        return assign_set(field, option, text, where, err);
    case OPTION_STRING:
        if (strlen(written) >= CONFIG_STRING_MAX) {
            return error_set(err, -ENAMETOOLONG, "%s: %s: longer than %d bytes", where, option->key,
                             CONFIG_STRING_MAX - 1);
        }
        memcpy(field, text, strlen(text) + 1);
        return 0;
    }
    CHECK(false);
    return 0;
}

// distance is the edit distance of two short names, for "did you mean".
static int distance(const char *a, const char *b)
{
    int row[CONFIG_KEY_MAX + 1];
    int width = (int)strnlen(b, CONFIG_KEY_MAX);
    for (int j = 0; j <= width; j++) {
        row[j] = j;
    }
    for (int i = 1; a[i - 1] != '\0'; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= width; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            best = row[j] + 1 < best ? row[j] + 1 : best;
            row[j] = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
        }
    }
    return row[width];
}

static const struct option *find(const struct option_table *table, const char *key,
                                 const char *where, struct error *err)
{
    for (int i = 0; i < table->alias_count; i++) {
        key = strcmp(table->aliases[i].key, key) == 0 ? table->aliases[i].means : key;
    }
    const struct option *near = NULL;
    int nearest = 4; // more than three edits are another word
    for (int i = 0; i < table->count; i++) {
        const struct option *option = &table->rows[i];
        if (strcmp(option->key, key) == 0) {
            return option;
        }
        const char *last = strrchr(option->key, '.');
        int edits = distance(key, option->key);
        if (last != NULL && strcmp(last + 1, key) == 0) {
            edits = 1; // the section is missing
        }
        if (edits < nearest) {
            nearest = edits;
            near = option;
        }
    }
    (void)error_set(err, -ENOENT, "%s: unknown key \"%.64s\"%s%s%s", where, key,
                    near != NULL ? "; did you mean \"" : "; --help lists the keys",
                    near != NULL ? near->key : "", near != NULL ? "\"?" : "");
    return NULL;
}

void config_defaults(void *config, const struct option_table *table)
{
    for (int i = 0; i < table->count; i++) {
        struct error err = {0};
        CHECK(assign(config, &table->rows[i], table->rows[i].initial, "default", &err) == 0);
    }
}

int config_set(void *config, const struct option_table *table, const char *word, const char *where,
               struct error *err)
{
    const char *equals = strchr(word, '=');
    char key[CONFIG_KEY_MAX];
    if (equals == NULL || equals == word || (size_t)(equals - word) >= sizeof(key)) {
        return error_set(err, -EINVAL, "%s: \"%.80s\" is not key=value", where, word);
    }
    memcpy(key, word, (size_t)(equals - word));
    key[equals - word] = '\0';
    const struct option *option = find(table, key, where, err);
    return option == NULL ? -ENOENT : assign(config, option, equals + 1, where, err);
}

// struct reading walks the events of one file.
struct reading {
    yaml_parser_t parser;
    const char *path;
    void *config;
    const struct option_table *table;
    char keys[CONFIG_DEPTH_MAX][CONFIG_KEY_MAX]; // the keys that lead to the current map
    int depth;                                   // maps that are open
    bool has_key;                                // keys[depth - 1] waits for its value
    bool in_list;                                // which is a list
    char list[CONFIG_LIST_MAX];                  // its items so far, separated by commas
    bool *seen;                                  // [table->count]
};

static void where_is(const struct reading *reading, const yaml_event_t *event, char *out)
{
    (void)snprintf(out, CONFIG_WHERE_MAX, "%.250s:%zu", reading->path, event->start_mark.line + 1);
}

static int on_key(struct reading *reading, const char *text, const char *where, struct error *err)
{
    if (strlen(text) >= CONFIG_KEY_MAX) {
        return error_set(err, -EINVAL, "%s: unknown key \"%.64s...\"", where, text);
    }
    memcpy(reading->keys[reading->depth - 1], text, strlen(text) + 1);
    reading->has_key = true;
    return 0;
}

static int on_value(struct reading *reading, const char *text, bool list, const char *where,
                    struct error *err)
{
    char key[CONFIG_DEPTH_MAX * CONFIG_KEY_MAX] = "";
    size_t used = 0;
    for (int i = 0; i < reading->depth; i++) {
        used += (size_t)snprintf(key + used, sizeof(key) - used, "%s%s", i > 0 ? "." : "",
                                 reading->keys[i]);
    }
    reading->has_key = false;
    const struct option *option = find(reading->table, key, where, err);
    if (option == NULL) {
        return -ENOENT;
    }
    bool *seen = &reading->seen[option - reading->table->rows];
    if (*seen) {
        return error_set(err, -EINVAL, "%s: %s stands twice", where, option->key);
    }
    *seen = true;
    if (list && option->type != OPTION_SET) {
        return error_set(err, -EINVAL, "%s: %s is not a list", where, option->key);
    }
    return assign(reading->config, option, text, where, err);
}

static int on_list(struct reading *reading, const char *where, struct error *err)
{
    if (!reading->has_key || reading->in_list) {
        return error_set(err, -EINVAL, "%s: no option is a list of lists", where);
    }
    reading->in_list = true;
    reading->list[0] = '\0';
    return 0;
}

static int on_item(struct reading *reading, const char *text, const char *where, struct error *err)
{
    char item[CONFIG_KEY_MAX];
    size_t used = strlen(reading->list);
    unquote(item, sizeof(item), text);
    int more = snprintf(reading->list + used, sizeof(reading->list) - used, "%s%s",
                        used > 0 ? "," : "", item);
    return (size_t)more < sizeof(reading->list) - used
               ? 0
               : error_set(err, -EINVAL, "%s: the list is too long", where);
}

static int on_scalar(struct reading *reading, const yaml_event_t *event, const char *where,
                     struct error *err)
{
    const char *text = (const char *)event->data.scalar.value;
    if (strlen(text) != event->data.scalar.length) {
        return error_set(err, -EINVAL, "%s: a NUL byte in a value", where);
    }
    if (reading->depth == 0) {
        return error_set(err, -EINVAL, "%s: key: value lines are wanted", where);
    }
    if (reading->in_list) {
        return on_item(reading, text, where, err);
    }
    return reading->has_key ? on_value(reading, text, false, where, err)
                            : on_key(reading, text, where, err);
}

static int on_map(struct reading *reading, const char *where, struct error *err)
{
    if (reading->depth > 0 && (!reading->has_key || reading->in_list)) {
        return error_set(err, -EINVAL, "%s: a key must be a plain word", where);
    }
    if (reading->depth == CONFIG_DEPTH_MAX) {
        return error_set(err, -EINVAL, "%s: nested deeper than any option", where);
    }
    reading->depth++;
    reading->has_key = false;
    return 0;
}

static int on_event(struct reading *reading, const yaml_event_t *event, struct error *err)
{
    char where[CONFIG_WHERE_MAX];
    where_is(reading, event, where);
    switch (event->type) {
    case YAML_MAPPING_START_EVENT:
        return on_map(reading, where, err);
    case YAML_MAPPING_END_EVENT:
        reading->depth--;
        reading->has_key = false;
        return 0;
    case YAML_SCALAR_EVENT:
        return on_scalar(reading, event, where, err);
    case YAML_SEQUENCE_START_EVENT:
        return on_list(reading, where, err);
    case YAML_SEQUENCE_END_EVENT:
        reading->in_list = false;
        return on_value(reading, reading->list, true, where, err);
    case YAML_ALIAS_EVENT:
        return error_set(err, -EINVAL, "%s: aliases are not read", where);
    default:
        return 0;
    }
}

static void parser_deletep(struct reading *reading)
{
    yaml_parser_delete(&reading->parser);
    free(reading->seen);
}

int config_load(void *config, const struct option_table *table, const char *path, struct error *err)
{
    CLEANUP(freep) char *text = NULL;
    size_t size = 0;
    int code = file_read(&text, &size, path, CONFIG_BYTES_MAX, err);
    if (code < 0) {
        return code;
    }
    CLEANUP(parser_deletep)
    struct reading reading = {.path = path, .config = config, .table = table};
    reading.seen = calloc((size_t)table->count, sizeof(*reading.seen));
    CHECK(reading.seen != NULL && yaml_parser_initialize(&reading.parser) == 1);
    yaml_parser_set_input_string(&reading.parser, (const unsigned char *)text, size);
    bool done = false;
    while (code == 0 && !done) {
        yaml_event_t event;
        if (yaml_parser_parse(&reading.parser, &event) == 0) {
            return error_set(err, -EINVAL, "%s:%zu: not YAML: %s", path,
                             reading.parser.problem_mark.line + 1,
                             reading.parser.problem != NULL ? reading.parser.problem : "bad bytes");
        }
        code = on_event(&reading, &event, err);
        done = event.type == YAML_STREAM_END_EVENT;
        yaml_event_delete(&event);
    }
    return code;
}

static void print_string(const char *text, FILE *file)
{
    (void)fputc('"', file);
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\') {
            (void)fputc('\\', file);
        }
        if ((unsigned char)*text < 0x20) {
            (void)fprintf(file, "\\x%02x", (unsigned char)*text);
        } else {
            (void)fputc(*text, file);
        }
    }
    (void)fputc('"', file);
}

static void print_set(unsigned bits, const char *const *names, FILE *file)
{
    const char *before = "[";
    for (int i = 0; names[i] != NULL; i++) {
        if ((bits >> i & 1) != 0) {
            (void)fprintf(file, "%s%s", before, names[i]);
            before = ", ";
        }
    }
    (void)fputc(']', file);
}

static void print_value(const void *config, const struct option *option, FILE *file)
{
    const void *field = field_of_const(config, option);
    switch (option->type) {
    case OPTION_INT:
        (void)fprintf(file, "%lld", (long long)*(const int64_t *)field);
        break;
    case OPTION_REAL:
        (void)fprintf(file, "%.17g", *(const double *)field);
        break;
    case OPTION_BOOL:
        (void)fputs(*(const bool *)field ? "true" : "false", file);
        break;
    case OPTION_CHOICE:
        (void)fputs(option->names[*(const int *)field], file);
        break;
    case OPTION_SET:
        print_set(*(const unsigned *)field, option->names, file);
        break;
    case OPTION_STRING:
        print_string(field, file);
        break;
    }
}

void config_dump(const void *config, const struct option_table *table, FILE *file)
{
    char section[CONFIG_KEY_MAX] = "";
    for (int i = 0; i < table->count; i++) {
        const struct option *option = &table->rows[i];
        const char *dot = strchr(option->key, '.');
        size_t length = dot == NULL ? 0 : (size_t)(dot - option->key);
        if (dot != NULL &&
            (strlen(section) != length || strncmp(section, option->key, length) != 0)) {
            memcpy(section, option->key, length);
            section[length] = '\0';
            (void)fprintf(file, "%s:\n", section);
        }
        (void)fprintf(file, "%s%s: ", dot == NULL ? "" : "  ", dot == NULL ? option->key : dot + 1);
        print_value(config, option, file);
        (void)fputc('\n', file);
    }
}

static void print_range(const struct option *option, FILE *file)
{
    if (option->type == OPTION_INT || option->type == OPTION_REAL) {
        (void)fprintf(file, "%.10g to %.10g", option->min, option->max);
    } else if (option->type == OPTION_BOOL) {
        (void)fputs("true or false", file);
    } else if (option->type == OPTION_CHOICE || option->type == OPTION_SET) {
        (void)fputs(option->type == OPTION_SET ? "a list of " : "", file);
        for (int i = 0; option->names[i] != NULL; i++) {
            (void)fprintf(file, "%s%s", i > 0 ? " | " : "", option->names[i]);
        }
    } else {
        (void)fputs("text", file);
    }
}

void config_help(const struct option_table *table, FILE *file)
{
    for (int i = 0; i < table->count; i++) {
        const struct option *option = &table->rows[i];
        (void)fprintf(file, "  %-30s %s\n%33s", option->key, option->help, "");
        print_range(option, file);
        (void)fprintf(file, "; default %s\n",
                      option->initial[0] != '\0' ? option->initial : "empty");
    }
    for (int i = 0; i < table->alias_count; i++) {
        (void)fprintf(file, "  %-30s the same as %s\n", table->aliases[i].key,
                      table->aliases[i].means);
    }
}
