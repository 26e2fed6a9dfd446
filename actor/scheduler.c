// A step starts prepared samples in free slots, admits prompts ahead of need, and then computes one
// call a model in use: every running sample's newest token first, samples of one group side by
// side, then prompt chunks, oldest group first, in the rows that are left.
//
// A generation may be freed by another thread as soon as its last completion is handed over, so a
// completion is always handed over last and nothing is read through group->generation behind it.
#include "actor/scheduler.h"

#include "actor/kv_cache.h"
#include "common/base/check.h"
#include "common/base/cleanup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MODELS = 2 };

struct use { // a model that groups run on
    const struct model *model;
    uint64_t version;
    int32_t groups;
};

struct slot {
    struct group *group;
    struct slot *prev, *next; // in its group, or (next) among the free
    struct kv_table table;
    struct response response;
    int32_t computed; // tokens of prompt and response whose keys and values are cached
    enum finish finish;
};

struct first { // a sample's first token
    int32_t token;
    float logprob;
};

struct group {
    struct generation *generation;
    struct use *use;
    struct group *next;    // active, oldest first; or among the free
    struct kv_table table; // the prompt's pages
    struct kv_table hold;  // the promise for the next sample
    int32_t sample_pages;  // that a sample may need beside the prompt's full ones
    int32_t prompt_count;
    int32_t computed; // prompt tokens whose keys and values are cached
    int32_t samples, started, running;
    struct slot *slots; // running samples
    struct first *first;
    int32_t first_capacity;
    uint64_t first_version;
};

struct row_owner {
    struct group *group;
    struct slot *slot; // NULL: a row of the group's prompt
};

struct scheduler {
    struct scheduler_config config;
    struct shape shape;
    struct use uses[MODELS];
    struct use *current;
    struct kv_memory *memory;
    struct kv_cache *cache;
    struct decode *decode;
    struct sampler *sampler;
    struct slot *slots, *free_slots;
    struct group *groups, *free_groups;
    struct group *active, **active_end;
    struct generation *waiting, **waiting_end;
    int32_t group_count;
    int32_t *tables; // storage of all page tables
    struct decode_row *rows;
    struct row_owner *owners;
    struct slot **finished;
    int32_t finished_count;
    int32_t free_slot_count;
    int32_t unstarted;     // samples of active groups
    int32_t waiting_count; // samples of queued generations
    struct scheduler_stats stats;
};

CLEANUP_FUNCTION(struct scheduler, scheduler_destroy)

static int scheduler_lists(struct scheduler *scheduler, struct error *err)
{
    const int32_t slots = scheduler->config.slots, groups = scheduler->group_count;
    const size_t pages_max = (size_t)kv_pages_for(scheduler->shape.T);
    scheduler->slots = calloc((size_t)slots, sizeof(*scheduler->slots));
    scheduler->groups = calloc((size_t)groups, sizeof(*scheduler->groups));
    scheduler->tables = calloc((size_t)(slots + groups) * pages_max, sizeof(*scheduler->tables));
    scheduler->rows = calloc((size_t)scheduler->config.call_rows, sizeof(*scheduler->rows));
    scheduler->owners = calloc((size_t)scheduler->config.call_rows, sizeof(*scheduler->owners));
    scheduler->finished = calloc((size_t)slots, sizeof(struct slot *));
    if (scheduler->slots == NULL || scheduler->groups == NULL || scheduler->tables == NULL ||
        scheduler->rows == NULL || scheduler->owners == NULL || scheduler->finished == NULL) {
        return error_set(err, -ENOMEM, "scheduler: no memory for %d samples", slots);
    }
    for (int32_t i = slots - 1; i >= 0; i--) {
        scheduler->slots[i].table.pages = scheduler->tables + (size_t)i * pages_max;
        scheduler->slots[i].next = scheduler->free_slots;
        scheduler->free_slots = &scheduler->slots[i];
    }
    for (int32_t i = groups - 1; i >= 0; i--) {
        scheduler->groups[i].table.pages = scheduler->tables + (size_t)(slots + i) * pages_max;
        scheduler->groups[i].next = scheduler->free_groups;
        scheduler->free_groups = &scheduler->groups[i];
    }
    scheduler->free_slot_count = slots;
    return 0;
}

int scheduler_create(struct scheduler **out, const struct scheduler_config *config,
                     const struct model *model, uint64_t version, struct error *err)
{
    CHECK(config->slots > 0 && config->call_rows >= config->slots && config->page_count > 0);
    CLEANUP(scheduler_destroyp) struct scheduler *scheduler = calloc(1, sizeof(*scheduler));
    if (scheduler == NULL) {
        return error_set(err, -ENOMEM, "scheduler: out of memory");
    }
    scheduler->config = *config;
    scheduler->shape = model->shape;
    scheduler->group_count = 2 * config->slots; // running ones, and as many that are being prepared
    scheduler->active_end = &scheduler->active;
    scheduler->waiting_end = &scheduler->waiting;
    scheduler->uses[0] = (struct use){.model = model, .version = version};
    scheduler->current = &scheduler->uses[0];
    int code = scheduler_lists(scheduler, err);
    code = code < 0 ? code : kv_cache_create(&scheduler->cache, config->page_count, err);
    code = code < 0 ? code : kv_memory_create(&scheduler->memory, model, config->page_count, err);
    code = code < 0 ? code : decode_create(&scheduler->decode, model, config->call_rows, err);
    code = code < 0 ? code : sampler_create(&scheduler->sampler, model->shape.V, err);
    if (code < 0) {
        return code;
    }
    *out = TAKE(scheduler);
    return 0;
}

void scheduler_destroy(struct scheduler *scheduler)
{
    if (scheduler == NULL) {
        return;
    }
    for (int32_t i = 0; scheduler->slots != NULL && i < scheduler->config.slots; i++) {
        response_finish(&scheduler->slots[i].response);
    }
    for (int32_t i = 0; scheduler->groups != NULL && i < scheduler->group_count; i++) {
        free(scheduler->groups[i].first);
    }
    sampler_destroy(scheduler->sampler);
    decode_destroy(scheduler->decode);
    kv_memory_destroy(scheduler->memory);
    kv_cache_destroy(scheduler->cache);
    free(scheduler->slots);
    free(scheduler->groups);
    free(scheduler->tables);
    free(scheduler->rows);
    free(scheduler->owners);
    free(scheduler->finished);
    free(scheduler);
}

// A group's end: its prompt's pages go back. It leaves the active list in the next step's sweep.
static void group_close(struct scheduler *scheduler, struct group *group)
{
    kv_table_close(scheduler->cache, &group->table);
    kv_table_close(scheduler->cache, &group->hold);
    group->use->groups--;
    struct group **link = &scheduler->active;
    while (*link != group) {
        link = &(*link)->next;
    }
    *link = group->next;
    if (scheduler->active_end == &group->next) {
        scheduler->active_end = link;
    }
    group->next = scheduler->free_groups;
    scheduler->free_groups = group;
}

// slot_close gives the slot and its pages back. While its group has samples to start, the pages of
// one sample stay promised to it.
static void slot_close(struct scheduler *scheduler, struct slot *slot)
{
    struct group *group = slot->group;
    CHECK(group != NULL);
    kv_table_close(scheduler->cache, &slot->table);
    if (slot->prev != NULL) {
        slot->prev->next = slot->next;
    } else {
        group->slots = slot->next;
    }
    if (slot->next != NULL) {
        slot->next->prev = slot->prev;
    }
    slot->group = NULL;
    slot->next = scheduler->free_slots;
    scheduler->free_slots = slot;
    scheduler->free_slot_count++;
    group->running--;
    if (group->started < group->samples && group->hold.promised == 0) {
        CHECK(kv_table_open(scheduler->cache, &group->hold, group->sample_pages));
    }
    if (group->started == group->samples && group->running == 0) {
        group_close(scheduler, group);
    }
}

static void slot_finish(struct scheduler *scheduler, struct slot *slot, enum finish finish)
{
    struct completion *completion = response_complete(&slot->response, finish);
    slot_close(scheduler, slot);
    scheduler->config.on_complete(scheduler->config.context, completion);
}

// refuse completes samples `from` .. of a generation that will not run.
static void refuse(struct scheduler *scheduler, struct generation *generation, int32_t from,
                   enum finish finish, const char *note)
{
    const int32_t samples = generation->samples;
    for (int32_t i = from; i < samples; i++) {
        scheduler->config.on_complete(scheduler->config.context,
                                      completion_create(generation, i, finish, note));
    }
}

// sample_pages_of is how many pages a sample may need beside the prompt's full ones. Its last token
// is never fed back, so it needs no place.
static int32_t sample_pages_of(const struct generation *generation)
{
    const int32_t P = generation->prompt_count;
    return kv_pages_for(P + generation->tokens_max - 1) - P / KV_PAGE_TOKENS;
}

// what_hinders writes why a generation can never run into `note`; false: nothing does. Limits on
// the response shrink to what the model's positions allow.
static bool what_hinders(const struct scheduler *scheduler, struct generation *generation,
                         char *note, size_t size)
{
    const int32_t T = scheduler->shape.T, P = generation->prompt_count;
    if (P >= T) {
        (void)snprintf(note, size, "the prompt has %d tokens; the model has %d positions", P, T);
        return true;
    }
    for (int32_t i = 0; i < P; i++) {
        if (generation->prompt[i] < 0 || generation->prompt[i] >= scheduler->shape.V) {
            (void)snprintf(note, size, "token %d of the prompt is %d; the model has %d", i,
                           generation->prompt[i], scheduler->shape.V);
            return true;
        }
    }
    if (generation->tokens_max > T - P) {
        generation->tokens_max = T - P;
    }
    int32_t pages = kv_pages_for(P) + sample_pages_of(generation);
    if (pages > scheduler->config.page_count) {
        (void)snprintf(note, size,
                       "prompt and response need %d KV tokens; a thread has %d: raise "
                       "actor.kv_tokens",
                       pages * KV_PAGE_TOKENS, scheduler->config.page_count * KV_PAGE_TOKENS);
        return true;
    }
    return false;
}

void scheduler_submit(struct scheduler *scheduler, struct generation *generation)
{
    CHECK(generation->prompt_count > 0 && generation->samples > 0 && generation->tokens_max > 0);
    char note[160];
    if (what_hinders(scheduler, generation, note, sizeof(note))) {
        refuse(scheduler, generation, 0, FINISH_REJECTED, note);
        return;
    }
    generation->next = NULL;
    *scheduler->waiting_end = generation;
    scheduler->waiting_end = &generation->next;
    scheduler->waiting_count += generation->samples;
}

static struct generation *waiting_pop(struct scheduler *scheduler)
{
    struct generation *generation = scheduler->waiting;
    scheduler->waiting = generation->next;
    if (scheduler->waiting == NULL) {
        scheduler->waiting_end = &scheduler->waiting;
    }
    scheduler->waiting_count -= generation->samples;
    return generation;
}

// admit makes the oldest queued generation a group; false when it has to wait.
static bool admit(struct scheduler *scheduler)
{
    struct generation *generation = scheduler->waiting;
    struct group *group = scheduler->free_groups;
    if (generation == NULL || group == NULL ||
        generation->version_min > scheduler->current->version) {
        return false;
    }
    const int32_t P = generation->prompt_count;
    const int32_t sample_pages = sample_pages_of(generation);
    if (kv_pages_for(P) + sample_pages > kv_cache_available(scheduler->cache)) {
        return false;
    }
    (void)waiting_pop(scheduler);
    scheduler->free_groups = group->next;
    struct first *first = group->first;
    if (group->first_capacity < generation->samples) {
        first = realloc(first, (size_t)generation->samples * sizeof(*first));
        CHECK(first != NULL);
        group->first_capacity = generation->samples;
    }
    *group = (struct group){.generation = generation,
                            .use = scheduler->current,
                            .table = {.pages = group->table.pages},
                            .sample_pages = sample_pages,
                            .prompt_count = P,
                            .samples = generation->samples,
                            .first = first,
                            .first_capacity = group->first_capacity};
    CHECK(kv_table_open(scheduler->cache, &group->table, kv_pages_for(P)));
    CHECK(kv_table_open(scheduler->cache, &group->hold, sample_pages));
    group->use->groups++;
    *scheduler->active_end = group;
    scheduler->active_end = &group->next;
    scheduler->unstarted += group->samples;
    return true;
}

// start puts the group's next sample into a free slot; false when its pages are not available.
static bool start(struct scheduler *scheduler, struct group *group)
{
    struct slot *slot = scheduler->free_slots;
    kv_table_close(scheduler->cache, &group->hold);
    if (!kv_table_open(scheduler->cache, &slot->table, group->sample_pages)) {
        return false;
    }
    scheduler->free_slots = slot->next;
    scheduler->free_slot_count--;
    scheduler->unstarted--;
    int32_t to = 0, from = 0;
    if (kv_table_fork(scheduler->cache, &slot->table, &group->table, group->prompt_count, &to,
                      &from)) {
        kv_page_copy(scheduler->memory, to, from);
    }
    int32_t sample = group->started++;
    slot->group = group;
    slot->computed = group->prompt_count;
    slot->prev = NULL;
    slot->next = group->slots;
    if (slot->next != NULL) {
        slot->next->prev = slot;
    }
    group->slots = slot;
    group->running++;
    response_begin(&slot->response, group->generation, sample);
    enum finish finish =
        response_push(&slot->response, &scheduler->config.vocabulary, group->first[sample].token,
                      group->first[sample].logprob, group->first_version);
    if (finish != FINISH_NOT_YET) {
        slot_finish(scheduler, slot, finish);
    }
    return true;
}

static void start_samples(struct scheduler *scheduler)
{
    struct group *next = NULL;
    for (struct group *group = scheduler->active; group != NULL && scheduler->free_slots != NULL;
         group = next) {
        next = group->next; // the group may end here
        const int32_t ready = group->computed == group->prompt_count ? group->samples : 0;
        int32_t to_start = ready - group->started;
        while (to_start > 0 && scheduler->free_slots != NULL && start(scheduler, group)) {
            to_start--;
        }
    }
}

// draw_first gives every sample that has not begun its first token: they all follow the same row.
static void draw_first(struct scheduler *scheduler, struct group *group, const float *logits)
{
    const struct generation *generation = group->generation;
    group->first_version = group->use->version;
    for (int32_t i = group->started; i < group->samples; i++) {
        int32_t token =
            sampler_draw(scheduler->sampler, logits, &generation->sampling, generation->seed,
                         (uint32_t)(generation->first + i), (uint32_t)group->prompt_count);
        group->first[i] = (struct first){.token = token,
                                         .logprob = logprob_of(logits, scheduler->shape.V, token)};
        scheduler->stats.sampled++;
    }
    // After a swap with re-prefill the running samples wait for their prompt's half-filled page.
    for (struct slot *slot = group->slots; slot != NULL; slot = slot->next) {
        int32_t full = group->prompt_count / KV_PAGE_TOKENS;
        if (group->prompt_count % KV_PAGE_TOKENS != 0) {
            kv_page_copy(scheduler->memory, slot->table.pages[full], group->table.pages[full]);
        }
    }
}

static void on_logits(void *context, int32_t row, float *logits)
{
    struct scheduler *scheduler = context;
    const struct row_owner *owner = &scheduler->owners[row];
    if (owner->slot == NULL) {
        draw_first(scheduler, owner->group, logits);
        return;
    }
    struct slot *slot = owner->slot;
    const struct generation *generation = owner->group->generation;
    uint32_t position = (uint32_t)(owner->group->prompt_count + slot->response.count);
    int32_t token = sampler_draw(scheduler->sampler, logits, &generation->sampling,
                                 generation->seed, slot->response.sample, position);
    float logprob = logprob_of(logits, scheduler->shape.V, token);
    scheduler->stats.sampled++;
    slot->finish = response_push(&slot->response, &scheduler->config.vocabulary, token, logprob,
                                 owner->group->use->version);
    if (slot->finish != FINISH_NOT_YET) {
        scheduler->finished[scheduler->finished_count++] = slot;
    }
}

// add_rows appends the next tokens of a prompt (slot NULL) or of a running sample.
static int32_t add_rows(struct scheduler *scheduler, int32_t count, struct group *group,
                        struct slot *slot)
{
    struct kv_table *table = slot == NULL ? &group->table : &slot->table;
    int32_t *computed = slot == NULL ? &group->computed : &slot->computed;
    const int32_t base = slot == NULL ? 0 : group->prompt_count;
    const int32_t *tokens = slot == NULL ? group->generation->prompt : slot->response.tokens;
    const int32_t end = slot == NULL ? group->prompt_count : base + slot->response.count;
    int32_t n = end - *computed;
    n = n < scheduler->config.call_rows - count ? n : scheduler->config.call_rows - count;
    if (n == 0) {
        return count;
    }
    kv_table_reach(scheduler->cache, table, *computed + n - 1);
    for (int32_t i = 0; i < n; i++) {
        int32_t position = *computed + i;
        scheduler->rows[count + i] = (struct decode_row){.token = tokens[position - base],
                                                         .position = position,
                                                         .pages = table->pages,
                                                         .wants_logits = position + 1 == end};
        scheduler->owners[count + i] = (struct row_owner){.group = group, .slot = slot};
    }
    *computed += n;
    scheduler->stats.prefilled += slot == NULL ? (uint64_t)n : 0;
    return count + n;
}

static bool run_call(struct scheduler *scheduler, const struct use *use)
{
    int32_t count = 0;
    for (struct group *group = scheduler->active; group != NULL; group = group->next) {
        bool runs = group->use == use && group->computed == group->prompt_count;
        for (struct slot *slot = runs ? group->slots : NULL; slot != NULL; slot = slot->next) {
            count = add_rows(scheduler, count, group, slot);
        }
    }
    for (struct group *group = scheduler->active; group != NULL; group = group->next) {
        if (group->use == use && group->computed < group->prompt_count) {
            count = add_rows(scheduler, count, group, NULL);
        }
    }
    if (count == 0) {
        return false;
    }
    scheduler->finished_count = 0;
    decode_run(scheduler->decode, use->model, scheduler->memory, scheduler->rows, count, on_logits,
               scheduler);
    scheduler->stats.calls++;
    scheduler->stats.rows += (uint64_t)count;
    for (int32_t i = 0; i < scheduler->finished_count; i++) {
        slot_finish(scheduler, scheduler->finished[i], scheduler->finished[i]->finish);
    }
    return true;
}

bool scheduler_step(struct scheduler *scheduler)
{
    start_samples(scheduler);
    // Prompts are computed ahead, so that a slot that falls free finds a sample to take.
    while (scheduler->unstarted < scheduler->free_slot_count + scheduler->config.slots / 4 + 1 &&
           admit(scheduler)) {
    }
    bool ran = false;
    for (int i = 0; i < MODELS; i++) {
        ran |= scheduler->uses[i].groups > 0 && run_call(scheduler, &scheduler->uses[i]);
    }
    return ran || scheduler->active != NULL;
}

void scheduler_set_model(struct scheduler *scheduler, const struct model *model, uint64_t version)
{
    CHECK(model->shape.V == scheduler->shape.V && model->shape.T == scheduler->shape.T);
    struct use *use =
        scheduler->current == &scheduler->uses[0] ? &scheduler->uses[1] : &scheduler->uses[0];
    CHECK(use->groups == 0);
    *use = (struct use){.model = model, .version = version};
    scheduler->current = use;
    if (scheduler->config.swap == SWAP_PINNED) {
        return;
    }
    for (struct group *group = scheduler->active; group != NULL; group = group->next) {
        group->use->groups--;
        group->use = use;
        use->groups++;
        if (scheduler->config.swap == SWAP_REPREFILL) {
            group->computed = 0;
            for (struct slot *slot = group->slots; slot != NULL; slot = slot->next) {
                slot->computed = group->prompt_count;
            }
        }
    }
}

bool scheduler_uses(const struct scheduler *scheduler, const struct model *model)
{
    bool used = scheduler->current->model == model;
    for (int i = 0; i < MODELS; i++) {
        used |= scheduler->uses[i].model == model && scheduler->uses[i].groups > 0;
    }
    return used;
}

void scheduler_cancel(struct scheduler *scheduler)
{
    while (scheduler->active != NULL) {
        struct group *group = scheduler->active;
        struct generation *generation = group->generation;
        int32_t started = group->started, samples = group->samples;
        scheduler->unstarted -= samples - started;
        // All samples count as started, so that the group ends with its last running one.
        group->started = samples;
        if (group->running == 0) {
            group_close(scheduler, group);
        }
        for (int32_t i = started; i < samples; i++) {
            scheduler->config.on_complete(
                scheduler->config.context,
                completion_create(generation, i, FINISH_CANCELLED, "cancelled"));
        }
        while (scheduler->active == group && group->slots != NULL) {
            slot_finish(scheduler, group->slots, FINISH_CANCELLED);
        }
    }
    while (scheduler->waiting != NULL) {
        refuse(scheduler, waiting_pop(scheduler), 0, FINISH_CANCELLED, "cancelled");
    }
}

struct scheduler_stats scheduler_stats(const struct scheduler *scheduler)
{
    struct scheduler_stats stats = scheduler->stats;
    stats.running = scheduler->config.slots - scheduler->free_slot_count;
    stats.waiting = scheduler->unstarted + scheduler->waiting_count;
    stats.pages_used = scheduler->config.page_count - kv_cache_available(scheduler->cache);
    return stats;
}
