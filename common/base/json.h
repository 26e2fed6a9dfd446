// json.h: jansson with our limits and our errors.
//
// Values are jansson's own (`json_t`, borrowed and owned as its manual says); this module adds
// bounded parsing and typed access whose errors name what was read. jansson.h itself defines
// json_decrefp for CLEANUP.
#ifndef COMMON_BASE_JSON_H
#define COMMON_BASE_JSON_H

#include "common/base/cleanup.h"
#include "common/base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// json_parse reads one JSON text (strict, UTF-8, no duplicate keys, any top-level value, at most
// JSON_DEPTH_MAX deep). `what` names the source in errors. The caller owns *out.
int json_parse(json_t **out, const char *text, size_t size, const char *what, struct error *err);

// json_read_file parses a file of at most JSON_BYTES_MAX bytes.
int json_read_file(json_t **out, const char *path, struct error *err);

// json_get_* read member `key` of an object. A missing member leaves *out untouched and is no error
// (callers set the default first); one of the wrong type or out of range is -EINVAL.
int json_get_int(int64_t *out, const json_t *object, const char *key, int64_t min, int64_t max,
                 struct error *err);
int json_get_real(double *out, const json_t *object, const char *key, struct error *err);
int json_get_bool(bool *out, const json_t *object, const char *key, struct error *err);
int json_get_string(const char **out, const json_t *object, const char *key, struct error *err);

#endif
