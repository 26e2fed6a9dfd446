// examples.h: pretraining examples. A batch is drawn from (seed, number) alone: programs first,
// then, when their results are known, prompts and responses in the forms that self-play uses, as
// token sequences with loss weights.
#ifndef LEARNER_EXAMPLES_H
#define LEARNER_EXAMPLES_H

#include "common/base/error.h"
#include "common/base/task.h"
#include "common/text/tokenizer.h"
#include "learner/generator.h"
#include "learner/step.h"

enum { EXAMPLES_MAX = 4096, EXAMPLE_FORMS = 6 };

// Which examples a batch holds. The forms are, in this order: solve deduction, abduction,
// induction; propose deduction, abduction, induction.
struct example_mix {
    double forms[EXAMPLE_FORMS];                 // weights
    double lengths[GENERATED_LENGTHS];           // of programs
    double induction_lengths[GENERATED_LENGTHS]; // of programs whose task is induction
    double scratchpad;   // share of solve deduction and abduction that show their work
    float prompt_weight; // loss weight of a prompt token; a response token has 1
    bool held_out;       // draw from the programs that no training may see
};

struct examples;

// examples_draw draws batch `number` of `count` examples: its programs.
int examples_draw(struct examples **out, uint64_t seed, uint64_t number, int count,
                  const struct example_mix *mix, struct error *err);
void examples_destroy(struct examples *examples);

// examples_source is the Python source to run (generator.h); the caller frees it.
char *examples_source(const struct examples *examples);

// examples_render reads the result of that run and makes the sequences. On success
// examples_sequences is valid.
int examples_render(struct examples *e, const char *result, const struct tokenizer *tokenizer,
                    struct error *err);

// examples_sequences are owned by `examples`; weights sum to 1 over the batch.
const struct sequence *examples_sequences(const struct examples *examples, int *count);

// examples_text gives prompt and response of example `index` as text, for people and tests.
const char *examples_text(const struct examples *examples, int index);

// examples_role and examples_kind say which form example `index` has; examples_response is where in
// its sequence the response begins.
enum role examples_role(const struct examples *examples, int index);
enum task_kind examples_kind(const struct examples *examples, int index);
int32_t examples_response(const struct examples *examples, int index);

static inline void examples_destroyp(struct examples **examples)
{
    examples_destroy(*examples);
}

#endif
