#include "verifier/spawn.h"

#include "common/base/check.h"
#include "verifier/cgroup.h"
#include "verifier/protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    DESCRIPTOR_LOW = 64,        // ours are moved above what the child's numbers need
    PIPE_BYTES = 1 << 20,       // a whole request or reply fits, so that neither side waits
    NAMESPACE_FAILED_EXIT = 71, // of a probe's child
};

static const uint64_t namespaces = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET |
                                   CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;

const char *isolation_name(enum isolation isolation)
{
    static const char *const names[] = {"strict", "namespaces", "process"};
    CHECK((unsigned)isolation <= ISOLATION_PROCESS);
    return names[isolation];
}

static void close_one(int *descriptor)
{
    if (*descriptor >= 0) {
        (void)close(*descriptor);
    }
    *descriptor = -1;
}

static int move_high(int *descriptor)
{
    int moved = fcntl(*descriptor, F_DUPFD_CLOEXEC, DESCRIPTOR_LOW);
    if (moved < 0) {
        return -errno;
    }
    (void)close(*descriptor);
    *descriptor = moved;
    return 0;
}

// What the child is given, and the gate at which it waits until its identity is mapped.
struct ends {
    int request;
    int reply;
    int control;
    int memory;
    int gate[2];
    int program;
};

static void close_ends(struct ends *ends)
{
    close_one(&ends->request);
    close_one(&ends->reply);
    close_one(&ends->control);
    close_one(&ends->memory);
    close_one(&ends->gate[0]);
    close_one(&ends->gate[1]);
    close_one(&ends->program);
}

// Descriptors of programs, of this process as a whole; 0: none is kept.
static int kept_programs[SPAWN_LAYOUTS];

static int open_program(int layout)
{
    char path[4096];
    int kept = kept_programs[layout % SPAWN_LAYOUTS];
    if (kept > 0) {
        int copy = fcntl(kept, F_DUPFD_CLOEXEC, DESCRIPTOR_LOW);
        return copy < 0 ? -errno : copy;
    }
    ssize_t size = readlink("/proc/self/exe", path, sizeof(path) - 32);
    if (size < 0) {
        return -errno;
    }
    path[size] = '\0';
    char *slash = strrchr(path, '/');
    CHECK(slash != NULL);
    (void)snprintf(slash, 32, "/kelvin-image-%d", layout % SPAWN_LAYOUTS);
    int program = open(path, O_RDONLY | O_CLOEXEC);
    return program < 0 ? -errno : program;
}

void spawn_keep_programs(void)
{
    for (int layout = 0; layout < SPAWN_LAYOUTS; layout++) {
        int program = kept_programs[layout] > 0 ? 0 : open_program(layout);
        if (program > 0 && move_high(&program) == 0) { // else a birth says what is missing
            kept_programs[layout] = program;
        }
    }
}

static int open_memory(struct spawned *out, struct ends *ends, size_t size)
{
    if (size == 0) {
        return 0;
    }
    out->memory = memfd_create("kelvin-image", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    out->memory_bytes = size;
    off_t file_size = (off_t)(2 * size + sizeof(struct image_orders)); // with snapshot and orders
    if (out->memory < 0 || ftruncate(out->memory, file_size) < 0 ||
        fcntl(out->memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        return -errno;
    }
    ends->memory = dup(out->memory);
    return ends->memory < 0 ? -errno : 0;
}

static int open_pipes(struct spawned *out, struct ends *ends)
{
    int request[2];
    int reply[2];
    int control[2];
    if (pipe2(request, O_CLOEXEC) < 0) {
        return -errno;
    }
    out->request = request[1];
    ends->request = request[0];
    if (pipe2(reply, O_CLOEXEC) < 0) {
        return -errno;
    }
    out->reply = reply[0];
    ends->reply = reply[1];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control) < 0) {
        return -errno;
    }
    out->control = control[0];
    ends->control = control[1];
    if (pipe2(ends->gate, O_CLOEXEC) < 0) {
        return -errno;
    }
    out->unread = fcntl(ends->request, F_DUPFD_CLOEXEC, DESCRIPTOR_LOW);
    if (out->unread < 0) {
        return -errno;
    }
    int *all[] = {&ends->request, &ends->reply,   &ends->control,
                  &ends->gate[0], &ends->program, &ends->memory};
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        int code = *all[i] < 0 ? 0 : move_high(all[i]);
        if (code < 0) {
            return code;
        }
    }
    // Smaller pipes work too, with more turns of the loop.
    (void)fcntl(out->request, F_SETPIPE_SZ, PIPE_BYTES);
    (void)fcntl(out->reply, F_SETPIPE_SZ, PIPE_BYTES);
    int ours[] = {out->request, out->reply, out->control};
    for (size_t i = 0; i < sizeof(ours) / sizeof(*ours); i++) {
        if (fcntl(ours[i], F_SETFL, O_NONBLOCK) < 0) {
            return -errno;
        }
    }
    return 0;
}

// --- in the child: only system calls, since the parent may have threads ---

static bool take_identity(enum isolation isolation, uid_t daemon)
{
    bool mapped = isolation != ISOLATION_PROCESS;
    if (!mapped && daemon != 0) {
        return true;
    }
    id_t id = mapped ? 0 : SPAWN_NOBODY;   // the map makes 0 of a host user without rights
    (void)syscall(SYS_setgroups, 0, NULL); // refused to an ordinary user, who has set "deny"
    return syscall(SYS_setresgid, id, id, id) == 0 && syscall(SYS_setresuid, id, id, id) == 0;
}

static _Noreturn void become_image(const struct ends *ends, enum isolation isolation, uid_t daemon)
{
    char byte = 0;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    (void)close(ends->gate[1]);
    bool open = read(ends->gate[0], &byte, 1) == 1 && take_identity(isolation, daemon);
    (void)setsid();
    // An image shares only standard error with the daemon, for the reason of a failed start.
    int nothing = (int)syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR, 0);
    open = open && dup2(nothing, STDIN_FILENO) >= 0 && dup2(nothing, STDOUT_FILENO) >= 0;
    open = open && dup2(ends->request, IMAGE_FD_REQUEST) >= 0 &&
           dup2(ends->reply, IMAGE_FD_REPLY) >= 0 && dup2(ends->control, IMAGE_FD_CONTROL) >= 0;
    unsigned last = IMAGE_FD_CONTROL;
    if (open && ends->memory >= 0) {
        open = dup2(ends->memory, IMAGE_FD_MEMORY) >= 0;
        last = IMAGE_FD_MEMORY;
    }
    sigset_t none;
    (void)sigemptyset(&none);
    (void)pthread_sigmask(SIG_SETMASK, &none, NULL);
    if (open && syscall(SYS_close_range, last + 1, ~0U, CLOSE_RANGE_CLOEXEC) == 0) {
        static char name[] = "kelvin-image";
        char *arguments[] = {name, NULL};
        // Without restartable sequences: the kernel would write into memory that is rewound.
        static char tunables[] = "GLIBC_TUNABLES=glibc.pthread.rseq=0";
        char *environment[] = {tunables, NULL};
        (void)syscall(SYS_execveat, ends->program, "", arguments, environment, AT_EMPTY_PATH);
    }
    _exit(127);
}

// --- in the parent ---

static int write_file(pid_t pid, const char *name, const char *text)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file < 0) {
        return -errno;
    }
    ssize_t size = (ssize_t)strlen(text);
    int code = write(file, text, (size_t)size) == size ? 0 : -errno;
    (void)close(file);
    return code;
}

// Inside, the image is user 0 of a namespace that has one user; outside it is an ordinary one.
static int map_identity(pid_t pid)
{
    char map[64];
    bool root = geteuid() == 0;
    int code = root ? 0 : write_file(pid, "setgroups", "deny");
    (void)snprintf(map, sizeof(map), "0 %u 1", root ? SPAWN_NOBODY : (unsigned)geteuid());
    code = code < 0 ? code : write_file(pid, "uid_map", map);
    (void)snprintf(map, sizeof(map), "0 %u 1", root ? SPAWN_NOBODY : (unsigned)getegid());
    return code < 0 ? code : write_file(pid, "gid_map", map);
}

static pid_t clone_process(uint64_t flags)
{
    struct clone_args arguments = {.flags = flags, .exit_signal = SIGCHLD};
    long pid = syscall(SYS_clone3, &arguments, sizeof(arguments));
    return pid < 0 ? -errno : (pid_t)pid;
}

static int start_child(struct spawned *out, struct ends *ends, const struct spawn_config *config,
                       struct error *err)
{
    uid_t daemon = geteuid();
    bool separate = config->isolation != ISOLATION_PROCESS;
    pid_t pid = clone_process(separate ? namespaces : 0);
    if (pid == 0) {
        become_image(ends, config->isolation, daemon);
    }
    if (pid < 0) {
        return error_set(err, pid, "image: cannot start a process%s: %s",
                         separate ? " in new namespaces" : "", strerrordesc_np(-pid));
    }
    out->pid = pid;
    int code = separate ? map_identity(pid) : 0;
    if (code < 0) {
        return error_set(err, code, "image: cannot map its user: errno %d", -code);
    }
    if (config->isolation == ISOLATION_STRICT) {
        out->grouped = true;
        code = cgroup_enter(pid, config->memory_bytes, err);
        if (code < 0) {
            return code;
        }
    }
    char byte = 'g';
    return write(ends->gate[1], &byte, 1) == 1 ? 0 : error_set(err, -errno, "image: gate broken");
}

int spawn_image(struct spawned *out, const struct spawn_config *config, struct error *err)
{
    struct ends ends = {.request = -1, .reply = -1, .control = -1, .memory = -1, .gate = {-1, -1}};
    *out = (struct spawned){
        .pid = -1, .request = -1, .reply = -1, .control = -1, .memory = -1, .unread = -1};
    ends.program = open_program(config->layout);
    if (ends.program < 0) {
        return error_set(err, ends.program,
                         "image: kelvin-image-%d is not beside this program (errno %d); build or "
                         "install it there",
                         config->layout % SPAWN_LAYOUTS, -ends.program);
    }
    int code = open_memory(out, &ends, config->file_bytes);
    code = code < 0 ? code : open_pipes(out, &ends);
    code = code < 0 ? error_set(err, code, "image: cannot open pipes: errno %d", -code)
                    : start_child(out, &ends, config, err);
    close_ends(&ends);
    if (code < 0) {
        spawn_end(out);
    }
    return code;
}

void spawn_end(struct spawned *spawned)
{
    close_one(&spawned->request);
    close_one(&spawned->reply);
    close_one(&spawned->control);
    close_one(&spawned->memory);
    close_one(&spawned->unread);
    if (spawned->pid > 0) {
        (void)kill(spawned->pid, SIGKILL);
        while (waitpid(spawned->pid, NULL, __WALL) < 0 && errno == EINTR) {
        }
        if (spawned->grouped) {
            cgroup_remove(spawned->pid);
        }
    }
    spawned->pid = -1;
}

// The number behind `key` in a file of /proc.
static bool read_number(uint64_t *out, pid_t pid, const char *name, const char *key)
{
    char path[64];
    char text[4096];
    (void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = file < 0 ? -1 : read(file, text, sizeof(text) - 1);
    if (file >= 0) {
        (void)close(file);
    }
    text[size < 0 ? 0 : size] = '\0';
    const char *at = strstr(text, key);
    *out = at == NULL ? 0 : strtoull(at + strlen(key), NULL, 10);
    return at != NULL;
}

uint64_t spawn_memory_kb(pid_t pid)
{
    uint64_t kb = 0;
    if (!read_number(&kb, pid, "smaps_rollup", "\nPss:")) {
        (void)read_number(&kb, pid, "status", "\nVmRSS:");
    }
    return kb;
}

pid_t spawn_child(pid_t pid)
{
    char name[48];
    uint64_t child = 0;
    (void)snprintf(name, sizeof(name), "task/%d/children", (int)pid);
    return read_number(&child, pid, name, "") ? (pid_t)child : 0;
}

uint64_t spawn_cpu_ns(pid_t pid)
{
    clockid_t clock = 0;
    struct timespec now = {0};
    bool known = clock_getcpuclockid(pid, &clock) == 0 && clock_gettime(clock, &now) == 0;
    return known ? (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec : 0;
}

bool spawn_is_runnable(pid_t pid)
{
    char path[64];
    char text[512];
    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = file < 0 ? -1 : read(file, text, sizeof(text) - 1);
    if (file >= 0) {
        (void)close(file);
    }
    text[size < 0 ? 0 : size] = '\0';
    const char *name_end = strrchr(text, ')'); // the name may hold anything
    return name_end != NULL && strncmp(name_end, ") R", 3) == 0;
}

// --- what the host offers ---

// Goes as far as an image will: namespaces, a user, and an empty root, which some hosts refuse even
// there.
static int try_namespaces(void)
{
    int gate[2];
    if (pipe2(gate, O_CLOEXEC) < 0) {
        return -errno;
    }
    uid_t daemon = geteuid();
    pid_t pid = clone_process(namespaces);
    if (pid == 0) {
        char byte = 0;
        (void)close(gate[1]);
        bool good = read(gate[0], &byte, 1) == 1 && take_identity(ISOLATION_NAMESPACES, daemon) &&
                    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
                    mount("tmpfs", "/tmp", "tmpfs", 0, "size=4k") == 0 && chdir("/tmp") == 0 &&
                    syscall(SYS_pivot_root, ".", ".") == 0;
        _exit(good ? 0 : NAMESPACE_FAILED_EXIT);
    }
    (void)close(gate[0]);
    int code = pid < 0 ? pid : map_identity(pid);
    char byte = 'g';
    if (code == 0 && write(gate[1], &byte, 1) != 1) {
        code = -EIO;
    }
    (void)close(gate[1]);
    int status = 0;
    if (pid > 0 && waitpid(pid, &status, __WALL) == pid && code == 0 && status != 0) {
        code = -EPERM;
    }
    return code;
}

enum isolation spawn_probe(struct error *why)
{
    int code = try_namespaces();
    if (code < 0) {
        (void)error_set(why, code, "user namespaces are not permitted here (errno %d)", -code);
        return ISOLATION_PROCESS;
    }
    return cgroup_probe(why) < 0 ? ISOLATION_NAMESPACES : ISOLATION_STRICT;
}
