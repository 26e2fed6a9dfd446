// extract.h: the program, inputs and answer out of a model's text, and whether the text had the
// required form.
//
// The answer is what stands after the last <answer>, up to </answer> or the end. In the styles azr,
// chatml and llama3 its parts are fenced blocks (python, input, message, output); where an input
// block is missing, a last line print(f(...)) of the program is taken off as the input. In the
// style compact they are the tags <prog> and <in>. The prompt is never searched: only the response
// is given. Nothing is run or parsed as Python here, and a function is not renamed: the sandbox
// does that on the syntax tree.
#ifndef VERIFIER_EXTRACT_H
#define VERIFIER_EXTRACT_H

#include "common/base/error.h"
#include "proto/verdict.pb-c.h"

#include <stdbool.h>

// struct extracted holds what was asked for; the rest is NULL. A proposal has `program` and
// `inputs` (induction: `inputs` and `message`; the program is the prompted one); a solution has
// `answer` (induction: a program).
struct extracted {
    char *program;
    char **inputs; // [input_count]
    int input_count;
    char *message;
    char *answer;
    bool formatted;  // AZR.md section 4
    bool scratchpad; // there is a thinking part with something in it
};

// extract_parts reads request->response under its style, role, kind and inputs_count (induction:
// the last N inputs are taken; 0 takes all). -EBADMSG with the reason when a part is missing or too
// large, and then the response does not count as formatted; -EINVAL for an unknown style, role or
// kind. On failure *out is untouched; else extract_finish frees what it holds. Any thread.
int extract_parts(struct extracted *out, const Kelvin__VerifyRequest *request, struct error *err);
void extract_finish(struct extracted *parts);

#endif
