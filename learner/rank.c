#include "learner/rank.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/model/safetensors.h"
#include "learner/collective_nccl.h"
#include "learner/exit.h"

#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { END_MS = 5000, END_TURN_MS = 10, PATH_BYTES = 4096 };

static void ranks_path(char *out, const struct run_config *config)
{
    (void)snprintf(out, PATH_BYTES, "%s/ranks", config->run_dir);
}

// The configuration as a file in memory, which the ranks inherit; a descriptor, or negative.
static int dump_config(const struct run_config *config, const char *model_dir)
{
    CLEANUP(freep) struct run_config *own = malloc(sizeof(*own));
    CHECK(own != NULL);
    *own = *config;
    (void)snprintf(own->model, sizeof(own->model), "%s", model_dir);
    int fd = memfd_create("kelvin-config", 0);
    FILE *file = fd < 0 ? NULL : fdopen(dup(fd), "w");
    if (file == NULL) {
        return -errno;
    }
    config_dump(own, &run_options, file);
    return fclose(file) == 0 ? fd : -errno;
}

static int start_rank(struct rank_group *group, int32_t rank, int config_fd, struct error *err)
{
    extern char **environ; // NOLINT(readability-redundant-declaration)
    char program[] = "kelvin-learner", option[] = "--rank", config[] = "--config";
    char number[16];
    char path[64];
    (void)snprintf(number, sizeof(number), "%d", rank);
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", config_fd);
    char *const words[] = {program, option, number, config, path, NULL};
    int code = posix_spawn(&group->pids[rank], "/proc/self/exe", NULL, NULL, words, environ);
    if (code != 0) {
        group->pids[rank] = 0;
        return error_set(err, -code, "cannot start rank %d: %s", rank, strerrordesc_np(code));
    }
    log_info("rank", "started rank=%d process=%d", rank, group->pids[rank]);
    return 0;
}

static int start_ranks(struct rank_group *group, const struct run_config *config,
                       const char *model_dir, struct error *err)
{
    int fd = dump_config(config, model_dir);
    if (fd < 0) {
        return error_set(err, fd, "cannot write the configuration for the ranks");
    }
    int code = 0;
    for (int32_t r = 1; code == 0 && r < config->learner.ranks; r++) {
        code = start_rank(group, r, fd, err);
    }
    (void)close(fd);
    return code;
}

// Puts NCCL on top of the ranks' shared memory, where the configuration asks for it.
static int open_nccl(struct collective **collective, const struct run_config *config,
                     struct error *err)
{
    const struct nccl_options options = {.limit_s = (uint32_t)config->learner.rank_limit_s};
    return config->learner.collective == COLLECTIVE_HOST
               ? 0
               : collective_nccl_create(collective, *collective, &options, err);
}

int rank_group_check(const struct run_config *config, struct error *err)
{
    bool nccl = config->learner.ranks > 1 && config->learner.collective == COLLECTIVE_NCCL;
    return nccl ? collective_nccl_check(NULL, (int32_t)config->learner.ranks, err) : 0;
}

int rank_group_start(struct rank_group *group, const struct run_config *config,
                     const char *model_dir, struct error *err)
{
    int32_t ranks = (int32_t)config->learner.ranks;
    if (ranks == 1) {
        return 0;
    }
    char path[PATH_BYTES];
    ranks_path(path, config);
    int code = rank_group_check(config, err);
    code = code < 0 ? code
                    : collective_host_create(&group->collective, ranks, path,
                                             (uint32_t)config->learner.rank_limit_s, err);
    if (code == 0 && config->learner.start_ranks) {
        code = start_ranks(group, config, model_dir, err);
    }
    return code < 0 ? code : open_nccl(&group->collective, config, err);
}

// Waits for the end of a rank; one that does not end is killed.
static void await_end(pid_t pid)
{
    static const struct timespec pause = {.tv_nsec = END_TURN_MS * 1000000L};
    uint64_t since_ms = clock_ms();
    while (waitpid(pid, NULL, WNOHANG) == 0) {
        if (clock_ms() - since_ms > END_MS) {
            (void)kill(pid, SIGKILL);
        }
        (void)nanosleep(&pause, NULL);
    }
}

void rank_group_stop(struct rank_group *group, const char *failed)
{
    if (group->collective != NULL && failed != NULL) {
        group->collective->ops->give_up(group->collective, failed);
    }
    for (int32_t r = 1; r < RANKS_MAX; r++) {
        if (group->pids[r] != 0) {
            await_end(group->pids[r]);
        }
    }
    collective_close(group->collective);
    *group = (struct rank_group){0};
}

// The reference model's weights: of another folder, or the ones given. *own is freed by the caller.
static int find_reference(const float **out, float **own, const struct run_config *config,
                          const struct shape *shape, const float *weights, struct error *err)
{
    *out = config->loss.kl_coef > 0.0 ? weights : NULL;
    if (*out == NULL || config->loss.reference[0] == '\0') {
        return 0;
    }
    struct shape other;
    struct params params = {0};
    enum dtype stored = DTYPE_F32;
    const char *dir = config->loss.reference;
    int code = shape_read(&other, dir, err);
    code = code < 0 ? code : params_init(&params, shape, err);
    *own = code < 0 ? NULL : calloc(params.elements, sizeof(float));
    if (code == 0 && *own == NULL) {
        code = error_set(err, -ENOMEM, "%s: no memory for its weights", dir);
    }
    code = code < 0 ? code : safetensors_read(*own, &stored, &params, shape, dir, err);
    params_finish(&params);
    *out = *own;
    return code;
}

int rank_trainer(struct trainer **out, const struct run_config *config, const struct shape *shape,
                 const float *weights, struct collective *collective, struct error *err)
{
    CLEANUP(freep) float *own = NULL;
    const float *reference = NULL;
    int code = find_reference(&reference, &own, config, shape, weights, err);
    if (code < 0) {
        return code;
    }
    const struct trainer_config trainer = {
        .compute = (enum compute)config->learner.compute,
        .published = config->learner.published == PUBLISH_BF16 ? DTYPE_BF16 : DTYPE_F32,
        .threads = (int32_t)config->learner.threads,
        .micro_tokens = (int32_t)config->learner.micro_tokens,
        .any_order = !config->learner.deterministic,
        .collective = collective,
        .reference = reference};
    return trainer_create(out, shape, weights, &trainer, err);
}

static int open_rank(struct trainer **out, const struct run_config *config,
                     struct collective *collective, struct error *err)
{
    struct shape shape;
    struct params params = {0};
    CLEANUP(freep) float *weights = NULL;
    enum dtype stored = DTYPE_F32;
    int code = shape_read(&shape, config->model, err);
    code = code < 0 ? code : params_init(&params, &shape, err);
    if (code == 0 && config->loss.kl_coef > 0.0) { // else rank 0's weights are all that is needed
        weights = calloc(params.elements, sizeof(float));
        code = weights == NULL
                   ? error_set(err, -ENOMEM, "%s: no memory for its weights", config->model)
                   : safetensors_read(weights, &stored, &params, &shape, config->model, err);
    }
    params_finish(&params);
    return code < 0 ? code : rank_trainer(out, config, &shape, weights, collective, err);
}

// A rank ends with rank 0: what stops the run is not for it to hear.
static void ignore_stops(void)
{
    static const int stops[] = {SIGINT, SIGTERM, SIGUSR1, SIGHUP};
    for (size_t i = 0; i < sizeof(stops) / sizeof(*stops); i++) {
        (void)signal(stops[i], SIG_IGN);
    }
}

int rank_run(const struct run_config *config, int32_t rank)
{
    struct collective *collective = NULL;
    struct trainer *trainer = NULL;
    struct error err = {0};
    char path[PATH_BYTES];
    ignore_stops();
    ranks_path(path, config);
    int code =
        collective_host_join(&collective, rank, path, (uint32_t)config->learner.rank_limit_s, &err);
    code = code < 0 ? code : open_nccl(&collective, config, &err);
    if (code == 0) {
        code = open_rank(&trainer, config, collective, &err);
        code = code < 0 ? code : trainer_serve(trainer, &err);
    }
    if (code < 0) {
        log_error("rank", "rank %d: %s", rank, err.text);
        if (collective != NULL) {
            collective->ops->give_up(collective, err.text);
        }
    }
    trainer_destroy(trainer);
    collective_close(collective);
    return code < 0 ? EXIT_FAULT : 0;
}
