// task.h: the vocabulary that all layers share: task kinds, roles, verdict outcomes. The values are
// those of proto/*.proto (asserted in common/wire/codec.c), so they pass between layers as they
// are.
#ifndef COMMON_BASE_TASK_H
#define COMMON_BASE_TASK_H

enum task_kind { KIND_DEDUCTION, KIND_ABDUCTION, KIND_INDUCTION, KIND_ERROR, KINDS };
enum role { ROLE_PROPOSE, ROLE_SOLVE, ROLES };

enum outcome {
    OUTCOME_OK,
    OUTCOME_WRONG,
    OUTCOME_SYNTAX_ERROR,
    OUTCOME_FORBIDDEN,
    OUTCOME_RAISED,
    OUTCOME_TIMEOUT,
    OUTCOME_OUT_OF_MEMORY,
    OUTCOME_OUTPUT_TOO_LARGE,
    OUTCOME_NONDETERMINISTIC,
    OUTCOME_UNSUPPORTED_VALUE,
    OUTCOME_CRASHED,
    OUTCOME_MALFORMED,
    OUTCOME_INFRASTRUCTURE,
    OUTCOME_COPIED,
    OUTCOMES
};

// The names a person reads and files hold: "deduction", "propose", "syntax-error", ...
const char *task_kind_name(enum task_kind kind);
const char *role_name(enum role role);
const char *outcome_name(enum outcome outcome);

#endif
