// The compact style: tags only, for the small model that ships. Each tag is one token of its
// tokenizer (compact_vocab.h); there are no separators and no instructions.
#include "common/text/prompt_styles.h"

#include <errno.h>

static void add_reference(struct words *words, const struct prompt_task *task)
{
    words_addf(words, "<prog>%s<in>%s<out>%s", task->program, task->inputs[0], task->outputs[0]);
}

static void add_solve(struct words *words, const struct prompt_request *request)
{
    const struct prompt_task *task = request->task;
    switch (request->kind) {
    case KIND_DEDUCTION:
        words_addf(words, "<solve><ded><prog>%s<in>%s", task->program, task->inputs[0]);
        break;
    case KIND_ABDUCTION:
        words_addf(words, "<solve><abd><prog>%s<out>%s", task->program, task->outputs[0]);
        break;
    default:
        words_add(words, "<solve><ind>");
        for (int i = 0; i < prompt_shown(task->pairs); i++) {
            words_addf(words, "<in>%s<out>%s", task->inputs[i], task->outputs[i]);
        }
    }
    words_add(words, request->scratchpad ? "<go><think>" : "<go>");
}

static void add_propose(struct words *words, const struct prompt_request *request)
{
    if (request->kind == KIND_INDUCTION) {
        words_addf(words, "<propose><ind><prog>%s<go>", request->task->program);
        return;
    }
    words_add(words, request->kind == KIND_DEDUCTION ? "<propose><ded>" : "<propose><abd>");
    for (int i = 0; i < request->reference_count; i++) {
        add_reference(words, &request->references[i]);
    }
    words_add(words, "<go>");
}

int prompt_compact(struct words *words, const struct prompt_request *request, struct error *err)
{
    if (request->kind == KIND_ERROR) {
        return error_set(err, -EINVAL, "prompt style compact has no form for kind %s; use azr",
                         task_kind_name(request->kind));
    }
    if (request->role == ROLE_PROPOSE) {
        add_propose(words, request);
    } else {
        add_solve(words, request);
    }
    return 0;
}
