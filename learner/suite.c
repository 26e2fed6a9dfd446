#include "learner/suite.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/limits.h"
#include "common/wire/message.h"
#include "learner/generator.h"
#include "learner/seeds.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

CLEANUP_FUNCTION(struct suite, suite_destroy)

enum {
    CHUNK = 128,         // generated programs that run as one source
    SPARE_NUMERATOR = 3, // programs drawn per task: 3/2, since some fail on their inputs
    SPARE_DENOMINATOR = 2,
    RUN_TIMEOUT_MS = 20000, // of a chunk
};

struct item {
    Kelvin__Task *task; // owned
    int length;
};

struct suite {
    struct item *items[SUITE_KINDS];
    int32_t count[SUITE_KINDS];
    int32_t open; // requests without an answer

    // Generated: the programs of deduction and abduction, then those of induction.
    struct generated *programs;
    int32_t single_count, induction_count;
    int32_t tasks, inputs; // wanted of a kind; of an induction task
    char *source;          // of the last request
    char *request_inputs[1];

    // Of a file.
    struct seed_list file;
    char *path;
};

static struct suite *suite_create(int32_t tasks, struct error *err)
{
    CLEANUP(suite_destroyp) struct suite *suite = calloc(1, sizeof(*suite));
    bool made = suite != NULL;
    for (int kind = 0; made && kind < SUITE_KINDS; kind++) {
        suite->items[kind] = calloc((size_t)tasks + 1, sizeof(struct item));
        made = suite->items[kind] != NULL;
    }
    if (!made) {
        (void)error_set(err, -ENOMEM, "no memory for a suite of %d tasks", tasks);
        return NULL;
    }
    return TAKE(suite);
}

void suite_destroy(struct suite *suite)
{
    if (suite == NULL) {
        return;
    }
    for (int kind = 0; kind < SUITE_KINDS; kind++) {
        for (int32_t i = 0; i < suite->count[kind]; i++) {
            kelvin__task__free_unpacked(suite->items[kind][i].task, NULL);
        }
        free(suite->items[kind]);
    }
    free(suite->programs);
    free(suite->source);
    seeds_free(&suite->file);
    free(suite->path);
    free(suite);
}

static void add(struct suite *suite, enum task_kind kind, Kelvin__Task *task, int length)
{
    task->kind = (Kelvin__TaskKind)kind;
    suite->items[kind][suite->count[kind]++] = (struct item){.task = task, .length = length};
}

// --- generated ---

static int32_t program_count(const struct suite *suite)
{
    return suite->single_count + suite->induction_count;
}

int suite_generate(struct suite **out, uint64_t seed, int32_t tasks, int32_t inputs,
                   struct error *err)
{
    CHECK(inputs >= 2 && inputs <= GENERATED_INPUTS_MAX);
    CLEANUP(suite_destroyp) struct suite *suite = suite_create(tasks, err);
    int32_t drawn = tasks * SPARE_NUMERATOR / SPARE_DENOMINATOR + GENERATED_LENGTHS;
    if (suite == NULL) {
        return -ENOMEM;
    }
    suite->programs = calloc(2 * (size_t)drawn, sizeof(*suite->programs));
    if (suite->programs == NULL) {
        return error_set(err, -ENOMEM, "no memory for a suite of %d tasks", tasks);
    }
    suite->single_count = suite->induction_count = drawn;
    suite->tasks = tasks;
    suite->inputs = inputs;
    // A few inputs give no result, so more are drawn than wanted.
    int tried = inputs * 2 < GENERATED_INPUTS_MAX ? inputs * 2 : GENERATED_INPUTS_MAX;
    struct rng rng = {.key = seed, .stream = (uint64_t)tasks};
    for (int32_t i = 0; i < drawn; i++) {
        double lengths[GENERATED_LENGTHS] = {0};
        lengths[i % GENERATED_LENGTHS] = 1.0;
        generate(&suite->programs[i], &rng, lengths, 1, true);
        generate(&suite->programs[drawn + i], &rng, generator_induction_lengths, tried, true);
    }
    suite->open = suite_requests(suite);
    *out = TAKE(suite);
    return 0;
}

static int chunk_size(const struct suite *suite, int32_t chunk)
{
    int32_t left = program_count(suite) - chunk * CHUNK;
    return left < CHUNK ? left : CHUNK;
}

static void request_chunk(struct suite *suite, int32_t chunk, Kelvin__VerifyRequest *request)
{
    static char zero[] = "0";
    free(suite->source);
    suite->source =
        generator_source(suite->programs + (size_t)chunk * CHUNK, chunk_size(suite, chunk));
    suite->request_inputs[0] = zero;
    request->check = KELVIN__CHECK__RUN;
    request->program = suite->source;
    request->inputs = suite->request_inputs;
    request->n_inputs = 1;
    request->timeout_ms = RUN_TIMEOUT_MS;
}

// Makes tasks of the programs that give results.
static void sort_out(struct suite *suite)
{
    const char *inputs[GENERATED_INPUTS_MAX], *outputs[GENERATED_INPUTS_MAX];
    for (int32_t i = 0; i < program_count(suite); i++) {
        const struct generated *g = &suite->programs[i];
        bool many = i >= suite->single_count;
        int pairs = many ? suite->inputs : 1;
        inputs[0] = g->inputs[0];
        outputs[0] = g->outputs[0];
        bool good = many ? generated_pairs(g, pairs, inputs, outputs) : outputs[0][0] != '\0';
        for (int k = many ? KIND_INDUCTION : KIND_DEDUCTION;
             good && k <= (many ? KIND_INDUCTION : KIND_ABDUCTION); k++) {
            enum task_kind kind = (enum task_kind)k;
            if (suite->count[kind] < suite->tasks) {
                add(suite, kind, task_create(kind, g->program, inputs, outputs, pairs, ""),
                    g->assignments);
            }
        }
    }
}

static int answer_chunk(struct suite *suite, int32_t chunk, const Kelvin__Verdict *verdict,
                        struct error *err)
{
    if (verdict->outcome != KELVIN__OUTCOME__OK || verdict->n_outputs != 1) {
        return error_set(err, -EIO, "the held-out programs did not run: %s %s", verdict->exception,
                         verdict->detail);
    }
    int code = generator_results(suite->programs + (size_t)chunk * CHUNK, chunk_size(suite, chunk),
                                 verdict->outputs[0], err);
    if (code == 0 && suite->open == 0) {
        sort_out(suite);
    }
    return code;
}

// --- of a file ---

int suite_read(struct suite **out, const char *path, struct error *err)
{
    CLEANUP(suite_destroyp) struct suite *suite = suite_create(EVAL_TASKS_MAX, err);
    int code = suite == NULL ? -ENOMEM : seeds_read(&suite->file, path, err);
    if (code < 0) {
        return code;
    }
    if (suite->file.count == 0 || suite->file.count > EVAL_TASKS_MAX) {
        return error_set(err, -EINVAL, "%s has %d tasks; a suite has 1 to %d", path,
                         suite->file.count, EVAL_TASKS_MAX);
    }
    suite->path = strdup(path);
    CHECK(suite->path != NULL);
    suite->open = suite->file.count;
    *out = TAKE(suite);
    return 0;
}

static void request_task(const struct suite *suite, int32_t index, Kelvin__VerifyRequest *request)
{
    const Kelvin__Task *task = suite->file.items[index];
    request->check = KELVIN__CHECK__VALIDATE;
    request->role = KELVIN__ROLE__PROPOSE;
    request->kind = task->kind;
    request->program = task->program;
    request->n_inputs = task->n_inputs;
    request->inputs = task->inputs;
    request->inputs_count = (uint32_t)task->n_inputs;
}

// The tasks of the file, in its order.
static void take_file(struct suite *suite)
{
    for (int32_t i = 0; i < suite->file.count; i++) {
        const Kelvin__Task *task = suite->file.items[i];
        if (task->kind == KELVIN__TASK_KIND__INDUCTION) {
            add(suite, KIND_INDUCTION, message_copy(&task->base), 0);
        } else {
            add(suite, KIND_DEDUCTION, message_copy(&task->base), 0);
            add(suite, KIND_ABDUCTION, message_copy(&task->base), 0);
        }
    }
}

static int answer_task(struct suite *suite, int32_t index, const Kelvin__Verdict *verdict,
                       struct error *err)
{
    const Kelvin__Task *task = suite->file.items[index];
    if (verdict->outcome != KELVIN__OUTCOME__OK || verdict->n_outputs != task->n_outputs) {
        return error_set(err, -EINVAL, "%s: task %d is not valid: %s %s", suite->path, index + 1,
                         verdict->exception, verdict->detail);
    }
    for (size_t i = 0; i < task->n_outputs; i++) {
        if (strcmp(verdict->outputs[i], task->outputs[i]) != 0) {
            return error_set(err, -EINVAL, "%s: task %d has the output %s and its program gives %s",
                             suite->path, index + 1, task->outputs[i], verdict->outputs[i]);
        }
    }
    if (suite->open == 0) {
        take_file(suite);
    }
    return 0;
}

// --- both ---

int32_t suite_requests(const struct suite *suite)
{
    return suite->path != NULL ? suite->file.count : (program_count(suite) + CHUNK - 1) / CHUNK;
}

void suite_request(struct suite *suite, int32_t index, Kelvin__VerifyRequest *request)
{
    CHECK(index >= 0 && index < suite_requests(suite));
    if (suite->path != NULL) {
        request_task(suite, index, request);
    } else {
        request_chunk(suite, index, request);
    }
}

int suite_answer(struct suite *suite, int32_t index, const Kelvin__Verdict *verdict,
                 struct error *err)
{
    CHECK(index >= 0 && index < suite_requests(suite) && suite->open > 0);
    suite->open--;
    return suite->path != NULL ? answer_task(suite, index, verdict, err)
                               : answer_chunk(suite, index, verdict, err);
}

int32_t suite_count(const struct suite *suite, enum task_kind kind)
{
    CHECK((int)kind < SUITE_KINDS);
    return suite->count[kind];
}

static const struct item *item_of(const struct suite *suite, enum task_kind kind, int32_t index)
{
    CHECK(index >= 0 && index < suite_count(suite, kind));
    return &suite->items[kind][index];
}

const Kelvin__Task *suite_task(const struct suite *suite, enum task_kind kind, int32_t index)
{
    return item_of(suite, kind, index)->task;
}

int suite_length(const struct suite *suite, enum task_kind kind, int32_t index)
{
    return item_of(suite, kind, index)->length;
}
