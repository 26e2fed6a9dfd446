// response.h: the words of a right response in the compact style, the counterpart of prompt.h. A
// small model is pretrained on them; verifier/extract.h reads the same forms back.
#ifndef COMMON_TEXT_RESPONSE_H
#define COMMON_TEXT_RESPONSE_H

#include "common/base/error.h"
#include "common/base/task.h"

// struct response is what a response says; strings are borrowed.
//   propose deduction, abduction   program, inputs[0]
//   propose induction              inputs [pairs]
//   solve deduction                output, and the scratchpad before it
//   solve abduction                inputs[0], and the scratchpad before it
//   solve induction                program
struct response {
    enum role role;
    enum task_kind kind;
    const char *program;
    const char *const *inputs; // [pairs]
    int pairs;
    const char *output;
    const char *scratchpad; // NULL: the response answers at once
};

// response_render returns fresh text that the caller frees, or NULL with `err` (out of memory).
char *response_render(const struct response *response, struct error *err);

#endif
