// The image program. It is started by the daemon with three pipes, prepares an interpreter, closes
// the sandbox behind itself, says that it is ready, and serves: as a zygote by one fork per
// request, under rewind by one request that the daemon makes undone.
#include "verifier/protocol.h"
#include "verifier/runtime.h"
#include "verifier/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static struct image_start start;

static bool read_start(void)
{
    uint8_t *at = (uint8_t *)&start;
    for (size_t left = sizeof(start); left > 0;) {
        ssize_t done = read(IMAGE_FD_REQUEST, at, left);
        if (done <= 0) {
            return false;
        }
        at += done;
        left -= (size_t)done;
    }
    start.forbidden[sizeof(start.forbidden) - 1] = '\0';
    return true;
}

static bool prepare(void)
{
    struct runtime_config config = {
        .hash_seed = start.hash_seed,
        .recursion_limit = start.recursion_limit,
        .clock_base_s = start.clock_base_s,
        .clock_tick_ns = start.clock_tick_ns,
        .perturbation = start.perturbation,
        .heap_mb = start.heap_mb,
        .arena_mb = start.arena_mb,
        .forbidden = start.forbidden,
    };
    bool good = runtime_prepare(&config);
    if (good) {
        runtime_detach(&config);
    }
    return good;
}

static bool say_ready(const struct image_region *regions, size_t count)
{
    struct {
        struct image_frame frame;
        struct image_region regions[IMAGE_REGIONS_MAX];
    } message;
    size_t size = count * sizeof(*regions);
    message.frame = (struct image_frame){.kind = FRAME_READY, .size = (uint32_t)size};
    if (size > 0) {
        memcpy(message.regions, regions, size);
    }
    size += sizeof(message.frame);
    return write(IMAGE_FD_REPLY, &message, size) == (ssize_t)size;
}

// Waits for the child's end or the daemon's kill. The daemon's end closes the control socket.
static void watch_child(uint64_t run, pid_t pid, int pidfd, struct rusage *usage)
{
    for (;;) {
        struct pollfd fds[2] = {{.fd = pidfd, .events = POLLIN},
                                {.fd = IMAGE_FD_CONTROL, .events = POLLIN}};
        if (syscall(SYS_ppoll, fds, 2, NULL, NULL, 0) < 0) {
            continue;
        }
        if (fds[0].revents != 0) {
            if (wait4(pid, NULL, 0, usage) == pid) {
                return;
            }
        }
        if (fds[1].revents != 0) {
            struct control_kill order = {0};
            if (read(IMAGE_FD_CONTROL, &order, sizeof(order)) <= 0) {
                _exit(0);
            }
            if (order.run == run) { // not a late one, meant for the child before
                (void)kill(pid, SIGKILL);
            }
        }
    }
}

static uint32_t cpu_us(const struct rusage *usage)
{
    int64_t us = (int64_t)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) * 1000000 +
                 usage->ru_utime.tv_usec + usage->ru_stime.tv_usec;
    return us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
}

// What a child that was killed early has not read must not reach the next one, which reads as soon
// as it is forked; so it is thrown away here, before that, and before the daemon hears of this end
// and sends the next request.
static void drain_request(void)
{
    uint8_t junk[4096];
    struct pollfd request = {.fd = IMAGE_FD_REQUEST, .events = POLLIN};
    const struct timespec now = {0};
    while (syscall(SYS_ppoll, &request, 1, &now, NULL, 0) == 1 && (request.revents & POLLIN) != 0) {
        if (read(IMAGE_FD_REQUEST, junk, sizeof(junk)) <= 0) {
            return;
        }
    }
}

static _Noreturn void serve_as_zygote(void)
{
    for (uint64_t run = 1;; run++) {
        int pidfd = -1;
        long pid = syscall(SYS_clone, SIGCHLD | CLONE_PIDFD, 0, &pidfd, 0, 0);
        if (pid == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
            if (sandbox_seal_child()) {
                runtime_serve();
            }
            syscall(SYS_exit_group, 0);
        }
        if (pid < 0) {
            _exit(3);
        }
        struct rusage usage = {0};
        watch_child(run, (pid_t)pid, pidfd, &usage);
        struct control_ended ended = {.cpu_us = cpu_us(&usage)};
        (void)close(pidfd);
        drain_request();
        if (write(IMAGE_FD_CONTROL, &ended, sizeof(ended)) != (ssize_t)sizeof(ended)) {
            _exit(0);
        }
    }
}

// --- rewind ---

static struct {
    const uint8_t *snapshot;
    const struct image_orders *orders;
} given; // for reading only

static bool map_given(void)
{
    size_t size = start.memory_bytes;
    void *base = mmap(NULL, size + sizeof(struct image_orders), PROT_READ, MAP_SHARED,
                      IMAGE_FD_MEMORY, (off_t)size);
    if (base == MAP_FAILED) {
        return false;
    }
    given.snapshot = base;
    given.orders = (const void *)(given.snapshot + size);
    return true;
}

#if defined(__x86_64__)

// A stop that the daemon, which traces this process, sees as SIGTRAP.
static void stop_here(void)
{
    __asm__ volatile("int3" ::: "memory");
}

enum {
    VECTOR_STATE_BYTES = 1 << 14, // of registers that are no general ones
    STATE_PROTECTION_KEYS = 1 << 9,
    STATE_TILES = 1 << 18, // refused to all who do not ask; there would be 8 KB of them
};

static alignas(64) uint8_t vector_state[VECTOR_STATE_BYTES];

// Every run begins behind the first stop: the daemon has set the general registers, and nothing
// else can be relied on. So what follows works in registers alone, on what this process cannot
// write: it brings back the right to write (protection keys), the memory, then the other registers.
static void begin_here(void)
{
    uint32_t mask = 0;
    uint64_t keys = 0; // as they are, and one more bit: there are some
    __asm__ volatile("xgetbv" : "=a"(mask) : "c"(0) : "rdx");
    if ((mask & STATE_PROTECTION_KEYS) != 0) {
        __asm__ volatile("rdpkru" : "=a"(keys) : "c"(0) : "rdx");
        keys |= 1ULL << 32;
    }
    mask &= ~(uint32_t)STATE_TILES;
    const struct image_order *order = given.orders->order;
    register uint64_t keys_in __asm__("r8") = keys;
    register const uint8_t *snapshot __asm__("r9") = given.snapshot;
    register uint8_t *state __asm__("r10") = vector_state;
    register uint64_t mask_in __asm__("r11") = mask;
    __asm__ volatile("mov %%r11, %%rax\n"
                     "xor %%edx, %%edx\n"
                     "xsave64 (%%r10)\n"
                     "int3\n"
                     "test %%r8, %%r8\n"
                     "jz 1f\n"
                     "mov %%r8d, %%eax\n"
                     "xor %%ecx, %%ecx\n"
                     "xor %%edx, %%edx\n"
                     "wrpkru\n"
                     "1: mov 16(%%rbx), %%rcx\n"
                     "test %%rcx, %%rcx\n"
                     "jz 2f\n"
                     "mov (%%rbx), %%rdi\n"
                     "mov 8(%%rbx), %%rsi\n"
                     "add %%r9, %%rsi\n"
                     "rep movsb\n"
                     "add $24, %%rbx\n"
                     "jmp 1b\n"
                     "2: mov %%r11, %%rax\n"
                     "xor %%edx, %%edx\n"
                     "xrstor64 (%%r10)\n"
                     "cmpq $0, (%%rbx)\n"
                     "je 3f\n"
                     "int3\n"
                     "3:\n"
                     : "+b"(order)
                     : "r"(keys_in), "r"(snapshot), "r"(state), "r"(mask_in)
                     : "rax", "rcx", "rdx", "rsi", "rdi", "cc", "memory");
}

#else // the daemon knows (rewind_probe) and starts no such image

static void stop_here(void)
{
    _exit(5);
}

static void begin_here(void)
{
    _exit(5);
}

#endif

// Gives the daemon a userfaultfd of this process, through which it tracks what is written.
static bool send_tracker(void)
{
    int tracker = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    char byte = 0;
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(rights), &tracker, sizeof(tracker));
    bool sent = tracker >= 0 && sendmsg(IMAGE_FD_CONTROL, &message, 0) == 1;
    if (!sent) {
        (void)fprintf(stderr, "image: cannot track memory: errno %d\n", errno);
    }
    (void)close(tracker);
    (void)close(IMAGE_FD_CONTROL);
    (void)close(IMAGE_FD_MEMORY);
    return sent;
}

static void serve_rewound(void)
{
    struct image_region regions[IMAGE_REGIONS_MAX];
    size_t count = 0;
    char go = 0;
    if (!prepare() || !map_given() || !runtime_memory_adopt(IMAGE_FD_MEMORY, regions, &count) ||
        !sandbox_close((enum isolation)start.isolation) || !send_tracker() ||
        !sandbox_filter(FILTER_REWIND) || !say_ready(regions, count) ||
        read(IMAGE_FD_REQUEST, &go, 1) != 1) {
        _exit(4);
    }
    begin_here();
    runtime_serve();
    for (;;) {
        stop_here();
    }
}

int main(void)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (!read_start()) {
        return 1;
    }
    if (start.zygote == 0) {
        (void)runtime_memory_enter(IMAGE_FD_MEMORY, serve_rewound);
        return 2; // only when there is no stack
    }
    if (!prepare() || !sandbox_close((enum isolation)start.isolation) ||
        !sandbox_filter(FILTER_ZYGOTE) || !say_ready(NULL, 0)) {
        return 3;
    }
    serve_as_zygote();
}
