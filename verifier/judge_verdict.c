// From a settled check to its verdict.
#include "verifier/judge_state.h"

static char *text_or_empty(char *text)
{
    static char empty[] = "";
    return text == NULL ? empty : text;
}

static float score_of(const struct check *check)
{
    const struct judge_parts *parts = &check->parts;
    if (check->outcome == OUTCOME_OK) {
        return parts->check == CHECK_JUDGE || parts->check == CHECK_VALIDATE ? 1.0f : 0.0f;
    }
    bool shared = parts->check == CHECK_JUDGE && parts->kind == KIND_INDUCTION;
    if (!shared || !check->is_fraction || check->pairs == NULL) {
        return 0.0f;
    }
    int right = 0;
    for (int i = 0; i < parts->input_count; i++) {
        right += check->pairs[i].right;
    }
    return (float)right / (float)parts->input_count;
}

void judge_fill_verdict(struct check *check, Kelvin__Verdict *verdict, char **outputs)
{
    const struct judge_parts *parts = &check->parts;
    verdict->id = check->id;
    verdict->outcome = (Kelvin__Outcome)check->outcome;
    verdict->formatted = parts->formatted;
    verdict->scratchpad = parts->scratchpad;
    char *program = check->normalized != NULL ? check->normalized : parts->program;
    verdict->program = text_or_empty(check->renamed != NULL ? check->renamed : program);
    verdict->answer = text_or_empty(parts->answer);
    verdict->message = text_or_empty(parts->message);
    verdict->inputs = parts->inputs;
    verdict->n_inputs = (size_t)parts->input_count;
    bool shown = check->outcome == OUTCOME_OK || parts->check == CHECK_JUDGE;
    for (int i = 0; check->pairs != NULL && shown && i < parts->input_count; i++) {
        if (check->pairs[i].repr == NULL) {
            break;
        }
        outputs[verdict->n_outputs++] = check->pairs[i].repr;
    }
    verdict->outputs = outputs;
    verdict->exception = check->exception;
    verdict->detail = check->detail;
    verdict->score = score_of(check);
    verdict->wall_us = check->wall_us;
    verdict->cpu_us = check->cpu_us;
}

void judge_fill_facts(Kelvin__SourceFacts *out, const struct source_facts *facts)
{
    out->cyclomatic = facts->cyclomatic;
    out->operators = facts->operators;
    out->operands = facts->operands;
    out->distinct_operators = facts->distinct_operators;
    out->distinct_operands = facts->distinct_operands;
    out->distance_ppm = facts->distance_ppm;
    out->references = facts->references;
}
