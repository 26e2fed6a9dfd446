#include "verifier/request_json.h"

#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/task.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct form {
    const char *kind;
    Kelvin__Check check;
    Kelvin__TaskKind task;
    bool program, inputs, outputs, gold, answer;
};

static const struct form forms[] = {
    {"validate", KELVIN__CHECK__VALIDATE, KELVIN__TASK_KIND__DEDUCTION, true, true, false, false,
     false},
    {"deduction", KELVIN__CHECK__JUDGE, KELVIN__TASK_KIND__DEDUCTION, false, false, false, true,
     true},
    {"abduction", KELVIN__CHECK__JUDGE, KELVIN__TASK_KIND__ABDUCTION, true, false, false, true,
     true},
    {"induction", KELVIN__CHECK__JUDGE, KELVIN__TASK_KIND__INDUCTION, false, true, true, false,
     true},
    {"error", KELVIN__CHECK__JUDGE, KELVIN__TASK_KIND__ERROR_DEDUCTION, false, false, false, true,
     true},
    {"run", KELVIN__CHECK__RUN, KELVIN__TASK_KIND__DEDUCTION, true, true, false, false, false},
};

// The protocol's structs hold char * for text that nobody writes to.
static char *as_text(const char *text)
{
    union {
        const char *in;
        char *out;
    } cast = {.in = text};
    return cast.out;
}

// What stands behind a NUL would not be judged.
static int refuse_nul(const json_t *text, const char *key, struct error *err)
{
    return strlen(json_string_value(text)) == json_string_length(text)
               ? 0
               : error_set(err, -EINVAL, "\"%s\" holds a NUL", key);
}

static int get_text(char **out, const json_t *json, const char *key, struct error *err)
{
    const char *text = NULL;
    int code = json_get_string(&text, json, key, err);
    if (code == 0 && text == NULL) {
        code = error_set(err, -EINVAL, "\"%s\" is missing", key);
    }
    code = code < 0 ? code : refuse_nul(json_object_get(json, key), key, err);
    if (code == 0) {
        *out = as_text(text);
    }
    return code;
}

// A list of texts, or one text under the singular key.
static int get_list(char ***out, size_t *count, const json_t *json, const char *plural,
                    const char *singular, struct error *err)
{
    const json_t *list = json_object_get(json, plural);
    const json_t *one = json_object_get(json, singular);
    size_t size = json_is_array(list) ? json_array_size(list) : 1;
    if (size > TASK_INPUTS_MAX) {
        return error_set(err, -EINVAL, "\"%s\" has more than %d items", plural, TASK_INPUTS_MAX);
    }
    *out = calloc(size + 1, sizeof(char *));
    if (*out == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    *count = size;
    for (size_t i = 0; i < size; i++) {
        const json_t *item = json_is_array(list) ? json_array_get(list, i) : one;
        if (!json_is_string(item)) {
            return error_set(err, -EINVAL, "\"%s\" must be a list of texts, or \"%s\" a text",
                             plural, singular);
        }
        int code = refuse_nul(item, singular, err);
        if (code < 0) {
            return code;
        }
        (*out)[i] = as_text(json_string_value(item));
    }
    return 0;
}

static int get_parts(Kelvin__VerifyRequest *out, const json_t *json, const struct form *form,
                     struct error *err)
{
    int code = form->program ? get_text(&out->program, json, "program", err) : 0;
    if (code == 0 && form->inputs) {
        code = get_list(&out->inputs, &out->n_inputs, json, "inputs", "input", err);
    }
    if (code == 0 && form->outputs) {
        code = get_list(&out->outputs, &out->n_outputs, json, "outputs", "output", err);
    }
    if (code == 0 && form->gold) {
        code = get_list(&out->outputs, &out->n_outputs, json, "golds", "gold", err);
    }
    return code == 0 && form->answer ? get_text(&out->answer, json, "answer", err) : code;
}

int request_from_json(Kelvin__VerifyRequest *out, const json_t *json, struct error *err)
{
    kelvin__verify_request__init(out);
    const char *kind = NULL;
    const char *score = "";
    int64_t timeout_ms = 0;
    int64_t cpu_ms = 0;
    int64_t memory_mb = 0;
    int64_t output_bytes = 0;
    if (!json_is_object(json)) {
        return error_set(err, -EINVAL, "a request is a JSON object");
    }
    int code = json_get_string(&kind, json, "kind", err);
    code = code < 0 ? code : json_get_string(&score, json, "score", err);
    code = code < 0 ? code
                    : json_get_int(&timeout_ms, json, "timeout_ms", 1, VERIFY_TIMEOUT_MS_MAX, err);
    code = code < 0 ? code : json_get_int(&cpu_ms, json, "cpu_ms", 1, VERIFY_TIMEOUT_MS_MAX, err);
    code = code < 0 ? code : json_get_int(&memory_mb, json, "memory_mb", 1, 65536, err);
    code = code < 0
               ? code
               : json_get_int(&output_bytes, json, "output_bytes", 1, RUN_OUTPUT_BYTES_MAX, err);
    if (code < 0) {
        return code;
    }
    if (score[0] != '\0' && strcmp(score, "binary") != 0 && strcmp(score, "fraction") != 0 &&
        strcmp(score, "any") != 0) {
        return error_set(err, -EINVAL, "\"score\" must be binary, fraction or any");
    }
    out->timeout_ms = (uint32_t)timeout_ms;
    out->cpu_ms = (uint32_t)cpu_ms;
    out->memory_mb = (uint32_t)memory_mb;
    out->output_bytes = (uint32_t)output_bytes;
    for (size_t i = 0; kind != NULL && i < sizeof(forms) / sizeof(*forms); i++) {
        if (strcmp(forms[i].kind, kind) == 0) {
            out->check = forms[i].check;
            out->kind = forms[i].task;
            out->fraction_mode = as_text(score);
            code = get_parts(out, json, &forms[i], err);
            if (code == 0 && out->check == KELVIN__CHECK__VALIDATE && out->n_inputs > 1) {
                out->kind = KELVIN__TASK_KIND__INDUCTION;
            }
            return code;
        }
    }
    return error_set(err, -EINVAL,
                     "\"kind\" must be validate, deduction, abduction, induction, error or run");
}

void request_finish(Kelvin__VerifyRequest *request)
{
    free(request->inputs);
    free(request->outputs);
    request->inputs = request->outputs = NULL;
    request->n_inputs = request->n_outputs = 0;
}

static void put_text(json_t *object, const char *key, const char *text)
{
    if (text[0] != '\0') {
        // Foreign text that is not UTF-8 is left out rather than sent broken.
        (void)json_object_set_new(object, key, json_string(text));
    }
}

json_t *verdict_to_json(const json_t *id, const Kelvin__Verdict *verdict)
{
    json_t *object = json_object();
    json_t *same_id = json_deep_copy(id);
    (void)json_object_set_new(object, "id", same_id == NULL ? json_null() : same_id);
    put_text(object, "verdict", outcome_name((enum outcome)verdict->outcome));
    if (verdict->n_outputs == 1) {
        put_text(object, "output", verdict->outputs[0]);
    } else if (verdict->n_outputs > 1) {
        json_t *outputs = json_array();
        for (size_t i = 0; i < verdict->n_outputs; i++) {
            (void)json_array_append_new(outputs, json_string(verdict->outputs[i]));
        }
        (void)json_object_set_new(object, "outputs", outputs);
    }
    put_text(object, "program", verdict->program);
    put_text(object, "exception", verdict->exception);
    if (verdict->score > 0 && verdict->score < 1) {
        (void)json_object_set_new(object, "score", json_real((double)verdict->score));
    }
    put_text(object, "detail", verdict->detail);
    (void)json_object_set_new(object, "wall_us", json_integer((json_int_t)verdict->wall_us));
    (void)json_object_set_new(object, "cpu_us", json_integer((json_int_t)verdict->cpu_us));
    return object;
}
