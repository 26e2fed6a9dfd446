// lanes.h: one lane for each run that may go on at once, and a processor for each lane. An image
// keeps its lane where it can, and with it what the processor's caches hold of its memory.
//
// With a single lane the daemon's thread takes the same processor: the two work in turn, and a turn
// then costs a switch instead of waking up another processor.
#ifndef VERIFIER_LANES_H
#define VERIFIER_LANES_H

#include "common/base/error.h"

#include <stdbool.h>

struct lanes;

// lanes_create makes `count` free lanes. Not `pinned`: they are only counted, and the kernel
// chooses the processors.
int lanes_create(struct lanes **out, int count, bool pinned, struct error *err);
void lanes_destroy(struct lanes *lanes); // NULL is allowed

// lanes_settle gives a single lane and the calling thread one processor, from now on.
void lanes_settle(struct lanes *lanes);

bool lanes_is_free(const struct lanes *lanes, int lane); // false for -1
int lanes_free(const struct lanes *lanes);               // how many are

// lanes_take takes the lane `wish` if it is free, or else another; one must be free.
int lanes_take(struct lanes *lanes, int wish);
void lanes_leave(struct lanes *lanes, int lane);

// lanes_processor is where a lane runs, or -1: anywhere.
int lanes_processor(const struct lanes *lanes, int lane);

#endif
