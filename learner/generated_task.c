#include "learner/generated_task.h"

#include "learner/generator.h"
#include "learner/seeds.h"

Kelvin__Task *generated_task(enum task_kind kind, int inputs, struct rng *rng)
{
    struct generated generated;
    bool many = kind == KIND_INDUCTION;
    generate(&generated, rng, many ? generator_induction_lengths : generator_lengths,
             many ? inputs : 1, false);
    const char *texts[GENERATED_INPUTS_MAX];
    for (int i = 0; i < generated.input_count; i++) {
        texts[i] = generated.inputs[i];
    }
    return task_create(kind, generated.program, texts, NULL, generated.input_count, "");
}
