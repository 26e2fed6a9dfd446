// counts.h: how often each value stands in the store, by a hash of its text.
#ifndef LEARNER_COUNTS_H
#define LEARNER_COUNTS_H

#include <stddef.h>
#include <stdint.h>

struct counts {
    struct counts_slot *slots; // [mask + 1], open addressing
    size_t mask;
    size_t used;   // slots ever taken
    int64_t total; // values, repetitions included
};

// counts_add adds (by = 1) or takes back (by = -1) one value; a zeroed table is empty.
// counts_finish frees the table and empties it.
void counts_add(struct counts *counts, const char *text, int by);
void counts_finish(struct counts *counts);

// counts_surprise is 1 - count/total: 1 for a value that is not there.
double counts_surprise(const struct counts *counts, const char *text);

#endif
