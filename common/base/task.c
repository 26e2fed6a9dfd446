#include "common/base/task.h"

#include "common/base/check.h"

const char *task_kind_name(enum task_kind kind)
{
    static const char *const names[KINDS] = {"deduction", "abduction", "induction", "error"};
    CHECK((unsigned)kind < KINDS);
    return names[kind];
}

const char *role_name(enum role role)
{
    static const char *const names[ROLES] = {"propose", "solve"};
    CHECK((unsigned)role < ROLES);
    return names[role];
}

const char *outcome_name(enum outcome outcome)
{
    static const char *const names[OUTCOMES] = {
        "ok",      "wrong",         "syntax-error",     "forbidden",        "raised",
        "timeout", "out-of-memory", "output-too-large", "nondeterministic", "unsupported-value",
        "crashed", "malformed",     "infrastructure",   "copied",
    };
    CHECK((unsigned)outcome < OUTCOMES);
    return names[outcome];
}
