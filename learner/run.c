#include "learner/run.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/run_check.h"
#include "learner/checkpoint.h"
#include "learner/dispatch.h"
#include "learner/drain.h"
#include "learner/exit.h"
#include "learner/publish.h"
#include "learner/rank.h"
#include "learner/record.h"
#include "learner/report.h"
#include "learner/run_folder.h"
#include "learner/saver.h"
#include "learner/schedule.h"
#include "learner/seeds.h"
#include "learner/settle.h"
#include "learner/stepper.h"
#include "learner/watch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum {
    PATH_BYTES = 4096,
};

enum wanted_end { WANT_NOTHING, WANT_DONE, WANT_STOP };

struct run {
    struct run_config config;
    struct run_events events;
    bool resume;
    struct run_folder folder;
    struct shape shape;
    struct params params;
    float *weights; // until the trainer has them
    struct loop *loop;
    struct hub *hub;
    struct publish *publish;
    struct tasks *tasks;
    struct rollouts *rollouts;
    struct dispatch *dispatch;
    struct rank_group ranks;
    struct trainer *trainer;
    struct stepper *stepper;
    struct step_job *job; // the one that is out
    struct saver *saver;
    struct watch *watch;
    struct drain *drain;
    FILE *metrics;
    struct checkpoint from; // where it goes on, when `from.step` is not negative
    int64_t done;           // steps trained
    int64_t saved;          // step of the newest checkpoint that was begun, -1: none
    uint8_t *queue;         // [queue_size] of step `done` (dispatch_save)
    size_t queue_size;
    bool due;         // a checkpoint of step `done` is due
    bool between;     // step `done` has ended, the next one has not begun
    uint64_t step_ns; // when the last step ended
    enum wanted_end wanted;
    bool closed;
};

// --- the end ---

static void job_destroy(struct step_job *job)
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

static void close_parts(struct run *run)
{
    if (run->closed) {
        return;
    }
    run->closed = true;
    stepper_close(run->stepper);
    saver_close(run->saver);
    watch_close(run->watch);
    hub_close(run->hub);
    dispatch_destroy(run->dispatch);
    publish_close(run->publish);
    drain_close(run->drain);
    rollouts_close(run->rollouts);
    tasks_close(run->tasks);
    if (run->metrics != NULL) {
        (void)fclose(run->metrics);
    }
    run_folder_close(&run->folder);
}

static void on_drained(void *context, int exit_code)
{
    struct run *run = context;
    close_parts(run);
    run->events.ended(run->events.context, exit_code);
}

static void fail(struct run *run, const struct error *err)
{
    log_error("learner", "%s", err->text);
    drain_begin(run->drain, 1, "the learner failed");
}

// --- checkpoints ---

static void save(struct run *run)
{
    struct trainer_state state = trainer_state(run->trainer);
    struct checkpoint checkpoint = {
        .step = run->done,
        .seed = (uint64_t)run->config.seed,
        .arrays = {.weights = state.weights, .m = state.m, .v = state.v, .updates = *state.updates},
        .queue = run->queue,
        .queue_size = run->queue_size};
    struct error err = {0};
    if (trainer_collect(run->trainer, &err) < 0 ||
        tasks_position(run->tasks, run->done, &checkpoint.last_task, &checkpoint.last_rollout,
                       &err) < 0) {
        fail(run, &err);
        return;
    }
    (void)fdatasync(fileno(run->metrics)); // the line of this step is as durable as its checkpoint
    run->saved = run->done;
    run->due = false;
    saver_start(run->saver, &checkpoint);
}

// wind_up goes on with the end that is wanted: what trains or saves now is waited for, the last
// step is saved, then the workers are told.
static void wind_up(struct run *run)
{
    if (run->wanted == WANT_NOTHING || drain_begun(run->drain) || stepper_busy(run->stepper) ||
        saver_busy(run->saver)) {
        return;
    }
    if (run->saved < run->done) {
        save(run);
    } else if (run->wanted == WANT_DONE) {
        drain_begin(run->drain, 0, "all steps are done");
    } else {
        drain_begin(run->drain, EXIT_REQUEUE, "the learner was stopped by a signal");
    }
}

// --- a step ---

static int announce(struct run *run, struct error *err)
{
    struct weights_packed *packed = NULL;
    int code = publish_pack(&packed, run->publish, (uint64_t)run->done + 1,
                            trainer_state(run->trainer).weights, err);
    if (code == 0) {
        hub_announce(run->hub, publish_offer(run->publish, packed));
    }
    return code;
}

static int write_report(struct run *run, const struct step_job *job, struct error *err)
{
    uint64_t now = clock_ns();
    const struct report_input input = {.config = &run->config,
                                       .job = job,
                                       .tasks = run->tasks,
                                       .actors = hub_stats(run->hub, KELVIN__WORKER_KIND__ACTOR),
                                       .verifiers =
                                           hub_stats(run->hub, KELVIN__WORKER_KIND__VERIFIER),
                                       .dispatch = dispatch_stats(run->dispatch),
                                       .seconds = (double)(now - run->step_ns) / 1e9};
    CLEANUP(freep) char *line = report_line(&input);
    run->step_ns = now;
    run->events.line(run->events.context, line);
    if (fprintf(run->metrics, "%s\n", line) < 0 || fflush(run->metrics) != 0) {
        return error_set(err, -EIO, "cannot write %s/metrics.jsonl: is the disk full?",
                         run->config.run_dir);
    }
    return 0;
}

// finish_step makes the trained step durable, in the order in which a resume undoes it.
static int finish_step(struct run *run, struct step_job *job, struct error *err)
{
    const struct run_config *config = &run->config;
    int code = job->code < 0 ? error_set(err, job->code, "%s", job->err.text) : 0;
    if (code == 0) {
        code =
            record_step(run->rollouts, job->step, job->groups, job->group_count, job->batch, err);
    }
    if (code == 0) {
        code = tasks_commit(run->tasks, err);
    }
    if (code == 0) {
        code = tasks_begin(run->tasks, err);
    }
    if (code == 0) {
        code = write_report(run, job, err);
    }
    run->done = job->step;
    run->due = config->checkpoint.every > 0 && run->done % config->checkpoint.every == 0;
    return code;
}

// Keeps the queue as step `done` leaves it, with the store at the same point: while a checkpoint
// was waited for, tasks may have come.
static int keep_queue(struct run *run, struct error *err)
{
    free(run->queue);
    dispatch_save(run->dispatch, &run->queue, &run->queue_size);
    if (run->queue == NULL) {
        return 0;
    }
    int code = tasks_commit(run->tasks, err);
    return code < 0 ? code : tasks_begin(run->tasks, err);
}

// go_on saves the step that has ended, if it is time, and begins the next one or the end. While the
// checkpoint before is still being written a due one holds the run up: it is of this very step.
static void go_on(struct run *run)
{
    struct error err = {0};
    if (run->due && saver_busy(run->saver)) {
        return; // on_saved comes back here
    }
    if (keep_queue(run, &err) < 0) {
        fail(run, &err);
        return;
    }
    if (run->due) {
        save(run);
    }
    run->between = false;
    if (drain_begun(run->drain)) {
        return;
    }
    if (run->done == run->config.steps || run->wanted != WANT_NOTHING) {
        run->wanted = run->done == run->config.steps ? WANT_DONE : run->wanted;
        wind_up(run);
    } else if (announce(run, &err) < 0) {
        fail(run, &err);
    } else {
        dispatch_published(run->dispatch, (uint64_t)run->done + 1);
    }
}

static void on_saved(void *context, const struct saver_report *report)
{
    struct run *run = context;
    if (report->code < 0) {
        fail(run, &report->err);
        return;
    }
    log_info("learner", "saved checkpoint step=%lld held_up_ms=%.1f written_ms=%.1f",
             (long long)report->step, report->copy_seconds * 1e3, report->write_seconds * 1e3);
    if (run->between) {
        go_on(run);
    } else {
        wind_up(run);
    }
}

static void on_trained(void *context, struct step_job *job)
{
    struct run *run = context;
    struct error err = {0};
    if (job->report.mismatch_max > 0.0) {
        log_warn("learner", "actor and learner disagree step=%lld mismatch_max=%g",
                 (long long)job->step, job->report.mismatch_max);
    }
    if (job->report.skipped) {
        log_warn("learner", "the gradient was not finite: nothing was changed step=%lld",
                 (long long)job->step);
    }
    int code = drain_begun(run->drain) ? 0 : finish_step(run, job, &err);
    job_destroy(TAKE(run->job));
    if (drain_begun(run->drain)) {
        return; // it failed while this step was trained
    }
    if (code < 0) {
        fail(run, &err);
        return;
    }
    run->between = true;
    go_on(run);
}

static void on_batch(void *context, int64_t step, struct group **groups, int32_t count)
{
    struct run *run = context;
    struct error err = {0};
    struct step_job *job = calloc(1, sizeof(*job));
    CHECK(job != NULL && run->job == NULL);
    job->step = step;
    job->groups = groups;
    job->group_count = count;
    job->lr = schedule_lr(&run->config, step);
    run->job = job;
    if (batch_create(&job->batch, groups, count, &run->config,
                     dispatch_trains_proposer(&run->config, step), (uint64_t)step,
                     trainer_model(run->trainer)->numerics, &err) < 0) {
        fail(run, &err);
    } else if (!drain_begun(run->drain) && run->wanted == WANT_NOTHING) {
        job->sequences = job->batch->sequences;
        job->count = job->batch->count;
        stepper_run(run->stepper, job);
    }
}

// The seeds of a run as a file that others can be seeded from; a resumed run has it already.
static int write_seeds(const struct run *run, struct error *err)
{
    char path[PATH_BYTES];
    (void)snprintf(path, sizeof(path), "%s/seeds.jsonl", run->config.run_dir);
    return access(path, F_OK) == 0 ? 0 : seeds_write(path, run->tasks, err);
}

static void on_seeded(void *context)
{
    struct run *run = context;
    struct error err = {0};
    if (tasks_commit(run->tasks, &err) < 0 || tasks_begin(run->tasks, &err) < 0 ||
        write_seeds(run, &err) < 0) {
        fail(run, &err);
        return;
    }
    log_info("learner", "the stores are seeded deduction=%d abduction=%d induction=%d",
             tasks_index(run->tasks, KIND_DEDUCTION)->count,
             tasks_index(run->tasks, KIND_ABDUCTION)->count,
             tasks_index(run->tasks, KIND_INDUCTION)->count);
    run->step_ns = clock_ns();
}

static void on_failed(void *context, const struct error *err)
{
    fail(context, err);
}

// --- the start ---

// What the config and the model, or the files that it names, say against each other.
static int check_model(const struct run_config *config, const struct shape *shape,
                       struct error *err)
{
    int64_t longest = config->rollout.prompt_tokens_max + config->rollout.response_tokens_max;
    if (longest > shape->T) {
        return error_set(err, -EINVAL,
                         "rollout.prompt_tokens_max + rollout.response_tokens_max is %lld; the "
                         "model has %d positions",
                         (long long)longest, shape->T);
    }
    struct seed_list seeds = {0};
    int code =
        config->azr.seed_file[0] == '\0' ? 0 : seeds_read(&seeds, config->azr.seed_file, err);
    seeds_free(&seeds);
    return code;
}

// The store must have come as far as the checkpoint, or steps would be missing.
static int check_store(struct run *run, struct error *err)
{
    int64_t task = 0;
    int64_t rollout = 0;
    int code = tasks_position(run->tasks, run->done, &task, &rollout, err);
    if (code == 0 && (task != run->from.last_task || rollout != run->from.last_rollout)) {
        code = error_set(
            err, -EINVAL,
            "%s/tasks.db does not belong to checkpoint step-%lld: it ends at task %lld "
            "and rollout %lld instead of %lld and %lld; remove this checkpoint to go "
            "on from the one before",
            run->config.run_dir, (long long)run->done, (long long)task, (long long)rollout,
            (long long)run->from.last_task, (long long)run->from.last_rollout);
    }
    return code;
}

static int open_store(struct run *run, struct error *err)
{
    char path[PATH_BYTES];
    (void)snprintf(path, sizeof(path), "%s/tasks.db", run->config.run_dir);
    // tasks.db makes the folder a run, which is resumed with its config.yaml.
    int code = run->resume ? 0 : run_config_write(&run->config, err);
    code = code < 0 ? code : tasks_open(&run->tasks, path, (int32_t)run->config.azr.tasks_max, err);
    if (code == 0 && run->resume) {
        code = run->done == 0 ? 0 : check_store(run, err);
        code = code < 0 ? code : tasks_forget(run->tasks, run->done, err);
    }
    code = code < 0 ? code : rollouts_open(&run->rollouts, run->tasks, err);
    code = code < 0 ? code : tasks_begin(run->tasks, err);
    (void)snprintf(path, sizeof(path), "%s/metrics.jsonl", run->config.run_dir);
    if (code == 0 && run->resume) {
        code = report_truncate(path, run->done, err);
        code = code < 0 ? code : run_config_write(&run->config, err); // with what has changed
    }
    if (code == 0) {
        run->metrics = fopen(path, "ae");
        code = run->metrics != NULL ? 0 : error_set(err, -errno, "cannot write %s", path);
    }
    return code;
}

static int open_trainer(struct run *run, struct error *err)
{
    const struct run_config *config = &run->config;
    int code = rank_group_start(&run->ranks, config, run->folder.model_dir, err);
    code = code < 0 ? code
                    : rank_trainer(&run->trainer, config, &run->shape, run->weights,
                                   run->ranks.collective, err);
    free(run->weights);
    run->weights = NULL;
    if (code == 0 && run->from.step >= 0) {
        struct trainer_state state = trainer_state(run->trainer);
        run->from.arrays =
            (struct trainer_arrays){.weights = state.weights, .m = state.m, .v = state.v};
        code = checkpoint_load(config->run_dir, &run->params, &run->from, err);
        if (code == 0) {
            *state.updates = run->from.arrays.updates;
            trainer_refresh(run->trainer);
        }
    }
    return code;
}

static int open_saver(struct run *run, struct error *err)
{
    const struct checkpoint_target target = {
        .run_dir = run->config.run_dir,
        .model_dir = run->folder.model_dir,
        .shape = &run->shape,
        .params = &run->params,
        .published = run->config.learner.published == PUBLISH_BF16 ? DTYPE_BF16 : DTYPE_F32,
        .keep = (int32_t)run->config.checkpoint.keep,
        .keep_every = run->config.checkpoint.keep_every};
    return saver_create(&run->saver, loop_uv(run->loop), &target, on_saved, run, err);
}

static uint64_t draw_incarnation(void)
{
    uint64_t number = 0;
    if (getrandom(&number, sizeof(number), 0) != (ssize_t)sizeof(number)) {
        number = clock_ns();
    }
    return number | 1; // never 0, which means "none heard of yet"
}

static int open_wire(struct run *run, struct error *err)
{
    struct run_config config = run->config; // its empty endpoints stay empty in config.yaml
    int code = run_config_endpoints(&config, err);
    if (code < 0) {
        return code;
    }
    const struct hub_config hub = {.endpoint = config.endpoint,
                                   .style = config.azr.style,
                                   .incarnation = draw_incarnation(),
                                   .lease_ms = (uint32_t)(config.learner.lease_s * 1000),
                                   .requests_max = dispatch_requests_max(&config)};
    const struct publish_config publish = {
        .endpoint = config.weights_endpoint,
        .model_dir = run->folder.model_dir,
        .params = &run->params,
        .type = config.learner.published == PUBLISH_BF16 ? DTYPE_BF16 : DTYPE_F32};
    uv_loop_t *loop = loop_uv(run->loop);
    code = hub_create(&run->hub, loop, loop_zmq(run->loop), &hub, err);
    if (code == 0) {
        code = publish_create(&run->publish, loop, loop_zmq(run->loop), &publish, err);
    }
    if (code == 0) {
        code = drain_create(&run->drain, loop, run->hub, on_drained, run, err);
    }
    if (code == 0) {
        code = watch_open(&run->watch, loop, run->hub, err);
    }
    return code;
}

// Where the run begins: at a checkpoint, or at the model that the config names.
static int find_start(struct run *run, struct error *err)
{
    int code = run_folder_find(&run->folder, &run->config, run->resume, err);
    run->from.step = run->folder.from;
    run->done = run->from.step > 0 ? run->from.step : 0;
    run->saved = run->from.step;
    return code;
}

static int open_parts(struct run *run, struct error *err)
{
    int code = run_config_check(&run->config, err);
    code = code < 0 ? code : find_start(run, err);
    code = code < 0 ? code
                    : settle_model(&run->config, run->folder.model_dir, &run->shape, &run->params,
                                   &run->weights, err);
    code = code < 0 ? code : check_model(&run->config, &run->shape, err);
    code = code < 0 ? code : run_config_check(&run->config, err); // again, with its lengths
    code = code < 0 ? code : run_folder_open(&run->folder, run->config.run_dir, err);
    code = code < 0 ? code : open_wire(run, err);
    code = code < 0 ? code : open_trainer(run, err);
    code = code < 0 ? code : open_store(run, err);
    code = code < 0 ? code : open_saver(run, err);
    code = code < 0 ? code
                    : stepper_create(&run->stepper, loop_uv(run->loop), run->trainer, &run->config,
                                     on_trained, run, err);
    const struct dispatch_events events = {
        .context = run, .batch = on_batch, .seeded = on_seeded, .failed = on_failed};
    code = code < 0 ? code
                    : dispatch_create(&run->dispatch, run->hub, run->tasks, &run->config,
                                      run->shape.V, &events, err);
    if (code == 0 && run->from.queue != NULL) {
        code = dispatch_restore(run->dispatch, run->from.queue, run->from.queue_size, err);
    }
    return code < 0 ? code : announce(run, err);
}

int run_open(struct run **out, struct loop *loop, const struct run_config *config, bool resume,
             const struct run_events *events, struct error *err)
{
    struct run *run = calloc(1, sizeof(*run));
    if (run == NULL) {
        return error_set(err, -ENOMEM, "learner: out of memory");
    }
    run->config = *config;
    run->events = *events;
    run->resume = resume;
    run->loop = loop;
    run->folder.lock = -1;
    int code = open_parts(run, err);
    if (code < 0) {
        bool made = run->folder.made;
        run_destroy(run);
        if (made) {
            (void)file_remove_tree(config->run_dir, NULL);
        }
        return code;
    }
    *out = run;
    return 0;
}

void run_start(struct run *run)
{
    if (run->done >= run->config.steps) {
        run->wanted = WANT_DONE;
        wind_up(run);
        return;
    }
    if (run->saved < 0) {
        save(run); // step 0
    }
    dispatch_start(run->dispatch, run->done + 1);
}

void run_stop(struct run *run)
{
    run->wanted = run->wanted == WANT_NOTHING ? WANT_STOP : run->wanted;
    wind_up(run);
}

void run_destroy(struct run *run)
{
    if (run == NULL) {
        return;
    }
    close_parts(run);
    job_destroy(run->job);
    const char *failed = run->trainer == NULL ? "rank 0 could not start" : NULL;
    trainer_destroy(run->trainer);
    rank_group_stop(&run->ranks, failed);
    params_finish(&run->params);
    free(run->weights);
    free(run->queue);
    free(run->from.queue);
    free(run);
}
