// What results mean: the rules by which the values and failures of runs settle a check, for each
// kind of check, and those that need no run.
#include "verifier/judge_state.h"

#include "common/base/cleanup.h"
#include "verifier/literal.h"
#include "verifier/value.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void judge_settle(struct check *check, enum outcome outcome, const char *detail)
{
    if (check->settled) {
        return;
    }
    check->settled = true;
    check->outcome = outcome;
    (void)snprintf(check->detail, sizeof(check->detail), "%s", detail);
}

// --- of runs ---

void judge_settle_failed_run(struct check *check, const struct image_result *result)
{
    const struct judge_parts *parts = &check->parts;
    enum outcome outcome = result->outcome;
    bool wrong = outcome == OUTCOME_UNSUPPORTED_VALUE || outcome == OUTCOME_OUTPUT_TOO_LARGE;
    if (parts->check == CHECK_JUDGE && wrong) {
        outcome = OUTCOME_WRONG; // no gold is such a value
    }
    judge_settle(check, outcome, result->detail);
    (void)snprintf(check->exception, sizeof(check->exception), "%s", result->exception);
}

// The repr must read back to the value: it is what prompts and answers are made of.
static bool reads_back(const struct bytes *canonical, const char *repr)
{
    CLEANUP(bytes_finish) struct bytes typed = {0};
    CLEANUP(bytes_finish) struct bytes again = {0};
    return literal_parse(&typed, repr, strlen(repr), NULL) == 0 &&
           value_canonical(&again, typed.data, typed.size, NULL) == 0 &&
           again.size == canonical->size && memcmp(again.data, canonical->data, again.size) == 0;
}

static bool same_bytes(const struct bytes *a, const struct bytes *b)
{
    return a->size == b->size && memcmp(a->data, b->data, a->size) == 0;
}

static void keep_repr(struct pair *pair, int variant, const char *repr)
{
    if (pair->repr == NULL || variant < pair->repr_variant) {
        free(pair->repr);
        pair->repr = strdup(repr);
        pair->repr_variant = variant;
    }
}

static void take_validated(struct check *check, struct pair *pair, int variant,
                           const struct image_result *result, struct bytes *canonical)
{
    bool none = result->value_size == 1 && result->value[0] == VALUE_NONE;
    if (none && !check->judge->config.allow_none) {
        judge_settle(check, OUTCOME_UNSUPPORTED_VALUE, "the program returns None");
    } else if (!reads_back(canonical, result->repr)) {
        judge_settle(check, OUTCOME_UNSUPPORTED_VALUE, "the repr does not read back to the value");
    } else if (pair->known && !same_bytes(&pair->canonical, canonical)) {
        judge_settle(check, OUTCOME_NONDETERMINISTIC, "two interpreters return different values");
    } else {
        keep_repr(pair, variant, result->repr);
        if (!pair->known) {
            pair->known = true;
            pair->canonical = *canonical;
            *canonical = (struct bytes){0};
        }
    }
}

static void take_judged(struct check *check, struct pair *pair, int input, int variant,
                        const struct image_result *result, const struct bytes *canonical)
{
    const struct judge_parts *parts = &check->parts;
    keep_repr(pair, variant, result->repr);
    pair->right = parts->gold[input].size > 0 && same_bytes(&parts->gold[input], canonical);
    if (!pair->right && !check->is_fraction && !check->is_any) {
        judge_settle(check, OUTCOME_WRONG, "another value than the gold");
    }
}

// The gold of error deduction: a type's name or NoError, the same in all images.
static void take_error(struct check *check, struct pair *pair, const struct image_result *result)
{
    const char *name = result->outcome == OUTCOME_OK ? "NoError" : result->exception;
    if (pair->known && strcmp(pair->exception, name) != 0) {
        judge_settle(check, OUTCOME_NONDETERMINISTIC,
                     "two interpreters raise different exceptions");
        return;
    }
    (void)snprintf(pair->exception, sizeof(pair->exception), "%s", name);
    pair->known = true;
    keep_repr(pair, 0, name);
    (void)snprintf(check->exception, sizeof(check->exception), "%s", result->exception);
}

static bool is_error_validation(const struct check *check)
{
    return check->parts.check == CHECK_VALIDATE && check->parts.kind == KIND_ERROR;
}

static void take_value(struct check *check, int input, int variant,
                       const struct image_result *result)
{
    struct pair *pair = &check->pairs[input];
    if (check->parts.check == CHECK_RUN) {
        keep_repr(pair, variant, result->repr);
        return;
    }
    CLEANUP(bytes_finish) struct bytes canonical = {0};
    if (value_canonical(&canonical, result->value, result->value_size, NULL) < 0) {
        judge_settle(check, OUTCOME_CRASHED, "the sandbox sent a malformed value");
    } else if (check->parts.check == CHECK_VALIDATE) {
        take_validated(check, pair, variant, result, &canonical);
    } else {
        take_judged(check, pair, input, variant, result, &canonical);
    }
}

// A later image that ends otherwise than the first: the program depends on what differs, unless
// time or the host decided.
static void settle_difference(struct check *check, const struct image_result *result)
{
    enum outcome outcome = result->outcome;
    if (outcome == OUTCOME_TIMEOUT || outcome == OUTCOME_INFRASTRUCTURE) {
        judge_settle_failed_run(check, result);
        return;
    }
    char detail[128];
    (void)snprintf(detail, sizeof(detail), "one interpreter returns a value, another ends with %s",
                   outcome_name(outcome));
    judge_settle(check, OUTCOME_NONDETERMINISTIC, detail);
}

void judge_take_result(struct check *check, int input, int variant,
                       const struct image_result *result)
{
    struct pair *pair = &check->pairs[input];
    bool any_of = check->parts.check == CHECK_JUDGE && (check->is_fraction || check->is_any);
    if (is_error_validation(check) &&
        (result->outcome == OUTCOME_OK || result->outcome == OUTCOME_RAISED)) {
        take_error(check, pair, result);
    } else if (result->outcome == OUTCOME_OK) {
        take_value(check, input, variant, result);
    } else if (any_of && check->code.size > 0 && result->outcome != OUTCOME_INFRASTRUCTURE) {
        pair->right = false; // one input lost, the others may count
    } else if (pair->known) {
        settle_difference(check, result);
    } else {
        judge_settle_failed_run(check, result);
    }
}

// All runs are done and none settled the verdict.
void judge_conclude(struct check *check)
{
    const struct judge_parts *parts = &check->parts;
    bool shares = check->is_fraction || check->is_any;
    if (parts->check != CHECK_JUDGE || parts->kind != KIND_INDUCTION || !shares) {
        judge_settle(check, OUTCOME_OK, "");
        return;
    }
    int right = 0;
    for (int i = 0; i < parts->input_count; i++) {
        right += check->pairs[i].right;
    }
    bool good = check->is_any ? right > 0 : right == parts->input_count;
    judge_settle(check, good ? OUTCOME_OK : OUTCOME_WRONG,
                 good ? "" : "some values differ from the gold");
}

// --- without a run ---

static const char *trim(const char *text, size_t *size)
{
    text += strspn(text, " \t\r\n");
    *size = strlen(text);
    while (*size > 0 && strchr(" \t\r\n", text[*size - 1]) != NULL) {
        (*size)--;
    }
    return text;
}

void judge_deduction(struct check *check)
{
    const struct judge_parts *parts = &check->parts;
    CLEANUP(bytes_finish) struct bytes typed = {0};
    CLEANUP(bytes_finish) struct bytes canonical = {0};
    struct error err = {0};
    if (parts->gold[0].size == 0) {
        judge_settle(check, OUTCOME_MALFORMED, "the gold is not a literal");
    } else if (literal_parse(&typed, parts->answer, strlen(parts->answer), &err) < 0 ||
               value_canonical(&canonical, typed.data, typed.size, &err) < 0) {
        judge_settle(check, OUTCOME_WRONG, err.text);
    } else if (same_bytes(&canonical, &parts->gold[0])) {
        judge_settle(check, OUTCOME_OK, "");
    } else {
        judge_settle(check, OUTCOME_WRONG, "another value than the gold");
    }
}

// The answer is a bare type name; quotes around it are forgiven.
void judge_error(struct check *check)
{
    size_t size = 0;
    size_t gold_size = 0;
    const char *answer = trim(check->parts.answer, &size);
    const char *gold = trim(check->parts.outputs[0], &gold_size);
    if (size >= 2 && (answer[0] == '\'' || answer[0] == '"') && answer[size - 1] == answer[0]) {
        answer++;
        size -= 2;
    }
    bool right = size == gold_size && memcmp(answer, gold, size) == 0;
    judge_settle(check, right ? OUTCOME_OK : OUTCOME_WRONG, right ? "" : "another exception");
}
