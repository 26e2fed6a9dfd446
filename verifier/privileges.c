// Whether the ordinary user gets all that root has is tried in a child process first: there is no
// way back.
#include "verifier/privileges.h"

#include "common/base/check.h"
#include "common/base/log.h"
#include "verifier/cgroup.h"
#include "verifier/rewind.h"
#include "verifier/spawn.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    CAPABILITY_COUNT_MAX = 64,
    TRIAL_GROUP_BYTES = 1 << 26, // memory of the trial's control group
};

// What a trial found, as its exit code.
enum trial { TRIAL_GOOD, TRIAL_NO_USER, TRIAL_ISOLATION, TRIAL_BACKEND };

static uint32_t bit_of(enum privilege kept)
{
    return kept == PRIVILEGE_FILES ? 1U << CAP_DAC_OVERRIDE : 0;
}

// Those that are kept lie in the first of two words.
static int set_capabilities(uint32_t permitted, uint32_t effective)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{.permitted = permitted, .effective = effective}};
    return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

static int drop_bounding_set(void)
{
    for (unsigned long i = 0; i < CAPABILITY_COUNT_MAX; i++) {
        if (prctl(PR_CAPBSET_DROP, i, 0, 0, 0) < 0 && errno != EINVAL) { // past the last one
            return -errno;
        }
    }
    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); // older kernels have none
    return 0;
}

static int become_ordinary(enum privilege kept)
{
    int death_signal = 0;
    pid_t parent = getppid();
    (void)prctl(PR_GET_PDEATHSIG, &death_signal, 0, 0, 0);
    int code = drop_bounding_set();
    if (code < 0) {
        return code;
    }
    if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 || setgroups(0, NULL) < 0 ||
        setresgid(SPAWN_NOBODY, SPAWN_NOBODY, SPAWN_NOBODY) < 0 ||
        setresuid(SPAWN_NOBODY, SPAWN_NOBODY, SPAWN_NOBODY) < 0) {
        return -errno;
    }
    code = set_capabilities(bit_of(kept), bit_of(kept));
    // Another user's process is closed to /proc, also to itself: the images' users are mapped
    // there. The signal that a parent's death sends was forgotten.
    if (code < 0 || prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) < 0 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) < 0) {
        return code < 0 ? code : -errno;
    }
    if (death_signal != 0 && getppid() != parent) {
        (void)raise(death_signal);
    }
    return setresuid((uid_t)-1, 0, (uid_t)-1) == 0 ? -EPERM : 0; // there must be no way back
}

static enum trial judge_rights(enum privilege kept, enum isolation isolation, bool rewinds)
{
    struct error why = {0};
    if (become_ordinary(kept) < 0) {
        return TRIAL_NO_USER;
    }
    if (spawn_probe(&why) > isolation ||
        (isolation == ISOLATION_STRICT && cgroup_enter(getpid(), TRIAL_GROUP_BYTES, &why) < 0)) {
        return TRIAL_ISOLATION;
    }
    return rewinds && rewind_probe(&why) < 0 ? TRIAL_BACKEND : TRIAL_GOOD;
}

static enum trial try_in_child(enum privilege kept, enum isolation isolation, bool rewinds)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        _exit((int)judge_rights(kept, isolation, rewinds));
    }
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (pid > 0) {
        cgroup_remove(pid);
    }
    return pid > 0 && WIFEXITED(status) ? (enum trial)WEXITSTATUS(status) : TRIAL_NO_USER;
}

int privileges_drop(enum privilege kept, struct error *err)
{
    if (geteuid() != 0) {
        return 0;
    }
    struct error why = {0};
    spawn_keep_programs();
    enum isolation isolation = spawn_probe(&why);
    if (isolation != ISOLATION_STRICT) { // another user is told less
        log_warn("verifier", "no strict isolation: %s", why.text);
    }
    bool rewinds = rewind_probe(&why) == 0;
    if (isolation == ISOLATION_STRICT && cgroup_delegate(SPAWN_NOBODY, &why) < 0) {
        log_warn("verifier", "stays root: %s", why.text);
        return 0;
    }
    switch (try_in_child(kept, isolation, rewinds)) {
    case TRIAL_GOOD:
        break;
    case TRIAL_ISOLATION:
        log_warn("verifier", "stays root: user %d would not have %s isolation here", SPAWN_NOBODY,
                 isolation_name(isolation));
        return 0;
    case TRIAL_BACKEND:
        log_warn("verifier", "stays root: user %d would not have rewind here", SPAWN_NOBODY);
        return 0;
    default:
        log_warn("verifier", "stays root: this host does not let it become user %d", SPAWN_NOBODY);
        return 0;
    }
    int code = become_ordinary(kept);
    if (code < 0) {
        return error_set(err, code, "cannot become user %d (errno %d)", SPAWN_NOBODY, -code);
    }
    log_info("verifier", "was root, is user %d now, with %s", SPAWN_NOBODY,
             kept == PRIVILEGE_FILES ? "CAP_DAC_OVERRIDE alone, to reach the learner's socket"
                                     : "no capability");
    return 1;
}

void privileges_rest(enum privilege kept)
{
    CHECK(set_capabilities(bit_of(kept), 0) == 0);
}
