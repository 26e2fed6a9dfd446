#include "learner/pretrain.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/base/log.h"
#include "common/text/compact_vocab.h"
#include "common/wire/loop.h"
#include "learner/checkpoint.h"
#include "learner/drain.h"
#include "learner/examples.h"
#include "learner/exit.h"
#include "learner/hub.h"
#include "learner/newborn.h"
#include "learner/report.h"
#include "learner/run_folder.h"
#include "learner/schedule.h"
#include "learner/stepper.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    AHEAD = 4, // batches whose programs run while one is trained
    PATH_BYTES = 4096,
    RUN_TIMEOUT_MS = 20000, // for all programs of a batch
};

// struct slot is one batch on its way: asked for, then rendered.
struct slot {
    int64_t step; // 0: free
    struct examples *examples;
    bool rendered;
};

struct pretrain {
    struct run_config *config;
    struct shape shape;
    struct params params;
    struct tokenizer *tokenizer;
    struct loop *loop;
    struct hub *hub;
    struct trainer *trainer;
    struct stepper *stepper;
    struct step_job job;
    struct slot slots[AHEAD];
    struct drain *drain;
    FILE *metrics;
    char model_dir[PATH_BYTES];
    int64_t from;               // step of the checkpoint that it goes on from, -1: none
    int64_t asked, done, saved; // steps
    uint64_t step_ns;           // when the last step ended
    int stop_signal;
    int exit_code;
};

// --- the end ---

static void close_parts(void *context, int exit_code)
{
    struct pretrain *run = context;
    run->exit_code = exit_code;
    drain_close(run->drain);
    stepper_close(run->stepper);
    hub_close(run->hub);
    loop_stop(run->loop);
}

static void fail(struct pretrain *run, const struct error *err)
{
    log_error("pretrain", "%s", err->text);
    drain_begin(run->drain, EXIT_FAULT, "the learner failed");
}

// --- a step ---

static enum dtype published(const struct run_config *config)
{
    return config->learner.published == PUBLISH_BF16 ? DTYPE_BF16 : DTYPE_F32;
}

static int save(struct pretrain *run, struct error *err)
{
    if (run->saved == run->done) {
        return 0;
    }
    const struct checkpoint_target target = {.run_dir = run->config->run_dir,
                                             .model_dir = run->model_dir,
                                             .shape = &run->shape,
                                             .params = &run->params,
                                             .published = published(run->config),
                                             .keep = (int32_t)run->config->checkpoint.keep};
    struct trainer_state state = trainer_state(run->trainer);
    const struct checkpoint checkpoint = {
        .step = run->done,
        .seed = (uint64_t)run->config->seed,
        .arrays = {
            .weights = state.weights, .m = state.m, .v = state.v, .updates = *state.updates}};
    int code = checkpoint_save(&target, &checkpoint, err);
    run->saved = code == 0 ? run->done : run->saved;
    return code;
}

static int write_out(struct pretrain *run, struct error *err)
{
    int code = newborn_write(run->config->pretrain.out, trainer_state(run->trainer).weights,
                             &run->params, &run->shape, published(run->config), err);
    if (code == 0) {
        log_info("pretrain", "wrote the model folder=%s", run->config->pretrain.out);
    }
    return code;
}

static int write_metrics(struct pretrain *run, struct error *err)
{
    uint64_t now = clock_ns();
    const struct step_report *report = &run->job.report;
    double seconds = (double)(now - run->step_ns) / 1e9;
    run->step_ns = now;
    CLEANUP(json_decrefp)
    json_t *line = json_pack(
        "{s:I,s:f,s:f,s:f,s:f,s:f,s:f,s:I,s:I,s:f,s:b}", "step", (json_int_t)run->done, "seconds",
        seconds, "seconds/train", run->job.seconds, "loss", report->loss, "grad_norm",
        report->grad_norm, "entropy", report->entropy, "lr", run->job.lr, "tokens/run",
        (json_int_t)report->tokens, "tokens/trained", (json_int_t)report->tokens_trained,
        "tokens/s", seconds > 0.0 ? (double)report->tokens / seconds : 0.0, "skipped",
        report->skipped);
    CLEANUP(freep) char *text = line == NULL ? NULL : json_dumps(line, JSON_REAL_PRECISION(9));
    if (text == NULL) {
        return error_set(err, -EINVAL, "the loss of step %lld is not a number",
                         (long long)run->done);
    }
    (void)printf("%s\n", text);
    (void)fflush(stdout);
    if (fprintf(run->metrics, "%s\n", text) < 0 || fflush(run->metrics) != 0) {
        return error_set(err, -EIO, "cannot write %s/metrics.jsonl: is the disk full?",
                         run->config->run_dir);
    }
    return 0;
}

static struct example_mix mix_of(const struct run_config *config, int64_t step)
{
    struct example_mix mix = {.forms = {0.30, 0.25, 0.25, 0.07, 0.06, 0.07},
                              .scratchpad = config->pretrain.scratchpad,
                              .prompt_weight = (float)config->pretrain.prompt_weight};
    memcpy(mix.lengths, generator_lengths, sizeof(mix.lengths));
    memcpy(mix.induction_lengths, generator_induction_lengths, sizeof(mix.induction_lengths));
    double done = (double)step / (double)config->steps;
    if (done <= config->pretrain.easy) {
        static const double easy[GENERATED_LENGTHS] = {0.85, 0.15};
        memcpy(mix.lengths, easy, sizeof(easy));
    }
    if (done > 1.0 - config->pretrain.late) {
        mix.scratchpad = config->pretrain.scratchpad_late;
    }
    return mix;
}

static struct slot *slot_of(struct pretrain *run, int64_t step)
{
    return &run->slots[step % AHEAD];
}

static void advance(struct pretrain *run);

static void on_verdict(void *context, uint64_t tag, const Kelvin__Verdict *verdict)
{
    struct pretrain *run = context;
    struct error err = {0};
    struct slot *slot = slot_of(run, (int64_t)tag);
    CHECK(slot->step == (int64_t)tag && !slot->rendered);
    if (drain_begun(run->drain)) {
        return;
    }
    int code = 0;
    if (verdict->outcome != KELVIN__OUTCOME__OK || verdict->n_outputs != 1) {
        code = error_set(&err, -EIO, "the programs of step %lld did not run: %s %s",
                         (long long)slot->step, verdict->exception, verdict->detail);
    }
    code = code < 0 ? code
                    : examples_render(slot->examples, verdict->outputs[0], run->tokenizer, &err);
    if (code < 0) {
        fail(run, &err);
        return;
    }
    slot->rendered = true;
    advance(run);
}

// ask draws the batch of the next step and asks the verifiers to run its programs.
static int ask(struct pretrain *run, struct error *err)
{
    const struct run_config *config = run->config;
    int64_t step = run->asked + 1;
    struct slot *slot = slot_of(run, step);
    const struct example_mix mix = mix_of(config, step);
    int code = examples_draw(&slot->examples, (uint64_t)config->seed, (uint64_t)step,
                             (int)config->pretrain.examples, &mix, err);
    if (code < 0) {
        return code;
    }
    CLEANUP(freep) char *source = examples_source(slot->examples);
    char zero[] = "0";
    char *inputs[] = {zero};
    Kelvin__VerifyRequest request = KELVIN__VERIFY_REQUEST__INIT;
    request.check = KELVIN__CHECK__RUN;
    request.program = source;
    request.inputs = inputs;
    request.n_inputs = 1;
    request.timeout_ms = RUN_TIMEOUT_MS;
    slot->step = step;
    slot->rendered = false;
    run->asked = step;
    code = hub_verify(run->hub, &request, on_verdict, run, (uint64_t)step);
    return code < 0 ? error_set(err, code, "the verifiers take no request") : 0;
}

// advance trains the next batch if it is there, and keeps AHEAD batches asked for.
static void advance(struct pretrain *run)
{
    struct error err = {0};
    struct slot *slot = slot_of(run, run->done + 1);
    if (!stepper_busy(run->stepper) && slot->step == run->done + 1 && slot->rendered) {
        int count = 0;
        run->job = (struct step_job){.step = slot->step,
                                     .sequences = examples_sequences(slot->examples, &count),
                                     .lr = schedule_lr(run->config, slot->step)};
        run->job.count = (int32_t)count;
        stepper_run(run->stepper, &run->job);
    }
    while (run->asked < run->config->steps && run->asked < run->done + AHEAD) {
        if (ask(run, &err) < 0) {
            fail(run, &err);
            return;
        }
    }
}

static void stop_now(struct pretrain *run)
{
    struct error err = {0};
    if (save(run, &err) < 0) {
        fail(run, &err);
    } else {
        drain_begin(run->drain, EXIT_REQUEUE, "the learner was stopped by a signal");
    }
}

static void on_trained(void *context, struct step_job *job)
{
    struct pretrain *run = context;
    const struct run_config *config = run->config;
    struct error err = {0};
    struct slot *slot = slot_of(run, job->step);
    examples_destroy(TAKE(slot->examples));
    slot->step = 0;
    run->done = job->step;
    int code = job->code < 0 ? error_set(&err, job->code, "%s", job->err.text) : 0;
    code = code < 0 ? code : write_metrics(run, &err);
    bool last = run->done == config->steps;
    bool due = config->checkpoint.every > 0 && run->done % config->checkpoint.every == 0;
    if (code == 0 && (due || last)) {
        code = save(run, &err);
    }
    if (code == 0 && last) {
        code = write_out(run, &err);
    }
    if (code < 0) {
        fail(run, &err);
    } else if (last) {
        drain_begin(run->drain, 0, "all steps are done");
    } else if (run->stop_signal != 0) {
        stop_now(run);
    } else {
        advance(run);
    }
}

static void on_stop(void *context, int signal_number)
{
    struct pretrain *run = context;
    run->stop_signal = signal_number;
    if (!drain_begun(run->drain) && !stepper_busy(run->stepper)) {
        stop_now(run);
    }
}

// --- the start ---

static int check_out(const struct run_config *config, struct error *err)
{
    const char *out = config->pretrain.out;
    if (out[0] == '\0') {
        return error_set(err, -EINVAL,
                         "pretrain.out is empty: say where the model goes, "
                         "pretrain.out=FOLDER");
    }
    if (access(out, F_OK) == 0) {
        return error_set(err, -EEXIST,
                         "pretrain.out: %s is there already; remove it or choose another folder",
                         out);
    }
    return 0;
}

static int open_folder(struct pretrain *run, bool resume, struct error *err)
{
    const char *run_dir = run->config->run_dir;
    int code = run_folder_last(&run->from, run->config, "metrics.jsonl", resume, err);
    if (code < 0) {
        return code;
    }
    (void)snprintf(run->model_dir, sizeof(run->model_dir), "%s/model", run_dir);
    code = file_make_dirs(run_dir, err);
    return code < 0 ? code : run_config_endpoints(run->config, err);
}

static int open_trainer(struct pretrain *run, bool resume, struct error *err)
{
    const struct run_config *config = run->config;
    const struct trainer_config trainer = {.compute = (enum compute)config->learner.compute,
                                           .published = published(config),
                                           .threads = (int32_t)config->learner.threads,
                                           .micro_tokens = (int32_t)config->learner.micro_tokens};
    CLEANUP(freep) float *weights = calloc(run->params.elements, sizeof(float));
    if (weights == NULL) {
        return error_set(err, -ENOMEM, "no memory for the new model's weights");
    }
    newborn_weights(weights, &run->params, &run->shape, config->pretrain.init_std,
                    (uint64_t)config->seed);
    int code = trainer_create(&run->trainer, &run->shape, weights, &trainer, err);
    if (code < 0) {
        return code;
    }
    if (!resume) {
        return newborn_write(run->model_dir, weights, &run->params, &run->shape, published(config),
                             err);
    }
    struct trainer_state state = trainer_state(run->trainer);
    struct checkpoint from = {.step = run->from,
                              .arrays = {.weights = state.weights, .m = state.m, .v = state.v}};
    if (run->from > 0) {
        code = checkpoint_load(config->run_dir, &run->params, &from, err);
        *state.updates = from.arrays.updates;
        trainer_refresh(run->trainer);
        run->asked = run->saved = run->done = run->from;
    }
    return code;
}

static int open_files(struct pretrain *run, struct error *err)
{
    char path[PATH_BYTES];
    (void)snprintf(path, sizeof(path), "%s/metrics.jsonl", run->config->run_dir);
    int code = report_truncate(path, run->done, err);
    code = code < 0 ? code : run_config_write(run->config, err);
    run->metrics = code < 0 ? NULL : fopen(path, "ae");
    if (code == 0 && run->metrics == NULL) {
        code = error_set(err, -errno, "cannot write %s", path);
    }
    return code;
}

static int open_wire(struct pretrain *run, struct error *err)
{
    uv_loop_t *loop = loop_uv(run->loop);
    const struct hub_config hub = {.endpoint = run->config->endpoint,
                                   .style = run->config->azr.style,
                                   .incarnation = clock_ns() | 1,
                                   .lease_ms = (uint32_t)(run->config->learner.lease_s * 1000),
                                   .requests_max = AHEAD};
    int code = hub_create(&run->hub, loop, loop_zmq(run->loop), &hub, err);
    code = code < 0 ? code : drain_create(&run->drain, loop, run->hub, close_parts, run, err);
    return code < 0 ? code
                    : stepper_create(&run->stepper, loop, run->trainer, run->config, on_trained,
                                     run, err);
}

static int open_tokenizer(struct pretrain *run, struct error *err)
{
    CLEANUP(freep) char *json = compact_tokenizer_json();
    CHECK(json != NULL);
    return tokenizer_parse(&run->tokenizer, json, strlen(json), "the compact tokenizer", err);
}

// open_run opens everything, what may refuse before what writes.
static int open_run(struct pretrain *run, bool resume, struct error *err)
{
    const struct loop_events events = {.context = run, .on_stop = on_stop};
    int code = loop_create(&run->loop, &events, err);
    code = code < 0 ? code : check_out(run->config, err);
    code = code < 0 ? code : newborn_shape(&run->shape, run->config, err);
    code = code < 0 ? code : params_init(&run->params, &run->shape, err);
    code = code < 0 ? code : open_tokenizer(run, err);
    code = code < 0 ? code : open_folder(run, resume, err);
    code = code < 0 ? code : open_trainer(run, resume, err);
    code = code < 0 ? code : open_wire(run, err);
    return code < 0 ? code : open_files(run, err);
}

static void close_run(struct pretrain *run)
{
    loop_destroy(run->loop);
    trainer_destroy(run->trainer);
    tokenizer_destroy(run->tokenizer);
    params_finish(&run->params);
    for (int i = 0; i < AHEAD; i++) {
        examples_destroy(run->slots[i].examples);
    }
    if (run->metrics != NULL) {
        (void)fclose(run->metrics);
    }
}

int pretrain_run(struct run_config *config, bool resume)
{
    struct pretrain run = {.config = config, .exit_code = EXIT_BAD_INPUT};
    struct error err = {0};
    int code = open_run(&run, resume, &err);
    if (code < 0) {
        log_error("pretrain", "%s", err.text);
    } else if (run.done >= config->steps) { // all but the last file was written
        if (write_out(&run, &err) < 0) {
            fail(&run, &err);
        } else {
            drain_begin(run.drain, 0, "all steps are done");
        }
    } else {
        run.step_ns = clock_ns();
        advance(&run);
    }
    if (run.loop != NULL) {
        if (code < 0) {
            close_parts(&run, EXIT_BAD_INPUT);
        }
        loop_run(run.loop);
    }
    close_run(&run);
    return run.exit_code;
}
