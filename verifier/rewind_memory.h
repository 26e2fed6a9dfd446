// rewind_memory.h: the memory of a rewound image, brought back to what it was.
//
// All that the image can write to lies in one file in memory (protocol.h, struct image_region),
// which is mapped here too. The kernel marks the pages that a run writes to (write-protected
// through userfaultfd, asked for by PAGEMAP_SCAN; Linux 6.7). From here come the orders which of
// them to copy back; the copying itself is the first thing that the image does when it goes on, on
// the processor whose caches hold them. It does so in a loop of code that it cannot change, in
// registers that were just set, from a snapshot and a list that it can only read (runtime_main.c);
// audits compare what came of it from outside. Pages in frequent use would cost a fault each time:
// they stay writable for a while and are always copied. Regions that only large runs touch are
// emptied.
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

struct rewind_files {
    int memory;          // memory, snapshot and orders (protocol.h); borrowed
    size_t memory_bytes; // of the memory alone
    int tracker;         // the image's userfaultfd; taken over, also on failure
};

// rewind_memory_open takes the snapshot of process `pid`. -EPERM when it can write to anything else
// than its regions.
int rewind_memory_open(struct rewind_memory **out, pid_t pid, const struct rewind_files *files,
                       const struct image_region *regions, size_t count, struct error *err);
void rewind_memory_close(struct rewind_memory *memory); // NULL is allowed

// rewind_memory_restore orders every page back that was written to; when the image goes on it
// obeys, and stops again if it should. rewind_memory_restored, after such a stop: nothing is left
// to copy. -EIO when the kernel refuses.
int rewind_memory_restore(struct rewind_memory *memory, bool stop_again, struct error *err);
void rewind_memory_restored(struct rewind_memory *memory);

// rewind_memory_compare compares every byte with the snapshot, in steps of about `size` bytes: the
// first one after rewind_memory_restored begins, and the image stays stopped until the last.
enum rewind_comparison { COMPARISON_GOES_ON, COMPARISON_EQUAL, COMPARISON_DIFFERENT };
enum rewind_comparison rewind_memory_compare(struct rewind_memory *memory, size_t size);

// rewind_memory_probe says whether this kernel can track and scan. -ENOTSUP with the reason.
int rewind_memory_probe(struct error *err);

#endif
