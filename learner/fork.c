#include "learner/fork.h"

#include "common/base/file.h"
#include "common/base/log.h"
#include "learner/checkpoint.h"
#include "learner/report.h"
#include "learner/tasks.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PATH_BYTES = 4096 };

static int read_config(struct run_config *config, const char *run_dir, char *const *words,
                       int count, struct error *err)
{
    struct run_config before;
    int code = run_config_read_folder(&before, run_dir, NULL, 0, err);
    if (code < 0) {
        return code;
    }
    char path[PATH_BYTES];
    code = file_join(path, sizeof(path), run_dir, "config.yaml", err);
    code = code < 0 ? code : run_config_read(config, path, words, count, err);
    if (code < 0) {
        return code;
    }
    if (strcmp(config->model, before.model) != 0) {
        return error_set(err, -EINVAL, "a fork keeps the model of its run; leave model out");
    }
    bool named = false;
    for (int i = 0; i < count; i++) {
        named = named || strncmp(words[i], "run_dir=", 8) == 0;
    }
    if (!named || config->run_dir[0] == '\0') {
        return error_set(err, -EINVAL, "a fork needs a folder of its own: run_dir=FOLDER");
    }
    return 0;
}

static int copy_step(const char *to, const char *from, int64_t step, struct error *err)
{
    char source[PATH_BYTES];
    char target[PATH_BYTES];
    checkpoint_path(source, sizeof(source), from, step);
    checkpoint_path(target, sizeof(target), to, step);
    return file_copy_dir(target, source, NULL, err);
}

static int copy_metrics(const char *to, const char *from, int64_t step, struct error *err)
{
    char source[PATH_BYTES];
    char target[PATH_BYTES];
    int code = file_join(source, sizeof(source), from, "metrics.jsonl", err);
    code = code < 0 ? code : file_join(target, sizeof(target), to, "metrics.jsonl", err);
    return code < 0 ? code : report_copy(target, source, step, err);
}

// The store under its final name makes the folder a run.
static int copy_store(const char *to, const char *from, struct error *err)
{
    char source[PATH_BYTES];
    char beside[PATH_BYTES];
    char target[PATH_BYTES];
    int code = file_join(source, sizeof(source), from, "tasks.db", err);
    code = code < 0 ? code : file_join(beside, sizeof(beside), to, "tasks.db.fork", err);
    code = code < 0 ? code : file_join(target, sizeof(target), to, "tasks.db", err);
    if (code < 0) {
        return code;
    }
    (void)unlink(beside);
    code = tasks_copy(beside, source, err);
    if (code == 0 && rename(beside, target) != 0) {
        code = error_set(err, -errno, "cannot make %s: %s", target, strerrordesc_np(errno));
    }
    return code;
}

int fork_run(struct run_config *config, const char *from, char *const *words, int count,
             struct error *err)
{
    char run_dir[CONFIG_STRING_MAX];
    char path[PATH_BYTES];
    int64_t step = 0;
    int code = checkpoint_parse(run_dir, sizeof(run_dir), &step, from, err);
    code = code < 0 ? code : checkpoint_find(run_dir, 0, err);
    code = code < 0 ? code : read_config(config, run_dir, words, count, err);
    code = code < 0 ? code : file_join(path, sizeof(path), config->run_dir, "tasks.db", err);
    if (code == 0 && access(path, F_OK) == 0) {
        code = error_set(err, -EEXIST, "%s holds a run already; choose another run_dir",
                         config->run_dir);
    }
    code = code < 0 ? code : file_join(path, sizeof(path), config->run_dir, "checkpoints", err);
    code = code < 0 ? code : file_remove_tree(path, err); // of a fork that was killed
    code = code < 0 ? code : file_make_dirs(path, err);
    code = code < 0 ? code : copy_step(config->run_dir, run_dir, 0, err);
    code = code < 0 || step == 0 ? code : copy_step(config->run_dir, run_dir, step, err);
    code = code < 0 ? code : copy_metrics(config->run_dir, run_dir, step, err);
    code = code < 0 ? code : copy_store(config->run_dir, run_dir, err);
    if (code == 0) {
        log_info("fork", "%s begins at step %lld of %s", config->run_dir, (long long)step, run_dir);
    }
    return code;
}
