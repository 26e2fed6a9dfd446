// spawn.h: the birth of an image process: new namespaces, another identity, three descriptors and
// nothing else. The rest of the walls is raised by the image itself (sandbox.h).
#ifndef VERIFIER_SPAWN_H
#define VERIFIER_SPAWN_H

#include "common/base/error.h"
#include "verifier/sandbox.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct spawned {
    pid_t pid;
    int request;         // write end, not blocking
    int reply;           // read end, not blocking
    int control;         // packets to and from it
    int memory;          // the file that its memory lives in (protocol.h), or -1
    int unread;          // read end of the request pipe: what a run has left there is taken back
    size_t memory_bytes; // of the memory in that file
    bool grouped;        // it is in a control group of its own
};

// Whom a root daemon's images run as, and itself once it has dropped its rights (privileges.h).
enum { SPAWN_NOBODY = 65534 };

// spawn_keep_programs opens the images' programs for the rest of this process's life. Without it
// each birth opens its own.
void spawn_keep_programs(void);

// spawn_image starts layout `layout` (modulo SPAWN_LAYOUTS). The program lies beside this one; a
// daemon that runs as root gives its images another user. The image dies with the calling thread.
enum { SPAWN_LAYOUTS = 4 };
struct spawn_config {
    int layout;
    enum isolation isolation;
    size_t file_bytes;   // of memory in a file; 0: none
    size_t memory_bytes; // that its control group allows, under strict isolation
};
int spawn_image(struct spawned *out, const struct spawn_config *config, struct error *err);

// spawn_end kills the process, waits for it and closes the descriptors.
void spawn_end(struct spawned *spawned);

// spawn_memory_kb is what a process holds, shared pages in proportion (all of them where the host
// does not tell); 0 when it is gone.
uint64_t spawn_memory_kb(pid_t pid);

// spawn_child is the only child of `pid`; 0 where there is none, or the host does not tell.
pid_t spawn_child(pid_t pid);

// spawn_cpu_ns is the CPU time of a process; 0 when it is gone.
uint64_t spawn_cpu_ns(pid_t pid);

// spawn_is_runnable says whether a process has a processor or waits for one.
bool spawn_is_runnable(pid_t pid);

// spawn_probe is the strictest isolation that this host lets us have. `why` receives what stopped
// the next stricter one, or stays empty.
enum isolation spawn_probe(struct error *why);

const char *isolation_name(enum isolation isolation);

#endif
