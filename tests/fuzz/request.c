// Any line is a request or a reason; a request's parts are within their limits or have a reason.
#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "verifier/judge_parts.h"
#include "verifier/request_json.h"

#include <errno.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_parts(const Kelvin__VerifyRequest *request)
{
    struct judge_parts parts;
    struct error err = {0};
    if (judge_parts_read(&parts, request, &err) == 0) {
        CHECK(parts.input_count <= TASK_INPUTS_MAX);
        CHECK(strlen(parts.program) <= RUN_OUTPUT_BYTES_MAX);
        CHECK(parts.bad_input < parts.input_count);
        for (int i = 0; i < parts.input_count; i++) {
            CHECK(strlen(parts.inputs[i]) <= INPUT_BYTES_MAX);
            CHECK(parts.bad_input >= 0 || parts.arguments[i].size > 0);
        }
        (void)judge_looks_risky(parts.program);
    } else {
        CHECK(err.text[0] != '\0');
    }
    judge_parts_finish(&parts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(json_decrefp) json_t *json = NULL;
    struct error err = {0};
    Kelvin__VerifyRequest request;
    if (json_parse(&json, (const char *)data, size, "a line", &err) < 0) {
        CHECK(err.text[0] != '\0');
        return 0;
    }
    if (request_from_json(&request, json, &err) == 0) {
        check_parts(&request);
    } else {
        CHECK(err.text[0] != '\0');
    }
    request_finish(&request);
    return 0;
}
