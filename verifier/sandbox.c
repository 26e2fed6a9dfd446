#include "verifier/sandbox.h"

#include "verifier/protocol.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define SANDBOX_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define SANDBOX_ARCH AUDIT_ARCH_AARCH64
#else
#error "no system call filter for this architecture"
#endif

enum { FILTER_MAX = 96, CAPABILITY_MAX = 64 };

static bool failed(const char *what)
{
    (void)fprintf(stderr, "image: %s: errno %d\n", what, errno);
    return false;
}

// An empty tmpfs becomes the root; the old one is detached. Any folder serves as the mount point.
static bool leave_file_system(void)
{
    unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        return failed("make mounts private");
    }
    if (mount("tmpfs", "/tmp", "tmpfs", flags, "size=4k,nr_inodes=2,mode=555") < 0) {
        return failed("mount the empty root");
    }
    if (chdir("/tmp") < 0 || syscall(SYS_pivot_root, ".", ".") < 0) {
        return failed("pivot_root");
    }
    if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0) {
        return failed("detach the old root");
    }
    if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY | flags, NULL) < 0) {
        return failed("make the root read-only");
    }
    return true;
}

static bool drop_capabilities(void)
{
    for (unsigned long i = 0; i < CAPABILITY_MAX; i++) {
        (void)prctl(PR_CAPBSET_DROP, i, 0, 0, 0); // EINVAL past the last one, EPERM without any
    }
    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {0};
    return syscall(SYS_capset, &header, data) == 0 || failed("drop capabilities");
}

static bool limit(__rlimit_resource_t resource, rlim_t value)
{
    struct rlimit limits = {.rlim_cur = value, .rlim_max = value};
    return setrlimit(resource, &limits) == 0 || failed("set a resource limit");
}

bool sandbox_close(enum isolation isolation)
{
    if (isolation != ISOLATION_PROCESS && !leave_file_system()) {
        return false;
    }
    return drop_capabilities() && limit(RLIMIT_CORE, 0) && limit(RLIMIT_FSIZE, 0) &&
           limit(RLIMIT_NOFILE, 16) && limit(RLIMIT_MEMLOCK, 0) && limit(RLIMIT_MSGQUEUE, 0) &&
           (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 || failed("no new privileges"));
}

bool sandbox_seal_child(void)
{
    return close(IMAGE_FD_CONTROL) == 0 && limit(RLIMIT_NPROC, 0) && sandbox_filter(FILTER_CHILD);
}

// --- filters ---

struct program {
    struct sock_filter code[FILTER_MAX];
    unsigned short size;
};

static void emit(struct program *program, uint16_t code, uint32_t k, uint8_t yes, uint8_t no)
{
    program->code[program->size++] =
        (struct sock_filter){.code = code, .jt = yes, .jf = no, .k = k};
}

static void load(struct program *program, size_t offset)
{
    emit(program, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void answer(struct program *program, long call, uint32_t action)
{
    emit(program, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, 1);
    emit(program, BPF_RET | BPF_K, action, 0, 0);
}

// Allowed when the first argument is `descriptor`. Loads the number again for what follows.
static void allow_on(struct program *program, long call, int descriptor)
{
    emit(program, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, 4);
    load(program, offsetof(struct seccomp_data, args[0]));
    emit(program, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)descriptor, 0, 1);
    emit(program, BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
    emit(program, BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM, 0, 0);
}

// A call by the rules of another architecture ends the program as `foreign` says.
static void begin(struct program *program, uint32_t foreign)
{
    load(program, offsetof(struct seccomp_data, arch));
    emit(program, BPF_JMP | BPF_JEQ | BPF_K, SANDBOX_ARCH, 1, 0);
    emit(program, BPF_RET | BPF_K, foreign, 0, 0);
    load(program, offsetof(struct seccomp_data, nr));
}

// glibc compares what brk returns as an address: 0 means no room, while -ENOMEM would look like
// success.
static void refuse_memory(struct program *program)
{
#ifdef SYS_brk
    answer(program, SYS_brk, SECCOMP_RET_ERRNO | 0);
#endif
    answer(program, SYS_mmap, SECCOMP_RET_ERRNO | ENOMEM);
}

static void add_zygote_calls(struct program *program)
{
    static const long calls[] = {
        SYS_read,    SYS_write,     SYS_clone,     SYS_ppoll, SYS_wait4,      SYS_close, SYS_kill,
        SYS_seccomp, SYS_prlimit64, SYS_setrlimit, SYS_exit,  SYS_exit_group, SYS_prctl,
    };
    for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++) {
        answer(program, calls[i], SECCOMP_RET_ALLOW);
    }
}

bool sandbox_filter(enum sandbox_filter filter)
{
    struct program program = {0};
    begin(&program, filter == FILTER_REWIND ? SECCOMP_RET_TRAP : SECCOMP_RET_KILL_PROCESS);
    if (filter == FILTER_ZYGOTE) {
        add_zygote_calls(&program);
    } else {
        uint32_t ending = filter == FILTER_CHILD ? SECCOMP_RET_ALLOW : SECCOMP_RET_TRAP;
        allow_on(&program, SYS_read, IMAGE_FD_REQUEST);
        allow_on(&program, SYS_write, IMAGE_FD_REPLY);
        answer(&program, SYS_exit_group, ending);
        answer(&program, SYS_exit, ending);
    }
    refuse_memory(&program);
    emit(&program, BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM, 0, 0);
    struct sock_fprog installed = {.len = program.size, .filter = program.code};
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &installed) != 0) {
        return failed("install the system call filter");
    }
    return true;
}
