// judge_parts.h: what a check works on, copied or extracted from its request. Used by judge.c.
#ifndef VERIFIER_JUDGE_PARTS_H
#define VERIFIER_JUDGE_PARTS_H

#include "common/base/error.h"
#include "common/base/task.h"
#include "proto/verdict.pb-c.h"
#include "verifier/bytes.h"

enum check_kind { CHECK_VALIDATE, CHECK_JUDGE, CHECK_RUN, CHECK_RENAME };

struct judge_parts {
    enum check_kind check;
    enum task_kind kind;
    char *program; // to run: of the proposal, of the task, or the answer's
    char *answer;
    char *message;
    char **inputs;  // [input_count] text
    char **outputs; // [output_count] gold text
    int input_count;
    int output_count;
    bool formatted;
    bool scratchpad;
    struct bytes *arguments; // [input_count] typed; empty ones did not parse
    int bad_input;           // index of the first that did not parse, or -1
    struct bytes last;       // arguments of a last run that reads the text only: references, a name
    int helpers;             // functions that stand in front of the program
    bool strip;
    bool describe;
    struct bytes *gold; // [output_count] canonical; empty ones did not parse
};

// judge_parts_read fills *out. -EBADMSG with a sentence when the request lacks a part or breaks a
// bound, -EEXIST when a proposal has an input that its proposer was shown; *out is then as far as
// it came. judge_parts_finish frees it either way.
int judge_parts_read(struct judge_parts *out, const Kelvin__VerifyRequest *request,
                     struct error *err);
void judge_parts_finish(struct judge_parts *parts);

// judge_looks_risky says whether the text uses what tends to differ between interpreters: sets,
// hashes, identities, object reprs, random numbers, time.
bool judge_looks_risky(const char *program);

#endif
