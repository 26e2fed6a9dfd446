#include "common/text/response.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/text/words.h"

#include <errno.h>

static void add_proposal(struct words *words, const struct response *response)
{
    if (response->kind != KIND_INDUCTION) {
        words_addf(words, "<prog>%s<in>%s", response->program, response->inputs[0]);
        return;
    }
    for (int i = 0; i < response->pairs; i++) {
        words_addf(words, "<in>%s", response->inputs[i]);
    }
}

static const char *solution(const struct response *response)
{
    switch (response->kind) {
    case KIND_ABDUCTION:
        return response->inputs[0];
    case KIND_INDUCTION:
        return response->program;
    default:
        return response->output;
    }
}

char *response_render(const struct response *response, struct error *err)
{
    CHECK((unsigned)response->kind <= KIND_INDUCTION);
    CLEANUP(words_finish) struct words words = {0};
    if (response->scratchpad != NULL) {
        words_addf(&words, "<think>%s</think>", response->scratchpad);
    }
    words_add(&words, "<answer>");
    if (response->role == ROLE_PROPOSE) {
        add_proposal(&words, response);
    } else {
        words_add(&words, solution(response));
    }
    words_add(&words, "</answer>");
    char *text = words_take(&words);
    if (text == NULL) {
        (void)error_set(err, -ENOMEM, "response: out of memory");
    }
    return text;
}
