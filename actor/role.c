#include "actor/role.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

_Static_assert((int)KELVIN__ROLE__PROPOSE == ROLE_PROPOSE && (int)KELVIN__ROLE__SOLVE == ROLE_SOLVE,
               "roles have the same numbers on the wire");
_Static_assert((int)KELVIN__TASK_KIND__ERROR_DEDUCTION == KIND_ERROR &&
                   (int)KELVIN__TASK_KIND__INDUCTION == KIND_INDUCTION,
               "task kinds have the same numbers on the wire");

int role_show(struct prompt_task *shown, const Kelvin__Task *task, size_t inputs, size_t outputs,
              struct error *err)
{
    if (task == NULL || task->n_inputs < inputs || task->n_outputs < outputs) {
        return error_set(
            err, -EINVAL, "the prompt's task has %zu inputs and %zu outputs; it shows %zu and %zu",
            task == NULL ? 0 : task->n_inputs, task == NULL ? 0 : task->n_outputs, inputs, outputs);
    }
    *shown = (struct prompt_task){.program = task->program,
                                  .inputs = (const char *const *)task->inputs,
                                  .outputs = (const char *const *)task->outputs,
                                  .pairs = (int)task->n_inputs,
                                  .message = task->message};
    return 0;
}

int role_tokens(int32_t **ids, int32_t *count, const Kelvin__Prompt *prompt,
                enum prompt_style style, const struct tokenizer *tokenizer, int32_t tokens_max,
                struct error *err)
{
    struct role_view view = {.request = {.style = style}};
    int code = prompt->role == KELVIN__ROLE__PROPOSE ? propose_view(&view, prompt, err)
                                                     : solve_view(&view, prompt, err);
    if (code < 0) {
        return code;
    }
    CLEANUP(freep) char *text = prompt_render(&view.request, err);
    if (text == NULL) {
        return -EINVAL;
    }
    struct token_list list = {0};
    code = tokenizer_encode(tokenizer, &list, text, strlen(text), true, err);
    if (code == 0 && list.count > (size_t)tokens_max) {
        code = error_set(err, -EMSGSIZE, "the prompt has %zu tokens; at most %d are allowed",
                         list.count, tokens_max);
    }
    if (code < 0) {
        free(list.ids);
        return code;
    }
    CHECK(list.count > 0); // no style renders an empty text
    *ids = list.ids;
    *count = (int32_t)list.count;
    return 0;
}
