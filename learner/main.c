// kelvin-learner: rank 0. The loop thread owns the sockets, the store and what is asked for next;
// the engine thread trains. A step goes
//   dispatch (a step's groups are complete) → batch → engine → report, store, checkpoint → publish
//   → dispatch.
#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/model/safetensors.h"
#include "common/text/tokenizer.h"
#include "common/wire/loop.h"
#include "learner/checkpoint.h"
#include "learner/dispatch.h"
#include "learner/engine.h"
#include "learner/exit.h"
#include "learner/pretrain.h"
#include "learner/publish.h"
#include "learner/record.h"
#include "learner/report.h"
#include "learner/schedule.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum {
    PATH_BYTES = 4096,
    DRAIN_MS = 5000, // workers have so long to say goodbye
    DRAIN_TURN_MS = 50,
};

struct learner {
    struct run_config config;
    bool resume;
    struct shape shape;
    struct params params;
    float *weights; // until the trainer has them
    struct loop *loop;
    struct hub *hub;
    struct publish *publish;
    struct tasks *tasks;
    struct rollouts *rollouts;
    struct dispatch *dispatch;
    struct trainer *trainer;
    struct engine *engine;
    struct engine_job *job; // the one that is out
    struct loop_timer *drain_timer;
    uint64_t drain_since_ms;
    FILE *metrics;
    int64_t done;     // steps trained
    int64_t saved;    // step of the newest checkpoint, 0: none
    uint64_t step_ns; // when the last step ended
    int stop_signal;  // 0: nobody asked
    bool ending;
    int exit_code;
};

// --- the end ---

static void job_destroy(struct engine_job *job)
{
    if (job == NULL) {
        return;
    }
    batch_destroy(job->batch);
    for (int32_t i = 0; i < job->group_count; i++) {
        group_destroy(job->groups[i]);
    }
    free(job->groups);
    free(job);
}

static void close_parts(struct learner *learner)
{
    engine_close(learner->engine);
    hub_close(learner->hub);
    dispatch_destroy(learner->dispatch);
    publish_close(learner->publish);
    loop_timer_close(learner->drain_timer);
    rollouts_close(learner->rollouts);
    tasks_close(learner->tasks);
    loop_stop(learner->loop);
}

static void on_drain_turn(void *context)
{
    struct learner *learner = context;
    int32_t workers = hub_stats(learner->hub, KELVIN__WORKER_KIND__ACTOR).workers +
                      hub_stats(learner->hub, KELVIN__WORKER_KIND__VERIFIER).workers;
    if (workers == 0 || clock_ms() - learner->drain_since_ms > DRAIN_MS) {
        close_parts(learner);
    }
}

// end tells the workers to go and closes everything when they have.
static void end(struct learner *learner, int exit_code, const char *reason)
{
    if (learner->ending) {
        return;
    }
    learner->ending = true;
    learner->exit_code = exit_code;
    learner->drain_since_ms = clock_ms();
    hub_drain(learner->hub, reason);
    loop_timer_start(learner->drain_timer, 0, DRAIN_TURN_MS);
}

static void fail(struct learner *learner, const struct error *err)
{
    log_error("learner", "%s", err->text);
    end(learner, 1, "the learner failed");
}

// --- a step ---

static int save(struct learner *learner, struct error *err)
{
    if (learner->saved == learner->done || learner->done == 0) {
        return 0;
    }
    const struct checkpoint_target target = {
        .run_dir = learner->config.run_dir,
        .model_dir = learner->config.model,
        .shape = &learner->shape,
        .params = &learner->params,
        .published = learner->config.learner.published == PUBLISH_BF16 ? DTYPE_BF16 : DTYPE_F32,
        .keep = (int32_t)learner->config.checkpoint.keep};
    struct trainer_state state = trainer_state(learner->trainer);
    const struct trainer_arrays arrays = {
        .weights = state.weights, .m = state.m, .v = state.v, .updates = *state.updates};
    int code = checkpoint_save(&target, learner->done, &arrays, err);
    if (code == 0) {
        learner->saved = learner->done;
        log_info("learner", "saved checkpoint step=%lld", (long long)learner->done);
    }
    return code;
}

static void stop_now(struct learner *learner)
{
    struct error err = {0};
    int code = save(learner, &err);
    if (code < 0) {
        fail(learner, &err);
        return;
    }
    end(learner, EXIT_REQUEUE, "the learner was stopped by a signal");
}

static int announce(struct learner *learner, struct error *err)
{
    struct weights_packed *packed = NULL;
    int code = publish_pack(&packed, learner->publish, (uint64_t)learner->done + 1,
                            trainer_state(learner->trainer).weights, err);
    if (code == 0) {
        hub_announce(learner->hub, publish_offer(learner->publish, packed));
    }
    return code;
}

static int write_report(struct learner *learner, const struct engine_job *job, struct error *err)
{
    uint64_t now = clock_ns();
    const struct report_input input = {
        .config = &learner->config,
        .job = job,
        .tasks = learner->tasks,
        .actors = hub_stats(learner->hub, KELVIN__WORKER_KIND__ACTOR),
        .verifiers = hub_stats(learner->hub, KELVIN__WORKER_KIND__VERIFIER),
        .dispatch = dispatch_stats(learner->dispatch),
        .seconds = (double)(now - learner->step_ns) / 1e9};
    CLEANUP(freep) char *line = report_line(&input);
    learner->step_ns = now;
    (void)printf("%s\n", line);
    (void)fflush(stdout);
    if (fprintf(learner->metrics, "%s\n", line) < 0 || fflush(learner->metrics) != 0) {
        return error_set(err, -EIO, "cannot write %s/metrics.jsonl: is the disk full?",
                         learner->config.run_dir);
    }
    return 0;
}

// finish_step makes the trained step durable, in the order in which a resume undoes it.
static int finish_step(struct learner *learner, struct engine_job *job, struct error *err)
{
    const struct run_config *config = &learner->config;
    int code = job->code < 0 ? error_set(err, job->code, "%s", job->err.text) : 0;
    if (code == 0) {
        code = record_step(learner->rollouts, job->groups, job->group_count, job->batch, err);
    }
    if (code == 0) {
        code = tasks_commit(learner->tasks, err);
    }
    if (code == 0) {
        code = tasks_begin(learner->tasks, err);
    }
    if (code == 0) {
        code = write_report(learner, job, err);
    }
    learner->done = job->step;
    bool due = learner->done == config->steps ||
               (config->checkpoint.every > 0 && learner->done % config->checkpoint.every == 0);
    if (code == 0 && due) {
        code = save(learner, err);
    }
    return code;
}

static void on_trained(void *context, struct engine_job *job)
{
    struct learner *learner = context;
    struct error err = {0};
    if (job->report.mismatch_max > 0.0) {
        log_warn("learner", "actor and learner disagree step=%lld mismatch_max=%g",
                 (long long)job->step, job->report.mismatch_max);
    }
    if (job->report.skipped) {
        log_warn("learner", "the gradient was not finite: nothing was changed step=%lld",
                 (long long)job->step);
    }
    int code = finish_step(learner, job, &err);
    job_destroy(TAKE(learner->job));
    if (code < 0) {
        fail(learner, &err);
    } else if (learner->done == learner->config.steps) {
        end(learner, 0, "all steps are done");
    } else if (learner->stop_signal != 0) {
        stop_now(learner);
    } else if (announce(learner, &err) < 0) {
        fail(learner, &err);
    } else {
        dispatch_published(learner->dispatch, (uint64_t)learner->done + 1);
    }
}

static void on_batch(void *context, int64_t step, struct group **groups, int32_t count)
{
    struct learner *learner = context;
    struct error err = {0};
    struct engine_job *job = calloc(1, sizeof(*job));
    CHECK(job != NULL && learner->job == NULL);
    job->step = step;
    job->groups = groups;
    job->group_count = count;
    job->lr = schedule_lr(&learner->config, step);
    learner->job = job;
    if (batch_create(&job->batch, groups, count, &learner->config,
                     dispatch_trains_proposer(&learner->config, step), (uint64_t)step,
                     trainer_model(learner->trainer)->numerics, &err) < 0) {
        fail(learner, &err);
    } else if (!learner->ending) {
        job->sequences = job->batch->sequences;
        job->count = job->batch->count;
        engine_run(learner->engine, job);
    }
}

static void on_seeded(void *context)
{
    struct learner *learner = context;
    struct error err = {0};
    if (tasks_commit(learner->tasks, &err) < 0 || tasks_begin(learner->tasks, &err) < 0) {
        fail(learner, &err);
        return;
    }
    log_info("learner", "the stores are seeded deduction=%d abduction=%d induction=%d",
             tasks_index(learner->tasks, KIND_DEDUCTION)->count,
             tasks_index(learner->tasks, KIND_ABDUCTION)->count,
             tasks_index(learner->tasks, KIND_INDUCTION)->count);
    learner->step_ns = clock_ns();
}

static void on_failed(void *context, const struct error *err)
{
    fail(context, err);
}

// A step that is being trained is finished first: what is saved then is a whole step.
static void on_stop(void *context, int signal_number)
{
    struct learner *learner = context;
    learner->stop_signal = signal_number;
    if (!learner->ending && (learner->engine == NULL || !engine_busy(learner->engine))) {
        stop_now(learner);
    }
}

// --- the start ---

static int load_model(struct learner *learner, struct error *err)
{
    const char *dir = learner->config.model;
    char path[PATH_BYTES];
    if (dir[0] == '\0') {
        return error_set(err, -EINVAL,
                         "no model: set model to a folder with config.json, "
                         "tokenizer.json and model.safetensors");
    }
    int code = shape_read(&learner->shape, dir, err);
    if (code == 0) {
        code = params_init(&learner->params, &learner->shape, err);
    }
    if (code < 0) {
        return code;
    }
    (void)snprintf(path, sizeof(path), "%s/tokenizer.json", dir);
    struct tokenizer *tokenizer = NULL;
    code = tokenizer_create(&tokenizer, path, err);
    if (code < 0) {
        return code;
    }
    int32_t ids = tokenizer_vocab(tokenizer);
    tokenizer_destroy(tokenizer);
    if (ids > learner->shape.V) {
        return error_set(err, -EINVAL, "%s has %d ids, more than the %d of config.json", path, ids,
                         learner->shape.V);
    }
    learner->weights = calloc(learner->params.elements, sizeof(float));
    if (learner->weights == NULL) {
        return error_set(err, -ENOMEM, "%s: no memory for its weights", dir);
    }
    enum dtype stored = DTYPE_F32;
    return safetensors_read(learner->weights, &stored, &learner->params, &learner->shape, dir, err);
}

static int check_config(const struct run_config *config, const struct shape *shape,
                        struct error *err)
{
    int64_t longest = config->rollout.prompt_tokens_max + config->rollout.response_tokens_max;
    if (longest > shape->T) {
        return error_set(err, -EINVAL,
                         "rollout.prompt_tokens_max + rollout.response_tokens_max is %lld; the "
                         "model has %d positions",
                         (long long)longest, shape->T);
    }
    if (config->actor.kv_tokens < longest) {
        return error_set(err, -EINVAL, "actor.kv_tokens is %lld: one rollout may need %lld",
                         (long long)config->actor.kv_tokens, (long long)longest);
    }
    return 0;
}

static int open_folder(struct learner *learner, struct error *err)
{
    const char *run_dir = learner->config.run_dir;
    char path[PATH_BYTES];
    if (run_dir[0] == '\0') {
        return error_set(err, -EINVAL, "run_dir is empty: set run_dir=FOLDER");
    }
    (void)snprintf(path, sizeof(path), "%s/tasks.db", run_dir);
    bool there = access(path, F_OK) == 0;
    if (there && !learner->resume) {
        return error_set(err, -EEXIST,
                         "%s holds a run already; choose another run_dir, or continue it with "
                         "--resume",
                         run_dir);
    }
    if (!there && learner->resume) {
        return error_set(err, -ENOENT, "%s holds no run to resume", run_dir);
    }
    (void)snprintf(path, sizeof(path), "%s/log", run_dir);
    return file_make_dirs(path, err);
}

static int open_store(struct learner *learner, struct error *err)
{
    char path[PATH_BYTES];
    (void)snprintf(path, sizeof(path), "%s/tasks.db", learner->config.run_dir);
    int code = tasks_open(&learner->tasks, path, (int32_t)learner->config.azr.tasks_max, err);
    if (code == 0 && learner->resume) {
        code = tasks_forget(learner->tasks, learner->done, err);
    }
    if (code == 0) {
        code = rollouts_open(&learner->rollouts, learner->tasks, err);
    }
    if (code == 0) {
        code = tasks_begin(learner->tasks, err);
    }
    (void)snprintf(path, sizeof(path), "%s/metrics.jsonl", learner->config.run_dir);
    if (code == 0 && learner->resume) {
        code = report_truncate(path, learner->done, err);
    }
    if (code == 0) {
        learner->metrics = fopen(path, "ae");
        code = learner->metrics != NULL ? run_config_write(&learner->config, err)
                                        : error_set(err, -errno, "cannot write %s", path);
    }
    return code;
}

static int open_trainer(struct learner *learner, struct error *err)
{
    static const enum compute computes[] = {COMPUTE_AUTO, COMPUTE_F32, COMPUTE_BF16};
    const struct run_config *config = &learner->config;
    const struct trainer_config trainer = {
        .compute = computes[config->learner.compute],
        .published = config->learner.published == PUBLISH_BF16 ? DTYPE_BF16 : DTYPE_F32,
        .threads = (int32_t)config->learner.threads,
        .micro_tokens = (int32_t)config->learner.micro_tokens};
    int code = trainer_create(&learner->trainer, &learner->shape, learner->weights, &trainer, err);
    free(learner->weights);
    learner->weights = NULL;
    if (code == 0 && learner->done > 0) {
        struct trainer_state state = trainer_state(learner->trainer);
        struct trainer_arrays arrays = {.weights = state.weights, .m = state.m, .v = state.v};
        code = checkpoint_load(config->run_dir, learner->done, &learner->params, &arrays, err);
        if (code == 0) {
            *state.updates = arrays.updates;
            trainer_refresh(learner->trainer);
        }
    }
    return code;
}

static uint64_t draw_incarnation(void)
{
    uint64_t number = 0;
    if (getrandom(&number, sizeof(number), 0) != (ssize_t)sizeof(number)) {
        number = clock_ns();
    }
    return number | 1; // never 0, which means "none heard of yet"
}

static int open_wire(struct learner *learner, struct error *err)
{
    const struct run_config *config = &learner->config;
    const struct hub_config hub = {.endpoint = config->endpoint,
                                   .style = config->azr.style,
                                   .incarnation = draw_incarnation(),
                                   .lease_ms = (uint32_t)(config->learner.lease_s * 1000),
                                   .requests_max = dispatch_requests_max(config)};
    const struct publish_config publish = {
        .endpoint = config->weights_endpoint,
        .model_dir = config->model,
        .params = &learner->params,
        .type = config->learner.published == PUBLISH_BF16 ? DTYPE_BF16 : DTYPE_F32};
    uv_loop_t *loop = loop_uv(learner->loop);
    int code = hub_create(&learner->hub, loop, loop_zmq(learner->loop), &hub, err);
    if (code == 0) {
        code = publish_create(&learner->publish, loop, loop_zmq(learner->loop), &publish, err);
    }
    if (code == 0) {
        code = loop_timer_create(&learner->drain_timer, loop, on_drain_turn, learner, err);
    }
    return code;
}

// open_run opens everything, what may refuse before what writes.
static int open_run(struct learner *learner, struct error *err)
{
    const struct loop_events loop_events = {.context = learner, .on_stop = on_stop};
    int code = loop_create(&learner->loop, &loop_events, err);
    code = code < 0 ? code : load_model(learner, err);
    code = code < 0 ? code : check_config(&learner->config, &learner->shape, err);
    code = code < 0 ? code : open_folder(learner, err);
    code = code < 0 ? code : run_config_endpoints(&learner->config, err);
    if (code == 0 && learner->resume) {
        code = checkpoint_latest(learner->config.run_dir, &learner->done, err);
        learner->saved = learner->done;
    }
    code = code < 0 ? code : open_wire(learner, err);
    code = code < 0 ? code : open_store(learner, err);
    code = code < 0 ? code : open_trainer(learner, err);
    code = code < 0 ? code
                    : engine_create(&learner->engine, loop_uv(learner->loop), learner->trainer,
                                    &learner->config, on_trained, learner, err);
    const struct dispatch_events events = {
        .context = learner, .batch = on_batch, .seeded = on_seeded, .failed = on_failed};
    code = code < 0 ? code
                    : dispatch_create(&learner->dispatch, learner->hub, learner->tasks,
                                      &learner->config, learner->shape.V, &events, err);
    return code < 0 ? code : announce(learner, err);
}

static void print_help(void)
{
    (void)printf(
        "Usage: kelvin-learner [--pretrain] --config FILE [key=value ...]\n"
        "       kelvin-learner [--pretrain] --resume RUN [key=value ...]\n\n"
        "Runs the learner of a self-play run: waits for actors and verifiers at `endpoint`, gives\n"
        "them work, trains, and publishes weights at `weights_endpoint`. Writes a line of JSON "
        "per\n"
        "step to standard output and into the run folder. With --pretrain it makes a small model\n"
        "from generated programs instead (kelvin pretrain --help); only verifiers are needed.\n\n"
        "Exit code: 0 all steps done, 2 bad input, 75 stopped by a signal after saving (--resume\n"
        "goes on), 1 otherwise.\n\n"
        "Keys, in the file or as key=value:\n");
    config_help(&run_options, stdout);
}

static int read_command(struct learner *learner, int argc, char **argv, struct error *err)
{
    if (argc < 3 || (strcmp(argv[1], "--config") != 0 && strcmp(argv[1], "--resume") != 0)) {
        return error_set(err, -EINVAL, "--config FILE or --resume RUN is needed; see --help");
    }
    char path[PATH_BYTES];
    learner->resume = strcmp(argv[1], "--resume") == 0;
    (void)snprintf(path, sizeof(path), learner->resume ? "%s/config.yaml" : "%s", argv[2]);
    int code = run_config_read(&learner->config, path, argv + 3, argc - 3, err);
    if (code == 0 && learner->resume) {
        int size = snprintf(learner->config.run_dir, CONFIG_STRING_MAX, "%s", argv[2]);
        code = size < CONFIG_STRING_MAX
                   ? 0
                   : error_set(err, -ENAMETOOLONG, "the name of the run folder is too long");
    }
    return code;
}

int main(int argc, char **argv)
{
    static struct learner learner;
    struct error err = {0};
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        print_help();
        return 0;
    }
    bool pretrain = argc > 1 && strcmp(argv[1], "--pretrain") == 0;
    if (read_command(&learner, argc - pretrain, argv + pretrain, &err) < 0) {
        log_error("learner", "%s", err.text);
        return EXIT_BAD_INPUT;
    }
    if (pretrain) {
        return pretrain_run(&learner.config, learner.resume);
    }
    if (open_run(&learner, &err) < 0) {
        log_error("learner", "%s", err.text);
        learner.exit_code = EXIT_BAD_INPUT;
        if (learner.loop != NULL) {
            close_parts(&learner);
        }
    } else if (learner.done >= learner.config.steps) {
        end(&learner, 0, "all steps are done");
    } else {
        dispatch_start(learner.dispatch, learner.done + 1);
    }
    if (learner.loop != NULL) {
        loop_run(learner.loop);
        loop_destroy(learner.loop);
    }
    job_destroy(learner.job);
    trainer_destroy(learner.trainer);
    params_finish(&learner.params);
    free(learner.weights);
    if (learner.metrics != NULL) {
        (void)fclose(learner.metrics);
    }
    return learner.exit_code;
}
