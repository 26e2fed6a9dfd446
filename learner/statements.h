// statements.h: the statements of a program without their numbers and strings, counted: which
// operations a store has much of, and how rare those of a new program are among them.
//
// A statement is a line of the program that is not empty and begins no function, without its
// indentation; runs of digits become 0, strings become ''.
#ifndef LEARNER_STATEMENTS_H
#define LEARNER_STATEMENTS_H

#include "learner/counts.h"

// statements_add counts the statements of a program, by = 1, or takes them back, by = -1.
void statements_add(struct counts *counts, const char *program, int by);

// statements_rarity is the mean over a program's statements of min(1, -log2(share) / 10), where
// share is a statement's part of all that are counted: 1 for one that is not there, 0 for one that
// all are. NAN for a program without statements.
double statements_rarity(const struct counts *counts, const char *program);

#endif
