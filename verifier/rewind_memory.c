#include "verifier/rewind_memory.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE ((size_t)4096)

enum {
    RANGES_MAX = 84,       // of one scan; more are fetched by another
    SMALL_BYTES = 1 << 17, // neighbours up to this size are scanned in one go
    LEARN_RUNS = 32,       // runs that count what they write to
    HOT_RUNS = 6, // a page that so many of them wrote to is hot: copying costs a fifth of a fault
    LEARN_EVERY = 4096, // runs, then it is learned anew
    SWEEP_RUNS = 4,     // after so many, written pages that are not hot are protected again
};

// What the kernel's headers say since 6.7; those of the build may be older.
struct scan_range {
    uint64_t start;
    uint64_t end;
    uint64_t categories;
};
struct scan {
    uint64_t size;
    uint64_t flags;
    uint64_t start;
    uint64_t end;
    uint64_t walk_end;
    uint64_t vec;
    uint64_t vec_len;
    uint64_t max_pages;
    uint64_t category_inverted;
    uint64_t category_mask;
    uint64_t category_anyof_mask;
    uint64_t return_mask;
};
#define SCAN_CALL              _IOWR('f', 16, struct scan)
#define SCAN_PROTECT           1u         // write-protect what is found
#define SCAN_TRACKED           1u         // category: the mapping is tracked
#define SCAN_WRITTEN           2u         // category: written since it was protected
#define FEATURE_WP_UNPOPULATED (1u << 13) // pages that do not exist yet count too
#define FEATURE_WP_ASYNC       (1u << 15) // a write goes on; nobody is asked
#define FEATURES               (FEATURE_WP_UNPOPULATED | FEATURE_WP_ASYNC | UFFD_FEATURE_WP_HUGETLBFS_SHMEM)

// A stretch of addresses that one call scans.
struct sweep {
    uint64_t start;
    uint64_t end;
    uint64_t categories; // asking for less is faster; all of the stretch must then be tracked
};

struct rewind_memory {
    int file;
    int tracker;
    int pagemap;
    uint8_t *live;     // [size] the image's pages
    uint8_t *snapshot; // [size] empty where the image was empty
    struct image_orders *orders;
    size_t size;
    blkcnt_t blocks; // of the file, when the room was last known to be empty
    size_t order_count;
    struct image_region regions[IMAGE_REGIONS_MAX];
    size_t region_count;
    struct sweep sweeps[IMAGE_REGIONS_MAX];
    size_t sweep_count;
    uint32_t run;           // of LEARN_EVERY; the first LEARN_RUNS count
    uint8_t *heat;          // [size / PAGE] runs of the learning ones that wrote to the page
    size_t compared_region; // the comparison that goes on: up to here
    uint64_t compared;      // bytes of that region
    struct scan_range ranges[RANGES_MAX];
};

// --- what is tracked ---

static int track(struct rewind_memory *memory, uint64_t address, size_t size)
{
    struct uffdio_register range = {.range = {.start = address, .len = size},
                                    .mode = UFFDIO_REGISTER_MODE_WP};
    return ioctl(memory->tracker, UFFDIO_REGISTER, &range) < 0 ? -errno : 0;
}

// What was written to since it was last protected, from *start on. The number of ranges; *start
// moves to where the next scan goes on.
static int scan(struct rewind_memory *memory, const struct sweep *sweep, uint64_t *start)
{
    struct scan call = {.size = sizeof(call),
                        .start = *start,
                        .end = sweep->end,
                        .vec = (uintptr_t)memory->ranges,
                        .vec_len = RANGES_MAX,
                        .category_mask = sweep->categories,
                        .return_mask = SCAN_WRITTEN};
    int count = ioctl(memory->pagemap, SCAN_CALL, &call);
    *start = call.walk_end;
    return count < 0 ? -errno : count;
}

static int protect(struct rewind_memory *memory, uint64_t start, uint64_t end)
{
    struct scan call = {.size = sizeof(call),
                        .flags = SCAN_PROTECT,
                        .start = start,
                        .end = end,
                        .category_mask = SCAN_TRACKED | SCAN_WRITTEN};
    return start < end && ioctl(memory->pagemap, SCAN_CALL, &call) < 0 ? -errno : 0;
}

// --- bringing back ---

// A stretch to be protected: pages that are not hot, and protected ones between them.
struct stretch {
    uint64_t start;
    uint64_t end;
};

// Whether a page that was written to stays writable.
static bool stays(struct rewind_memory *memory, uint8_t *heat)
{
    if (memory->run < LEARN_RUNS) {
        ++*heat;
        return false;
    }
    return *heat >= HOT_RUNS || memory->run % SWEEP_RUNS != 0;
}

// Orders one page back, which may go on the last order.
static void order(struct rewind_memory *memory, uint64_t address, uint64_t offset)
{
    struct image_order *last = &memory->orders->order[memory->order_count];
    bool adjoins = memory->order_count > 0 && last[-1].address + last[-1].size == address &&
                   last[-1].offset + last[-1].size == offset;
    if (adjoins) {
        last[-1].size += PAGE;
    } else {
        *last = (struct image_order){address, offset, PAGE};
        memory->order_count++;
    }
}

// Brings back `size` written bytes at `address` of a region, and protects what is not hot.
static int bring_back(struct rewind_memory *memory, const struct image_region *region,
                      uint64_t address, size_t size, struct stretch *cold)
{
    size_t offset = address - region->start + region->offset;
    int code = 0;
    for (size_t at = 0; at < size; at += PAGE) {
        if (stays(memory, &memory->heat[(offset + at) / PAGE])) {
            order(memory, address + at, offset + at);
            code = code < 0 ? code : protect(memory, cold->start, cold->end);
            cold->start = cold->end; // the next stretch begins later
        } else {
            memcpy(memory->live + offset + at, memory->snapshot + offset + at, PAGE);
            cold->start = cold->start == cold->end ? address + at : cold->start;
            cold->end = address + at + PAGE;
        }
    }
    return code;
}

// region_of is the region that holds `address`, from `region` upwards.
static const struct image_region *region_of(const struct rewind_memory *memory,
                                            const struct image_region *region, uint64_t address)
{
    const struct image_region *last = memory->regions + memory->region_count - 1;
    while (address >= region->start + region->size) {
        CHECK(region < last);
        region++;
    }
    return region;
}

// The same for a range, which may span regions. *region is the one of the range before.
static int bring_back_range(struct rewind_memory *memory, const struct image_region **region,
                            const struct scan_range *range, struct stretch *cold)
{
    int code = 0;
    for (uint64_t at = range->start; at < range->end && code == 0;) {
        *region = region_of(memory, *region, at);
        uint64_t end = (*region)->start + (*region)->size;
        size_t size = (range->end < end ? range->end : end) - at;
        code = bring_back(memory, *region, at, size, cold);
        at += size;
    }
    return code;
}

static int bring_back_written(struct rewind_memory *memory)
{
    const struct image_region *region = memory->regions;
    int code = 0;
    for (size_t i = 0; i < memory->sweep_count && code == 0; i++) {
        const struct sweep *sweep = &memory->sweeps[i];
        struct stretch cold = {0};
        for (uint64_t start = sweep->start; start < sweep->end && code == 0;) {
            int count = scan(memory, sweep, &start);
            code = count < 0 ? count : 0;
            for (int k = 0; k < count && code == 0; k++) {
                code = bring_back_range(memory, &region, &memory->ranges[k], &cold);
            }
        }
        code = code < 0 ? code : protect(memory, cold.start, cold.end);
    }
    return code;
}

// Where the next stretch of data begins, or `end`; what lies between reads as zeros.
static off_t next_data(const struct rewind_memory *memory, off_t at, off_t end)
{
    off_t data = lseek(memory->file, at, SEEK_DATA);
    return data < 0 || data > end ? end : data;
}

static off_t next_hole(const struct rewind_memory *memory, off_t at, off_t end)
{
    off_t hole = lseek(memory->file, at, SEEK_HOLE);
    return hole < 0 || hole > end ? end : hole;
}

static bool is_empty(const struct rewind_memory *memory, const struct image_region *region)
{
    off_t end = (off_t)(region->offset + region->size);
    return next_data(memory, (off_t)region->offset, end) == end;
}

// The file grows when something gets a page, and only shrinks here.
static int empty_room(struct rewind_memory *memory)
{
    struct stat file;
    if (fstat(memory->file, &file) < 0) {
        return -errno;
    }
    if (file.st_blocks == memory->blocks) {
        return 0;
    }
    for (size_t i = 0; i < memory->region_count; i++) {
        const struct image_region *region = &memory->regions[i];
        if (!region->tracked && !is_empty(memory, region) &&
            fallocate(memory->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                      (off_t)region->offset, (off_t)region->size) < 0) {
            return -errno;
        }
    }
    memory->blocks = fstat(memory->file, &file) < 0 ? -1 : file.st_blocks;
    return 0;
}

int rewind_memory_restore(struct rewind_memory *memory, bool stop_again, struct error *err)
{
    if (memory->run == 0) {
        memset(memory->heat, 0, memory->size / PAGE);
    }
    memory->order_count = 0;
    int code = bring_back_written(memory);
    memory->orders->order[memory->order_count] = (struct image_order){.address = stop_again};
    memory->run = (memory->run + 1) % LEARN_EVERY;
    code = code < 0 ? code : empty_room(memory);
    return code < 0 ? error_set(err, -EIO, "its memory cannot be restored (errno %d)", -code) : 0;
}

void rewind_memory_restored(struct rewind_memory *memory)
{
    memory->order_count = 0;
    memory->orders->order[0] = (struct image_order){0};
    memory->compared_region = 0;
    memory->compared = 0;
}

// Compares `*size` bytes of a tracked region, or fewer: it looks only where there is data, since a
// look at nothing would make pages of it. *size becomes what is done with.
static bool equals_snapshot(const struct rewind_memory *memory, const struct image_region *region,
                            uint64_t from, uint64_t *size)
{
    off_t distance = (off_t)memory->size; // from a byte to its snapshot
    off_t start = (off_t)(region->offset + from);
    off_t end = (off_t)(region->offset + region->size);
    off_t data = next_data(memory, start, end);
    if (next_data(memory, distance + start, distance + data) < distance + data) {
        return false; // the snapshot holds more
    }
    off_t hole = next_hole(memory, data, end);
    size_t count = (uint64_t)(hole - data) < *size ? (size_t)(hole - data) : (size_t)*size;
    *size = (uint64_t)(data - start) + count;
    return memcmp(memory->live + data, memory->snapshot + data, count) == 0;
}

enum rewind_comparison rewind_memory_compare(struct rewind_memory *memory, size_t size)
{
    for (uint64_t done = 0; memory->compared_region < memory->region_count;) {
        if (done >= size) {
            return COMPARISON_GOES_ON;
        }
        const struct image_region *region = &memory->regions[memory->compared_region];
        uint64_t step = size - done;
        bool equal = region->tracked ? equals_snapshot(memory, region, memory->compared, &step)
                                     : is_empty(memory, region);
        if (!equal) {
            return COMPARISON_DIFFERENT;
        }
        done += region->tracked ? step : 0;
        memory->compared += region->tracked ? step : region->size;
        if (memory->compared == region->size) {
            memory->compared_region++;
            memory->compared = 0;
        }
    }
    return COMPARISON_EQUAL;
}

// --- opening ---

static bool is_ours(const struct rewind_memory *memory, uint64_t start, uint64_t end)
{
    for (size_t i = 0; i < memory->region_count && start < end; i++) {
        const struct image_region *region = &memory->regions[i];
        if (start >= region->start && start < region->start + region->size) {
            start = region->start + region->size; // regions stand in order of their addresses
        }
    }
    return start >= end;
}

// Every writable mapping of the process must be a part of the regions and lie in the file. Of its
// program, which lies below, it then gets the pages that it touches and not their neighbours: that
// is how the kernel treats what it tracks. Where it refuses, more memory is in use.
static int check_mappings(struct rewind_memory *memory, pid_t pid, struct error *err)
{
    char path[64];
    char line[512];
    struct stat file;
    (void)snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
    FILE *maps = fopen(path, "re");
    if (maps == NULL || fstat(memory->file, &file) < 0) {
        return error_set(err, -EPERM, "%s cannot be read", path);
    }
    bool good = true;
    while (good && fgets(line, sizeof(line), maps) != NULL) {
        unsigned long start = 0;
        unsigned long end = 0;
        unsigned long offset = 0;
        unsigned long inode = 0;
        char mode[8] = "";
        // NOLINTNEXTLINE(cert-err34-c): the kernel wrote these numbers
        int fields = sscanf(line, "%lx-%lx %7s %lx %*s %lu", &start, &end, mode, &offset, &inode);
        good = fields == 5 && (mode[1] != 'w' || (inode == file.st_ino && offset < memory->size &&
                                                  is_ours(memory, start, end)));
        if (good && end <= memory->regions[0].start) {
            (void)track(memory, start, end - start);
        }
    }
    (void)fclose(maps);
    return good ? 0 : error_set(err, -EPERM, "it can write to memory that is not tracked");
}

// Regions come from the image while it is still trusted; this guards against mistakes.
static bool take_regions(struct rewind_memory *memory, const struct image_region *regions,
                         size_t count)
{
    uint64_t end = 0;
    size_t pages = 0;
    for (size_t i = 0; i < count; i++) {
        const struct image_region *region = &regions[i];
        bool good = region->size > 0 && region->size % PAGE == 0 && region->start % PAGE == 0 &&
                    region->offset % PAGE == 0 && region->start >= end &&
                    region->offset <= memory->size && region->size <= memory->size - region->offset;
        if (!good) {
            return false;
        }
        end = region->start + region->size;
        pages += region->tracked ? region->size / PAGE : 0;
        memory->regions[memory->region_count++] = *region;
    }
    return count > 0 && pages / 2 + count < IMAGE_ORDERS_MAX; // every other page, each an order
}

// Large regions are scanned one by one, small neighbours and what lies between them together.
static void plan_sweeps(struct rewind_memory *memory)
{
    bool was_small = false;
    for (size_t i = 0; i < memory->region_count; i++) {
        const struct image_region *region = &memory->regions[i];
        size_t count = memory->sweep_count;
        struct sweep *last = count == 0 ? NULL : &memory->sweeps[count - 1];
        uint64_t end = region->start + region->size;
        bool small = region->tracked && region->size <= SMALL_BYTES;
        bool adjoins = last != NULL && last->end == region->start;
        if (!region->tracked) {
            was_small = false;
        } else if (last != NULL && (adjoins || (small && was_small))) {
            last->categories |= adjoins ? 0 : SCAN_TRACKED;
            last->end = end;
            was_small = was_small && small;
        } else {
            memory->sweeps[memory->sweep_count++] =
                (struct sweep){region->start, end, SCAN_WRITTEN};
            was_small = small;
        }
    }
}

static int map_memory(struct rewind_memory *memory)
{
    int mode = PROT_READ | PROT_WRITE;
    size_t size = memory->size;
    void *live = mmap(NULL, size, mode, MAP_SHARED, memory->file, 0);
    void *rest =
        mmap(NULL, size + sizeof(*memory->orders), mode, MAP_SHARED, memory->file, (off_t)size);
    memory->live = live == MAP_FAILED ? NULL : live;
    memory->snapshot = rest == MAP_FAILED ? NULL : rest;
    memory->heat = calloc(size / PAGE, 1);
    if (memory->live == NULL || memory->snapshot == NULL || memory->heat == NULL) {
        return -ENOMEM;
    }
    memory->orders = (void *)(memory->snapshot + size);
    return 0;
}

// Copies what exists; the rest reads as zeros on both sides and takes no memory.
static void take_snapshot(struct rewind_memory *memory, const struct image_region *region)
{
    off_t end = (off_t)(region->offset + region->size);
    for (off_t at = (off_t)region->offset; at < end;) {
        off_t data = next_data(memory, at, end);
        at = next_hole(memory, data, end);
        memcpy(memory->snapshot + data, memory->live + data, (size_t)(at - data));
    }
}

static int start_tracking(struct rewind_memory *memory)
{
    struct uffdio_api api = {.api = UFFD_API, .features = FEATURES};
    int code = ioctl(memory->tracker, UFFDIO_API, &api) < 0 ? -errno : 0;
    for (size_t i = 0; i < memory->region_count && code == 0; i++) {
        const struct image_region *region = &memory->regions[i];
        if (region->tracked) {
            take_snapshot(memory, region);
            code = track(memory, region->start, region->size);
            code = code < 0 ? code : protect(memory, region->start, region->start + region->size);
        }
    }
    return code < 0 ? code : empty_room(memory);
}

static int open_pagemap(pid_t pid)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    return file < 0 ? -errno : file;
}

CLEANUP_FUNCTION(struct rewind_memory, rewind_memory_close)

int rewind_memory_open(struct rewind_memory **out, pid_t pid, const struct rewind_files *files,
                       const struct image_region *regions, size_t count, struct error *err)
{
    CLEANUP(rewind_memory_closep) struct rewind_memory *memory = calloc(1, sizeof(*memory));
    if (memory == NULL) {
        (void)close(files->tracker);
        return error_set(err, -ENOMEM, "out of memory");
    }
    memory->file = files->memory;
    memory->size = files->memory_bytes;
    memory->tracker = files->tracker;
    memory->pagemap = open_pagemap(pid);
    int code = memory->pagemap < 0 ? memory->pagemap : map_memory(memory);
    if (code < 0) {
        return error_set(err, code, "its memory cannot be mapped (errno %d)", -code);
    }
    if (!take_regions(memory, regions, count)) {
        return error_set(err, -EBADMSG, "it describes its memory wrongly");
    }
    plan_sweeps(memory);
    code = start_tracking(memory);
    if (code < 0) {
        return error_set(err, code, "its memory cannot be tracked (errno %d)", -code);
    }
    code = check_mappings(memory, pid, err);
    if (code < 0) {
        return code;
    }
    *out = TAKE(memory);
    return 0;
}

void rewind_memory_close(struct rewind_memory *memory)
{
    if (memory == NULL) {
        return;
    }
    if (memory->live != NULL) {
        (void)munmap(memory->live, memory->size);
    }
    if (memory->snapshot != NULL) {
        (void)munmap(memory->snapshot, memory->size + sizeof(*memory->orders));
    }
    if (memory->pagemap >= 0) {
        (void)close(memory->pagemap);
    }
    (void)close(memory->tracker);
    free(memory->heat);
    free(memory);
}

int rewind_memory_probe(struct error *err)
{
    int tracker = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    if (tracker < 0) {
        return error_set(err, -ENOTSUP, "userfaultfd is not permitted (errno %d)", errno);
    }
    struct uffdio_api api = {.api = UFFD_API, .features = FEATURES};
    int code = ioctl(tracker, UFFDIO_API, &api) < 0 ? -errno : 0;
    (void)close(tracker);
    if (code < 0) {
        return error_set(err, -ENOTSUP, "the kernel cannot track writes; Linux 6.7 or later does");
    }
    int pagemap = open_pagemap(getpid());
    struct scan call = {.size = sizeof(call), .start = 0, .end = PAGE, .return_mask = SCAN_WRITTEN};
    code = pagemap < 0 || ioctl(pagemap, SCAN_CALL, &call) < 0 ? -errno : 0;
    if (pagemap >= 0) {
        (void)close(pagemap);
    }
    return code < 0 ? error_set(err, -ENOTSUP, "PAGEMAP_SCAN is not there (errno %d)", -code) : 0;
}
