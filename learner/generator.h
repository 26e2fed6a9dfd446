// generator.h: random Python programs of a small grammar, for pretraining and for held-out tests.
//
// A program is `def f(a):` or `def f(a,b):`; one working variable is rewritten statement by
// statement, then returned. Values are small ints, short strings of the letters a to h and short
// lists of digits. The grammar and its weights are those of the prototype in LAPTOP.md; no mistakes
// are planted. Many programs run as one trusted source (generator_source), whose every program also
// records the states that its variable takes: the scratchpad of the examples.
#ifndef LEARNER_GENERATOR_H
#define LEARNER_GENERATOR_H

#include "common/base/error.h"
#include "common/base/rng.h"

#include <stdbool.h>
#include <stddef.h>

enum {
    GENERATED_TEXT_MAX = 512,   // bytes of one program
    GENERATED_INPUT_MAX = 64,   // of one argument list
    GENERATED_OUTPUT_MAX = 33,  // of one repr, NUL included: longer results are not used
    GENERATED_STATES_MAX = 128, // of one scratchpad, NUL included
    GENERATED_INPUTS_MAX = 16,  // argument lists tried per program
    GENERATED_LENGTHS = 5,      // programs have 1 .. 5 assignments
};

// struct generated is one program with what running it gave.
struct generated {
    char program[GENERATED_TEXT_MAX];
    char twin[GENERATED_TEXT_MAX]; // the same, each assignment followed by a record of the state;
                                   // named g
    char types[3];                 // of the arguments: 'I', 'S', 'L'
    int assignments;
    int input_count;
    char inputs[GENERATED_INPUTS_MAX][GENERATED_INPUT_MAX];
    char outputs[GENERATED_INPUTS_MAX]
                [GENERATED_OUTPUT_MAX]; // "" where the run failed or the value is out of bounds
    char states[GENERATED_STATES_MAX];  // of the first input, joined by ';'; "" when there are too
                                        // many
};

// The weights of the lengths that pretraining shows.
extern const double generator_lengths[GENERATED_LENGTHS];
extern const double generator_induction_lengths[GENERATED_LENGTHS];

// generate draws a program with `inputs` distinct argument lists. lengths[i] is the weight of i+1
// assignments. `held_out` says which side of the split the program has to lie on.
void generate(struct generated *out, struct rng *rng, const double lengths[GENERATED_LENGTHS],
              int inputs, bool held_out);

// generated_pairs lists the first `wanted` inputs that have a result, with it. It fails when there
// are fewer or all results are the same, since such a task says nothing about its program. The
// strings are borrowed.
bool generated_pairs(const struct generated *g, int wanted, const char **inputs,
                     const char **outputs);

// generator_held_out tells whether a program (text as the grammar writes it) belongs to the
// sixteenth that no training may see.
bool generator_held_out(const char *program);

// generator_source is one Python source (the caller frees it) whose f(0) runs all programs and
// returns one string of results.
char *generator_source(const struct generated *programs, int count);

// generator_results reads the repr of that string back into the programs. -EINVAL when it does not
// have their shape.
int generator_results(struct generated *programs, int count, const char *repr, struct error *err);

#endif
