#include "learner/examples.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/task.h"
#include "common/text/prompt.h"
#include "common/text/response.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PAIRS_MIN = 4, // of an induction task
    PAIRS_MAX = 6,
    INDUCTION_INPUTS = 10, // tried, so that enough succeed
    SPARE_NUMERATOR = 5,   // programs drawn per example: 5/4, since a few fail on their input
    SPARE_DENOMINATOR = 4,
    FORMS_PROPOSE = 3, // the first form of the proposer
};

struct examples {
    struct example_mix mix;
    struct rng rng; // continues behind the programs
    int count;
    int *form;                  // [count]
    struct generated *programs; // singles, then those of induction tasks
    int single_count, induction_count;
    int *singles, *inductions; // indices of usable programs
    int singles_good, inductions_good;
    int single_next, induction_next;
    struct sequence *sequences;
    int32_t *ids;
    float *weights;
    int32_t *response_at; // [count] the response's first token
    char **texts;
};

static bool is_induction(int form)
{
    return form % FORMS_PROPOSE == KIND_INDUCTION;
}

static int draw_form(struct rng *rng, const double forms[EXAMPLE_FORMS])
{
    double total = 0.0;
    for (int i = 0; i < EXAMPLE_FORMS; i++) {
        total += forms[i];
    }
    double x = rng_uniform(rng) * total;
    int form = 0;
    while (form < EXAMPLE_FORMS - 1 && (x -= forms[form]) >= 0.0) {
        form++;
    }
    return form;
}

static int with_spare(int count)
{
    return count * SPARE_NUMERATOR / SPARE_DENOMINATOR + 4;
}

static int allocate(struct examples *e)
{
    size_t programs = (size_t)e->single_count + (size_t)e->induction_count;
    e->programs = calloc(programs, sizeof(*e->programs));
    e->singles = calloc(programs, sizeof(*e->singles));
    e->inductions = calloc(programs, sizeof(*e->inductions));
    e->sequences = calloc((size_t)e->count, sizeof(*e->sequences));
    e->texts = calloc((size_t)e->count, sizeof(char *));
    e->response_at = calloc((size_t)e->count, sizeof(*e->response_at));
    bool failed = e->programs == NULL || e->singles == NULL || e->inductions == NULL ||
                  e->sequences == NULL || e->texts == NULL || e->response_at == NULL;
    return failed ? -ENOMEM : 0;
}

int examples_draw(struct examples **out, uint64_t seed, uint64_t number, int count,
                  const struct example_mix *mix, struct error *err)
{
    CHECK(count >= 1 && count <= EXAMPLES_MAX);
    CLEANUP(examples_destroyp) struct examples *e = calloc(1, sizeof(*e));
    if (e == NULL || (e->form = calloc((size_t)count, sizeof(*e->form))) == NULL) {
        return error_set(err, -ENOMEM, "examples: out of memory");
    }
    e->mix = *mix;
    e->count = count;
    e->rng = (struct rng){.key = seed, .stream = number};
    int inductions = 0;
    for (int i = 0; i < count; i++) {
        e->form[i] = draw_form(&e->rng, mix->forms);
        inductions += is_induction(e->form[i]);
    }
    e->single_count = with_spare(count - inductions);
    e->induction_count = with_spare(inductions);
    if (allocate(e) < 0) {
        return error_set(err, -ENOMEM, "examples: out of memory");
    }
    for (int i = 0; i < e->single_count; i++) {
        generate(&e->programs[i], &e->rng, mix->lengths, 1, mix->held_out);
    }
    for (int i = 0; i < e->induction_count; i++) {
        generate(&e->programs[e->single_count + i], &e->rng, mix->induction_lengths,
                 INDUCTION_INPUTS, mix->held_out);
    }
    *out = TAKE(e);
    return 0;
}

void examples_destroy(struct examples *examples)
{
    if (examples == NULL) {
        return;
    }
    for (int i = 0; examples->texts != NULL && i < examples->count; i++) {
        free(examples->texts[i]);
    }
    free(examples->form);
    free(examples->programs);
    free(examples->singles);
    free(examples->inductions);
    free(examples->sequences);
    free(examples->ids);
    free(examples->weights);
    free(examples->texts);
    free(examples->response_at);
    free(examples);
}

char *examples_source(const struct examples *examples)
{
    return generator_source(examples->programs, examples->single_count + examples->induction_count);
}

static void sort_out(struct examples *e)
{
    const char *inputs[PAIRS_MAX], *outputs[PAIRS_MAX];
    for (int i = 0; i < e->single_count; i++) {
        if (e->programs[i].outputs[0][0] != '\0') {
            e->singles[e->singles_good++] = i;
        }
    }
    for (int i = e->single_count; i < e->single_count + e->induction_count; i++) {
        if (generated_pairs(&e->programs[i], PAIRS_MAX, inputs, outputs)) {
            e->inductions[e->inductions_good++] = i;
        }
    }
}

// next_of walks the usable programs; should they not suffice, it begins again.
static const struct generated *next_of(const struct examples *e, const int *list, int good,
                                       int *next)
{
    return &e->programs[list[(*next)++ % good]];
}

// reversed writes the states from last to first: abduction works backwards.
static void reversed(char *out, const char *states)
{
    const char *end = states + strlen(states);
    while (end > states) {
        const char *begin = end;
        while (begin > states && begin[-1] != ';') {
            begin--;
        }
        memcpy(out, begin, (size_t)(end - begin));
        out += end - begin;
        end = begin > states ? begin - 1 : states;
        if (end > states) {
            *out++ = ';';
        }
    }
    *out = '\0';
}

enum { REFERENCES_MAX = 2 };

// struct shown_task is a task with the storage that its pointers need.
struct shown_task {
    const char *inputs[PAIRS_MAX], *outputs[PAIRS_MAX];
    struct prompt_task task;
};

static void show_single(struct shown_task *shown, const struct generated *g)
{
    shown->inputs[0] = g->inputs[0];
    shown->outputs[0] = g->outputs[0];
    shown->task = (struct prompt_task){
        .program = g->program, .inputs = shown->inputs, .outputs = shown->outputs, .pairs = 1};
}

// draw_references picks other programs than the one that is the answer: a proposer learns to make,
// not to copy.
static int draw_references(struct examples *e, const struct generated *answer,
                           struct shown_task *shown, struct prompt_task *references)
{
    static const int counts[] = {0, 1, 1, 2, 2, 2};
    int wanted = counts[rng_below(&e->rng, 6)];
    int count = 0;
    for (int i = 0; i < wanted; i++) {
        int at = e->singles[rng_below(&e->rng, (uint64_t)e->singles_good)];
        if (strcmp(e->programs[at].program, answer->program) != 0) {
            show_single(&shown[count], &e->programs[at]);
            references[count] = shown[count].task;
            count++;
        }
    }
    return count;
}

static char *render_single(struct examples *e, int form, char **response, struct error *err)
{
    const struct generated *g = next_of(e, e->singles, e->singles_good, &e->single_next);
    struct shown_task shown, shown_references[REFERENCES_MAX];
    struct prompt_task references[REFERENCES_MAX];
    char backwards[GENERATED_STATES_MAX];
    show_single(&shown, g);
    enum role role = form < FORMS_PROPOSE ? ROLE_SOLVE : ROLE_PROPOSE;
    enum task_kind kind = (enum task_kind)(form % FORMS_PROPOSE);
    struct prompt_request request = {
        .style = STYLE_COMPACT, .role = role, .kind = kind, .task = &shown.task};
    struct response parts = {.role = role,
                             .kind = kind,
                             .program = g->program,
                             .inputs = shown.inputs,
                             .pairs = 1,
                             .output = g->outputs[0]};
    if (role == ROLE_PROPOSE) {
        request.references = references;
        request.reference_count = draw_references(e, g, shown_references, references);
    } else if (rng_uniform(&e->rng) < e->mix.scratchpad && g->states[0] != '\0') {
        reversed(backwards, g->states);
        parts.scratchpad = kind == KIND_ABDUCTION ? backwards : g->states;
    }
    *response = response_render(&parts, err);
    return *response == NULL ? NULL : prompt_render(&request, err);
}

static char *render_induction(struct examples *e, int form, char **response, struct error *err)
{
    const struct generated *g = next_of(e, e->inductions, e->inductions_good, &e->induction_next);
    struct shown_task shown;
    int pairs = PAIRS_MIN + (int)rng_below(&e->rng, PAIRS_MAX - PAIRS_MIN + 1);
    CHECK(generated_pairs(g, PAIRS_MAX, shown.inputs, shown.outputs)); // sort_out has seen to it
    shown.task = (struct prompt_task){
        .program = g->program, .inputs = shown.inputs, .outputs = shown.outputs, .pairs = pairs};
    enum role role = form < FORMS_PROPOSE ? ROLE_SOLVE : ROLE_PROPOSE;
    const struct prompt_request request = {.style = STYLE_COMPACT,
                                           .role = role,
                                           .kind = KIND_INDUCTION,
                                           .task = &shown.task,
                                           .inputs_count = pairs};
    const struct response parts = {.role = role,
                                   .kind = KIND_INDUCTION,
                                   .program = g->program,
                                   .inputs = shown.inputs,
                                   .pairs = pairs};
    *response = response_render(&parts, err);
    return *response == NULL ? NULL : prompt_render(&request, err);
}

static char *joined(const char *prompt, const char *response)
{
    size_t size = strlen(prompt) + strlen(response) + 1;
    char *text = malloc(size);
    CHECK(text != NULL);
    (void)snprintf(text, size, "%s%s", prompt, response);
    return text;
}

// render_one appends an example's ids and weights; the prompt comes first, so its length says where
// the response begins.
static int render_one(struct examples *e, int index, const struct tokenizer *tokenizer,
                      struct token_list *ids, double *weight_sum, struct error *err)
{
    CLEANUP(freep) char *response = NULL;
    int form = e->form[index];
    CLEANUP(freep)
    char *prompt = is_induction(form) ? render_induction(e, form, &response, err)
                                      : render_single(e, form, &response, err);
    if (prompt == NULL) {
        return -EINVAL;
    }
    size_t from = ids->count;
    int code = tokenizer_encode(tokenizer, ids, prompt, strlen(prompt), true, err);
    size_t middle = ids->count;
    if (code == 0) {
        code = tokenizer_encode(tokenizer, ids, response, strlen(response), true, err);
    }
    if (code < 0) {
        return code;
    }
    float *weights = realloc(e->weights, ids->count * sizeof(*weights));
    CHECK(weights != NULL);
    e->weights = weights;
    for (size_t i = from; i < ids->count; i++) {
        weights[i] = i == from ? 0.0f : i < middle ? e->mix.prompt_weight : 1.0f;
        *weight_sum += (double)weights[i];
    }
    e->sequences[index].count = (int32_t)(ids->count - from);
    e->response_at[index] = (int32_t)(middle - from);
    e->texts[index] = joined(prompt, response);
    return 0;
}

int examples_render(struct examples *e, const char *result, const struct tokenizer *tokenizer,
                    struct error *err)
{
    int code = generator_results(e->programs, e->single_count + e->induction_count, result, err);
    if (code < 0) {
        return code;
    }
    sort_out(e);
    if (e->singles_good == 0 || e->inductions_good == 0) {
        return error_set(err, -EINVAL, "examples: no generated program of a batch ran");
    }
    struct token_list ids = {0};
    double weight_sum = 0.0;
    for (int i = 0; code == 0 && i < e->count; i++) {
        code = render_one(e, i, tokenizer, &ids, &weight_sum, err);
    }
    e->ids = ids.ids;
    if (code < 0) {
        return code;
    }
    size_t at = 0;
    for (int i = 0; i < e->count; i++) {
        e->sequences[i].ids = e->ids + at;
        e->sequences[i].weight = e->weights + at;
        at += (size_t)e->sequences[i].count;
    }
    for (size_t i = 0; i < at; i++) {
        e->weights[i] = (float)((double)e->weights[i] / weight_sum);
    }
    return 0;
}

const struct sequence *examples_sequences(const struct examples *examples, int *count)
{
    *count = examples->count;
    return examples->sequences;
}

const char *examples_text(const struct examples *examples, int index)
{
    CHECK(index >= 0 && index < examples->count);
    return examples->texts[index];
}

enum role examples_role(const struct examples *examples, int index)
{
    CHECK(index >= 0 && index < examples->count);
    return examples->form[index] < FORMS_PROPOSE ? ROLE_SOLVE : ROLE_PROPOSE;
}

enum task_kind examples_kind(const struct examples *examples, int index)
{
    CHECK(index >= 0 && index < examples->count);
    return (enum task_kind)(examples->form[index] % FORMS_PROPOSE);
}

int32_t examples_response(const struct examples *examples, int index)
{
    CHECK(index >= 0 && index < examples->count);
    return examples->response_at[index];
}
