// An idle image stands still in a ptrace stop at the point where every run begins; `begin` lets it
// go, and it finds its request in the pipe. A run ends in another stop: the image makes one itself
// after its result, a crash or a forbidden call is one (a signal that never gets delivered), and at
// the deadline one is forced. An audit compares the image in the state that a run has left, before
// the next one; meanwhile other images run.
#include "verifier/rewind.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "verifier/rewind_memory.h"

#include <elf.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    REGISTERS_BYTES = 1024, // general ones; the image itself brings back the others
    STOPS_MAX = 16,         // signals that one run can leave behind
    AUDIT_BYTES = 1 << 17,  // compared in one step of an audit
};

struct rewind {
    struct rewind_memory *memory;
    pid_t pid;
    clockid_t clock; // of its CPU time
    uint64_t random; // decides which runs are audited
    struct iovec registers;
    uint8_t data[REGISTERS_BYTES];
};

// --- stopping ---

static int wait_for(pid_t pid, int *status, int flags)
{
    pid_t got = 0;
    do {
        got = waitpid(pid, status, __WALL | flags);
    } while (got < 0 && errno == EINTR);
    return got == 0 ? -EAGAIN : got == pid && WIFSTOPPED(*status) ? 0 : -ESRCH;
}

static bool is_forced_stop(int status)
{
    return status >> 16 == PTRACE_EVENT_STOP;
}

static bool has_pending_signal(pid_t pid)
{
    siginfo_t info;
    struct __ptrace_peeksiginfo_args own = {.nr = 1};
    struct __ptrace_peeksiginfo_args shared = {.flags = PTRACE_PEEKSIGINFO_SHARED, .nr = 1};
    return ptrace(PTRACE_PEEKSIGINFO, pid, &own, &info) > 0 ||
           ptrace(PTRACE_PEEKSIGINFO, pid, &shared, &info) > 0;
}

// Stops it wherever it is, with no stop or signal left for later: one that came up in the next run
// would look like that run's crash.
static int stop_process(pid_t pid)
{
    int status = 0;
    int code = wait_for(pid, &status, WNOHANG);
    if (code != -EAGAIN) {
        return code; // it stands in a stop of its own, and no other was asked for
    }
    for (int i = 0; i < STOPS_MAX; i++) {
        if (ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) < 0) {
            return -ESRCH;
        }
        code = wait_for(pid, &status, 0);
        while (code == 0 && !is_forced_stop(status)) { // a signal came first; the other one follows
            code = ptrace(PTRACE_CONT, pid, NULL, NULL) < 0 ? -ESRCH : wait_for(pid, &status, 0);
        }
        if (code < 0 || !has_pending_signal(pid)) {
            return code;
        }
        if (ptrace(PTRACE_CONT, pid, NULL, NULL) < 0 || wait_for(pid, &status, 0) < 0) {
            return -ESRCH;
        }
        if (!is_forced_stop(status)) {
            return 0; // the signal is taken
        }
    }
    return -ELOOP;
}

// --- registers ---

static int save_registers(struct rewind *rewind)
{
    rewind->registers = (struct iovec){rewind->data, REGISTERS_BYTES};
    return ptrace(PTRACE_GETREGSET, rewind->pid, NT_PRSTATUS, &rewind->registers) < 0 ? -errno : 0;
}

static int restore_registers(struct rewind *rewind)
{
    return ptrace(PTRACE_SETREGSET, rewind->pid, NT_PRSTATUS, &rewind->registers) < 0 ? -errno : 0;
}

// --- taking an image over ---

static int receive_tracker(int control)
{
    char byte = 0;
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } space;
    struct iovec part = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = space.bytes,
                             .msg_controllen = sizeof(space.bytes)};
    if (recvmsg(control, &message, MSG_CMSG_CLOEXEC) != 1) {
        return -EBADMSG;
    }
    const struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    int tracker = -EBADMSG;
    if (rights != NULL && rights->cmsg_type == SCM_RIGHTS &&
        rights->cmsg_len == CMSG_LEN(sizeof(tracker))) {
        memcpy(&tracker, CMSG_DATA(rights), sizeof(tracker));
    }
    return tracker;
}

static int seize(struct rewind *rewind, const struct image *image, struct error *err)
{
    int status = 0;
    char go = 'g';
    long options = PTRACE_O_EXITKILL;
    if (ptrace(PTRACE_SEIZE, rewind->pid, NULL, options) < 0) {
        return error_set(err, -errno, "it cannot be traced (errno %d)", errno);
    }
    if (write(image->process.request, &go, 1) != 1 || wait_for(rewind->pid, &status, 0) < 0 ||
        WSTOPSIG(status) != SIGTRAP || save_registers(rewind) < 0 ||
        clock_getcpuclockid(rewind->pid, &rewind->clock) != 0) {
        return error_set(err, -EIO, "it does not stop where runs begin");
    }
    return 0;
}

static int rewind_prepare(struct image *image, struct error *err)
{
    struct rewind *rewind = calloc(1, sizeof(*rewind));
    if (rewind == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    image->backend_data = rewind;
    rewind->pid = image->process.pid;
    (void)getrandom(&rewind->random, sizeof(rewind->random), 0);
    rewind->random |= 1;
    const uint8_t *payload = image->reply.data + sizeof(struct image_frame);
    size_t size = image->reply.size - sizeof(struct image_frame);
    struct image_region regions[IMAGE_REGIONS_MAX];
    if (size > sizeof(regions) || size % sizeof(*regions) != 0) {
        return error_set(err, -EBADMSG, "it describes its memory wrongly");
    }
    memcpy(regions, payload, size);
    int tracker = receive_tracker(image->process.control);
    if (tracker < 0) {
        return error_set(err, tracker, "its memory cannot be tracked");
    }
    int code = seize(rewind, image, err);
    if (code < 0) {
        (void)close(tracker);
        return code;
    }
    const struct rewind_files files = {image->process.memory, image->process.memory_bytes, tracker};
    return rewind_memory_open(&rewind->memory, rewind->pid, &files, regions,
                              size / sizeof(*regions), err);
}

// --- a run ---

static uint64_t cpu_clock_ns(const struct rewind *rewind)
{
    struct timespec now = {0};
    (void)clock_gettime(rewind->clock, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void rewind_begin(struct image *image)
{
    struct rewind *rewind = image->backend_data;
    if (ptrace(PTRACE_CONT, rewind->pid, NULL, NULL) < 0) {
        image_fail(image, "it has ended");
    }
}

static uint64_t rewind_cpu_ns(const struct image *image)
{
    return cpu_clock_ns(image->backend_data);
}

static pid_t rewind_runner(const struct image *image)
{
    return image->process.pid;
}

static bool rewind_stopped_itself(struct image *image)
{
    const struct rewind *rewind = image->backend_data;
    siginfo_t info = {0};
    return waitid(P_PID, (id_t)rewind->pid, &info,
                  WEXITED | WSTOPPED | WNOHANG | WNOWAIT | __WALL) < 0 ||
           info.si_pid != 0;
}

static bool is_audited(struct rewind *rewind, uint32_t every)
{
    rewind->random ^= rewind->random << 13;
    rewind->random ^= rewind->random >> 7;
    rewind->random ^= rewind->random << 17;
    return rewind->random % every == 0;
}

static int pipe_bytes(int pipe)
{
    int bytes = 0;
    return ioctl(pipe, FIONREAD, &bytes) < 0 ? 0 : bytes;
}

// Lets it obey its orders now, and not only when the next run begins.
static int let_restore(struct rewind *rewind)
{
    int status = 0;
    if (ptrace(PTRACE_CONT, rewind->pid, NULL, NULL) < 0 || wait_for(rewind->pid, &status, 0) < 0 ||
        WSTOPSIG(status) != SIGTRAP) {
        return -EIO;
    }
    rewind_memory_restored(rewind->memory);
    return 0;
}

static void rewind_stop(struct image *image)
{
    struct rewind *rewind = image->backend_data;
    struct error err = {0};
    if (stop_process(rewind->pid) < 0) {
        image_fail(image, "its process ended");
        return;
    }
    image->cpu_ns = cpu_clock_ns(rewind) - image->cpu_start_ns;
    if (image->reply.size != image->reply_used || pipe_bytes(image->process.reply) > 0) {
        image_drain(image);
        image_spoil(image); // more than one result
    }
    image_report(image); // the asker goes on while this image is brought back
    if (image->closing) {
        return;
    }
    image_take_back(image);
    bool audited = is_audited(rewind, image->config.audit_every);
    if (rewind_memory_restore(rewind->memory, audited, &err) < 0) {
        image_fail(image, err.text);
    } else if (restore_registers(rewind) < 0) {
        image_fail(image, "its registers cannot be restored");
    } else if (audited && let_restore(rewind) < 0) {
        image_fail(image, "it does not restore its memory");
    } else if (audited) {
        image_rest(image);
    } else {
        image_restored(image);
    }
}

static void rewind_audit(struct image *image, bool all)
{
    struct rewind *rewind = image->backend_data;
    enum rewind_comparison found =
        rewind_memory_compare(rewind->memory, all ? SIZE_MAX : AUDIT_BYTES);
    if (found == COMPARISON_GOES_ON) {
        return;
    }
    if (image_audited(image, found == COMPARISON_EQUAL)) {
        image_restored(image);
    } else {
        image_fail(image, "its memory differs from the snapshot after a rewind");
    }
}

static void rewind_impatient(struct image *image)
{
    (void)image; // stop() ends at once
}

static void rewind_destroy(struct image *image)
{
    struct rewind *rewind = image->backend_data;
    if (rewind != NULL) {
        rewind_memory_close(rewind->memory);
        free(rewind);
    }
}

const struct image_backend rewind_backend = {
    .prepare = rewind_prepare,
    .begin = rewind_begin,
    .stop = rewind_stop,
    .stopped_itself = rewind_stopped_itself,
    .cpu_ns = rewind_cpu_ns,
    .runner = rewind_runner,
    .impatient = rewind_impatient,
    .audit = rewind_audit,
    .destroy = rewind_destroy,
};

// --- what the host offers ---

static int probe_trace(struct error *err)
{
    int gate[2];
    if (pipe(gate) < 0) {
        return error_set(err, -ENOTSUP, "there is no pipe (errno %d)", errno);
    }
    pid_t pid = fork();
    if (pid == 0) {
        char byte = 0;
        (void)close(gate[1]);
        (void)!read(gate[0], &byte, 1);
        _exit(0);
    }
    int code = pid < 0 || ptrace(PTRACE_SEIZE, pid, NULL, PTRACE_O_EXITKILL) < 0 ? -errno : 0;
    (void)close(gate[0]);
    (void)close(gate[1]);
    if (pid > 0) {
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, __WALL);
    }
    return code < 0 ? error_set(err, -ENOTSUP, "ptrace is not permitted (errno %d)", -code) : 0;
}

int rewind_probe(struct error *err)
{
#if !defined(__x86_64__)
    return error_set(err, -ENOTSUP, "rewind is made for x86-64 only");
#endif
    int code = rewind_memory_probe(err);
    return code < 0 ? code : probe_trace(err);
}
