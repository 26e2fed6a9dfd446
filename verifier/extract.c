#include "verifier/extract.h"

#include "common/base/cleanup.h"
#include "common/base/limits.h"
#include "common/base/task.h"
#include "common/text/prompt.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

// struct span is a part of the response.
struct span {
    const char *text;
    size_t size;
};

static struct span span_of(const char *text)
{
    return (struct span){.text = text, .size = strlen(text)};
}

static bool is_space(char c)
{
    return isspace((unsigned char)c) != 0;
}

static struct span trim(struct span span)
{
    while (span.size > 0 && is_space(span.text[0])) {
        span.text++;
        span.size--;
    }
    while (span.size > 0 && is_space(span.text[span.size - 1])) {
        span.size--;
    }
    return span;
}

// The first place of `what` in the span, or NULL.
static const char *find(struct span span, const char *what)
{
    return span.size == 0 ? NULL : memmem(span.text, span.size, what, strlen(what));
}

static bool starts_with(struct span span, const char *what)
{
    size_t size = strlen(what);
    return span.size >= size && memcmp(span.text, what, size) == 0;
}

// The span from `from`, a place in it or at its end, to its end.
static struct span rest_from(struct span span, const char *from)
{
    return (struct span){.text = from, .size = span.size - (size_t)(from - span.text)};
}

static int copy_span(char **out, struct span span, size_t size_max, const char *what,
                     struct error *err)
{
    if (span.size == 0) {
        return error_set(err, -EBADMSG, "the %s is empty", what);
    }
    if (span.size > size_max) {
        return error_set(err, -EBADMSG, "the %s has %zu bytes; at most %zu are accepted", what,
                         span.size, size_max);
    }
    *out = strndup(span.text, span.size);
    return *out == NULL ? error_set(err, -ENOMEM, "extract: out of memory") : 0;
}

// What stands after the last <answer>, up to </answer> or the end.
static int find_answer(struct span *out, struct span response, struct error *err)
{
    static const char open[] = "<answer>";
    const char *answer = NULL;
    struct span rest = response;
    for (const char *at = find(rest, open); at != NULL; at = find(rest, open)) {
        answer = at + strlen(open);
        rest = rest_from(response, answer);
    }
    if (answer == NULL) {
        return error_set(err, -EBADMSG, "the response has no <answer>");
    }
    const char *close = find(rest, "</answer>");
    out->text = answer;
    out->size = close == NULL ? rest.size : (size_t)(close - answer);
    return 0;
}

// Adds a copy of an input to parts->inputs, which has room for it.
static int add_input(struct extracted *parts, struct span input, struct error *err)
{
    char *copy = NULL;
    int code = copy_span(&copy, input, INPUT_BYTES_MAX, "input", err);
    if (code == 0) {
        parts->inputs[parts->input_count++] = copy;
    }
    return code;
}

// Takes the last `wanted` of `count` inputs (all when `wanted` is 0).
static int take_inputs(struct extracted *parts, const struct span *inputs, int count,
                       uint32_t wanted, struct error *err)
{
    int take = wanted == 0 || wanted > TASK_INPUTS_MAX ? count : (int)wanted;
    if (count < take || count < 1 || wanted > TASK_INPUTS_MAX) {
        return error_set(err, -EBADMSG, "%u inputs are wanted, the answer has %d", wanted, count);
    }
    parts->inputs = calloc((size_t)take, sizeof(*parts->inputs));
    if (parts->inputs == NULL) {
        return error_set(err, -ENOMEM, "extract: out of memory");
    }
    int code = 0;
    for (int i = count - take; i < count && code == 0; i++) {
        code = add_input(parts, inputs[i], err);
    }
    return code;
}

// Keeps the last TASK_INPUTS_MAX of the inputs seen.
static void push_input(struct span *inputs, int *count, struct span input)
{
    if (*count == TASK_INPUTS_MAX) {
        memmove(inputs, inputs + 1, sizeof(*inputs) * (TASK_INPUTS_MAX - 1));
        *count -= 1;
    }
    inputs[(*count)++] = input;
}

// --- the compact style

// Whether any tag of the style stands in the span: parts are shown in later prompts, where a tag
// inside them would change what the prompt says.
static bool has_tag(struct span span)
{
    static const char *const tags[] = {"<solve>",  "<propose>", "<ded>",     "<abd>",  "<ind>",
                                       "<prog>",   "<in>",      "<out>",     "<go>",   "<think>",
                                       "</think>", "<answer>",  "</answer>", "<|end|>"};
    for (size_t i = 0; i < sizeof(tags) / sizeof(*tags); i++) {
        if (find(span, tags[i]) != NULL) {
            return true;
        }
    }
    return false;
}

static int tag_error(struct error *err)
{
    return error_set(err, -EBADMSG, "a tag stands inside a part of the answer");
}

static int compact_program(struct extracted *parts, struct span answer, struct error *err)
{
    const char *in = find(answer, "<in>");
    if (!starts_with(answer, "<prog>") || in == NULL) {
        return error_set(err, -EBADMSG, "the answer is not of the form <prog>...<in>...");
    }
    struct span program = {.text = answer.text + strlen("<prog>"),
                           .size = (size_t)(in - answer.text) - strlen("<prog>")};
    struct span input = rest_from(answer, in + strlen("<in>"));
    if (has_tag(program) || has_tag(input)) {
        return tag_error(err);
    }
    int code = copy_span(&parts->program, program, PROGRAM_BYTES_MAX, "program", err);
    return code < 0 ? code : take_inputs(parts, &input, 1, 0, err);
}

static int compact_inputs(struct extracted *parts, struct span answer, uint32_t wanted,
                          struct error *err)
{
    struct span inputs[TASK_INPUTS_MAX];
    int count = 0;
    if (!starts_with(answer, "<in>")) {
        return error_set(err, -EBADMSG, "the answer is not of the form <in>...<in>...");
    }
    while (answer.size > 0) {
        struct span rest = rest_from(answer, answer.text + strlen("<in>"));
        const char *next = find(rest, "<in>");
        const char *end = next == NULL ? rest.text + rest.size : next;
        struct span input = {.text = rest.text, .size = (size_t)(end - rest.text)};
        if (has_tag(input)) {
            return tag_error(err);
        }
        push_input(inputs, &count, input);
        answer = rest_from(answer, end);
    }
    return take_inputs(parts, inputs, count, wanted, err);
}

static int compact_answer(struct extracted *parts, struct span answer, struct error *err)
{
    return has_tag(answer) ? tag_error(err)
                           : copy_span(&parts->answer, answer, PROGRAM_BYTES_MAX, "answer", err);
}

// The form is [<think>...</think>]<answer>...</answer> and nothing else. A response to a prompt
// that ended with <think> begins inside the thinking part. A proposal has none.
static void compact_form(struct extracted *parts, struct span response, enum role role)
{
    struct span rest = response;
    bool opened = starts_with(rest, "<think>");
    if (opened) {
        rest = rest_from(rest, rest.text + strlen("<think>"));
    }
    const char *close = find(rest, "</think>");
    const char *answer = find(rest, "<answer>");
    bool thought = close != NULL && (answer == NULL || close < answer);
    if (thought) {
        struct span inner = {.text = rest.text, .size = (size_t)(close - rest.text)};
        parts->scratchpad = trim(inner).size > 0;
        opened = find(inner, "<think>") != NULL;
        rest = rest_from(rest, close + strlen("</think>"));
    }
    const char *end = find(rest, "</answer>");
    parts->formatted = !opened && starts_with(rest, "<answer>") && end != NULL &&
                       rest_from(rest, end).size == strlen("</answer>") &&
                       !(thought && role == ROLE_PROPOSE);
}

static int compact_parts(struct extracted *parts, struct span answer,
                         const Kelvin__VerifyRequest *request, struct error *err)
{
    if (request->role == KELVIN__ROLE__SOLVE) {
        return compact_answer(parts, answer, err);
    }
    if (request->kind == KELVIN__TASK_KIND__INDUCTION) {
        return compact_inputs(parts, answer, request->inputs_count, err);
    }
    return compact_program(parts, answer, err);
}

// --- the fenced styles

struct block {
    struct span label;
    struct span body;
};

// Takes the next closed block ```label ... ``` off the front of *rest; false when there is none.
static bool next_block(struct span *rest, struct block *block)
{
    static const char fence[] = "```";
    const char *open = find(*rest, fence);
    if (open == NULL) {
        return false;
    }
    struct span inner = rest_from(*rest, open + strlen(fence));
    size_t label = 0;
    while (label < inner.size &&
           (isalnum((unsigned char)inner.text[label]) != 0 || inner.text[label] == '_')) {
        label++;
    }
    block->label = (struct span){.text = inner.text, .size = label};
    struct span body = rest_from(inner, inner.text + label);
    const char *close = find(body, fence);
    if (close == NULL) {
        return false;
    }
    block->body = trim((struct span){.text = body.text, .size = (size_t)(close - body.text)});
    *rest = rest_from(body, close + strlen(fence));
    return true;
}

static bool is_labelled(const struct block *block, const char *label)
{
    return block->label.size == strlen(label) &&
           strncasecmp(block->label.text, label, block->label.size) == 0;
}

enum which { FIRST, LAST };

static bool find_block(struct span *out, struct span answer, const char *label, enum which which)
{
    struct block block = {0};
    bool found = false;
    while (!(found && which == FIRST) && next_block(&answer, &block)) {
        if (is_labelled(&block, label)) {
            *out = block.body;
            found = true;
        }
    }
    return found;
}

static bool is_name(struct span span)
{
    for (size_t i = 0; i < span.size; i++) {
        if (isalnum((unsigned char)span.text[i]) == 0 && span.text[i] != '_') {
            return false;
        }
    }
    return span.size > 0;
}

// Takes a last line print(NAME(ARGUMENTS)) off the program; the arguments are the input.
static bool take_print_line(struct span *program, struct span *input)
{
    size_t line = program->size;
    while (line > 0 && program->text[line - 1] != '\n') {
        line--;
    }
    struct span call = rest_from(*program, program->text + line);
    if (!starts_with(call, "print(") || call.size < strlen("print(f())") ||
        memcmp(call.text + call.size - 2, "))", 2) != 0) {
        return false;
    }
    struct span inner = {.text = call.text + strlen("print("),
                         .size = call.size - strlen("print(") - strlen("))")};
    const char *open = find(inner, "(");
    if (open == NULL ||
        !is_name((struct span){.text = inner.text, .size = (size_t)(open - inner.text)})) {
        return false;
    }
    *input = trim(rest_from(inner, open + 1));
    *program = trim((struct span){.text = program->text, .size = line});
    return true;
}

static int fenced_program(struct extracted *parts, struct span answer, struct error *err)
{
    struct span program = {0};
    struct span input = {0};
    if (!find_block(&program, answer, "python", FIRST)) {
        return error_set(err, -EBADMSG, "the answer has no closed ```python block");
    }
    if (!find_block(&input, answer, "input", FIRST) && !take_print_line(&program, &input)) {
        return error_set(err, -EBADMSG, "the answer has no closed ```input block");
    }
    int code = copy_span(&parts->program, program, PROGRAM_BYTES_MAX, "program", err);
    return code < 0 ? code : take_inputs(parts, &input, 1, 0, err);
}

static int fenced_inputs(struct extracted *parts, struct span answer, uint32_t wanted,
                         struct error *err)
{
    struct span inputs[TASK_INPUTS_MAX];
    int count = 0;
    struct span message = {0};
    if (!find_block(&message, answer, "message", FIRST)) {
        return error_set(err, -EBADMSG, "the answer has no closed ```message block");
    }
    struct block block = {0};
    while (next_block(&answer, &block)) {
        if (is_labelled(&block, "input")) {
            push_input(inputs, &count, block.body);
        }
    }
    int code = copy_span(&parts->message, message, MESSAGE_BYTES_MAX, "message", err);
    return code < 0 ? code : take_inputs(parts, inputs, count, wanted, err);
}

// A value may stand in a block or be the whole answer; a program needs its block.
static int fenced_answer(struct extracted *parts, struct span answer, Kelvin__TaskKind kind,
                         struct error *err)
{
    struct span value = trim(answer);
    if (kind == KELVIN__TASK_KIND__INDUCTION) {
        if (!find_block(&value, answer, "python", LAST)) {
            return error_set(err, -EBADMSG, "the answer has no closed ```python block");
        }
    } else {
        (void)find_block(&value, answer, kind == KELVIN__TASK_KIND__ABDUCTION ? "input" : "output",
                         LAST);
    }
    return copy_span(&parts->answer, value, PROGRAM_BYTES_MAX, "answer", err);
}

// The form is ...</think><answer>...</answer>, with optional space between; the prompt opened the
// thinking part. What follows is not looked at.
static void fenced_form(struct extracted *parts, struct span response)
{
    struct span rest = response;
    for (const char *at = find(rest, "</think>"); at != NULL; at = find(rest, "</think>")) {
        struct span thought = {.text = response.text, .size = (size_t)(at - response.text)};
        parts->scratchpad = parts->scratchpad || trim(thought).size > 0;
        rest = rest_from(response, at + strlen("</think>"));
        if (starts_with(trim(rest), "<answer>") && find(rest, "</answer>") != NULL) {
            parts->formatted = true;
        }
    }
}

static int fenced_parts(struct extracted *parts, struct span answer,
                        const Kelvin__VerifyRequest *request, struct error *err)
{
    if (request->role == KELVIN__ROLE__SOLVE) {
        return fenced_answer(parts, answer, request->kind, err);
    }
    if (request->kind == KELVIN__TASK_KIND__INDUCTION) {
        return fenced_inputs(parts, answer, request->inputs_count, err);
    }
    return fenced_program(parts, answer, err);
}

int extract_parts(struct extracted *out, const Kelvin__VerifyRequest *request, struct error *err)
{
    int style = prompt_style_find(request->style, err);
    if (style < 0) {
        return style;
    }
    if ((unsigned)request->role >= ROLES || (unsigned)request->kind >= KINDS) {
        return error_set(err, -EINVAL, "unknown role %d or kind %d", (int)request->role,
                         (int)request->kind);
    }
    struct span response = span_of(request->response);
    if (response.size > RESPONSE_BYTES_MAX) {
        return error_set(err, -EBADMSG, "the response has %zu bytes; at most %d are read",
                         response.size, RESPONSE_BYTES_MAX);
    }
    struct span answer = {0};
    int code = find_answer(&answer, response, err);
    if (code < 0) {
        return code;
    }
    CLEANUP(extract_finish) struct extracted parts = {0};
    if (style == STYLE_COMPACT) {
        code = compact_parts(&parts, answer, request, err);
        compact_form(&parts, response, (enum role)request->role);
    } else {
        code = fenced_parts(&parts, answer, request, err);
        fenced_form(&parts, response);
    }
    if (code < 0) {
        return code;
    }
    *out = parts;
    parts = (struct extracted){0}; // now the caller's
    return 0;
}

void extract_finish(struct extracted *parts)
{
    if (parts == NULL) {
        return;
    }
    for (int i = 0; i < parts->input_count; i++) {
        free(parts->inputs[i]);
    }
    free(parts->inputs);
    free(parts->program);
    free(parts->message);
    free(parts->answer);
    *parts = (struct extracted){0};
}
