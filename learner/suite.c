#include "learner/suite.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

CLEANUP_FUNCTION(struct suite, suite_destroy)

enum {
    SPARE_NUMERATOR = 3, // programs drawn per task: 3/2, since some fail on their inputs
    SPARE_DENOMINATOR = 2,
};

// struct suite holds the single programs (deduction and abduction), then those of induction.
struct suite {
    struct generated *programs; // [single_count + induction_count]
    int32_t single_count, induction_count;
    int32_t tasks, inputs;
    int32_t open;                       // chunks whose results are not in
    const struct generated **usable[2]; // single ones, induction; at most `tasks` each
    int32_t usable_count[2];
};

static int32_t program_count(const struct suite *suite)
{
    return suite->single_count + suite->induction_count;
}

int suite_create(struct suite **out, uint64_t seed, int32_t tasks, int32_t inputs,
                 struct error *err)
{
    CHECK(inputs >= 2 && inputs <= GENERATED_INPUTS_MAX);
    CLEANUP(suite_destroyp) struct suite *suite = calloc(1, sizeof(*suite));
    int32_t drawn = tasks * SPARE_NUMERATOR / SPARE_DENOMINATOR + GENERATED_LENGTHS;
    if (suite == NULL ||
        (suite->programs = calloc(2 * (size_t)drawn, sizeof(*suite->programs))) == NULL ||
        (suite->usable[0] = calloc((size_t)tasks, sizeof(struct generated *))) == NULL ||
        (suite->usable[1] = calloc((size_t)tasks, sizeof(struct generated *))) == NULL) {
        return error_set(err, -ENOMEM, "no memory for a suite of %d tasks", tasks);
    }
    suite->single_count = suite->induction_count = drawn;
    suite->tasks = tasks;
    suite->inputs = inputs;
    suite->open = suite_chunks(suite);
    // A few inputs give no result, so more are drawn than wanted.
    int tried = inputs * 2 < GENERATED_INPUTS_MAX ? inputs * 2 : GENERATED_INPUTS_MAX;
    struct rng rng = {.key = seed, .stream = (uint64_t)tasks};
    for (int32_t i = 0; i < drawn; i++) {
        double lengths[GENERATED_LENGTHS] = {0};
        lengths[i % GENERATED_LENGTHS] = 1.0;
        generate(&suite->programs[i], &rng, lengths, 1, true);
        generate(&suite->programs[drawn + i], &rng, generator_induction_lengths, tried, true);
    }
    *out = TAKE(suite);
    return 0;
}

void suite_destroy(struct suite *suite)
{
    if (suite != NULL) {
        free(suite->programs);
        free(without_const(suite->usable[0]));
        free(without_const(suite->usable[1]));
        free(suite);
    }
}

int32_t suite_chunks(const struct suite *suite)
{
    return (program_count(suite) + SUITE_CHUNK - 1) / SUITE_CHUNK;
}

static int chunk_size(const struct suite *suite, int32_t chunk)
{
    CHECK(chunk >= 0 && chunk < suite_chunks(suite));
    int32_t left = program_count(suite) - chunk * SUITE_CHUNK;
    return left < SUITE_CHUNK ? left : SUITE_CHUNK;
}

char *suite_source(const struct suite *suite, int32_t chunk)
{
    return generator_source(suite->programs + (size_t)chunk * SUITE_CHUNK,
                            chunk_size(suite, chunk));
}

// Lists the programs that make tasks.
static void sort_out(struct suite *suite)
{
    const char *inputs[GENERATED_INPUTS_MAX], *outputs[GENERATED_INPUTS_MAX];
    for (int32_t i = 0; i < program_count(suite); i++) {
        const struct generated *g = &suite->programs[i];
        int list = i >= suite->single_count;
        bool good = list == 1 ? generated_pairs(g, suite->inputs, inputs, outputs)
                              : g->outputs[0][0] != '\0';
        if (good && suite->usable_count[list] < suite->tasks) {
            suite->usable[list][suite->usable_count[list]++] = g;
        }
    }
}

int suite_results(struct suite *suite, int32_t chunk, const char *repr, struct error *err)
{
    int code = generator_results(suite->programs + (size_t)chunk * SUITE_CHUNK,
                                 chunk_size(suite, chunk), repr, err);
    if (code == 0 && --suite->open == 0) {
        sort_out(suite);
    }
    return code;
}

int32_t suite_count(const struct suite *suite, enum task_kind kind)
{
    return suite->usable_count[kind == KIND_INDUCTION];
}

static const struct generated *program_of(const struct suite *suite, enum task_kind kind,
                                          int32_t index)
{
    CHECK(index >= 0 && index < suite_count(suite, kind));
    return suite->usable[kind == KIND_INDUCTION][index];
}

int suite_length(const struct suite *suite, enum task_kind kind, int32_t index)
{
    return program_of(suite, kind, index)->assignments;
}

Kelvin__Task *suite_task(const struct suite *suite, enum task_kind kind, int32_t index)
{
    const struct generated *g = program_of(suite, kind, index);
    const char *inputs[GENERATED_INPUTS_MAX] = {g->inputs[0]};
    const char *outputs[GENERATED_INPUTS_MAX] = {g->outputs[0]};
    size_t pairs = 1;
    if (kind == KIND_INDUCTION) {
        CHECK(generated_pairs(g, suite->inputs, inputs, outputs));
        pairs = (size_t)suite->inputs;
    }
    Kelvin__Task task = KELVIN__TASK__INIT;
    task.kind = (Kelvin__TaskKind)kind;
    task.program = without_const(g->program);
    task.n_inputs = task.n_outputs = pairs;
    task.inputs = without_const(inputs);
    task.outputs = without_const(outputs);
    size_t size = kelvin__task__get_packed_size(&task);
    CLEANUP(freep) uint8_t *bytes = malloc(size + 1);
    CHECK(bytes != NULL);
    (void)kelvin__task__pack(&task, bytes);
    Kelvin__Task *fresh = kelvin__task__unpack(NULL, size, bytes);
    CHECK(fresh != NULL);
    return fresh;
}
