#include "learner/run_folder.h"

#include "common/base/file.h"
#include "learner/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

int run_folder_last(int64_t *step, const struct run_config *config, const char *file, bool resume,
                    struct error *err)
{
    const char *run_dir = config->run_dir;
    char path[RUN_PATH_MAX];
    if (run_dir[0] == '\0') {
        return error_set(err, -EINVAL, "run_dir is empty: set run_dir=FOLDER");
    }
    int size = snprintf(path, sizeof(path), "%s/%s", run_dir, file);
    if (size < 0 || (size_t)size >= sizeof(path) - 64) {
        return error_set(err, -ENAMETOOLONG, "the name of run_dir is too long");
    }
    bool there = access(path, F_OK) == 0;
    if (there && !resume) {
        return error_set(err, -EEXIST,
                         "%s holds a run already; choose another run_dir, or continue it with "
                         "--resume",
                         run_dir);
    }
    if (!there && resume) {
        return error_set(err, -ENOENT, "%s holds no run to resume", run_dir);
    }
    int64_t last = -1;
    int code = resume ? checkpoint_latest(run_dir, &last, err) : 0;
    if (code == 0 && last > config->steps) {
        return error_set(err, -EINVAL,
                         "%s has done %lld steps already; steps=%lld asks for fewer: give more",
                         run_dir, (long long)last, (long long)config->steps);
    }
    *step = last;
    return code;
}

int run_folder_find(struct run_folder *folder, const struct run_config *config, bool resume,
                    struct error *err)
{
    int code = run_folder_last(&folder->from, config, "tasks.db", resume, err);
    if (code < 0) {
        return code;
    }
    // A run that was killed before its first checkpoint begins again.
    (void)snprintf(folder->model_dir, sizeof(folder->model_dir), "%s", config->model);
    if (folder->from >= 0) {
        code = checkpoint_find(config->run_dir, 0, err);
        checkpoint_path(folder->model_dir, sizeof(folder->model_dir), config->run_dir, 0);
    }
    return code;
}

int run_folder_open(struct run_folder *folder, const char *run_dir, struct error *err)
{
    char path[RUN_PATH_MAX];
    folder->made = access(run_dir, F_OK) != 0;
    (void)snprintf(path, sizeof(path), "%s/log", run_dir);
    int code = file_make_dirs(path, err);
    if (code < 0) {
        return code;
    }
    (void)snprintf(path, sizeof(path), "%s/.lock", run_dir);
    folder->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (folder->lock < 0) {
        return error_set(err, -errno, "cannot write in %s: %s", run_dir, strerrordesc_np(errno));
    }
    if (flock(folder->lock, LOCK_EX | LOCK_NB) < 0) {
        return error_set(err, -EBUSY,
                         "%s is in use by another learner; stop that one or choose another run_dir",
                         run_dir);
    }
    return 0;
}

void run_folder_close(struct run_folder *folder)
{
    if (folder->lock >= 0) {
        (void)close(folder->lock);
        folder->lock = -1;
    }
}
