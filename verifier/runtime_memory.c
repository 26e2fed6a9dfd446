// Where an image's memory is. Before any program runs, all that programs can ever allocate is
// reserved: one region for malloc, one for Python's small objects; afterwards the kernel gives
// nothing. Under rewind every writable page moves into one file in memory, which the daemon maps as
// well, so it restores a page by copying and empties a region by punching a hole.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "verifier/runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE ((size_t)4096)

enum {
    ARENA_ALIGNMENT = 1 << 20,
    STACK_BYTES = 8 << 20,
    STACK_TRACKED_BYTES = 256 << 10, // the rest is room to grow
    LARGE_BYTES = 4 << 20,           // a larger region is tracked as far as it is in use,
    SLACK_BYTES = 256 << 10,         // and this far beyond
    MAPS_BYTES_MAX = 64 << 10,
};

static bool failed(const char *what)
{
    (void)fprintf(stderr, "image: %s: errno %d\n", what, errno);
    return false;
}

// --- reserves ---

// What Python holds beyond its free lists: arenas, and blocks of malloc.
static struct {
    size_t used;
    size_t limit;
} budget = {.limit = SIZE_MAX};

static size_t budget_left(void)
{
    return budget.used < budget.limit ? budget.limit - budget.used : 0;
}

void runtime_memory_limit(uint32_t memory_mb)
{
    budget.limit = memory_mb == 0 ? SIZE_MAX : budget.used + ((size_t)memory_mb << 20);
}

static void *counted(void *block)
{
    budget.used += block == NULL ? 0 : malloc_usable_size(block);
    return block;
}

static void *block_malloc(void *context, size_t size)
{
    (void)context;
    return size > budget_left() ? NULL : counted(malloc(size == 0 ? 1 : size));
}

static void *block_calloc(void *context, size_t count, size_t size)
{
    (void)context;
    if (size > 0 && count > budget_left() / size) {
        return NULL;
    }
    return counted(count == 0 || size == 0 ? calloc(1, 1) : calloc(count, size));
}

static void *block_realloc(void *context, void *block, size_t size)
{
    (void)context;
    size_t old = block == NULL ? 0 : malloc_usable_size(block);
    if (size > old && size - old > budget_left()) {
        return NULL;
    }
    void *out = realloc(block, size == 0 ? 1 : size);
    if (out != NULL) {
        budget.used += malloc_usable_size(out) - old;
    }
    return out;
}

static void block_free(void *context, void *block)
{
    (void)context;
    budget.used -= block == NULL ? 0 : malloc_usable_size(block);
    free(block);
}

static struct {
    uint8_t *base;
    size_t size;
    size_t used;
    void *free[1024];
    size_t free_count;
} arenas;

static void *arena_alloc(void *context, size_t size)
{
    (void)context;
    if (arenas.free_count > 0 && size <= budget_left()) {
        budget.used += size;
        return arenas.free[--arenas.free_count];
    }
    if (arenas.used + size > arenas.size || size > budget_left()) {
        return NULL;
    }
    budget.used += size;
    void *out = arenas.base + arenas.used;
    arenas.used += size;
    return out;
}

static void arena_free(void *context, void *arena, size_t size)
{
    (void)context;
    (void)size;
    budget.used -= size;
    if (arenas.free_count < sizeof(arenas.free) / sizeof(*arenas.free)) {
        arenas.free[arenas.free_count++] = arena;
    }
}

bool runtime_memory_reserve(uint32_t heap_mb, uint32_t arena_mb)
{
    size_t heap = (size_t)heap_mb << 20;
    // NOLINTBEGIN(concurrency-mt-unsafe): there is one thread
    (void)mallopt(M_MMAP_MAX, 0);
    (void)mallopt(M_TRIM_THRESHOLD, INT32_MAX);
    (void)mallopt(M_ARENA_MAX, 1);
    (void)mallopt(M_TOP_PAD, (int)heap);
    // NOLINTEND(concurrency-mt-unsafe)
    void *first = malloc(1 << 16); // takes the whole reserve from the kernel, untouched
    free(first);
    arenas.size = (size_t)arena_mb << 20;
    uint8_t *base = mmap(NULL, arenas.size + ARENA_ALIGNMENT, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (first == NULL || base == MAP_FAILED) {
        return failed("cannot reserve memory");
    }
    uintptr_t mask = ARENA_ALIGNMENT - 1;
    // NOLINTNEXTLINE(performance-no-int-to-ptr): rounding an address up
    arenas.base = (uint8_t *)(((uintptr_t)base + mask) & ~mask);
    (void)madvise(base, arenas.size + ARENA_ALIGNMENT, MADV_NOHUGEPAGE);
    PyObjectArenaAllocator allocator = {NULL, arena_alloc, arena_free};
    PyObject_SetArenaAllocator(&allocator);
    PyMemAllocatorEx blocks = {NULL, block_malloc, block_calloc, block_realloc, block_free};
    PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &blocks);
    return true;
}

// --- no holes ---

// Fills what is free between Python's small objects, one size after another, up to a fresh pool: a
// pool hands out its first blocks in order.
static void fill_pools(void)
{
    enum { SMALL_MAX = 512, STEP = 16, BLOCKS_MAX = 1 << 16, IN_ORDER = 4 };
    enum { POOL_BYTES = 16 << 10, POOL_HEADER_MAX = 64 };
    for (size_t size = STEP; size <= SMALL_MAX; size += STEP) {
        uintptr_t last = 0;
        int in_order = 0;
        for (int i = 0; i < BLOCKS_MAX && in_order < IN_ORDER; i++) {
            uintptr_t block = (uintptr_t)PyObject_Malloc(size); // kept for good
            bool first = block % POOL_BYTES < POOL_HEADER_MAX;
            in_order = first ? 1 : in_order > 0 && block == last + size ? in_order + 1 : 0;
            last = block;
        }
    }
}

// Takes every free block of malloc that is as large as `size` and lies below the mark.
static void fill_blocks(size_t size, const uint8_t *mark)
{
    enum { CACHED_MAX = 1040, BLOCKS_MAX = 1 << 16 };
    uint8_t *block = NULL;
    for (int i = 0; i < BLOCKS_MAX && (block == NULL || block < mark); i++) {
        block = malloc(size); // kept for good
        if (block == NULL) {
            return;
        }
    }
    if (size > CACHED_MAX) { // a smaller one would come back at once
        free(block);
    }
}

// The same between the blocks of malloc: what lies above the mark is the untouched rest.
static void fill_heap(void)
{
    enum { LARGE = 1 << 17, MEDIUM = 1040, STEP = 16 };
    uint8_t *mark = malloc(LARGE);
    for (size_t size = LARGE; mark != NULL && size >= STEP;) {
        fill_blocks(size, mark);
        size -= size > MEDIUM ? size / 16 / STEP * STEP : STEP;
    }
    free(mark);
}

void runtime_memory_settle(void)
{
    fill_pools();
    fill_heap();
}

// --- the stack ---

bool runtime_memory_enter(int memory, void (*go_on)(void))
{
    // The page below stays unmapped for good: an overflow faults.
    uint8_t *base = mmap(NULL, STACK_BYTES + PAGE, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED || mmap(base + PAGE, STACK_BYTES, PROT_READ | PROT_WRITE,
                                   MAP_SHARED | MAP_FIXED, memory, 0) == MAP_FAILED) {
        return failed("map a stack");
    }
    static ucontext_t here;
    static ucontext_t there;
    if (getcontext(&there) < 0) {
        return failed("getcontext");
    }
    there.uc_stack.ss_sp = base + PAGE;
    there.uc_stack.ss_size = STACK_BYTES;
    makecontext(&there, go_on, 0);
    (void)swapcontext(&here, &there);
    return failed("change the stack");
}

// --- moving in ---

struct mapping {
    uintptr_t start;
    uintptr_t end;
    bool writable;
    bool code; // of a file
    bool shared;
    bool stack;
    bool anonymous;
};

// The next mapping of a text in the form of /proc/self/maps, or false at its end.
static bool next_mapping(const char **at, struct mapping *out)
{
    while (**at != '\0') {
        unsigned long start = 0;
        unsigned long end = 0;
        unsigned long inode = 0;
        char mode[8];
        char name[16] = "";
        // NOLINTBEGIN(cert-err34-c): the kernel wrote these numbers
        int fields =
            sscanf(*at, "%lx-%lx %7s %*s %*s %lu%*[ ]%15[^\n]", &start, &end, mode, &inode, name);
        // NOLINTEND(cert-err34-c)
        *at += strcspn(*at, "\n");
        *at += **at == '\n';
        if (fields >= 4) {
            *out = (struct mapping){.start = start,
                                    .end = end,
                                    .writable = mode[1] == 'w',
                                    .code = mode[2] == 'x' && mode[1] != 'w' && inode != 0,
                                    .shared = mode[3] == 's',
                                    .stack = strcmp(name, "[stack]") == 0,
                                    .anonymous = inode == 0};
            return true;
        }
    }
    return false;
}

static bool read_maps(char *out, size_t size)
{
    int file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    size_t used = 0;
    for (ssize_t done = 1; file >= 0 && done > 0 && used + 1 < size; used += (size_t)done) {
        done = read(file, out + used, size - 1 - used);
        done = done < 0 ? 0 : done;
    }
    out[used] = '\0';
    (void)close(file);
    return (used > 0 && used + 1 < size) || failed("read my memory map");
}

// Entries of /proc/self/pagemap, read in blocks.
struct pagemap {
    int file;
    uintptr_t first; // page number of the block
    uint64_t entry[512];
};

static bool is_in_use(struct pagemap *pagemap, uintptr_t address)
{
    enum { BLOCK = sizeof(pagemap->entry) / sizeof(*pagemap->entry) };
    uintptr_t page = address / PAGE;
    if (page - pagemap->first >= BLOCK) {
        pagemap->first = page;
        memset(pagemap->entry, 0xff, sizeof(pagemap->entry)); // what cannot be read is in use
        (void)!pread(pagemap->file, pagemap->entry, sizeof(pagemap->entry),
                     (off_t)(page * sizeof(*pagemap->entry)));
    }
    return pagemap->entry[page - pagemap->first] >> 62 != 0; // present or swapped out
}

// What of a mapping is tracked: all of it, or of a large one as far as it is in use and some more.
static size_t tracked_size(const struct mapping *map, struct pagemap *pagemap)
{
    size_t size = map->end - map->start;
    if (size <= LARGE_BYTES) {
        return size;
    }
    uintptr_t used = map->start;
    for (uintptr_t page = map->start; page < map->end; page += PAGE) {
        used = is_in_use(pagemap, page) ? page + PAGE : used;
    }
    size_t tracked = used - map->start + SLACK_BYTES;
    return tracked < size ? tracked : size;
}

static bool is_zero(const uint8_t *page)
{
    return page[0] == 0 && memcmp(page, page + 1, PAGE - 1) == 0;
}

// Replaces one mapping by the same bytes in the file, where zeros take no memory. Between the copy
// and the change nothing may be written to it: this function keeps its state on the stack, which is
// there already.
static bool move(const struct mapping *map, int memory, struct pagemap *pagemap, off_t offset)
{
    size_t size = map->end - map->start;
    uint8_t *there = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, memory, offset);
    if (there == MAP_FAILED) {
        return failed("map the shared memory");
    }
    for (size_t at = 0; at < size; at += PAGE) {
        // NOLINTNEXTLINE(performance-no-int-to-ptr): an address of /proc/self/maps
        const uint8_t *page = (const uint8_t *)(map->start + at);
        if ((!map->anonymous || is_in_use(pagemap, map->start + at)) && !is_zero(page)) {
            memcpy(there + at, page, PAGE);
        }
    }
    // NOLINTNEXTLINE(performance-no-int-to-ptr)
    void *moved = mmap((void *)map->start, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                       memory, offset);
    (void)munmap(there, size);
    return moved != MAP_FAILED || failed("move to the shared memory");
}

static void add(struct image_region *out, size_t *count, uintptr_t start, size_t size,
                uint64_t offset, bool tracked)
{
    if (size > 0) {
        out[(*count)++] = (struct image_region){start, size, offset, tracked};
    }
}

bool runtime_memory_adopt(int memory, struct image_region *out, size_t *count)
{
    char maps[MAPS_BYTES_MAX];
    struct pagemap pagemap = {.file = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC),
                              .first = UINTPTR_MAX};
    uint64_t offset = STACK_BYTES;
    if (pagemap.file < 0 || !read_maps(maps, sizeof(maps))) {
        return failed("read my page map");
    }
    *count = 0;
    struct mapping map;
    bool good = true;
    for (const char *at = maps; good && next_mapping(&at, &map);) {
        size_t size = map.end - map.start;
        if (!map.writable) {
            if (map.code) { // what only the start needed need not stay in memory
                // NOLINTNEXTLINE(performance-no-int-to-ptr)
                (void)madvise((void *)map.start, size, MADV_DONTNEED);
            }
        } else if (*count + 2 > IMAGE_REGIONS_MAX) {
            good = failed("too many regions of memory");
        } else if (map.stack) { // the one of before runtime_memory_enter
            // NOLINTNEXTLINE(performance-no-int-to-ptr)
            good = mprotect((void *)map.start, size, PROT_READ) == 0 || failed("close the stack");
        } else if (map.shared) {
            size_t room = size - STACK_TRACKED_BYTES;
            add(out, count, map.start, room, 0, false);
            add(out, count, map.start + room, STACK_TRACKED_BYTES, room, true);
        } else {
            size_t tracked = tracked_size(&map, &pagemap);
            good = move(&map, memory, &pagemap, (off_t)offset);
            add(out, count, map.start, tracked, offset, true);
            add(out, count, map.start + tracked, size - tracked, offset + tracked, false);
            offset += size;
        }
    }
    (void)close(pagemap.file);
    return good;
}
