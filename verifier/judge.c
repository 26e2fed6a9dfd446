// The runs of a check, one after another, the caches, and the interface. What the runs mean is in
// judge_results.c.
#include "verifier/judge_state.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/base/metrics.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// clang-format off
#define VERDICTS(name_) {.name = "kelvin_verifier_verdicts_total{outcome=\"" name_ "\"}", \
                         .help = "verdicts, also those from the cache", .type = METRIC_COUNTER}
static struct metric verdicts_total[OUTCOMES] = {
    [OUTCOME_OK] = VERDICTS("ok"),
    [OUTCOME_WRONG] = VERDICTS("wrong"),
    [OUTCOME_SYNTAX_ERROR] = VERDICTS("syntax-error"),
    [OUTCOME_FORBIDDEN] = VERDICTS("forbidden"),
    [OUTCOME_RAISED] = VERDICTS("raised"),
    [OUTCOME_TIMEOUT] = VERDICTS("timeout"),
    [OUTCOME_OUT_OF_MEMORY] = VERDICTS("out-of-memory"),
    [OUTCOME_OUTPUT_TOO_LARGE] = VERDICTS("output-too-large"),
    [OUTCOME_NONDETERMINISTIC] = VERDICTS("nondeterministic"),
    [OUTCOME_UNSUPPORTED_VALUE] = VERDICTS("unsupported-value"),
    [OUTCOME_CRASHED] = VERDICTS("crashed"),
    [OUTCOME_MALFORMED] = VERDICTS("malformed"),
    [OUTCOME_INFRASTRUCTURE] = VERDICTS("infrastructure"),
    [OUTCOME_COPIED] = VERDICTS("copied"),
};
// clang-format on
METRIC(verdict_hits, METRIC_COUNTER, "kelvin_verifier_cache_hits_total{cache=\"verdicts\"}",
       "found in a cache");
METRIC(program_hits, METRIC_COUNTER, "kelvin_verifier_cache_hits_total{cache=\"programs\"}",
       "found in a cache");
METRIC(verdict_misses, METRIC_COUNTER, "kelvin_verifier_cache_misses_total{cache=\"verdicts\"}",
       "not found in a cache");
METRIC(program_misses, METRIC_COUNTER, "kelvin_verifier_cache_misses_total{cache=\"programs\"}",
       "not found in a cache");

// --- verdicts ---

// What a cache may keep: outcomes that another try would give again.
static bool is_lasting(enum outcome outcome)
{
    return outcome != OUTCOME_TIMEOUT && outcome != OUTCOME_OUT_OF_MEMORY &&
           outcome != OUTCOME_CRASHED && outcome != OUTCOME_INFRASTRUCTURE;
}

static void keep_verdict(struct check *check, const Kelvin__Verdict *verdict)
{
    struct judge *judge = check->judge;
    if (judge->verdicts == NULL || !is_lasting(check->outcome)) {
        return;
    }
    size_t size = kelvin__verdict__get_packed_size(verdict);
    CLEANUP(freep) uint8_t *packed = malloc(size + 1);
    if (packed != NULL) {
        (void)kelvin__verdict__pack(verdict, packed);
        cache_put(judge->verdicts, &check->verdict_key, packed, size);
    }
}

static void free_check(struct check *check)
{
    *check->link = check->next;
    if (check->next != NULL) {
        check->next->link = check->link;
    }
    check->judge->stats.open--;
    for (int i = 0; check->pairs != NULL && i < check->parts.input_count; i++) {
        bytes_finish(&check->pairs[i].canonical);
        free(check->pairs[i].repr);
    }
    free(check->pairs);
    judge_parts_finish(&check->parts);
    bytes_finish(&check->code);
    free(check->normalized);
    free(check->renamed);
    free(check);
}

static void finish(struct check *check)
{
    Kelvin__Verdict verdict = KELVIN__VERDICT__INIT;
    Kelvin__SourceFacts facts = KELVIN__SOURCE_FACTS__INIT;
    CLEANUP(freep) char **outputs = calloc((size_t)check->parts.input_count + 1, sizeof(*outputs));
    CHECK(outputs != NULL);
    judge_fill_verdict(check, &verdict, outputs);
    if (check->has_facts) {
        judge_fill_facts(&facts, &check->facts);
        verdict.facts = &facts;
    }
    check->judge->stats.verdicts[check->outcome]++;
    metric_add(&verdicts_total[check->outcome], 1);
    keep_verdict(check, &verdict);
    check->done(check->context, check->tag, &verdict);
    free_check(check);
}

// --- programs ---

// A cached program: outcome (0 = compiled), then detail or normalized text, then code.
static void keep_program(struct check *check, const struct image_result *result)
{
    struct cache *programs = check->judge->programs;
    if (programs == NULL ||
        (!result->has_program && result->outcome != OUTCOME_SYNTAX_ERROR &&
         result->outcome != OUTCOME_FORBIDDEN && result->outcome != OUTCOME_MALFORMED)) {
        return;
    }
    CLEANUP(bytes_finish) struct bytes packed = {0};
    enum outcome outcome = result->has_program ? OUTCOME_OK : result->outcome;
    const char *text = !result->has_program         ? result->detail
                       : result->normalized != NULL ? result->normalized
                                                    : "";
    bytes_append_u32(&packed, outcome);
    bytes_append_u32(&packed, (uint32_t)strlen(text));
    bytes_append(&packed, text, strlen(text));
    bytes_append(&packed, result->code, result->code_size);
    if (!packed.failed) {
        cache_put(programs, &check->program_key, packed.data, packed.size);
    }
}

// True when the cache knew the program.
static bool take_cached_program(struct check *check)
{
    size_t size = 0;
    struct cache *programs = check->judge->programs;
    const uint8_t *packed =
        programs == NULL ? NULL : cache_find(programs, &check->program_key, &size);
    if (programs != NULL) {
        metric_add(packed != NULL ? &program_hits : &program_misses, 1);
    }
    if (packed == NULL) {
        return false;
    }
    enum outcome outcome = (enum outcome)bytes_get_u32(packed);
    uint32_t text_size = bytes_get_u32(packed + 4);
    const char *text = (const char *)packed + 8;
    if (outcome != OUTCOME_OK) {
        char detail[256];
        (void)snprintf(detail, sizeof(detail), "%.*s", (int)text_size, text);
        judge_settle(check, outcome, detail);
        return true;
    }
    check->normalized = text_size > 0 ? strndup(text, text_size) : NULL;
    bytes_append(&check->code, packed + 8 + text_size, size - 8 - text_size);
    return true;
}

static void take_program(struct check *check, const struct image_result *result)
{
    keep_program(check, result);
    if (result->has_program) {
        check->normalized = result->normalized == NULL ? NULL : strdup(result->normalized);
        bytes_append(&check->code, result->code, result->code_size);
    }
}

// --- runs ---

static void go_on(struct check *check);

// What the last run saw in the text. Facts that did not come change no verdict.
static void take_look(struct check *check, const struct image_result *result)
{
    if (check->parts.check == CHECK_RENAME) {
        if (result->outcome == OUTCOME_OK) {
            check->renamed = strdup(result->repr);
            judge_settle(check, OUTCOME_OK, "");
        } else {
            judge_settle_failed_run(check, result);
        }
        return;
    }
    check->has_facts = result->outcome == OUTCOME_OK && result->value_size == sizeof(check->facts);
    if (check->has_facts) {
        memcpy(&check->facts, result->value, sizeof(check->facts));
    }
}

static void on_run_done(struct pool_run *run, int variant, const struct image_result *result)
{
    struct flight *flight = run->context;
    struct check *check = flight->check;
    bool compiled = run->job.source_size > 0;
    flight->busy = false;
    check->in_flight--;
    check->wall_us += result->wall_us;
    check->cpu_us += result->cpu_us;
    if (check->first_variant < 0) {
        check->first_variant = variant;
    }
    if (compiled && check->code.size == 0) {
        take_program(check, result);
    }
    if ((run->job.flags & (IMAGE_DESCRIBE | IMAGE_RENAME)) != 0) {
        take_look(check, result);
        go_on(check);
        return;
    }
    bool syntax_only = (run->job.flags & IMAGE_COMPILE_ONLY) != 0;
    if (syntax_only && result->outcome == OUTCOME_OK) {
        judge_settle(check, OUTCOME_MALFORMED, "the input is not an argument list of literals");
    } else if (!check->settled) {
        judge_take_result(check, flight->input, variant, result);
    }
    go_on(check);
}

static uint32_t flags_of(const struct check *check)
{
    const struct judge_parts *parts = &check->parts;
    uint32_t flags = IMAGE_WANT_CODE;
    if (parts->check == CHECK_VALIDATE) {
        flags |= IMAGE_ENTRY | IMAGE_FILTER;
        flags |= check->judge->config.multiple_functions ? 0u : (uint32_t)IMAGE_ONE_FUNCTION;
        flags |= parts->bad_input >= 0 ? (uint32_t)IMAGE_COMPILE_ONLY : 0u;
        flags |= parts->strip ? (uint32_t)IMAGE_STRIP : 0u;
        flags |= (uint32_t)parts->helpers * IMAGE_HELPERS;
    } else if (parts->check == CHECK_JUDGE && parts->kind == KIND_INDUCTION) {
        flags |= IMAGE_ENTRY;
    } else if (parts->check == CHECK_RUN) {
        flags |= IMAGE_NO_VALUE;
    }
    return flags;
}

// The variant of the j-th image of an input: the first is whichever was free, the others are the
// lowest of the rest, so that variant 0 is always among them.
static int variant_of(const struct check *check, int image)
{
    if (image == 0) {
        return check->images == 1 ? POOL_ANY_VARIANT : check->first_variant;
    }
    return image - 1 < check->first_variant ? image - 1 : image;
}

static void start_run(struct check *check, struct flight *flight, int number)
{
    const struct judge_parts *parts = &check->parts;
    flight->check = check;
    flight->busy = true;
    flight->input = number / check->images;
    bool bytecode = check->code.size > 0;
    const struct bytes *arguments = &parts->arguments[flight->input];
    flight->run = (struct pool_run){
        .job = {.flags = flags_of(check),
                .timeout_ms = check->timeout_ms,
                .cpu_ms = check->cpu_ms,
                .memory_mb = check->memory_mb,
                .output_max = check->output_max,
                .source = bytecode ? NULL : parts->program,
                .source_size = bytecode ? 0 : strlen(parts->program),
                .code = check->code.data,
                .code_size = bytecode ? check->code.size : 0,
                .arguments = arguments->data,
                .arguments_size = arguments->size},
        .variant = number == 0 ? POOL_ANY_VARIANT : variant_of(check, number % check->images),
        .deadline_ns = check->deadline_ns,
        .done = on_run_done,
        .context = flight,
    };
    check->in_flight++;
    pool_submit(check->judge->pool, &flight->run);
}

// The last run: it looks at the text as it will be stored.
static void start_look(struct check *check)
{
    const struct judge_parts *parts = &check->parts;
    struct flight *flight = &check->flights[0];
    const char *text = check->normalized != NULL ? check->normalized : parts->program;
    check->looked = true;
    flight->check = check;
    flight->busy = true;
    flight->input = 0;
    flight->run = (struct pool_run){
        .job = {.flags = parts->check == CHECK_RENAME ? IMAGE_RENAME : IMAGE_DESCRIBE,
                .timeout_ms = check->timeout_ms,
                .output_max = PROGRAM_BYTES_MAX,
                .source = text,
                .source_size = strlen(text),
                .arguments = parts->last.data,
                .arguments_size = parts->last.size},
        .variant = POOL_ANY_VARIANT,
        .deadline_ns = check->deadline_ns,
        .done = on_run_done,
        .context = flight,
    };
    check->in_flight++;
    pool_submit(check->judge->pool, &flight->run);
}

static bool wants_look(const struct check *check)
{
    bool valid = check->settled && check->outcome == OUTCOME_OK;
    return !check->looked && ((check->parts.describe && valid) ||
                              (check->parts.check == CHECK_RENAME && !check->settled));
}

// The next runs, or the end. The first run goes alone: it brings the code for the others.
static void go_on(struct check *check)
{
    int total = check->parts.input_count * check->images;
    while (!check->settled && check->next_run < total) {
        bool alone = check->next_run == 1 && check->in_flight > 0;
        struct flight *flight = NULL;
        for (int i = 0; i < FLIGHT_MAX && !alone; i++) {
            flight = check->flights[i].busy ? flight : &check->flights[i];
        }
        if (flight == NULL) {
            return;
        }
        start_run(check, flight, check->next_run++);
    }
    if (check->in_flight > 0) {
        return;
    }
    if (!check->settled && check->parts.check != CHECK_RENAME) {
        judge_conclude(check);
    }
    if (wants_look(check)) {
        start_look(check);
        return;
    }
    finish(check);
}

// --- the interface ---

int judge_create(struct judge **out, struct pool *pool, const struct judge_config *config,
                 struct error *err)
{
    CHECK(config->images >= 2 && config->images <= VERIFY_IMAGES_MAX);
    CHECK(config->images_risky >= config->images && config->images_risky <= VERIFY_IMAGES_MAX);
    struct judge *judge = calloc(1, sizeof(*judge));
    if (judge == NULL) {
        return error_set(err, -ENOMEM, "judge: out of memory");
    }
    judge->pool = pool;
    judge->config = *config;
    int code =
        config->cache_bytes == 0 ? 0 : cache_create(&judge->programs, config->cache_bytes, err);
    if (code == 0 && config->cache_bytes > 0) {
        code = cache_create(&judge->verdicts, config->cache_bytes, err);
    }
    if (code < 0) {
        judge_destroy(judge);
        return code;
    }
    *out = judge;
    return 0;
}

void judge_destroy(struct judge *judge)
{
    if (judge == NULL) {
        return;
    }
    while (judge->open != NULL) {
        free_check(judge->open);
    }
    cache_destroy(judge->programs);
    cache_destroy(judge->verdicts);
    free(judge);
}

static struct check *open_check(struct judge *judge)
{
    struct check *check = calloc(1, sizeof(*check));
    CHECK(check != NULL);
    check->judge = judge;
    check->next = judge->open;
    check->link = &judge->open;
    if (check->next != NULL) {
        check->next->link = &check->next;
    }
    judge->open = check;
    judge->stats.open++;
    return check;
}

// Everything of the request but its id and attempt decides the verdict.
static struct cache_key request_key(const Kelvin__VerifyRequest *request)
{
    Kelvin__VerifyRequest plain = *request;
    plain.id = 0;
    plain.attempt = 0;
    size_t size = kelvin__verify_request__get_packed_size(&plain);
    CLEANUP(freep) uint8_t *packed = malloc(size + 1);
    CHECK(packed != NULL);
    (void)kelvin__verify_request__pack(&plain, packed);
    const void *parts[] = {packed};
    return cache_key_of(parts, &size, 1);
}

// True when the verdict was known and has been given.
static bool answer_from_cache(struct judge *judge, const Kelvin__VerifyRequest *request,
                              const struct cache_key *key, judge_done_fn *done, void *context,
                              uint64_t tag)
{
    size_t size = 0;
    const uint8_t *packed =
        judge->verdicts == NULL ? NULL : cache_find(judge->verdicts, key, &size);
    if (judge->verdicts != NULL) {
        metric_add(packed != NULL ? &verdict_hits : &verdict_misses, 1);
    }
    Kelvin__Verdict *verdict = packed == NULL ? NULL : kelvin__verdict__unpack(NULL, size, packed);
    if (verdict == NULL) {
        return false;
    }
    verdict->id = request->id;
    judge->stats.verdicts[verdict->outcome]++;
    metric_add(&verdicts_total[verdict->outcome], 1);
    done(context, tag, verdict);
    kelvin__verdict__free_unpacked(verdict, NULL);
    return true;
}

static void begin(struct check *check)
{
    struct judge_parts *parts = &check->parts;
    if (parts->check == CHECK_JUDGE && parts->kind == KIND_DEDUCTION) {
        judge_deduction(check);
        finish(check);
        return;
    }
    if (parts->check == CHECK_JUDGE && parts->kind == KIND_ERROR) {
        judge_error(check);
        finish(check);
        return;
    }
    bool validates = parts->check == CHECK_VALIDATE;
    if (!validates && parts->bad_input >= 0) {
        judge_settle(check, OUTCOME_MALFORMED, "not an argument list of literals");
        finish(check);
        return;
    }
    const struct judge_config *config = &check->judge->config;
    check->images = !validates                          ? 1
                    : judge_looks_risky(parts->program) ? config->images_risky
                                                        : config->images;
    check->pairs = calloc((size_t)parts->input_count + 1, sizeof(*check->pairs));
    CHECK(check->pairs != NULL);
    uint32_t flags = flags_of(check) & ~(uint32_t)IMAGE_COMPILE_ONLY;
    const void *key_parts[] = {&flags, parts->program};
    size_t key_sizes[] = {sizeof(flags), strlen(parts->program)};
    check->program_key = cache_key_of(key_parts, key_sizes, 2);
    if (take_cached_program(check) && parts->bad_input >= 0) {
        judge_settle(check, OUTCOME_MALFORMED, "the input is not an argument list of literals");
    }
    go_on(check);
}

void judge_submit(struct judge *judge, const Kelvin__VerifyRequest *request, judge_done_fn *done,
                  void *context, uint64_t tag)
{
    struct cache_key key = {{0}};
    if (judge->verdicts != NULL) {
        key = request_key(request);
        if (answer_from_cache(judge, request, &key, done, context, tag)) {
            return;
        }
    }
    struct check *check = open_check(judge);
    check->verdict_key = key;
    check->done = done;
    check->context = context;
    check->tag = tag;
    check->id = request->id;
    check->first_variant = -1;
    check->images = 1;
    uint32_t timeout_ms = request->timeout_ms == 0 ? judge->config.timeout_ms : request->timeout_ms;
    check->timeout_ms =
        timeout_ms < VERIFY_TIMEOUT_MS_MAX ? timeout_ms : (uint32_t)VERIFY_TIMEOUT_MS_MAX;
    check->deadline_ns = clock_ns() + (uint64_t)check->timeout_ms * 1000000;
    check->cpu_ms = request->cpu_ms;
    check->memory_mb = request->memory_mb;
    uint32_t output_max =
        request->check == KELVIN__CHECK__RUN ? RUN_OUTPUT_BYTES_MAX : OUTPUT_BYTES_MAX;
    bool less = request->output_bytes > 0 && request->output_bytes < output_max;
    check->output_max = less ? request->output_bytes : output_max;
    check->is_fraction = strcmp(request->fraction_mode, "fraction") == 0;
    check->is_any = strcmp(request->fraction_mode, "any") == 0;
    struct error err = {0};
    int code = judge_parts_read(&check->parts, request, &err);
    if (code < 0) {
        judge_settle(check,
                     code == -ENOMEM   ? OUTCOME_INFRASTRUCTURE
                     : code == -EEXIST ? OUTCOME_COPIED
                                       : OUTCOME_MALFORMED,
                     err.text);
        finish(check);
        return;
    }
    begin(check);
}

struct judge_stats judge_stats(const struct judge *judge)
{
    struct judge_stats stats = judge->stats;
    if (judge->programs != NULL) {
        stats.programs = cache_stats(judge->programs);
        stats.verdict_cache = cache_stats(judge->verdicts);
    }
    return stats;
}
