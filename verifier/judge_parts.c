#include "verifier/judge_parts.h"

#include "common/base/check.h"
#include "common/base/limits.h"
#include "verifier/extract.h"
#include "verifier/literal.h"
#include "verifier/value.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static char *copy(const char *text)
{
    return strdup(text == NULL ? "" : text);
}

static int copy_list(char ***out, int *count, char *const *list, size_t size)
{
    *out = calloc(size + 1, sizeof(char *));
    if (*out == NULL) {
        return -ENOMEM;
    }
    for (size_t i = 0; i < size; i++) {
        (*out)[i] = copy(list[i]);
        if ((*out)[i] == NULL) {
            return -ENOMEM;
        }
        *count = (int)i + 1;
    }
    return 0;
}

// Moves what the response holds over what the request says.
static void take_extracted(struct judge_parts *out, struct extracted *parts, bool is_program)
{
    char **answer = is_program ? &out->program : &out->answer;
    if (parts->program != NULL) {
        free(out->program);
        out->program = parts->program;
    }
    if (parts->answer != NULL) {
        free(*answer);
        *answer = parts->answer;
    }
    if (parts->message != NULL) {
        free(out->message);
        out->message = parts->message;
    }
    if (parts->inputs != NULL) {
        for (int i = 0; i < out->input_count; i++) {
            free(out->inputs[i]);
        }
        free(out->inputs);
        out->inputs = parts->inputs;
        out->input_count = parts->input_count;
        parts->inputs = NULL;
        parts->input_count = 0;
    }
    out->formatted = parts->formatted;
    out->scratchpad = parts->scratchpad;
    parts->program = parts->answer = parts->message = NULL;
    extract_finish(parts);
}

static bool answer_is_program(const struct judge_parts *parts)
{
    return parts->check == CHECK_JUDGE && parts->kind == KIND_INDUCTION;
}

static int copy_request(struct judge_parts *out, const Kelvin__VerifyRequest *request)
{
    const char *program = answer_is_program(out) ? request->answer : request->program;
    out->program = copy(program);
    out->answer = copy(request->answer);
    out->message = copy("");
    int code = out->program == NULL || out->answer == NULL || out->message == NULL ? -ENOMEM : 0;
    code = code < 0
               ? code
               : copy_list(&out->inputs, &out->input_count, request->inputs, request->n_inputs);
    return code < 0
               ? code
               : copy_list(&out->outputs, &out->output_count, request->outputs, request->n_outputs);
}

// An item of a copied list.
static const char *text_at(char *const *list, int i)
{
    CHECK(list != NULL && list[i] != NULL); // a copy that failed ended the request
    return list[i];
}

static int check_bounds(struct judge_parts *parts, struct error *err)
{
    bool trusted = parts->check == CHECK_RUN;
    size_t program_max = trusted ? RUN_OUTPUT_BYTES_MAX : PROGRAM_BYTES_MAX;
    if (strlen(parts->program) > program_max) {
        parts->program[0] = '\0'; // a verdict that repeated it could not be sent
        return error_set(err, -EBADMSG, "the program is longer than %zu bytes", program_max);
    }
    if (strlen(parts->answer) > INPUT_BYTES_MAX) {
        return error_set(err, -EBADMSG, "the answer is longer than %d bytes", INPUT_BYTES_MAX);
    }
    for (int i = 0; i < parts->input_count; i++) {
        if (strlen(text_at(parts->inputs, i)) > INPUT_BYTES_MAX) {
            return error_set(err, -EBADMSG, "an input is longer than %d bytes", INPUT_BYTES_MAX);
        }
    }
    if (parts->input_count > TASK_INPUTS_MAX) {
        return error_set(err, -EBADMSG, "more than %d inputs", TASK_INPUTS_MAX);
    }
    return 0;
}

// The parts that a check of this kind cannot do without.
static int check_presence(const struct judge_parts *parts, uint32_t inputs_wanted,
                          struct error *err)
{
    bool runs = parts->check != CHECK_JUDGE || parts->kind == KIND_ABDUCTION ||
                parts->kind == KIND_INDUCTION;
    if (runs && parts->program[0] == '\0') {
        return error_set(err, -EBADMSG, "there is no program");
    }
    bool own_input = parts->check == CHECK_JUDGE && parts->kind != KIND_INDUCTION;
    bool needs_input = !own_input && parts->check != CHECK_RENAME;
    if (runs && needs_input && parts->input_count == 0) {
        return error_set(err, -EBADMSG, "there is no input");
    }
    if (parts->check == CHECK_VALIDATE && parts->input_count < (int)inputs_wanted) {
        return error_set(err, -EBADMSG, "%d inputs instead of %u", parts->input_count,
                         inputs_wanted);
    }
    int golds = parts->kind == KIND_INDUCTION ? parts->input_count : 1;
    if (parts->check == CHECK_JUDGE && parts->output_count != golds) {
        return error_set(err, -EBADMSG, "%d gold outputs instead of %d", parts->output_count,
                         golds);
    }
    return 0;
}

static int parse_inputs(struct judge_parts *parts)
{
    parts->bad_input = -1;
    parts->arguments = calloc((size_t)parts->input_count + 1, sizeof(struct bytes));
    if (parts->arguments == NULL) {
        return -ENOMEM;
    }
    for (int i = 0; i < parts->input_count; i++) {
        const char *text = text_at(parts->inputs, i);
        int code = literal_parse_arguments(&parts->arguments[i], text, strlen(text), NULL);
        if (code < 0 && parts->bad_input < 0) {
            parts->bad_input = i;
        }
    }
    return 0;
}

// check_copied refuses inputs of the same value as one that the proposer was shown, however it is
// spelled.
static int check_copied(const struct judge_parts *parts, const Kelvin__VerifyRequest *request,
                        struct error *err)
{
    int code = 0;
    for (size_t s = 0; code == 0 && s < request->n_shown_inputs; s++) {
        struct bytes shown = {0};
        const char *text = request->shown_inputs[s];
        if (literal_parse_arguments(&shown, text, strlen(text), NULL) < 0) {
            continue;
        }
        for (int i = 0; code == 0 && i < parts->input_count; i++) {
            const struct bytes *own = &parts->arguments[i];
            if (own->size == shown.size && memcmp(own->data, shown.data, shown.size) == 0) {
                code = error_set(err, -EEXIST, "the input is that of a task that was shown");
            }
        }
        bytes_finish(&shown);
    }
    return code;
}

static int parse_golds(struct judge_parts *parts)
{
    parts->gold = calloc((size_t)parts->output_count + 1, sizeof(struct bytes));
    if (parts->gold == NULL) {
        return -ENOMEM;
    }
    for (int i = 0; i < parts->output_count && parts->kind != KIND_ERROR; i++) {
        struct bytes typed = {0};
        const char *text = text_at(parts->outputs, i);
        if (literal_parse(&typed, text, strlen(text), NULL) == 0) {
            (void)value_canonical(&parts->gold[i], typed.data, typed.size, NULL);
        }
        bytes_finish(&typed);
    }
    return 0;
}

// In an abduction the answer is the input.
static int answer_to_input(struct judge_parts *parts)
{
    for (int i = 0; i < parts->input_count; i++) {
        free(parts->inputs[i]);
    }
    free(parts->inputs);
    parts->inputs = NULL;
    parts->input_count = 0;
    return copy_list(&parts->inputs, &parts->input_count, &parts->answer, 1);
}

static int read_response(struct judge_parts *out, const Kelvin__VerifyRequest *request,
                         struct error *err)
{
    if (strlen(request->response) > RESPONSE_BYTES_MAX) {
        return error_set(err, -EBADMSG, "the response is longer than %d bytes", RESPONSE_BYTES_MAX);
    }
    struct extracted parts = {0};
    int code = extract_parts(&parts, request, err);
    if (code < 0) {
        out->formatted = false;
        return -EBADMSG;
    }
    take_extracted(out, &parts, answer_is_program(out));
    return 0;
}

// Puts the helpers in front of the program.
static int prepend_helpers(struct judge_parts *out, const Kelvin__VerifyRequest *request)
{
    struct bytes text = {0};
    for (size_t i = 0; i < request->n_helpers; i++) {
        bytes_append(&text, request->helpers[i], strlen(request->helpers[i]));
        bytes_append(&text, "\n\n", 2);
    }
    bytes_append(&text, out->program, strlen(out->program) + 1);
    if (text.failed || text.data == NULL) {
        bytes_finish(&text);
        return -ENOMEM;
    }
    free(out->program);
    out->program = (char *)text.data;
    out->helpers = (int)request->n_helpers;
    return 0;
}

// What is wanted of a validation beside its verdict.
static int take_wishes(struct judge_parts *out, const Kelvin__VerifyRequest *request)
{
    out->strip = request->strip;
    out->describe = request->describe;
    for (size_t i = 0; request->describe && i < request->n_references; i++) {
        size_t size = strlen(request->references[i]);
        bytes_append_u32(&out->last, (uint32_t)size);
        bytes_append(&out->last, request->references[i], size + 1);
    }
    return request->n_helpers > 0 && out->program[0] != '\0' ? prepend_helpers(out, request) : 0;
}

int judge_parts_read(struct judge_parts *out, const Kelvin__VerifyRequest *request,
                     struct error *err)
{
    *out = (struct judge_parts){.bad_input = -1, .formatted = true};
    if ((unsigned)request->check > CHECK_RENAME || (unsigned)request->kind >= KINDS) {
        return error_set(err, -EBADMSG, "unknown check or kind of task");
    }
    out->check = (enum check_kind)request->check;
    out->kind = (enum task_kind)request->kind;
    int code = copy_request(out, request);
    if (code == 0 && request->response[0] != '\0') {
        code = read_response(out, request, err);
    }
    if (code == 0 && out->check == CHECK_JUDGE && out->kind == KIND_ABDUCTION) {
        code = answer_to_input(out);
    }
    if (code == 0 && out->check == CHECK_VALIDATE) {
        code = take_wishes(out, request);
    }
    if (code == 0 && out->check == CHECK_RENAME) {
        bytes_append(&out->last, out->answer, strlen(out->answer) + 1);
    }
    code = code < 0 ? code : check_bounds(out, err);
    code = code < 0 ? code : check_presence(out, request->inputs_count, err);
    code = code < 0 ? code : parse_inputs(out);
    if (code == 0 && out->check == CHECK_VALIDATE) {
        code = check_copied(out, request, err);
    }
    code = code < 0 ? code : parse_golds(out);
    return code == -ENOMEM ? error_set(err, code, "out of memory") : code;
}

static void free_list(char **list, int count)
{
    for (int i = 0; list != NULL && i < count; i++) {
        free(list[i]);
    }
    free(list);
}

static void free_bytes(struct bytes *list, int count)
{
    for (int i = 0; list != NULL && i < count; i++) {
        bytes_finish(&list[i]);
    }
    free(list);
}

void judge_parts_finish(struct judge_parts *parts)
{
    free_bytes(parts->arguments, parts->input_count);
    free_bytes(parts->gold, parts->output_count);
    bytes_finish(&parts->last);
    free_list(parts->inputs, parts->input_count);
    free_list(parts->outputs, parts->output_count);
    free(parts->program);
    free(parts->answer);
    free(parts->message);
    *parts = (struct judge_parts){0};
}

// --- risk ---

static bool word_char(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}

static bool is_risky_word(const char *word, size_t size)
{
    static const char *const words[] = {"set",    "frozenset", "hash",   "id",
                                        "object", "repr",      "random", "time"};
    for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
        if (strlen(words[i]) == size && memcmp(words[i], word, size) == 0) {
            return true;
        }
    }
    return false;
}

// A brace whose first member is followed by a comma or the end, and not by a colon.
static bool is_set_display(const char *at)
{
    size_t size = strcspn(at, ":,}");
    return at[0] != '}' && (at[size] == ',' || at[size] == '}');
}

bool judge_looks_risky(const char *program)
{
    for (const char *at = program; *at != '\0';) {
        if (*at == '{' && is_set_display(at + 1)) {
            return true;
        }
        if (!word_char(*at)) {
            at++;
            continue;
        }
        size_t size = 0;
        while (word_char(at[size])) {
            size++;
        }
        if (is_risky_word(at, size)) {
            return true;
        }
        at += size;
    }
    return false;
}
