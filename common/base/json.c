#include "common/base/json.h"

#include "common/base/file.h"
#include "common/base/limits.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

// The depth of nesting, from the text alone: jansson's own limit (2048) is deeper than our callers
// want to recurse.
static bool too_deep(const char *text, size_t size)
{
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (quoted) {
            i += c == '\\';
            quoted = c != '"';
        } else if (c == '"') {
            quoted = true;
        } else if (c == '[' || c == '{') {
            if (++depth > JSON_DEPTH_MAX) {
                return true;
            }
        } else if (c == ']' || c == '}') {
            depth--;
        }
    }
    return false;
}

int json_parse(json_t **out, const char *text, size_t size, const char *what, struct error *err)
{
    if (size > JSON_BYTES_MAX) {
        return error_set(err, -EFBIG, "%s: %zu bytes of JSON; at most %d are read", what, size,
                         JSON_BYTES_MAX);
    }
    if (too_deep(text, size)) {
        return error_set(err, -EINVAL, "%s: JSON nested deeper than %d", what, JSON_DEPTH_MAX);
    }
    json_error_t problem;
    json_t *json =
        json_loadb(text, size, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &problem);
    if (json == NULL) {
        char line[16] = "";
        if (memchr(text, '\n', size) != NULL) { // a text of one line needs no number
            (void)snprintf(line, sizeof(line), ":%d", problem.line);
        }
        return error_set(err, -EINVAL, "%s%s: not JSON: %s", what, line, problem.text);
    }
    *out = json;
    return 0;
}

int json_read_file(json_t **out, const char *path, struct error *err)
{
    CLEANUP(freep) char *text = NULL;
    size_t size = 0;
    int code = file_read(&text, &size, path, JSON_BYTES_MAX, err);
    return code < 0 ? code : json_parse(out, text, size, path, err);
}

int json_get_int(int64_t *out, const json_t *object, const char *key, int64_t min, int64_t max,
                 struct error *err)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL) {
        return 0;
    }
    if (!json_is_integer(value)) {
        return error_set(err, -EINVAL, "\"%s\" is not an integer", key);
    }
    int64_t number = json_integer_value(value);
    if (number < min || number > max) {
        return error_set(err, -EINVAL, "\"%s\" is %lld; it must be %lld to %lld", key,
                         (long long)number, (long long)min, (long long)max);
    }
    *out = number;
    return 0;
}

int json_get_real(double *out, const json_t *object, const char *key, struct error *err)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL) {
        return 0;
    }
    if (!json_is_number(value) || !isfinite(json_number_value(value))) {
        return error_set(err, -EINVAL, "\"%s\" is not a number", key);
    }
    *out = json_number_value(value);
    return 0;
}

int json_get_bool(bool *out, const json_t *object, const char *key, struct error *err)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL) {
        return 0;
    }
    if (!json_is_boolean(value)) {
        return error_set(err, -EINVAL, "\"%s\" is not true or false", key);
    }
    *out = json_is_true(value);
    return 0;
}

int json_get_string(const char **out, const json_t *object, const char *key, struct error *err)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL) {
        return 0;
    }
    if (!json_is_string(value)) {
        return error_set(err, -EINVAL, "\"%s\" is not a string", key);
    }
    *out = json_string_value(value);
    return 0;
}
