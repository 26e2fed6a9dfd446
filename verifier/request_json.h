// request_json.h: a request and a verdict as JSON, in the form that lines.h describes.
#ifndef VERIFIER_REQUEST_JSON_H
#define VERIFIER_REQUEST_JSON_H

#include "common/base/error.h"
#include "proto/verdict.pb-c.h"

#include <jansson.h>
#include <stddef.h>

enum { REQUEST_LINE_MAX = 4 << 20 };

// request_from_json points *out into `json`, which the caller keeps alive; the two lists are the
// caller's to free with request_finish. -EINVAL names the member that is missing or of the wrong
// type.
int request_from_json(Kelvin__VerifyRequest *out, const json_t *json, struct error *err);
void request_finish(Kelvin__VerifyRequest *request);

// verdict_to_json is a new object that carries `id` (borrowed), or NULL when memory is out.
json_t *verdict_to_json(const json_t *id, const Kelvin__Verdict *verdict);

#endif
