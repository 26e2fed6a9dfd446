// The proposer sees stored tasks of its kind, whole; for induction, one program to write inputs
// for.
#include "actor/role.h"

#include <errno.h>

int propose_view(struct role_view *view, const Kelvin__Prompt *prompt, struct error *err)
{
    if (prompt->n_references > TASK_REFERENCES_MAX) {
        return error_set(err, -EINVAL, "the prompt has %zu references; at most %d are allowed",
                         prompt->n_references, TASK_REFERENCES_MAX);
    }
    for (size_t i = 0; i < prompt->n_references; i++) {
        int code = role_show(&view->references[i], prompt->references[i], 1, 1, err);
        if (code < 0) {
            return code;
        }
    }
    struct prompt_request *request = &view->request;
    request->role = ROLE_PROPOSE;
    request->kind = (enum task_kind)prompt->kind;
    request->references = view->references;
    request->reference_count = (int)prompt->n_references;
    request->inputs_count = (int)prompt->inputs_count;
    request->composites = (const char *const *)prompt->composites;
    request->composite_count = (int)prompt->n_composites;
    if (request->kind != KIND_INDUCTION) {
        return 0;
    }
    request->task = &view->task;
    return role_show(&view->task, prompt->task, 0, 0, err);
}
