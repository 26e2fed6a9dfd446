#include "common/text/prompt.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/text/prompt_styles.h"

#include <errno.h>
#include <string.h>

struct style {
    const char *name;
    int (*write)(struct words *words, const struct prompt_request *request, struct error *err);
};

static const struct style styles[STYLES] = {
    [STYLE_COMPACT] = {"compact", prompt_compact},
    [STYLE_AZR] = {"azr", prompt_azr},
    [STYLE_CHATML] = {"chatml", prompt_chatml},
    [STYLE_LLAMA3] = {"llama3", prompt_llama3},
};

int prompt_style_find(const char *name, struct error *err)
{
    for (int i = 0; i < STYLES; i++) {
        if (strcmp(name, styles[i].name) == 0) {
            return i;
        }
    }
    return error_set(err, -EINVAL,
                     "unknown prompt style \"%s\"; there are compact, azr, chatml, llama3", name);
}

const char *prompt_style_name(enum prompt_style style)
{
    CHECK((unsigned)style < STYLES);
    return styles[style].name;
}

const char *prompt_stop(enum prompt_style style)
{
    CHECK((unsigned)style < STYLES);
    return "</answer>";
}

int prompt_shown(int pairs)
{
    return pairs / 2 > 1 ? pairs / 2 : 1;
}

void prompt_fence(struct words *words, const char *label, const char *text)
{
    words_addf(words, "```%s\n%s\n```\n", label, text);
}

void prompt_composites(struct words *words, const struct prompt_request *request)
{
    if (request->composite_count == 0) {
        return;
    }
    words_add(words, "\nImportant: f must call every one of these functions: ");
    for (int i = 0; i < request->composite_count; i++) {
        words_addf(words, "%sg_%d", i > 0 ? ", " : "", i);
    }
    words_add(words, ". They are given, so do not define or rename them. Add work of your own "
                     "that builds on them; do not merely pass their results on. First think "
                     "about what each of them does.\n```python\n");
    for (int i = 0; i < request->composite_count; i++) {
        words_addf(words, "%s\n\n", request->composites[i]);
    }
    words_add(words, "```\n");
}

void prompt_pairs(struct words *words, const struct prompt_task *task)
{
    for (int i = 0; i < prompt_shown(task->pairs); i++) {
        words_addf(words, "```input_%d\n%s\n```\n```output_%d\n%s\n```\n", i, task->inputs[i], i,
                   task->outputs[i]);
    }
    if (task->message != NULL && task->message[0] != '\0') {
        prompt_fence(words, "message", task->message);
    }
}

char *prompt_render(const struct prompt_request *request, struct error *err)
{
    CHECK((unsigned)request->style < STYLES && (unsigned)request->kind < KINDS);
    CLEANUP(words_finish) struct words words = {0};
    if (styles[request->style].write(&words, request, err) < 0) {
        return NULL;
    }
    char *text = words_take(&words);
    if (text == NULL) {
        (void)error_set(err, -ENOMEM, "prompt: out of memory");
    }
    return text;
}
