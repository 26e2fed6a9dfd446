// cgroup.h: limits on an image that the kernel keeps, in a control group of its own: memory and
// processes. Version 1 or 2, wherever the host lets this user make groups below its own.
#ifndef VERIFIER_CGROUP_H
#define VERIFIER_CGROUP_H

#include "common/base/error.h"

#include <stddef.h>
#include <sys/types.h>

// cgroup_probe makes a group and removes it again. -ENOTSUP says why there is none.
int cgroup_probe(struct error *err);

// cgroup_delegate, for root, moves this process into a group below its own that `user` may make
// groups in, so that the calls here go on working for that user. After cgroup_probe.
int cgroup_delegate(uid_t user, struct error *err);

// cgroup_enter puts the process into a new group. Called before it runs anything.
int cgroup_enter(pid_t pid, size_t memory_bytes, struct error *err);

// cgroup_remove removes the group of a process that has ended; none is no error.
void cgroup_remove(pid_t pid);

#endif
