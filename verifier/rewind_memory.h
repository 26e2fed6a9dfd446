// rewind_memory.h: the memory of a rewound image, brought back to what it was.
//
// All that the image can write to lies in one file in memory (protocol.h, struct image_region),
// which is mapped here too. The kernel marks the pages that a run writes to (write-protected
// through userfaultfd, asked for by PAGEMAP_SCAN; Linux 6.7); those are copied back from a snapshot
// and protected again. Pages that most runs write to would cost a fault each time: they are
// learned, left unprotected and always copied. Regions that only large runs touch are emptied.
//
// Every function wants the image stopped.
#ifndef VERIFIER_REWIND_MEMORY_H
#define VERIFIER_REWIND_MEMORY_H

#include "common/base/error.h"
#include "verifier/protocol.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct rewind_memory;

// rewind_memory_open takes the snapshot of process `pid`, whose memory is `file` (borrowed) and
// whose userfaultfd is `tracker` (taken over, also on failure). -EPERM when the process can write
// to anything else.
int rewind_memory_open(struct rewind_memory **out, pid_t pid, int file, int tracker,
                       const struct image_region *regions, size_t count, struct error *err);
void rewind_memory_close(struct rewind_memory *memory); // NULL is allowed

// rewind_memory_restore brings every page back. -EIO when the kernel refuses.
int rewind_memory_restore(struct rewind_memory *memory, struct error *err);

// rewind_memory_is_fresh compares every byte with the snapshot.
bool rewind_memory_is_fresh(const struct rewind_memory *memory);

// rewind_memory_probe says whether this kernel can track and scan. -ENOTSUP with the reason.
int rewind_memory_probe(struct error *err);

#endif
