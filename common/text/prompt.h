// prompt.h: the words of a prompt. A style renders a request of one role and task kind as text that
// ends where the model's response begins; the same style says how the response is read back
// (verifier/extract.h).
//
// Styles: `azr` (base models: think/answer wrapper, plain concatenation), `llama3` (the same task
// in Llama 3's chat template), `chatml` (chat turns with worked examples, for the instruct models
// of the Qwen and SmolLM2 kind), `compact` (tags only, for the small model that ships). All but
// compact end inside an opened <think>. The words are our own under the contracts of the paper's
// prompts. The forms are used by pretraining, self-play and evaluation alike.
#ifndef COMMON_TEXT_PROMPT_H
#define COMMON_TEXT_PROMPT_H

#include "common/base/error.h"
#include "common/base/task.h"

#include <stdbool.h>

enum prompt_style { STYLE_COMPACT, STYLE_AZR, STYLE_CHATML, STYLE_LLAMA3, STYLES };

// prompt_style_find is the style called `name`, or -EINVAL with the list of names.
int prompt_style_find(const char *name, struct error *err);
const char *prompt_style_name(enum prompt_style style);

// struct prompt_task is a task as a prompt shows it; strings are borrowed. `outputs` may be NULL
// where only inputs are shown, `inputs` where only outputs are.
struct prompt_task {
    const char *program;
    const char *const *inputs;  // [pairs]
    const char *const *outputs; // [pairs]
    int pairs;                  // 1, or N of an induction task
    const char *message;        // induction; may be NULL
};

struct prompt_request {
    enum prompt_style style;
    enum role role;
    enum task_kind kind;
    const struct prompt_task
        *task; // solve: the task; induction shows its first pairs/2 (rounded down, at least
               // one) pairs and the message. propose induction: its program
    const struct prompt_task *references; // propose: shown in this order
    int reference_count;
    int inputs_count;              // propose induction: N
    const char *const *composites; // propose: functions g_0, g_1, ... that f must call
    int composite_count;
    bool scratchpad; // solve: end the prompt inside the thinking part, so that it must be used
};

// prompt_render returns fresh text that the caller frees, or NULL with `err` (out of memory, or a
// kind that the style does not know).
char *prompt_render(const struct prompt_request *request, struct error *err);

// prompt_stop is the text that ends a response in this style ("</answer>"), included in the
// response.
const char *prompt_stop(enum prompt_style style);

// prompt_shown is how many of N pairs an induction prompt shows; the rest are hidden and judge the
// answer.
int prompt_shown(int pairs);

#endif
