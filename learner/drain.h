// drain.h: the end of a learner's work: all workers are told to go, and when they have gone, or
// DRAIN_MS have passed, the learner closes its parts.
#ifndef LEARNER_DRAIN_H
#define LEARNER_DRAIN_H

#include "learner/hub.h"

#include <stdbool.h>

struct drain;

// drain_create makes an end that has not begun; `hub` is borrowed. drain_close frees it on a later
// turn of the loop; NULL is allowed.
int drain_create(struct drain **out, uv_loop_t *loop, struct hub *hub,
                 void (*on_drained)(void *context, int exit_code), void *context,
                 struct error *err);
void drain_close(struct drain *drain);

// drain_begin tells the workers `reason`; on_drained comes on a later turn, once, with the exit
// code (exit.h). The first call counts.
void drain_begin(struct drain *drain, int exit_code, const char *reason);

// drain_begun is whether the end has begun; one that was never made (NULL) counts as begun.
bool drain_begun(const struct drain *drain);

#endif
