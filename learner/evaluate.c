#include "learner/evaluate.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/base/run_check.h"
#include "common/text/prompt.h"
#include "common/wire/loop.h"
#include "common/wire/message.h"
#include "learner/drain.h"
#include "learner/exit.h"
#include "learner/generator.h"
#include "learner/player.h"
#include "learner/publish.h"
#include "learner/settle.h"
#include "learner/suite.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PATH_BYTES = 4096, LINE_MS = 500 };

enum pass_name { PASS_SAMPLED, PASS_GREEDY, PASS_FORCED, PASSES };
enum guesser { GUESS_CONSTANT, GUESS_ECHO, GUESSERS };
static const char *const pass_names[PASSES] = {"sampled", "greedy", "forced"};
static const char *const guesser_names[GUESSERS] = {"constant", "echo"};

// struct tally is what is known of one kind of task in one pass.
struct tally {
    int32_t tasks, dropped;
    double sum, squares; // of the tasks' scores
    int32_t answers, formatted, scratchpads;
    int32_t length_tasks[GENERATED_LENGTHS];
    double length_sums[GENERATED_LENGTHS];
};

struct evaluate;

struct pass {
    struct evaluate *owner;
    struct run_config config; // the run's, with this pass's temperature
    struct player player;
    int32_t samples;
    struct tally tallies[SUITE_KINDS];
};

struct evaluate {
    const struct run_config *config;
    struct shape shape;
    struct params params;
    float *weights;
    struct loop *loop;
    struct hub *hub;
    struct publish *publish;
    struct drain *drain;
    struct suite *suite;
    struct replay *replay; // owns the groups
    struct pass passes[PASSES];
    struct tally guesses[GUESSERS][SUITE_KINDS];
    int32_t unanswered;        // requests of the suite
    int64_t open, done, total; // groups and guesses
    uint64_t line_ms;
    int exit_code;
};

// --- the end ---

static void close_parts(void *context, int exit_code)
{
    struct evaluate *run = context;
    run->exit_code = exit_code;
    drain_close(run->drain);
    hub_close(run->hub);
    publish_close(run->publish);
    loop_stop(run->loop);
}

static void fail(struct evaluate *run, const struct error *err)
{
    log_error("eval", "%s", err->text);
    drain_begin(run->drain, EXIT_FAULT, "the evaluation failed");
}

static void on_stop(void *context, int signal_number)
{
    struct evaluate *run = context;
    log_error("eval", "stopped by signal %d before the end", signal_number);
    drain_begin(run->drain, EXIT_FAULT, "the evaluation was stopped");
}

// --- the result ---

static json_t *tally_json(const struct tally *tally)
{
    double n = tally->tasks > 0 ? tally->tasks : 1;
    double mean = tally->sum / n;
    double variance = tally->squares / n - mean * mean;
    double answers = tally->answers > 0 ? tally->answers : 1;
    json_t *lengths = json_array();
    for (int i = 0; i < GENERATED_LENGTHS; i++) {
        double accuracy = tally->length_tasks[i] > 0
                              ? tally->length_sums[i] / (double)tally->length_tasks[i]
                              : 0.0;
        (void)json_array_append_new(lengths,
                                    json_pack("{s:i,s:i,s:f}", "assignments", i + 1, "tasks",
                                              (int)tally->length_tasks[i], "accuracy", accuracy));
    }
    return json_pack("{s:f,s:f,s:i,s:i,s:f,s:f,s:o}", "accuracy", mean, "stderr",
                     sqrt((variance > 0.0 ? variance : 0.0) / n), "tasks", (int)tally->tasks,
                     "dropped", (int)tally->dropped, "formatted", tally->formatted / answers,
                     "scratchpad", tally->scratchpads / answers, "by_length", lengths);
}

static void put_tallies(json_t *object, const char *name, const struct tally *tallies)
{
    json_t *kinds = json_object();
    for (int kind = 0; kind < SUITE_KINDS; kind++) {
        if (tallies[kind].tasks + tallies[kind].dropped > 0) {
            (void)json_object_set_new(kinds, task_kind_name((enum task_kind)kind),
                                      tally_json(&tallies[kind]));
        }
    }
    (void)json_object_set_new(object, name, kinds);
}

static int write_result(const struct evaluate *run, struct error *err)
{
    CLEANUP(json_decrefp)
    json_t *result =
        json_pack("{s:s,s:I,s:I,s:f}", "model", run->config->model, "seed",
                  (json_int_t)run->config->seed, "samples", (json_int_t)run->config->eval.samples,
                  "temperature", run->config->rollout.temperature);
    CHECK(result != NULL);
    for (int pass = 0; pass < PASSES; pass++) {
        put_tallies(result, pass_names[pass], run->passes[pass].tallies);
    }
    for (int guesser = 0; guesser < GUESSERS; guesser++) {
        put_tallies(result, guesser_names[guesser], run->guesses[guesser]);
    }
    CLEANUP(freep) char *text = json_dumps(result, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    char path[PATH_BYTES];
    CHECK(text != NULL);
    int code = file_join(path, sizeof(path), run->config->run_dir, "eval.json", err);
    return code < 0 ? code : file_write(path, text, strlen(text), err);
}

static void one_done(struct evaluate *run)
{
    struct error err = {0};
    run->done++;
    run->open--;
    uint64_t now = clock_ms();
    if (now - run->line_ms >= LINE_MS || run->open == 0) {
        run->line_ms = now;
        (void)printf("{\"step\": %lld, \"steps\": %lld}\n", (long long)run->done,
                     (long long)run->total);
        (void)fflush(stdout);
    }
    if (run->open > 0) {
        return;
    }
    if (write_result(run, &err) < 0) {
        fail(run, &err);
    } else {
        drain_begin(run->drain, 0, "the evaluation is done");
    }
}

// --- playing ---

static void tally_add(struct tally *tally, double score, int length)
{
    tally->tasks++;
    tally->sum += score;
    tally->squares += score * score;
    if (length > 0) {
        tally->length_tasks[length - 1]++;
        tally->length_sums[length - 1] += score;
    }
}

static void on_closed(void *context, struct group *group)
{
    struct pass *pass = context;
    struct evaluate *run = pass->owner;
    struct tally *tally = &pass->tallies[group->kind];
    if (group->state == GROUP_FINISHED) {
        tally_add(tally, group->accuracy, suite_length(run->suite, group->kind, group->slot));
        for (int32_t i = 0; i < group->answer_count; i++) {
            const Kelvin__Verdict *verdict = group->answers[i].verdict;
            tally->answers++;
            tally->formatted += verdict != NULL && verdict->formatted;
            tally->scratchpads += verdict != NULL && verdict->scratchpad;
        }
    } else {
        tally->dropped++;
    }
    one_done(run);
}

static bool on_validated(void *context, struct group *group)
{
    (void)context;
    (void)group;
    return false; // nothing is proposed
}

static void on_failed(void *context, const struct error *err)
{
    const struct pass *pass = context;
    fail(pass->owner, err);
}

static void pass_init(struct evaluate *run, enum pass_name name)
{
    struct pass *pass = &run->passes[name];
    *pass = (struct pass){.owner = run, .config = *run->config};
    pass->samples = name == PASS_GREEDY ? 1 : (int32_t)run->config->eval.samples;
    pass->config.rollout.temperature = name == PASS_GREEDY ? 0.0 : run->config->rollout.temperature;
    player_init(&pass->player, run->hub, NULL, &pass->config, run->shape.V);
    pass->player.scratchpad = name == PASS_FORCED;
    pass->player.context = pass;
    pass->player.validated = on_validated;
    pass->player.closed = on_closed;
    pass->player.failed = on_failed;
}

static void play(struct evaluate *run, struct pass *pass, enum task_kind kind, int32_t index)
{
    struct group *group = replay_open(run->replay, 1, kind, ROLE_SOLVE, index);
    group->task = message_copy(&suite_task(run->suite, kind, index)->base);
    group_expect(group, pass->samples);
    run->open++;
    player_solve(&pass->player, group);
}

// struct guess is one answer of a guesser on its way.
struct guess {
    struct evaluate *run;
    struct tally *tally;
    int length;
};

static void on_guess(void *context, uint64_t tag, const Kelvin__Verdict *verdict)
{
    (void)tag;
    CLEANUP(freep) struct guess *guess = context;
    if (verdict->outcome == KELVIN__OUTCOME__INFRASTRUCTURE) {
        guess->tally->dropped++;
    } else {
        tally_add(guess->tally, (double)verdict->score, guess->length);
    }
    one_done(guess->run);
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

// commonest is the most frequent text among the gold outputs (deduction) or inputs (abduction) of
// the suite; the caller frees it.
static char *commonest(const struct evaluate *run, enum task_kind kind)
{
    int32_t count = suite_count(run->suite, kind);
    char **texts = calloc((size_t)count + 1, sizeof(char *));
    CHECK(texts != NULL);
    for (int32_t i = 0; i < count; i++) {
        const Kelvin__Task *task = suite_task(run->suite, kind, i);
        texts[i] = strdup(kind == KIND_DEDUCTION ? task->outputs[0] : task->inputs[0]);
        CHECK(texts[i] != NULL);
    }
    qsort(texts, (size_t)count, sizeof(char *), compare_texts);
    int32_t best = 0, best_votes = 0, votes = 0;
    for (int32_t i = 0; i < count; i++) {
        votes = i > 0 && strcmp(texts[i], texts[i - 1]) == 0 ? votes + 1 : 1;
        best = votes > best_votes ? i : best;
        best_votes = votes > best_votes ? votes : best_votes;
    }
    char *text = count > 0 ? strdup(texts[best]) : NULL;
    for (int32_t i = 0; i < count; i++) {
        free(texts[i]);
    }
    free(texts);
    return text;
}

// guess_text writes what a guesser answers; `common` is the commonest text of the kind.
static void guess_text(char *out, size_t size, enum guesser guesser, const Kelvin__Task *task,
                       const char *common)
{
    bool echo = guesser == GUESS_ECHO;
    switch ((enum task_kind)task->kind) {
    case KIND_DEDUCTION:
        (void)snprintf(out, size, "%s", echo ? task->inputs[0] : common);
        break;
    case KIND_ABDUCTION:
        (void)snprintf(out, size, "%s", echo ? task->outputs[0] : common);
        break;
    default:
        (void)snprintf(out, size, "def f(a,b=0):\n return %s", echo ? "a" : task->outputs[0]);
    }
}

static int guess(struct evaluate *run, enum guesser guesser, enum task_kind kind, int32_t index,
                 const char *common)
{
    char text[INPUT_BYTES_MAX + 64];
    const Kelvin__Task *task = suite_task(run->suite, kind, index);
    guess_text(text, sizeof(text), guesser, task, common);
    size_t shown = kind == KIND_INDUCTION ? (size_t)prompt_shown((int)task->n_inputs) : 0;
    Kelvin__VerifyRequest request = KELVIN__VERIFY_REQUEST__INIT;
    request.check = KELVIN__CHECK__JUDGE;
    request.kind = (Kelvin__TaskKind)kind;
    request.answer = text;
    if (kind != KIND_INDUCTION) {
        request.program = task->program;
    }
    request.n_inputs = task->n_inputs - shown;
    request.inputs = task->inputs + shown;
    request.n_outputs = task->n_outputs - shown;
    request.outputs = task->outputs + shown;
    request.timeout_ms = (uint32_t)run->config->verifier.timeout_ms;
    struct guess *context = calloc(1, sizeof(*context));
    CHECK(context != NULL);
    *context = (struct guess){.run = run,
                              .tally = &run->guesses[guesser][kind],
                              .length = suite_length(run->suite, kind, index)};
    run->open++;
    return hub_verify(run->hub, &request, on_guess, context, 0);
}

// play_task starts one task in every pass, and the guesses at it.
static void play_task(struct evaluate *run, enum task_kind kind, int32_t index, const char *common)
{
    play(run, &run->passes[PASS_SAMPLED], kind, index);
    play(run, &run->passes[PASS_GREEDY], kind, index);
    if (kind != KIND_INDUCTION) {
        play(run, &run->passes[PASS_FORCED], kind, index);
    }
    for (int guesser = 0; guesser < GUESSERS; guesser++) {
        int code = guess(run, (enum guesser)guesser, kind, index, common);
        CHECK(code == 0); // the hub was made with room for all
    }
}

static void play_all(struct evaluate *run)
{
    run->total = 0;
    for (int kind = 0; kind < SUITE_KINDS; kind++) {
        int passes = kind == KIND_INDUCTION ? PASSES - 1 : PASSES;
        run->total += (int64_t)suite_count(run->suite, (enum task_kind)kind) * (passes + GUESSERS);
    }
    for (int k = 0; k < SUITE_KINDS; k++) {
        enum task_kind kind = (enum task_kind)k;
        CLEANUP(freep) char *common = kind == KIND_INDUCTION ? NULL : commonest(run, kind);
        for (int32_t i = 0; i < suite_count(run->suite, kind); i++) {
            play_task(run, kind, i, common);
        }
    }
}

// --- the suite ---

static void on_answer(void *context, uint64_t index, const Kelvin__Verdict *verdict)
{
    struct evaluate *run = context;
    struct error err = {0};
    if (drain_begun(run->drain)) {
        return;
    }
    int code = suite_answer(run->suite, (int32_t)index, verdict, &err);
    if (code == -EINVAL) {
        log_error("eval", "%s", err.text);
        drain_begin(run->drain, EXIT_BAD_INPUT, "the suite is not valid");
    } else if (code < 0) {
        fail(run, &err);
    } else if (--run->unanswered == 0) {
        play_all(run);
    }
}

static int ask_for_suite(struct evaluate *run, struct error *err)
{
    run->unanswered = suite_requests(run->suite);
    int code = 0;
    for (int32_t i = 0; code == 0 && i < suite_requests(run->suite); i++) {
        Kelvin__VerifyRequest request = KELVIN__VERIFY_REQUEST__INIT;
        request.timeout_ms = (uint32_t)run->config->verifier.timeout_ms;
        suite_request(run->suite, i, &request);
        code = hub_verify(run->hub, &request, on_answer, run, (uint64_t)i);
    }
    return code < 0 ? error_set(err, code, "the verifiers take no request") : 0;
}

// --- the start ---

// check_generated refuses what the generated suite cannot measure; `config` is settled.
static int check_generated(const struct run_config *config, struct error *err)
{
    if (strcmp(config->azr.style, "compact") != 0) {
        return error_set(err, -EINVAL,
                         "azr.style is %s: the held-out suite is for models of the style compact; "
                         "eval.file=FILE has tasks for any",
                         config->azr.style);
    }
    if (config->azr.inputs > GENERATED_INPUTS_MAX) {
        return error_set(err, -EINVAL, "azr.inputs is %lld: the held-out suite has at most %d",
                         (long long)config->azr.inputs, GENERATED_INPUTS_MAX);
    }
    return 0;
}

// open_suite makes the suite; run->total is then the most that can be played.
static int open_suite(struct evaluate *run, struct error *err)
{
    const struct run_config *config = run->config;
    int64_t tasks = config->eval.tasks;
    int code = 0;
    if (config->eval.file[0] != '\0') {
        code = suite_read(&run->suite, config->eval.file, err);
        tasks = code < 0 ? 0 : suite_requests(run->suite);
    } else {
        code = check_generated(config, err);
        code = code < 0 ? code
                        : suite_generate(&run->suite, (uint64_t)config->seed, (int32_t)tasks,
                                         (int32_t)config->azr.inputs, err);
    }
    run->total = tasks * ((2 + GUESSERS) * SUITE_KINDS + 2);
    return code;
}

static int open_wire(struct evaluate *run, struct error *err)
{
    const struct run_config *config = run->config;
    const struct hub_config hub = {
        .endpoint = config->endpoint,
        .style = config->azr.style,
        .incarnation = clock_ns() | 1,
        .lease_ms = (uint32_t)(config->learner.lease_s * 1000),
        .requests_max = (int32_t)(run->total * config->eval.samples + suite_requests(run->suite))};
    const struct publish_config publish = {
        .endpoint = config->weights_endpoint,
        .model_dir = config->model,
        .params = &run->params,
        .type = config->learner.published == PUBLISH_BF16 ? DTYPE_BF16 : DTYPE_F32};
    uv_loop_t *loop = loop_uv(run->loop);
    int code = hub_create(&run->hub, loop, loop_zmq(run->loop), &hub, err);
    code =
        code < 0 ? code : publish_create(&run->publish, loop, loop_zmq(run->loop), &publish, err);
    code = code < 0 ? code : drain_create(&run->drain, loop, run->hub, close_parts, run, err);
    struct weights_packed *packed = NULL;
    code = code < 0 ? code : publish_pack(&packed, run->publish, 1, run->weights, err);
    if (code == 0) {
        hub_announce(run->hub, publish_offer(run->publish, packed));
    }
    return code;
}

static int open_run(struct evaluate *run, struct run_config *resolved, struct error *err)
{
    const struct run_config *config = run->config;
    const struct loop_events events = {.context = run, .on_stop = on_stop};
    int code = config->run_dir[0] != '\0'
                   ? run_config_check(config, err)
                   : error_set(err, -EINVAL, "run_dir is empty: set run_dir=FOLDER");
    code = code < 0 ? code
                    : settle_model(resolved, config->model, &run->shape, &run->params,
                                   &run->weights, err);
    code = code < 0 ? code : open_suite(run, err);
    code = code < 0 ? code : file_make_dirs(config->run_dir, err);
    code = code < 0 ? code : run_config_endpoints(resolved, err);
    code = code < 0 ? code : replay_create(&run->replay, 0, err);
    code = code < 0 ? code : loop_create(&run->loop, &events, err);
    code = code < 0 ? code : open_wire(run, err);
    for (int pass = 0; code == 0 && pass < PASSES; pass++) {
        pass_init(run, (enum pass_name)pass);
    }
    return code < 0 ? code : ask_for_suite(run, err);
}

int evaluate_run(const struct run_config *config)
{
    static struct evaluate run; // the passes hold configs, which are large
    struct run_config resolved = *config;
    struct error err = {0};
    run = (struct evaluate){.config = &resolved, .exit_code = EXIT_BAD_INPUT};
    int code = open_run(&run, &resolved, &err);
    if (code < 0) {
        log_error("eval", "%s", err.text);
        if (run.loop != NULL) {
            close_parts(&run, EXIT_BAD_INPUT);
        }
    }
    if (run.loop != NULL) {
        loop_run(run.loop);
    }
    loop_destroy(run.loop);
    replay_destroy(run.replay);
    suite_destroy(run.suite);
    params_finish(&run.params);
    free(run.weights);
    return run.exit_code;
}
