// The image program. It is started by the daemon with three pipes, prepares an interpreter, closes
// the sandbox behind itself, says that it is ready, and serves: as a zygote by one fork per
// request, under rewind by one request that the daemon makes undone.
#include "verifier/protocol.h"
#include "verifier/runtime.h"
#include "verifier/sandbox.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static bool read_start(struct image_start *start)
{
    uint8_t *at = (uint8_t *)start;
    for (size_t left = sizeof(*start); left > 0;) {
        ssize_t done = read(IMAGE_FD_REQUEST, at, left);
        if (done <= 0) {
            return false;
        }
        at += done;
        left -= (size_t)done;
    }
    start->forbidden[sizeof(start->forbidden) - 1] = '\0';
    return true;
}

static bool say_ready(void)
{
    struct image_frame frame = {.kind = FRAME_READY};
    return write(IMAGE_FD_REPLY, &frame, sizeof(frame)) == (ssize_t)sizeof(frame);
}

// Waits for the child's end or the daemon's kill. The daemon's end closes the control socket.
static int watch_child(uint64_t run, pid_t pid, int pidfd, struct rusage *usage)
{
    for (;;) {
        struct pollfd fds[2] = {{.fd = pidfd, .events = POLLIN},
                                {.fd = IMAGE_FD_CONTROL, .events = POLLIN}};
        if (syscall(SYS_ppoll, fds, 2, NULL, NULL, 0) < 0) {
            continue;
        }
        if (fds[0].revents != 0) {
            int status = 0;
            if (wait4(pid, &status, 0, usage) == pid) {
                return status;
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
        struct control_ended ended = {.status = watch_child(run, (pid_t)pid, pidfd, &usage)};
        ended.cpu_us = cpu_us(&usage);
        (void)close(pidfd);
        if (write(IMAGE_FD_CONTROL, &ended, sizeof(ended)) != (ssize_t)sizeof(ended)) {
            _exit(0);
        }
    }
}

int main(void)
{
    struct image_start start;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (!read_start(&start)) {
        return 1;
    }
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
    if (!runtime_prepare(&config)) {
        return 2;
    }
    runtime_detach(&config);
    if (!sandbox_close((enum isolation)start.isolation)) {
        return 3;
    }
    bool sealed = sandbox_filter(start.zygote != 0 ? FILTER_ZYGOTE : FILTER_REWIND);
    if (!sealed || !say_ready()) {
        return 4;
    }
    if (start.zygote != 0) {
        serve_as_zygote();
    }
    runtime_serve();
    syscall(SYS_exit_group, 0);
}
