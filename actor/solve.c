// The solver sees what its kind gives: program and input, program and output, or the first pairs
// and the message.
#include "actor/role.h"

int solve_view(struct role_view *view, const Kelvin__Prompt *prompt, struct error *err)
{
    struct prompt_request *request = &view->request;
    request->role = ROLE_SOLVE;
    request->kind = (enum task_kind)prompt->kind;
    request->scratchpad = prompt->scratchpad;
    request->task = &view->task;
    size_t pairs = prompt->task == NULL ? 0 : prompt->task->n_inputs;
    switch (request->kind) {
    case KIND_INDUCTION:
        return role_show(&view->task, prompt->task, 1, (size_t)prompt_shown((int)pairs), err);
    case KIND_ABDUCTION:
        return role_show(&view->task, prompt->task, 0, 1, err);
    default:
        return role_show(&view->task, prompt->task, 1, 0, err);
    }
}
