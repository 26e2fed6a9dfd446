#include "learner/player.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/log.h"
#include "common/text/prompt.h"
#include "common/wire/message.h"
#include "learner/draw.h"
#include "learner/generated_task.h"
#include "learner/generator.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

// A reference set that does not fit the prompt is drawn again so often, then it is shortened.
enum { REDRAWS_MAX = 8 };

static uint64_t stream_of(const struct group *group, enum draw purpose)
{
    return draw_group_stream(group->step, group->kind, group->role, group->slot, purpose);
}

// draw_of begins a draw for a group: another one at each of its tries.
static struct rng draw_of(const struct player *player, const struct group *group, enum draw purpose)
{
    return (struct rng){.key = (uint64_t)player->config->seed,
                        .stream = rng_mix(stream_of(group, purpose), (uint64_t)group->tries)};
}

void player_init(struct player *player, struct hub *hub, struct tasks *tasks,
                 const struct run_config *config, int32_t vocab)
{
    *player = (struct player){.hub = hub, .tasks = tasks, .config = config, .vocab = vocab};
    memcpy(player->style, config->azr.style, sizeof(player->style));
}

static void close_group(struct player *player, struct group *group, enum group_state state)
{
    CHECK(group->open == 0 && group->state == GROUP_RUNNING);
    group->state = state;
    player->closed(player->context, group);
}

static void drop_proposal(struct player *player, struct group *group)
{
    (void)player->validated(player->context, group);
    close_group(player, group, GROUP_DROPPED);
}

// An actor is trusted to be ours, not to be right.
static bool is_sane(const struct player *player, const Kelvin__Rollout *rollout)
{
    if (rollout->n_tokens == 0 || rollout->n_logprobs != rollout->n_tokens ||
        rollout->n_tokens > RESPONSE_TOKENS_MAX || rollout->n_prompt > PROMPT_TOKENS_MAX ||
        rollout->n_prompt == 0) {
        return false;
    }
    for (size_t i = 0; i < rollout->n_tokens; i++) {
        if (rollout->tokens[i] >= (uint32_t)player->vocab || !isfinite(rollout->logprobs[i])) {
            return false;
        }
    }
    for (size_t i = 0; i < rollout->n_prompt; i++) {
        if (rollout->prompt[i] >= (uint32_t)player->vocab) {
            return false;
        }
    }
    return true;
}

static Kelvin__Sampling sampling_of(const struct run_config *config)
{
    Kelvin__Sampling sampling = KELVIN__SAMPLING__INIT;
    sampling.temperature = (float)config->rollout.temperature;
    sampling.top_p = (float)config->rollout.top_p;
    sampling.top_k = (uint32_t)config->rollout.top_k;
    sampling.min_p = (float)config->rollout.min_p;
    sampling.tokens_max = (uint32_t)config->rollout.response_tokens_max;
    return sampling;
}

// Where a group's hub callbacks find their player.
static struct player *player_of(const struct group *group)
{
    return group->owner;
}

static void ask(struct player *player, struct group *group, Kelvin__Prompt *prompt,
                hub_rollout_fn *on_rollout)
{
    Kelvin__Sampling sampling = sampling_of(player->config);
    prompt->kind = (Kelvin__TaskKind)group->kind;
    prompt->sampling = &sampling;
    prompt->prompt_tokens_max = (uint32_t)player->config->rollout.prompt_tokens_max;
    int64_t version_min = group->step - player->config->azr.staleness;
    prompt->version_min = version_min > 1 ? (uint64_t)version_min : 1;
    group->open += (int32_t)prompt->samples;
    int code = hub_rollout(player->hub, prompt, on_rollout, group, 0);
    CHECK(code == 0); // the hub was made with room for all that admission lets in
}

static void verify(struct player *player, struct group *group, Kelvin__VerifyRequest *request,
                   hub_verdict_fn *on_verdict, uint64_t tag)
{
    request->kind = (Kelvin__TaskKind)group->kind;
    request->style = player->style;
    request->timeout_ms = (uint32_t)player->config->verifier.timeout_ms;
    group->open++;
    int code = hub_verify(player->hub, request, on_verdict, group, tag);
    CHECK(code == 0); // as above
}

static void finish_answers(struct player *player, struct group *group)
{
    if (group->open > 0) {
        return;
    }
    double sum = 0.0;
    int32_t judged = 0;
    for (int32_t i = 0; i < group->answer_count; i++) {
        const struct play *play = &group->answers[i];
        if (play->verdict == NULL || play->verdict->outcome == KELVIN__OUTCOME__INFRASTRUCTURE) {
            continue;
        }
        sum += (double)play->verdict->score;
        judged++;
    }
    if (judged < group->answer_count && !group->too_long) {
        close_group(player, group, GROUP_DROPPED);
        return;
    }
    group->accuracy = judged > 0 ? sum / judged : 0.0;
    close_group(player, group, GROUP_FINISHED);
}

static void on_judged(void *context, uint64_t sample, const Kelvin__Verdict *verdict)
{
    struct group *group = context;
    group->answers[sample].verdict = message_copy(&verdict->base);
    group->open--;
    finish_answers(player_of(group), group);
}

static void judge(struct player *player, struct group *group, int32_t sample)
{
    char modes[][9] = {"binary", "fraction", "any"}; // enum induction_score
    const Kelvin__Task *task = group->task;
    Kelvin__VerifyRequest request = KELVIN__VERIFY_REQUEST__INIT;
    request.check = KELVIN__CHECK__JUDGE;
    request.role = KELVIN__ROLE__SOLVE;
    request.response = group->answers[sample].rollout->text;
    size_t shown = 0;
    if (group->kind == KIND_INDUCTION) {
        request.fraction_mode = modes[player->config->azr.induction_score];
        shown = (size_t)prompt_shown((int)task->n_inputs);
    } else {
        request.program = task->program;
    }
    request.n_inputs = task->n_inputs - shown;
    request.inputs = task->inputs + shown;
    request.n_outputs = task->n_outputs - shown;
    request.outputs = task->outputs + shown;
    verify(player, group, &request, on_judged, (uint64_t)sample);
}

static void on_answer(void *context, uint64_t tag, const Kelvin__Rollout *rollout)
{
    (void)tag;
    struct group *group = context;
    struct player *player = player_of(group);
    group->open--;
    if (rollout->finish == KELVIN__FINISH__REJECTED) {
        group->too_long = group->too_long || rollout->lease != 0; // 0: the hub gave it up
    } else if (rollout->sample < (uint32_t)group->answer_count && is_sane(player, rollout)) {
        group->answers[rollout->sample].rollout = message_copy(&rollout->base);
        judge(player, group, (int32_t)rollout->sample);
    } else {
        log_warn("player", "an actor sent a broken rollout; its group is dropped lease=%llu",
                 (unsigned long long)rollout->lease);
    }
    finish_answers(player, group);
}

void player_solve(struct player *player, struct group *group)
{
    CHECK(group->task != NULL && group->answer_count > 0);
    group->owner = player;
    group->answer_seed = rng_at((uint64_t)player->config->seed, stream_of(group, DRAW_ANSWERS), 0);
    Kelvin__Prompt prompt = KELVIN__PROMPT__INIT;
    prompt.role = KELVIN__ROLE__SOLVE;
    prompt.task = group->task;
    prompt.samples = (uint32_t)group->answer_count;
    prompt.seed = group->answer_seed;
    prompt.scratchpad = player->scratchpad;
    ask(player, group, &prompt, on_answer);
}

static char *copy_text(const char *text)
{
    char *copy = strdup(text);
    CHECK(copy != NULL);
    return copy;
}

static char **copy_texts(char *const *texts, size_t count)
{
    char **copies = calloc(count + 1, sizeof(char *));
    CHECK(copies != NULL);
    for (size_t i = 0; i < count; i++) {
        copies[i] = copy_text(texts[i]);
    }
    return copies;
}

// What the verifier need not repeat: the parts that it was given.
static const Kelvin__Task *known_parts(const struct group *group)
{
    return group->given != NULL ? group->given : group->shown;
}

// The task that a valid proposal became: what the verifier extracted, with the gold outputs.
static Kelvin__Task *task_of(const struct group *group, const Kelvin__Verdict *verdict)
{
    const Kelvin__Task *known = known_parts(group);
    Kelvin__Task *task = calloc(1, sizeof(*task));
    CHECK(task != NULL);
    kelvin__task__init(task);
    task->kind = (Kelvin__TaskKind)group->kind;
    task->step = (uint64_t)group->step;
    bool said = verdict->program[0] != '\0' || known == NULL;
    task->program = copy_text(said ? verdict->program : known->program);
    task->message = copy_text(group->given != NULL ? group->given->message : verdict->message);
    task->n_outputs = verdict->n_outputs;
    task->outputs = copy_texts(verdict->outputs, verdict->n_outputs);
    bool given = verdict->n_inputs == 0 && group->given != NULL;
    task->n_inputs = verdict->n_outputs;
    task->inputs = copy_texts(given ? group->given->inputs : verdict->inputs, task->n_inputs);
    task->n_parents = (size_t)group->parent_count;
    task->parents = calloc((size_t)group->parent_count + 1, sizeof(*task->parents));
    CHECK(task->parents != NULL);
    memcpy(task->parents, group->parents, (size_t)group->parent_count * sizeof(*task->parents));
    return task;
}

// A verifier's OK must come with what a task needs.
static bool is_whole(const struct group *group, const Kelvin__Verdict *verdict)
{
    bool given = verdict->n_inputs == 0 && group->given != NULL;
    size_t pairs = given ? group->given->n_inputs : verdict->n_inputs;
    bool program = verdict->program[0] != '\0' || known_parts(group) != NULL;
    return program && pairs == verdict->n_outputs && pairs > 0 && pairs <= TASK_INPUTS_MAX &&
           (group->kind == KIND_INDUCTION ? pairs >= 2 : pairs == 1);
}

static void propose(struct player *player, struct group *group);

// generated says that the program generator made the proposal of a group.
static bool generated(const struct group *group)
{
    return group->given != NULL && group->given == group->shown;
}

static void on_validated(void *context, uint64_t tag, const Kelvin__Verdict *verdict)
{
    (void)tag;
    struct group *group = context;
    struct player *player = player_of(group);
    group->open--;
    bool ok = verdict->outcome == KELVIN__OUTCOME__OK;
    if (!ok && generated(group) && group->tries < REDRAWS_MAX) {
        group->tries++; // some generated programs fail on their inputs
        propose(player, group);
        return;
    }
    group->proposal.verdict = message_copy(&verdict->base);
    if (verdict->outcome == KELVIN__OUTCOME__INFRASTRUCTURE || (ok && !is_whole(group, verdict))) {
        drop_proposal(player, group);
        return;
    }
    // A proposal of induction has no program of its own: it is shown one of the store.
    bool own = verdict->program[0] != '\0';
    if (ok && own && player->config->azr.hold_out && generator_held_out(verdict->program)) {
        group->withheld = true;
        drop_proposal(player, group);
        return;
    }
    if (ok) {
        group->valid = true;
        group->task = task_of(group, verdict);
        intrinsic_measure(&group->intrinsic, player->tasks, group->task, verdict->facts);
    }
    if (!player->validated(player->context, group)) {
        close_group(player, group, GROUP_FINISHED);
        return;
    }
    group_expect(group, (int32_t)player->config->azr.samples);
    player_solve(player, group);
}

static void free_tasks(Kelvin__Task **tasks, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        if (tasks[i] != NULL) {
            kelvin__task__free_unpacked(tasks[i], NULL);
        }
    }
}

// The tasks with these ids into `out`; -1 after the run was told to end.
static int read_tasks(struct player *player, Kelvin__Task **out, const uint64_t *ids, int32_t count)
{
    struct error err = {0};
    for (int32_t i = 0; i < count; i++) {
        if (tasks_get(player->tasks, ids[i], &out[i], &err) < 0) {
            free_tasks(out, i);
            player->failed(player->context, &err);
            return -1;
        }
    }
    return 0;
}

// Asks whether the proposal of a group is a valid task, and for the facts about its program.
static void validate(struct player *player, struct group *group)
{
    Kelvin__Task *parents[TASK_REFERENCES_MAX] = {0};
    char *programs[TASK_REFERENCES_MAX], *inputs[TASK_REFERENCES_MAX];
    Kelvin__VerifyRequest request = KELVIN__VERIFY_REQUEST__INIT;
    request.check = KELVIN__CHECK__VALIDATE;
    request.role = KELVIN__ROLE__PROPOSE;
    request.response = group->proposal.rollout->text;
    request.strip = player->strip;
    if (group->kind == KIND_INDUCTION) {
        request.program = group->shown->program;
        request.inputs_count = (uint32_t)player->config->azr.inputs;
        verify(player, group, &request, on_validated, 0);
        return;
    }
    request.describe = true;
    if (read_tasks(player, parents, group->parents, group->parent_count) < 0) {
        return;
    }
    for (int32_t i = 0; i < group->parent_count; i++) {
        programs[request.n_references++] = parents[i]->program;
        if (player->config->azr.refuse_copied_inputs && parents[i]->n_inputs > 0) {
            inputs[request.n_shown_inputs++] = parents[i]->inputs[0];
        }
    }
    request.references = programs;
    request.shown_inputs = inputs;
    request.n_helpers = (size_t)group->helper_count;
    request.helpers = group->helpers;
    verify(player, group, &request, on_validated, 0);
    free_tasks(parents, group->parent_count);
}

static void on_proposal(void *context, uint64_t tag, const Kelvin__Rollout *rollout)
{
    (void)tag;
    struct group *group = context;
    struct player *player = player_of(group);
    group->open--;
    if (rollout->finish == KELVIN__FINISH__REJECTED) {
        bool again = rollout->lease != 0 && group->parent_count > 0;
        group->tries++;
        if (again) {
            propose(player, group);
        } else {
            drop_proposal(player, group);
        }
        return;
    }
    if (!is_sane(player, rollout)) {
        log_warn("player", "an actor sent a broken rollout; its group is dropped lease=%llu",
                 (unsigned long long)rollout->lease);
        drop_proposal(player, group);
        return;
    }
    group->proposal.rollout = message_copy(&rollout->base);
    validate(player, group);
}

void player_check(struct player *player, struct group *group, const Kelvin__Task *task)
{
    group->owner = player;
    Kelvin__VerifyRequest request = KELVIN__VERIFY_REQUEST__INIT;
    request.check = KELVIN__CHECK__VALIDATE;
    request.role = KELVIN__ROLE__PROPOSE;
    request.program = task->program;
    request.n_inputs = task->n_inputs;
    request.inputs = task->inputs;
    request.inputs_count = (uint32_t)task->n_inputs;
    request.strip = player->strip;
    group->given = task;
    verify(player, group, &request, on_validated, 0);
}

// Draws what a proposal is shown: one program for induction, else K whole tasks. After
// REDRAWS_MAX tries every further one shows a task less.
static int32_t draw_references(struct player *player, struct group *group, uint64_t *ids)
{
    const struct run_config *config = player->config;
    struct rng rng = draw_of(player, group, DRAW_REFERENCES);
    enum reference_sampling mode = (enum reference_sampling)config->azr.reference_sampling;
    if (group->kind == KIND_INDUCTION) {
        ids[0] =
            group->tries < REDRAWS_MAX
                ? tasks_draw_program(player->tasks, mode, config->azr.induction_candidates, &rng)
                : 0;
        return ids[0] != 0;
    }
    int32_t wanted = (int32_t)config->azr.references;
    if (group->tries >= REDRAWS_MAX) {
        wanted -= group->tries - REDRAWS_MAX + 1;
    }
    return wanted <= 0 ? 0
                       : task_index_sample(tasks_index(player->tasks, group->kind), ids, wanted,
                                           mode, &rng);
}

static void ask_proposal(struct player *player, struct group *group)
{
    Kelvin__Task *references[TASK_REFERENCES_MAX] = {0};
    int32_t count = group->parent_count;
    if (read_tasks(player, references, group->parents, count) < 0) {
        return;
    }
    group->proposal_seed = rng_at((uint64_t)player->config->seed, stream_of(group, DRAW_PROPOSAL),
                                  (uint64_t)group->tries);
    Kelvin__Prompt prompt = KELVIN__PROMPT__INIT;
    prompt.role = KELVIN__ROLE__PROPOSE;
    prompt.samples = 1;
    prompt.seed = group->proposal_seed;
    if (group->kind == KIND_INDUCTION) {
        if (group->shown != NULL) {
            kelvin__task__free_unpacked(group->shown, NULL);
        }
        group->shown = TAKE(references[0]);
        prompt.task = group->shown;
        prompt.inputs_count = (uint32_t)player->config->azr.inputs;
    } else {
        prompt.n_references = (size_t)count;
        prompt.references = references;
        prompt.n_composites = (size_t)group->helper_count;
        prompt.composites = group->helpers;
    }
    ask(player, group, &prompt, on_proposal);
    free_tasks(references, count);
}

// The functions have their new names; a proposal that could not get all of them does without.
static void on_renamed(void *context, uint64_t index, const Kelvin__Verdict *verdict)
{
    struct group *group = context;
    group->open--;
    if (verdict->outcome == KELVIN__OUTCOME__OK) {
        group->helpers[index] = copy_text(verdict->program);
    }
    if (group->open > 0) {
        return;
    }
    for (int32_t i = 0; i < group->helper_count; i++) {
        if (group->helpers[i] == NULL) {
            group_drop_helpers(group);
        }
    }
    ask_proposal(player_of(group), group);
}

// How many stored functions the proposal must call, drawn by the group's key. Like the references
// it needs them from: there must be more references than functions.
static int32_t draw_composites(const struct player *player, const struct group *group)
{
    const struct run_config *config = player->config;
    struct rng rng = draw_of(player, group, DRAW_COMPOSITES);
    bool wanted = group->kind != KIND_INDUCTION && group->step >= config->azr.composite_start &&
                  rng_uniform(&rng) < config->azr.composite_chance &&
                  group->parent_count > config->azr.composite_max;
    uint64_t choices = (uint64_t)(config->azr.composite_max - config->azr.composite_min + 1);
    return wanted ? (int32_t)config->azr.composite_min + (int32_t)rng_below(&rng, choices) : 0;
}

// Asks for the first `count` references that are no composites themselves under the names g_0,
// g_1, ...; says whether any was asked for.
static bool ask_composites(struct player *player, struct group *group, int32_t count)
{
    Kelvin__Task *references[TASK_REFERENCES_MAX] = {0};
    if (read_tasks(player, references, group->parents, group->parent_count) < 0) {
        return true;
    }
    char names[COMPOSITES_MAX][16];
    for (int32_t i = 0; i < group->parent_count && group->helper_count < count; i++) {
        if (strstr(references[i]->program, "def g_0(") != NULL) {
            continue;
        }
        Kelvin__VerifyRequest request = KELVIN__VERIFY_REQUEST__INIT;
        char *name = names[group->helper_count];
        (void)snprintf(name, sizeof(names[0]), "g_%d", group->helper_count);
        request.check = KELVIN__CHECK__RENAME;
        request.program = references[i]->program;
        request.answer = name;
        verify(player, group, &request, on_renamed, (uint64_t)group->helper_count++);
    }
    free_tasks(references, group->parent_count);
    return group->helper_count > 0;
}

// A generated task stands in for a proposal.
static void generate_proposal(struct player *player, struct group *group)
{
    struct rng rng = draw_of(player, group, DRAW_GENERATED);
    if (group->shown != NULL) {
        kelvin__task__free_unpacked(group->shown, NULL);
    }
    group->shown = generated_task(group->kind, (int)player->config->azr.inputs, &rng);
    player_check(player, group, group->shown);
}

static void propose(struct player *player, struct group *group)
{
    if (player->config->azr.proposals == PROPOSALS_GENERATOR) {
        generate_proposal(player, group);
        return;
    }
    group->parent_count = draw_references(player, group, group->parents);
    group_drop_helpers(group);
    if (group->kind == KIND_INDUCTION && group->parent_count == 0) {
        drop_proposal(player, group);
        return;
    }
    int32_t composites = draw_composites(player, group);
    if (composites == 0 || !ask_composites(player, group, composites)) {
        ask_proposal(player, group);
    }
}

void player_propose(struct player *player, struct group *group)
{
    group->owner = player;
    propose(player, group);
}
