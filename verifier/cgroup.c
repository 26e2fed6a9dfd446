// Version 2 wants the processes of a group in its leaves: the daemon moves itself into one below
// the group that it was started in, and images get others beside it. Version 1 has one tree for
// memory and one for processes.
#include "verifier/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PROCESSES_MAX = 8, // a zygote has two
    FOLDER_MAX = 768,
    TRIES_MAX = 3, // to enter a group
};

// The folders of this process's own groups.
struct home {
    bool unified; // version 2: both are the same
    char memory[FOLDER_MAX];
    char pids[FOLDER_MAX];
};

static int write_text(const char *folder, const char *name, const char *text)
{
    char path[FOLDER_MAX + 128];
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file < 0) {
        return -errno;
    }
    ssize_t size = (ssize_t)strlen(text);
    int code = write(file, text, (size_t)size) == size ? 0 : -errno;
    (void)close(file);
    return code;
}

static int write_number(const char *folder, const char *name, unsigned long number)
{
    char text[32];
    (void)snprintf(text, sizeof(text), "%lu", number);
    return write_text(folder, name, text);
}

static bool holds_word(const char *folder, const char *name, const char *word)
{
    char path[FOLDER_MAX + 128];
    char text[512] = "";
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = fopen(path, "re");
    bool found =
        file != NULL && fgets(text, sizeof(text), file) != NULL && strstr(text, word) != NULL;
    if (file != NULL) {
        (void)fclose(file);
    }
    return found;
}

// One line of /proc/self/cgroup: number, controllers, path.
static void note_line(struct home *home, char *line)
{
    line[strcspn(line, "\n")] = '\0';
    char *controllers = strchr(line, ':');
    char *path = controllers == NULL ? NULL : strchr(controllers + 1, ':');
    if (path == NULL) {
        return;
    }
    *path++ = '\0';
    controllers++;
    path += strcmp(path, "/") == 0;
    if (strcmp(controllers, "memory") == 0) {
        (void)snprintf(home->memory, FOLDER_MAX, "/sys/fs/cgroup/memory%s", path);
    } else if (strcmp(controllers, "pids") == 0) {
        (void)snprintf(home->pids, FOLDER_MAX, "/sys/fs/cgroup/pids%s", path);
    } else if (controllers[0] == '\0' && access("/sys/fs/cgroup/cgroup.procs", F_OK) == 0) {
        home->unified = true;
        (void)snprintf(home->memory, FOLDER_MAX, "/sys/fs/cgroup%s", path);
        memcpy(home->pids, home->memory, FOLDER_MAX);
    }
}

static int find_home(struct home *home)
{
    *home = (struct home){0};
    char line[FOLDER_MAX];
    FILE *file = fopen("/proc/self/cgroup", "re");
    while (file != NULL && !home->unified && fgets(line, sizeof(line), file) != NULL) {
        note_line(home, line);
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    if (home->memory[0] == '\0' || home->pids[0] == '\0') {
        return -ENOENT;
    }
    // The leaf that this process has moved to before: images go beside it.
    char *leaf = home->unified ? strstr(home->memory, "/kelvin-verifier-") : NULL;
    if (leaf != NULL) {
        *leaf = '\0';
        memcpy(home->pids, home->memory, FOLDER_MAX);
    }
    return 0;
}

static int make(const char *folder)
{
    return mkdir(folder, 0755) < 0 && errno != EEXIST ? -errno : 0;
}

// Puts a process into a new group, with a limit unless NULL. A daemon that tidies up (remove_stale)
// may remove the group before anyone is in it: then once more.
static int enter_one(const char *folder, pid_t pid, const char *limit, size_t value)
{
    int code = -ENOENT;
    for (int i = 0; i < TRIES_MAX && code == -ENOENT; i++) {
        code = make(folder);
        code = code < 0 || limit == NULL ? code : write_number(folder, limit, value);
        code = code < 0 ? code : write_number(folder, "cgroup.procs", (unsigned long)pid);
    }
    return code;
}

// Moves this process out of the way and lets children be limited.
static int open_unified(const struct home *home)
{
    if (holds_word(home->memory, "cgroup.subtree_control", "memory") &&
        holds_word(home->memory, "cgroup.subtree_control", "pids")) {
        return 0;
    }
    char leaf[FOLDER_MAX + 48];
    (void)snprintf(leaf, sizeof(leaf), "%s/kelvin-verifier-%d", home->memory, (int)getpid());
    int code = enter_one(leaf, getpid(), NULL, 0);
    code = code < 0 ? code : write_text(home->memory, "cgroup.subtree_control", "+memory +pids");
    if (code < 0) { // back again
        (void)write_number(home->memory, "cgroup.procs", (unsigned long)getpid());
        (void)rmdir(leaf);
    }
    return code;
}

// Of a folder, and of what a user who makes groups in it writes to.
static int give(const char *folder, uid_t user)
{
    static const char *const names[] = {"", "cgroup.procs", "cgroup.subtree_control"};
    char path[FOLDER_MAX + 128];
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        (void)snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
        if (chown(path, user, (gid_t)user) < 0 && !(errno == ENOENT && i == 2)) { // in version 2
            return -errno;
        }
    }
    return 0;
}

int cgroup_delegate(uid_t user, struct error *err)
{
    struct home home;
    int code = find_home(&home);
    const char *const homes[] = {home.memory, home.pids};
    for (int i = 0; i < (home.unified ? 1 : 2) && code == 0; i++) {
        char folder[FOLDER_MAX];
        char leaf[FOLDER_MAX + 48];
        int size = snprintf(folder, sizeof(folder), "%s/kelvin-sandboxes", homes[i]);
        code = size < FOLDER_MAX ? make(folder) : -ENAMETOOLONG;
        // In version 2 a group with limited groups in it has no processes of its own.
        (void)snprintf(leaf, sizeof(leaf), home.unified ? "%s/kelvin-verifier-%d" : "%s", folder,
                       (int)getpid());
        code = code < 0 ? code : enter_one(leaf, getpid(), NULL, 0);
        if (code == 0 && home.unified) {
            code = write_text(folder, "cgroup.subtree_control", "+memory +pids");
        }
        code = code < 0 ? code : give(folder, user);
        code = code < 0 ? code : give(leaf, user);
        (void)snprintf(leaf, sizeof(leaf), "%s/kelvin-verifier-%d", homes[i], (int)getpid());
        (void)rmdir(leaf); // of cgroup_probe, where there is one
    }
    return code < 0
               ? error_set(err, code, "a control group cannot be handed over (errno %d)", -code)
               : 0;
}

static void folder_of(char *out, size_t size, const char *home, pid_t pid)
{
    (void)snprintf(out, size, "%s/kelvin-image-%d", home, (int)pid);
}

int cgroup_enter(pid_t pid, size_t memory_bytes, struct error *err)
{
    struct home home;
    char folder[FOLDER_MAX + 48];
    int code = find_home(&home);
    folder_of(folder, sizeof(folder), home.memory, pid);
    const char *limit = home.unified ? "memory.max" : "memory.limit_in_bytes";
    code = code < 0 ? code : enter_one(folder, pid, limit, memory_bytes);
    folder_of(folder, sizeof(folder), home.pids, pid);
    code = code < 0 ? code : enter_one(folder, pid, "pids.max", PROCESSES_MAX);
    return code < 0 ? error_set(err, code, "image: cannot enter a control group: errno %d", -code)
                    : 0;
}

void cgroup_remove(pid_t pid)
{
    struct home home;
    char folder[FOLDER_MAX + 48];
    if (find_home(&home) < 0) {
        return;
    }
    folder_of(folder, sizeof(folder), home.memory, pid);
    (void)rmdir(folder);
    folder_of(folder, sizeof(folder), home.pids, pid);
    (void)rmdir(folder);
}

// Empty groups that daemons have left, a killed one's images or, in version 2, an ended one's own;
// those with a process in them stay.
static void remove_stale(const struct home *home)
{
    const char *const homes[] = {home->memory, home->pids};
    for (int i = 0; i < 2; i++) {
        char pattern[FOLDER_MAX + 48];
        glob_t found = {0};
        (void)snprintf(pattern, sizeof(pattern), "%s/kelvin-[iv]*-*", homes[i]); // image, verifier
        // NOLINTNEXTLINE(concurrency-mt-unsafe): the loop's thread alone
        if (glob(pattern, GLOB_NOSORT, NULL, &found) == 0) {
            for (size_t k = 0; k < found.gl_pathc; k++) {
                (void)rmdir(found.gl_pathv[k]);
            }
        }
        globfree(&found);
    }
}

int cgroup_probe(struct error *err)
{
    struct home home;
    int code = find_home(&home);
    if (code < 0) {
        return error_set(err, -ENOTSUP, "no control group with memory and pids");
    }
    code = home.unified ? open_unified(&home) : 0;
    remove_stale(&home);
    // A number that no process has: pid 0 names the group of this attempt.
    char folder[FOLDER_MAX + 48];
    const char *const homes[] = {home.memory, home.pids};
    const char *const files[] = {home.unified ? "memory.max" : "memory.limit_in_bytes", "pids.max"};
    const unsigned long values[] = {1UL << 30, PROCESSES_MAX};
    for (int i = 0; i < 2 && code == 0; i++) {
        folder_of(folder, sizeof(folder), homes[i], 0);
        code = make(folder);
        code = code < 0 ? code : write_number(folder, files[i], values[i]);
        (void)rmdir(folder);
    }
    if (code == -EBUSY) {
        return error_set(
            err, -ENOTSUP,
            "control group %.160s holds other processes; the verifier needs one of its "
            "own, say a service's with Delegate=yes",
            home.memory);
    }
    return code < 0 ? error_set(err, -ENOTSUP, "control groups are not delegated (errno %d)", -code)
                    : 0;
}
