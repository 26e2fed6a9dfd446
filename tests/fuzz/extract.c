// Any response gives parts within their limits, or a reason; nothing leaks or reads past its end.
#include "verifier/extract.h"
#include "common/base/check.h"
#include "common/base/limits.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_parts(const struct extracted *parts)
{
    CHECK(parts->input_count >= 0 && parts->input_count <= TASK_INPUTS_MAX);
    CHECK((parts->answer != NULL) != (parts->input_count > 0));
    for (int i = 0; i < parts->input_count; i++) {
        CHECK(parts->inputs[i][0] != '\0' && strlen(parts->inputs[i]) <= INPUT_BYTES_MAX);
    }
    CHECK(parts->program == NULL || strlen(parts->program) <= PROGRAM_BYTES_MAX);
    CHECK(parts->message == NULL || strlen(parts->message) <= MESSAGE_BYTES_MAX);
}

// The first byte chooses style, role, kind and N; the rest is the response.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const styles[] = {"compact", "azr", "chatml", "llama3"};
    if (size < 1) {
        return 0;
    }
    char style[16];
    (void)snprintf(style, sizeof(style), "%s", styles[data[0] & 3]);
    char *response = malloc(size);
    CHECK(response != NULL);
    memcpy(response, data + 1, size - 1);
    response[size - 1] = '\0';
    Kelvin__VerifyRequest request = KELVIN__VERIFY_REQUEST__INIT;
    request.style = style;
    request.role = (Kelvin__Role)((data[0] >> 2) & 1);
    request.kind = (Kelvin__TaskKind)((data[0] >> 3) & 3);
    request.inputs_count = (data[0] >> 5) & 3;
    request.response = response;
    struct extracted parts = {0};
    struct error err = {0};
    int code = extract_parts(&parts, &request, &err);
    CHECK(code == 0 || (code == -EBADMSG && err.text[0] != '\0'));
    if (code == 0) {
        check_parts(&parts);
    }
    extract_finish(&parts);
    free(response);
    return 0;
}
