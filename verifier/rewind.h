// rewind.h: the fast back-end. The image is one process that this one traces. After each run,
// whatever state it is in (waiting, looping, crashed), it is stopped, its memory and registers are
// set back to what they were when it became ready, and it serves the next. It cannot do anything
// but read and write two pipes, so nothing else of it can have changed.
#ifndef VERIFIER_REWIND_H
#define VERIFIER_REWIND_H

#include "common/base/error.h"
#include "verifier/image_state.h"

extern const struct image_backend rewind_backend;

// rewind_probe says whether this host offers it. -ENOTSUP with the reason.
int rewind_probe(struct error *err);

#endif
