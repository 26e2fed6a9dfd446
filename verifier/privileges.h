// privileges.h: a daemon that is started as root goes on as an ordinary user, for whom every image
// is born as for any other user: no rights beyond its own in new namespaces.
//
// What needs root is done before: the images' programs are opened (they may lie where that user
// cannot go) and a control group is handed over, so that strict isolation stays. Daemon and images
// then have one user, as they have when an ordinary user starts the daemon: what keeps an image
// from signals and ptrace is its system call filter and, above isolation "process", its namespaces.
#ifndef VERIFIER_PRIVILEGES_H
#define VERIFIER_PRIVILEGES_H

#include "common/base/error.h"

#include <stdbool.h>

// What of root's rights a caller cannot do without.
enum privilege {
    PRIVILEGE_NONE,
    PRIVILEGE_FILES, // CAP_DAC_OVERRIDE: connects to sockets in a folder of root's
};

// privileges_drop makes this process user 65534 with no capability but the one that is kept, none
// that it could get again, and no new ones: 1. A process that is not root stays as it is: 0. So
// does root where that user would have a weaker isolation or back-end, and the log says why. Before
// any other thread is there. After an error the process is not fit to go on.
int privileges_drop(enum privilege kept, struct error *err);

// privileges_rest, after a drop, takes the kept capability out of this thread's hands; threads that
// were started in between still use it. It stays permitted, so that no other process of this user
// may trace this one.
void privileges_rest(enum privilege kept);

#endif
