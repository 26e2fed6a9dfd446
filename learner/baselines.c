#include "learner/baselines.h"

#include <ctype.h>
#include <string.h>

enum input_type {
    INPUT_NUMBER,
    INPUT_STRING,
    INPUT_LIST,
    INPUT_TUPLE,
    INPUT_SET, // or a dictionary
    INPUT_OTHER,
    INPUT_TYPES
};

// The type of the first of a list of arguments, by how its text begins.
static enum input_type type_of(const char *arguments)
{
    arguments += strspn(arguments, " \t\n");
    switch (*arguments) {
    case '\'':
    case '"':
        return INPUT_STRING;
    case '[':
        return INPUT_LIST;
    case '(':
        return INPUT_TUPLE;
    case '{':
        return INPUT_SET;
    default:
        return isdigit((unsigned char)*arguments) || *arguments == '-' || *arguments == '.'
                   ? INPUT_NUMBER
                   : INPUT_OTHER;
    }
}

void baselines_number(int32_t *numbers, const struct batch_row *rows, int32_t count,
                      const struct run_config *config)
{
    int32_t of_type[KINDS][INPUT_TYPES];
    memset(of_type, -1, sizeof(of_type));
    int32_t next = 0;
    for (int32_t i = 0; i < count; i++) {
        const struct group *group = rows[i].group;
        int32_t *shared = NULL;
        if (rows[i].role == ROLE_SOLVE) {
            bool same = config->azr.baseline == BASELINE_TASK && i > 0 &&
                        rows[i - 1].role == ROLE_SOLVE && rows[i - 1].group == group;
            shared = same ? &numbers[i - 1] : NULL;
        } else if (config->azr.proposer_baseline == PROPOSER_INPUT_TYPE && group->valid) {
            shared = &of_type[group->kind][type_of(group->task->inputs[0])];
        }
        if (shared != NULL && *shared >= 0) {
            numbers[i] = *shared;
            continue;
        }
        numbers[i] = next++;
        if (shared != NULL) {
            *shared = numbers[i];
        }
    }
}
