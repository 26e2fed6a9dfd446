// sandbox.h: the walls around an image, raised from inside, in order: namespaces (entered at its
// birth, image.c), an empty read-only root, no capabilities, resource limits, no new privileges,
// and last a system call filter that leaves almost nothing.
//
// This file is part of the image program and runs before any untrusted code.
#ifndef VERIFIER_SANDBOX_H
#define VERIFIER_SANDBOX_H

#include "common/base/run_config.h"

#include <stdbool.h>

// Levels (run_config.h): strict adds a cgroup of its own to namespaces (user, mount, pid, net, ipc,
// uts, cgroup; empty root); process has the limits and the filter alone.

// sandbox_close gives up the file system, capabilities and limits. False after printing the reason
// on standard error.
bool sandbox_close(enum isolation isolation);

// sandbox_seal_child is called in each forked child of a zygote before it reads its request.
bool sandbox_seal_child(void);

// The filters. *run*: read and write on the two pipes; brk and mmap fail as out of memory; all else
// is refused. An image under rewind traps on exit, so that the daemon can bring it back; a forked
// child may exit. *zygote*: what a parent needs to fork, watch and end its children.
enum sandbox_filter { FILTER_REWIND, FILTER_CHILD, FILTER_ZYGOTE };
bool sandbox_filter(enum sandbox_filter filter);

#endif
