// The table over shared memory. Rank 0 makes one anonymous file (memfd); the others open it through
// /proc. All arrays lie in it at the same places, since all ranks ask for them in the same order,
// so scatter and gather only have to wait: what another rank wrote is there. The file ends with the
// last process that has it open; nothing is left behind.
//
// Ranks meet at numbered points: each counts its own arrivals and waits for those of the others, by
// futex, and looks four times in a second whether they still live.
#include "learner/collective.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { SPINS = 200, LOOK_MS = 250, JOIN_TURN_MS = 20, FAILURE_BYTES = 200, PATH_BYTES = 4096 };

static const uint64_t magic_number = 0x6b656c76696e3031;
static const off_t file_bytes = (off_t)1 << 44; // sparse: only what is written takes memory
static const off_t block_at = (off_t)1 << 43;   // the block of a call; arrays lie below

struct seat {
    _Alignas(64) atomic_uint arrived;
    atomic_int pid; // 0: not here yet
};

struct header {
    uint64_t magic, token;
    int32_t ranks;
    atomic_uint failed; // 0: fine, 1: being written, 2: `failure` holds the sentence
    char failure[FAILURE_BYTES];
    uint32_t call;
    size_t block_size, call_size;
    struct seat seats[RANKS_MAX];
};

struct host {
    struct collective base;
    struct header *header;
    int fd;
    off_t next; // where the next array goes
    uint32_t arrivals;
    uint64_t limit_ms;
    int pidfds[RANKS_MAX]; // -1: not opened
    void *block;
    size_t block_mapped;
    char *path; // to remove at the end; rank 0 only
};

static struct host *host_of(struct collective *collective)
{
    return (struct host *)collective;
}

static void futex(atomic_uint *word, int operation, uint32_t value, const struct timespec *timeout)
{
    (void)syscall(SYS_futex, word, operation, value, timeout, NULL, 0);
}

// --- meeting ---

static bool is_dead(struct host *host, int32_t rank)
{
    int pid = atomic_load(&host->header->seats[rank].pid);
    if (pid == 0) {
        return false; // it has not come yet
    }
    if (host->pidfds[rank] < 0) {
        host->pidfds[rank] = pidfd_open(pid, 0);
        if (host->pidfds[rank] < 0) {
            return errno == ESRCH;
        }
    }
    struct pollfd watch = {.fd = host->pidfds[rank], .events = POLLIN};
    return poll(&watch, 1, 0) == 1;
}

static int check_failed(struct host *host, struct error *err)
{
    if (atomic_load(&host->header->failed) != 2) {
        return 0;
    }
    return error_set(err, -EPIPE, "%.*s", FAILURE_BYTES, host->header->failure);
}

static void host_give_up(struct collective *collective, const char *text)
{
    struct host *host = host_of(collective);
    unsigned int fine = 0;
    if (atomic_compare_exchange_strong(&host->header->failed, &fine, 1)) {
        (void)snprintf(host->header->failure, FAILURE_BYTES, "rank %d: %s", collective->rank, text);
        atomic_store(&host->header->failed, 2);
    }
    for (int32_t r = 0; r < collective->ranks; r++) { // they look at every waking
        futex(&host->header->seats[r].arrived, FUTEX_WAKE, INT32_MAX, NULL);
    }
}

static int check_alive(struct host *host, int32_t rank, struct error *err)
{
    return is_dead(host, rank) ? error_set(err, -EPIPE, "rank %d (process %d) has died", rank,
                                           atomic_load(&host->header->seats[rank].pid))
                               : 0;
}

// Looks whether the wait for `rank` can still end well.
static int look(struct host *host, int32_t rank, uint64_t since_ms, bool bounded, const char *where,
                struct error *err)
{
    int code = check_failed(host, err);
    code = code < 0 ? code : check_alive(host, rank, err);
    if (code < 0) {
        return code;
    }
    if (bounded && clock_ms() - since_ms > host->limit_ms) {
        return error_set(err, -ETIMEDOUT, "rank %d has not come to %s within %llu s", rank, where,
                         (unsigned long long)(host->limit_ms / 1000));
    }
    return 0;
}

// Waits for the arrival of `rank`. Unbounded waits end with the life of the rank waited for.
static int await(struct host *host, int32_t rank, bool bounded, const char *where,
                 struct error *err)
{
    static const struct timespec pause = {.tv_nsec = LOOK_MS * 1000000L};
    atomic_uint *arrived = &host->header->seats[rank].arrived;
    uint64_t since_ms = clock_ms();
    int code = 0;
    for (int spin = 0;; spin++) {
        uint32_t there = atomic_load(arrived);
        if ((int32_t)(there - host->arrivals) >= 0) {
            return 0; // even if it has left since: its part of this meeting is done
        }
        if (code < 0) {
            return code;
        }
        if (spin >= SPINS) {
            code = look(host, rank, since_ms, bounded, where, err);
            if (code == 0) {
                futex(arrived, FUTEX_WAIT, there, &pause);
            }
        }
    }
}

static void arrive(struct host *host)
{
    atomic_uint *own = &host->header->seats[host->base.rank].arrived;
    atomic_store(own, ++host->arrivals);
    futex(own, FUTEX_WAKE, INT32_MAX, NULL);
}

static int meet(struct host *host, const char *where, struct error *err)
{
    arrive(host);
    for (int32_t r = 0; r < host->base.ranks; r++) {
        int code = r == host->base.rank ? 0 : await(host, r, true, where, err);
        if (code < 0) {
            return code;
        }
    }
    return check_failed(host, err);
}

// --- the table ---

static size_t whole_pages(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (size + page - 1) / page * page;
}

static void *map_at(const struct host *host, off_t offset, size_t size)
{
    void *data =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, host->fd, offset);
    return data == MAP_FAILED ? NULL : data;
}

static void *host_alloc(struct collective *collective, size_t size)
{
    struct host *host = host_of(collective);
    size = whole_pages(size);
    off_t at = host->next;
    if (size == 0 || (off_t)size > block_at - at) {
        return NULL;
    }
    host->next += (off_t)size;
    return map_at(host, at, size);
}

static void host_release(struct collective *collective, void *data, size_t size)
{
    (void)collective;
    if (data != NULL) {
        (void)munmap(data, whole_pages(size));
    }
}

static int host_scatter(struct collective *collective, void *const *slices, int32_t count,
                        size_t size, size_t item, int32_t items, struct error *err)
{
    (void)slices;
    (void)count;
    (void)size;
    (void)item;
    (void)items;
    return meet(host_of(collective), "the sum of the gradients", err);
}

static int host_gather(struct collective *collective, void *data, size_t size, size_t item,
                       int32_t items, struct error *err)
{
    (void)data;
    (void)size;
    (void)item;
    (void)items;
    return meet(host_of(collective), "the exchange of results", err);
}

static int host_spread(struct collective *collective, void *data, size_t size, struct error *err)
{
    (void)data;
    (void)size;
    return meet(host_of(collective), "the spreading of weights", err);
}

// Makes the mapping of the block as large as the header says.
static void *map_block(struct host *host)
{
    size_t size = host->header->block_size;
    if (host->block_mapped != size) {
        if (host->block != NULL) {
            (void)munmap(host->block, host->block_mapped);
        }
        host->block = map_at(host, block_at, size);
        host->block_mapped = host->block == NULL ? 0 : size;
    }
    return host->block;
}

static void *host_block(struct collective *collective, size_t size)
{
    struct host *host = host_of(collective);
    if ((off_t)size > file_bytes - block_at) {
        return NULL;
    }
    if (size > host->header->block_size) {
        host->header->block_size = whole_pages(size);
    }
    host->header->call_size = size;
    return map_block(host);
}

static int host_tell(struct collective *collective, uint32_t kind, struct error *err)
{
    struct host *host = host_of(collective);
    host->header->call = kind;
    return meet(host, "the next call", err);
}

static int host_hear(struct collective *collective, struct collective_call *call, struct error *err)
{
    struct host *host = host_of(collective);
    arrive(host);
    int code = await(host, 0, false, "the next call", err);
    if (code < 0) {
        return code;
    }
    *call = (struct collective_call){.kind = host->header->call, .size = host->header->call_size};
    if (call->size > 0) {
        call->block = map_block(host);
        if (call->block == NULL) {
            return error_set(err, -ENOMEM, "cannot map the %zu bytes of a call", call->size);
        }
    }
    return check_failed(host, err);
}

static int host_end(struct collective *collective, struct error *err)
{
    return meet(host_of(collective), "the end of the step", err);
}

static int host_check(struct collective *collective, struct error *err)
{
    struct host *host = host_of(collective);
    int code = check_failed(host, err);
    for (int32_t r = 0; code == 0 && r < collective->ranks; r++) {
        code = r == collective->rank ? 0 : check_alive(host, r, err);
    }
    return code;
}

static void host_close(struct collective *collective)
{
    struct host *host = host_of(collective);
    for (int i = 0; i < RANKS_MAX; i++) {
        if (host->pidfds[i] >= 0) {
            (void)close(host->pidfds[i]);
        }
    }
    if (host->block != NULL) {
        (void)munmap(host->block, host->block_mapped);
    }
    if (host->header != NULL) {
        (void)munmap(host->header, whole_pages(sizeof(*host->header)));
    }
    if (host->fd >= 0) {
        (void)close(host->fd);
    }
    if (host->path != NULL && collective->rank == 0) {
        (void)unlink(host->path);
    }
    free(host->path);
    free(host);
}

static const struct collective_ops host_ops = {
    .name = "shared memory",
    .alloc = host_alloc,
    .release = host_release,
    .scatter = host_scatter,
    .gather = host_gather,
    .spread = host_spread,
    .block = host_block,
    .tell = host_tell,
    .hear = host_hear,
    .end = host_end,
    .check = host_check,
    .give_up = host_give_up,
    .close = host_close,
};

// --- making it ---

static void host_closep(struct host **host)
{
    if (*host != NULL) {
        host_close(&(*host)->base);
    }
}

static struct host *host_new(int32_t rank, int32_t ranks, uint32_t limit_s)
{
    struct host *host = calloc(1, sizeof(*host));
    CHECK(host != NULL);
    host->base = (struct collective){.ops = &host_ops, .rank = rank, .ranks = ranks};
    host->fd = -1;
    host->next = (off_t)whole_pages(sizeof(struct header));
    host->limit_ms = (uint64_t)limit_s * 1000;
    for (int i = 0; i < RANKS_MAX; i++) {
        host->pidfds[i] = -1;
    }
    return host;
}

static int write_path(struct host *host, const char *path, struct error *err)
{
    char line[96];
    int size = snprintf(line, sizeof(line), "%d %d %llu\n", getpid(), host->fd,
                        (unsigned long long)host->header->token);
    host->path = strdup(path);
    CHECK(host->path != NULL);
    return file_write(path, line, (size_t)size, err);
}

int collective_host_create(struct collective **out, int32_t ranks, const char *path,
                           uint32_t limit_s, struct error *err)
{
    CHECK(ranks >= 1 && ranks <= RANKS_MAX);
    CLEANUP(host_closep) struct host *host = host_new(0, ranks, limit_s);
    host->fd = memfd_create("kelvin-ranks", MFD_CLOEXEC);
    if (host->fd < 0 || ftruncate(host->fd, file_bytes) < 0) {
        return error_set(err, -errno, "cannot make shared memory for %d ranks: %s", ranks,
                         strerrordesc_np(errno));
    }
    host->header = map_at(host, 0, whole_pages(sizeof(*host->header)));
    if (host->header == NULL) {
        return error_set(err, -ENOMEM, "cannot map shared memory for %d ranks", ranks);
    }
    uint64_t token = 0;
    if (getrandom(&token, sizeof(token), 0) != (ssize_t)sizeof(token)) {
        token = clock_ns();
    }
    host->header->magic = magic_number;
    host->header->token = token;
    host->header->ranks = ranks;
    atomic_store(&host->header->seats[0].pid, getpid());
    int code = path == NULL ? 0 : write_path(host, path, err);
    if (code < 0) {
        return code;
    }
    *out = &TAKE(host)->base;
    return 0;
}

static int take_seat(struct host *host, int32_t rank, struct error *err)
{
    int nobody = 0;
    if (rank < 1 || rank >= host->header->ranks) {
        return error_set(err, -EINVAL, "rank %d is not one of 1 to %d", rank,
                         host->header->ranks - 1);
    }
    if (!atomic_compare_exchange_strong(&host->header->seats[rank].pid, &nobody, getpid())) {
        return error_set(err, -EEXIST, "rank %d is there already: process %d", rank, nobody);
    }
    host->base.rank = rank;
    return 0;
}

int collective_host_fork(struct collective *collective, int32_t rank, struct error *err)
{
    return take_seat(host_of(collective), rank, err);
}

// Opens what the file at `path` tells of; -EAGAIN when there is nothing yet, or nothing any more.
static int try_open(struct host *host, const char *path)
{
    CLEANUP(freep) char *line = NULL;
    size_t size = 0;
    int pid = 0;
    int fd = 0;
    unsigned long long token = 0;
    char link[64];
    if (file_read(&line, &size, path, 96, NULL) < 0 ||
        sscanf(line, "%d %d %llu", &pid, &fd, &token) != 3) { // NOLINT(cert-err34-c): our own file
        return -EAGAIN;
    }
    (void)snprintf(link, sizeof(link), "/proc/%d/fd/%d", pid, fd);
    host->fd = open(link, O_RDWR | O_CLOEXEC);
    if (host->fd < 0) {
        return -EAGAIN;
    }
    host->header = map_at(host, 0, whole_pages(sizeof(*host->header)));
    if (host->header == NULL || host->header->magic != magic_number ||
        host->header->token != token) {
        (void)close(host->fd);
        host->fd = -1;
        if (host->header != NULL) {
            (void)munmap(host->header, whole_pages(sizeof(*host->header)));
        }
        host->header = NULL;
        return -EAGAIN;
    }
    return 0;
}

int collective_host_join(struct collective **out, int32_t rank, const char *path, uint32_t limit_s,
                         struct error *err)
{
    static const struct timespec pause = {.tv_nsec = JOIN_TURN_MS * 1000000L};
    CLEANUP(host_closep) struct host *host = host_new(rank, 0, limit_s);
    uint64_t since_ms = clock_ms();
    while (try_open(host, path) < 0) {
        if (clock_ms() - since_ms > host->limit_ms) {
            return error_set(err, -ETIMEDOUT,
                             "rank %d: no rank 0 is there after %u s (it would write %s)", rank,
                             limit_s, path);
        }
        (void)nanosleep(&pause, NULL);
    }
    host->base.ranks = host->header->ranks;
    int code = take_seat(host, rank, err);
    if (code < 0) {
        return code;
    }
    *out = &TAKE(host)->base;
    return 0;
}
