#include "deploy/cli/supervisor.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

struct child {
    const struct child_spec *spec;
    pid_t pid;            // 0: not running
    uint64_t start_at_ms; // when to start it again; 0: not waiting
    uint64_t window_ms;   // start of the current restart window
    int restarts;         // in that window
};

enum phase { PHASE_RUN, PHASE_SAVE, PHASE_STOP, PHASE_KILL, PHASE_DONE };

struct supervisor {
    struct child learner;
    struct child workers[SUPERVISOR_WORKERS_MAX];
    int worker_count;
    enum phase phase;
    uint64_t phase_deadline_ms; // when the next phase begins by itself; PHASE_RUN has none
    int stopped_by;             // the signal that asked us to stop, or 0
    int exit_code;              // of the learner, once known
    int signals;                // signalfd
    int output;                 // read end of the learner's standard output, -1 at its end
    char line[SUPERVISOR_LINE_MAX];
    size_t line_size;
    bool line_too_long; // the rest of an overlong line is skipped
    supervisor_line_fn *on_line;
    void *context;
};

// become_child runs in the fork: it never returns.
static void become_child(const struct child_spec *spec, char *const *words, pid_t parent,
                         int output)
{
    sigset_t none;
    (void)sigemptyset(&none);
    (void)pthread_sigmask(SIG_SETMASK, &none, NULL);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) {
        _exit(1); // the parent died before the line above
    }
    (void)setpgid(0, 0); // Ctrl-C on the terminal is for the parent to hand on
    int log = open(spec->log_path, O_WRONLY | O_CREAT | O_APPEND, 0644);
    int nothing = open("/dev/null", O_RDWR);
    if (log < 0 || nothing < 0 || dup2(nothing, STDIN_FILENO) < 0 ||
        dup2(output >= 0 ? output : log, STDOUT_FILENO) < 0 || dup2(log, STDERR_FILENO) < 0) {
        _exit(1);
    }
    (void)execv(words[0], words);
    (void)dprintf(STDERR_FILENO, "error supervisor: cannot run %s\n", words[0]);
    _exit(1);
}

static int child_start(struct child *child, int output, struct error *err)
{
    const struct child_spec *spec = child->spec;
    bool again = child->restarts > 0 && spec->words_again != NULL;
    pid_t self = getpid();
    pid_t pid = fork();
    if (pid < 0) {
        return error_set(err, -errno, "cannot start %s: fork failed", spec->name);
    }
    if (pid == 0) {
        become_child(spec, again ? spec->words_again : spec->words, self, output);
    }
    child->pid = pid;
    child->start_at_ms = 0;
    return 0;
}

static void child_signal(const struct child *child, int signal_number)
{
    if (child->pid > 0) {
        (void)kill(child->pid, signal_number);
    }
}

static bool workers_running(const struct supervisor *sup)
{
    for (int i = 0; i < sup->worker_count; i++) {
        if (sup->workers[i].pid > 0) {
            return true;
        }
    }
    return false;
}

static void signal_workers(struct supervisor *sup, int signal_number)
{
    for (int i = 0; i < sup->worker_count; i++) {
        child_signal(&sup->workers[i], signal_number);
    }
}

// enter moves to a later phase and does what it begins with. A phase ends when its processes have,
// or at its deadline.
static void enter(struct supervisor *sup, enum phase phase)
{
    uint64_t now = clock_ms();
    sup->phase = phase;
    switch (phase) {
    case PHASE_SAVE:
        child_signal(&sup->learner, SIGTERM);
        sup->phase_deadline_ms = now + SUPERVISOR_SAVE_MS;
        break;
    case PHASE_STOP:
        child_signal(&sup->learner, SIGTERM);
        signal_workers(sup, SIGTERM);
        sup->phase_deadline_ms = now + SUPERVISOR_STOP_MS;
        break;
    case PHASE_KILL:
        child_signal(&sup->learner, SIGKILL);
        signal_workers(sup, SIGKILL);
        sup->phase_deadline_ms = now + SUPERVISOR_STOP_MS;
        break;
    default:
        break;
    }
}

// A learner that was killed goes on at its checkpoint, unless it comes to nothing again and again.
static bool revives(struct supervisor *sup, int status)
{
    struct child *learner = &sup->learner;
    if (sup->phase != PHASE_RUN || !WIFSIGNALED(status) || learner->spec->words_again == NULL ||
        ++learner->restarts > SUPERVISOR_LEARNER_RESTARTS_MAX) {
        return false;
    }
    log_warn("supervisor", "%s was killed by signal %d; it goes on at its newest checkpoint",
             learner->spec->name, WTERMSIG(status));
    learner->start_at_ms = clock_ms() + SUPERVISOR_RESTART_DELAY_MS;
    return true;
}

static void on_learner_exit(struct supervisor *sup, int status)
{
    sup->learner.pid = 0;
    if (revives(sup, status)) {
        return;
    }
    sup->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (sup->phase < PHASE_STOP) {
        enter(sup, PHASE_STOP);
    }
}

static void on_worker_exit(struct supervisor *sup, struct child *child, int status)
{
    child->pid = 0;
    if (sup->phase != PHASE_RUN) {
        return;
    }
    uint64_t now = clock_ms();
    if (now - child->window_ms > SUPERVISOR_RESTART_WINDOW_MS) {
        child->window_ms = now;
        child->restarts = 0;
    }
    const char *how = WIFEXITED(status) ? "exited with" : "was killed by signal";
    int number = WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status);
    if (++child->restarts > SUPERVISOR_RESTARTS_MAX) {
        log_error("supervisor", "%s %s %d and will not stay up; see %s", child->spec->name, how,
                  number, child->spec->log_path);
        enter(sup, PHASE_SAVE);
        return;
    }
    if (status != 0) {
        log_warn("supervisor", "%s %s %d; starting it again", child->spec->name, how, number);
    }
    child->start_at_ms = now + SUPERVISOR_RESTART_DELAY_MS;
}

static void reap(struct supervisor *sup)
{
    int status = 0;
    pid_t pid = 0;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == sup->learner.pid) {
            on_learner_exit(sup, status);
        }
        for (int i = 0; i < sup->worker_count; i++) {
            if (pid == sup->workers[i].pid) {
                on_worker_exit(sup, &sup->workers[i], status);
            }
        }
    }
}

static void on_signals(struct supervisor *sup)
{
    struct signalfd_siginfo info;
    while (read(sup->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGCHLD) {
            continue; // reap() looks after every wake-up
        }
        bool warning = info.ssi_signo == SIGUSR1; // Slurm sends it first; it is not the second
        if (sup->stopped_by != 0 && sup->stopped_by != SIGUSR1 && !warning) {
            enter(sup, PHASE_KILL); // asked twice
        } else if (sup->phase == PHASE_RUN) {
            enter(sup, PHASE_SAVE);
        }
        sup->stopped_by = (int)info.ssi_signo;
    }
}

static void take_line(struct supervisor *sup, const char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] == '\n') {
            sup->line[sup->line_size] = '\0';
            if (!sup->line_too_long) {
                sup->learner.restarts = sup->learner.restarts > 0; // it came further
                sup->on_line(sup->context, sup->line);
            }
            sup->line_size = 0;
            sup->line_too_long = false;
        } else if (sup->line_size + 1 < sizeof(sup->line)) {
            sup->line[sup->line_size++] = bytes[i];
        } else {
            sup->line_too_long = true;
        }
    }
}

static void on_output(struct supervisor *sup)
{
    char bytes[4096];
    ssize_t got = read(sup->output, bytes, sizeof(bytes));
    if (got > 0) {
        take_line(sup, bytes, (size_t)got);
    } else if (got == 0 || (errno != EINTR && errno != EAGAIN)) {
        (void)close(sup->output);
        sup->output = -1;
    }
}

// start_learner starts it with a new pipe for its output.
static int start_learner(struct supervisor *sup, struct error *err)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) {
        return error_set(err, -errno, "supervisor: no pipe");
    }
    if (sup->output >= 0) {
        (void)close(sup->output);
    }
    sup->output = ends[0];
    sup->line_size = 0; // a line that a kill cut short
    int code = child_start(&sup->learner, ends[1], err);
    (void)close(ends[1]);
    return code;
}

// start_due starts what has died, when its pause is over.
static int start_due(struct supervisor *sup, struct error *err)
{
    uint64_t now = clock_ms();
    int code = 0;
    if (sup->phase == PHASE_RUN && sup->learner.pid == 0 && sup->learner.start_at_ms <= now) {
        code = start_learner(sup, err);
    }
    for (int i = 0; code == 0 && sup->phase == PHASE_RUN && i < sup->worker_count; i++) {
        struct child *child = &sup->workers[i];
        if (child->pid == 0 && child->start_at_ms != 0 && child->start_at_ms <= now) {
            code = child_start(child, -1, err);
        }
    }
    return code;
}

static void advance_phase(struct supervisor *sup)
{
    bool running = sup->learner.pid > 0 || workers_running(sup);
    if (sup->phase != PHASE_RUN && !running && sup->output < 0) {
        sup->phase = PHASE_DONE;
    } else if (sup->phase != PHASE_RUN && clock_ms() >= sup->phase_deadline_ms) {
        // Past PHASE_KILL only an unkillable process is left; waiting longer would hang.
        enter(sup, sup->phase == PHASE_KILL ? PHASE_DONE : sup->phase + 1);
    }
}

static int supervise(struct supervisor *sup, struct error *err)
{
    while (sup->phase != PHASE_DONE) {
        struct pollfd fds[2] = {{.fd = sup->signals, .events = POLLIN},
                                {.fd = sup->output, .events = POLLIN}};
        if (poll(fds, 2, 100) < 0 && errno != EINTR) {
            return error_set(err, -errno, "supervisor: poll failed");
        }
        if (fds[1].revents != 0) {
            on_output(sup);
        }
        on_signals(sup);
        reap(sup);
        int code = start_due(sup, err);
        if (code < 0) {
            return code;
        }
        advance_phase(sup);
    }
    bool killed = sup->exit_code > 128; // a learner that did not get to save
    return sup->stopped_by == SIGINT || (sup->stopped_by != 0 && killed) ? 128 + sup->stopped_by
                                                                         : sup->exit_code;
}

static int open_signals(struct error *err)
{
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGCHLD);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGHUP);
    (void)sigaddset(&set, SIGUSR1);
    CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd >= 0 ? fd : error_set(err, -errno, "supervisor: no signalfd");
}

static int start_all(struct supervisor *sup, struct error *err)
{
    int code = start_learner(sup, err);
    for (int i = 0; code == 0 && i < sup->worker_count; i++) {
        code = child_start(&sup->workers[i], -1, err);
    }
    return code;
}

int supervisor_run(const struct child_spec *learner, const struct child_spec *workers,
                   int worker_count, supervisor_line_fn *on_line, void *context, struct error *err)
{
    CHECK(worker_count >= 0 && worker_count <= SUPERVISOR_WORKERS_MAX);
    CLEANUP(freep) struct supervisor *sup = calloc(1, sizeof(*sup));
    if (sup == NULL) {
        return error_set(err, -ENOMEM, "supervisor: out of memory");
    }
    sup->learner.spec = learner;
    sup->worker_count = worker_count;
    for (int i = 0; i < worker_count; i++) {
        sup->workers[i].spec = &workers[i];
    }
    sup->on_line = on_line;
    sup->context = context;
    sup->output = -1;
    sup->signals = open_signals(err);
    if (sup->signals < 0) {
        return sup->signals;
    }
    int code = start_all(sup, err);
    if (code == 0) {
        code = supervise(sup, err);
    }
    if (code < 0) { // something could not be started: take the rest down
        child_signal(&sup->learner, SIGKILL);
        signal_workers(sup, SIGKILL);
    }
    (void)close(sup->signals);
    if (sup->output >= 0) {
        (void)close(sup->output);
    }
    return code;
}
