// role.h: from a Prompt message to token ids: the two roles say what their prompt shows, the run's
// style says it in words, the tokenizer in ids.
#ifndef ACTOR_ROLE_H
#define ACTOR_ROLE_H

#include "common/base/limits.h"
#include "common/text/prompt.h"
#include "common/text/tokenizer.h"

#include "proto/rollout.pb-c.h"

// struct role_view is a prompt message as common/text/prompt.h wants it; it borrows the message.
struct role_view {
    struct prompt_request request;
    struct prompt_task task;
    struct prompt_task references[TASK_REFERENCES_MAX];
};

// propose_view and solve_view fill *view, all but the style. -EINVAL when the message lacks what
// such a prompt shows.
int propose_view(struct role_view *view, const Kelvin__Prompt *prompt, struct error *err);
int solve_view(struct role_view *view, const Kelvin__Prompt *prompt, struct error *err);

// role_show makes *shown a task of which at least `inputs` and `outputs` are there.
int role_show(struct prompt_task *shown, const Kelvin__Task *task, size_t inputs, size_t outputs,
              struct error *err);

// role_tokens renders the prompt under `style` and encodes it: *ids is fresh, the caller frees it.
// -EMSGSIZE when it has more than `tokens_max` tokens, -EINVAL when it cannot be rendered; the
// sentence is what the learner reads in a REJECTED rollout's note.
int role_tokens(int32_t **ids, int32_t *count, const Kelvin__Prompt *prompt,
                enum prompt_style style, const struct tokenizer *tokenizer, int32_t tokens_max,
                struct error *err);

#endif
