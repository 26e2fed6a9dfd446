// kelvin logprobs: what a model gives each token of a text, by the code that samples and trains.
//
// Lines are read in windows; the sequences of a window are spread over threads and written in the
// order of the lines. A sequence runs through the actor's decoder, whose results equal the
// learner's.
#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/parallel.h"
#include "common/model/decode.h"
#include "common/text/tokenizer.h"
#include "deploy/cli/cli.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS_MAX = 128, WINDOW_LINES = 64 };

struct options {
    const char *model;
    enum compute compute;
    int threads;
};

// struct sequence is one line: its ids, and what the model gives them.
struct sequence {
    struct token_list ids;
    float *logprob; // [count - 1]
    size_t line;
    int code;
    struct error err;
};

// struct worker is one thread's workspace; its cache grows with the longest sequence it met.
struct worker {
    struct decode *decode;
    struct kv_memory *memory;
    int32_t page_count;
    int32_t *pages;
};

struct scorer {
    const char *dir;
    struct model *model;
    struct tokenizer *tokenizer; // NULL until a line holds text
    size_t lines;                // read so far
    struct worker workers[PARALLEL_THREADS_MAX];
    struct sequence window[WINDOW_LINES];
};

static void print_help(void)
{
    (void)puts(
        "Usage: kelvin logprobs --model DIR [--compute auto|f32|bf16|bf16-amx] [--threads N] < "
        "LINES\n\n"
        "Reads a line {\"text\": \"...\"} or {\"ids\": [...]} per sequence (other members are "
        "left\n"
        "unread) and writes a line\n"
        "{\"ids\": [n ids], \"logprobs\": [n-1 numbers]}: the natural logarithm of the "
        "probability\n"
        "that the model gives ids[i+1] after ids[0..i]. Weights are used at the precision that\n"
        "the files store. No token is added at the beginning.\n\n"
        "  --model DIR     a model folder: config.json, tokenizer.json, model.safetensors\n"
        "  --compute TYPE  f32, bf16, bf16-amx, or auto: the fastest one of this host (auto)\n"
        "  --threads N     sequences computed at once; default: the processors of this host\n\n"
        "A line that cannot be computed ends the command with exit code 2; the lines before it "
        "are\n"
        "written.");
}

static int parse_threads(int *threads, const char *text, struct error *err)
{
    char *end = NULL;
    long number = strtol(text, &end, 10);
    if (end == text || *end != '\0' || number < 1 || number > PARALLEL_THREADS_MAX) {
        return error_set(err, -EINVAL, "--threads is \"%.40s\"; it must be 1 to %d", text,
                         PARALLEL_THREADS_MAX);
    }
    *threads = (int)number;
    return 0;
}

static int parse_options(struct options *options, int argc, char **argv, struct error *err)
{
    int code = 0;
    for (int i = 1; code == 0 && i < argc; i += 2) {
        const char *value = argv[i + 1]; // NULL behind the last word
        if (value != NULL && strcmp(argv[i], "--model") == 0) {
            options->model = value;
        } else if (value != NULL && strcmp(argv[i], "--compute") == 0) {
            code = cli_compute(&options->compute, value, err);
        } else if (value != NULL && strcmp(argv[i], "--threads") == 0) {
            code = parse_threads(&options->threads, value, err);
        } else {
            code = error_set(err, -EINVAL,
                             "\"%.80s\" is not understood or lacks its value; see --help", argv[i]);
        }
    }
    if (code == 0 && options->model == NULL) {
        code = error_set(err, -EINVAL, "--model DIR is missing; see --help");
    }
    return code;
}

static void scorer_close(struct scorer *scorer)
{
    for (int i = 0; i < PARALLEL_THREADS_MAX; i++) {
        decode_destroy(scorer->workers[i].decode);
        kv_memory_destroy(scorer->workers[i].memory);
        free(scorer->workers[i].pages);
    }
    model_destroy(scorer->model);
    tokenizer_destroy(scorer->tokenizer);
}

// worker_fit makes the workspace large enough for `count` tokens.
static int worker_fit(struct worker *worker, const struct model *model, size_t count,
                      struct error *err)
{
    int32_t wanted = (int32_t)((count + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS);
    int code = worker->decode == NULL ? decode_create(&worker->decode, model, ROWS_MAX, err) : 0;
    if (code < 0 || wanted <= worker->page_count) {
        return code;
    }
    kv_memory_destroy(worker->memory);
    free(worker->pages);
    worker->memory = NULL;
    worker->page_count = 0;
    worker->pages = calloc((size_t)wanted, sizeof(*worker->pages));
    if (worker->pages == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    for (int32_t i = 0; i < wanted; i++) {
        worker->pages[i] = i;
    }
    code = kv_memory_create(&worker->memory, model, wanted, err);
    worker->page_count = code == 0 ? wanted : 0;
    return code;
}

// struct target is where the results of one call to the decoder go.
struct target {
    struct sequence *sequence;
    size_t from; // position of row 0
    int32_t V;
};

static void on_logits(void *context, int32_t row, float *logits)
{
    const struct target *target = context;
    size_t position = target->from + (size_t)row;
    target->sequence->logprob[position] =
        logprob_of(logits, target->V, target->sequence->ids.ids[position + 1]);
}

static void score_sequence(void *context, int index, int worker_index)
{
    struct scorer *scorer = context;
    struct sequence *sequence = &scorer->window[index];
    struct worker *worker = &scorer->workers[worker_index];
    const size_t given = sequence->ids.count - 1; // the last token is only predicted
    sequence->logprob = calloc(given + 1, sizeof(*sequence->logprob));
    if (sequence->logprob == NULL) {
        sequence->code = error_set(&sequence->err, -ENOMEM, "out of memory");
        return;
    }
    sequence->code = worker_fit(worker, scorer->model, given, &sequence->err);
    struct target target = {.sequence = sequence, .V = scorer->model->shape.V};
    struct decode_row rows[ROWS_MAX];
    while (sequence->code == 0 && target.from < given) {
        size_t left = given - target.from;
        int32_t count = left < ROWS_MAX ? (int32_t)left : ROWS_MAX;
        for (int32_t i = 0; i < count; i++) {
            rows[i] = (struct decode_row){.token = sequence->ids.ids[target.from + (size_t)i],
                                          .position = (int32_t)target.from + i,
                                          .pages = worker->pages,
                                          .wants_logits = true};
        }
        decode_run(worker->decode, scorer->model, worker->memory, rows, count, on_logits, &target);
        target.from += (size_t)count;
    }
    for (size_t i = 0; sequence->code == 0 && i < given; i++) {
        if (!isfinite(sequence->logprob[i])) {
            sequence->code = error_set(&sequence->err, -ERANGE,
                                       "the model gives no finite number for token %zu", i + 1);
        }
    }
}

static int read_ids(struct token_list *list, const json_t *array, struct error *err)
{
    list->count = json_array_size(array);
    list->ids = calloc(list->count + 1, sizeof(*list->ids));
    if (list->ids == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    for (size_t i = 0; i < list->count; i++) {
        const json_t *id = json_array_get(array, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) > INT32_MAX) {
            return error_set(err, -EINVAL, "item %zu of \"ids\" is not an id", i);
        }
        list->ids[i] = (int32_t)json_integer_value(id);
    }
    return 0;
}

static int check_ids(const struct token_list *list, const struct shape *shape, struct error *err)
{
    if (list->count == 0) {
        return error_set(err, -EINVAL, "the sequence is empty; it needs at least one token");
    }
    if (list->count > (size_t)shape->T) {
        return error_set(err, -EINVAL, "the sequence has %zu tokens; the model has %d positions",
                         list->count, shape->T);
    }
    for (size_t i = 0; i < list->count; i++) {
        if (list->ids[i] >= shape->V) {
            return error_set(err, -EINVAL, "id %d is outside the model's vocabulary of %d",
                             list->ids[i], shape->V);
        }
    }
    return 0;
}

// encode_text opens the tokenizer at the first text: lines of ids do not need one.
static int encode_text(struct scorer *scorer, struct token_list *list, const json_t *string,
                       struct error *err)
{
    int code = 0;
    if (scorer->tokenizer == NULL) {
        char path[4096];
        int length = snprintf(path, sizeof(path), "%s/tokenizer.json", scorer->dir);
        code = length < 0 || (size_t)length >= sizeof(path)
                   ? error_set(err, -ENAMETOOLONG, "the name of the model folder is too long")
                   : tokenizer_create(&scorer->tokenizer, path, err);
    }
    return code < 0 ? code
                    : tokenizer_encode(scorer->tokenizer, list, json_string_value(string),
                                       json_string_length(string), true, err);
}

static int read_line(struct scorer *scorer, struct sequence *sequence, const char *text,
                     size_t size)
{
    struct error *err = &sequence->err;
    CLEANUP(json_decrefp) json_t *line = NULL;
    int code = json_parse(&line, text, size, "the text", err);
    if (code < 0) {
        return code;
    }
    const json_t *string = json_object_get(line, "text");
    const json_t *array = json_object_get(line, "ids");
    if (!(json_is_string(string) && array == NULL) && !(json_is_array(array) && string == NULL)) {
        return error_set(err, -EINVAL, "not {\"text\": \"...\"} or {\"ids\": [...]}");
    }
    code = string == NULL ? read_ids(&sequence->ids, array, err)
                          : encode_text(scorer, &sequence->ids, string, err);
    return code < 0 ? code : check_ids(&sequence->ids, &scorer->model->shape, err);
}

static void print_sequence(const struct sequence *sequence)
{
    (void)fputs("{\"ids\":", stdout);
    for (size_t i = 0; i < sequence->ids.count; i++) {
        (void)printf(i == 0 ? "[%d" : ",%d", sequence->ids.ids[i]);
    }
    (void)fputs("],\"logprobs\":[", stdout);
    for (size_t i = 0; i + 1 < sequence->ids.count; i++) {
        (void)printf(i == 0 ? "%.9g" : ",%.9g", (double)sequence->logprob[i]);
    }
    (void)fputs("]}\n", stdout);
}

// read_window reads the next lines, up to the first that is bad, whose error it returns. *count of
// them can be computed, and are also when a later one is bad.
static int read_window(struct scorer *scorer, int *count, struct error *err)
{
    CLEANUP(freep) char *text = NULL;
    size_t capacity = 0;
    for (*count = 0; *count < WINDOW_LINES; ++*count) {
        struct sequence *sequence = &scorer->window[*count];
        ssize_t size = getline(&text, &capacity, stdin);
        if (size < 0) {
            return 0;
        }
        sequence->line = ++scorer->lines;
        int code = read_line(scorer, sequence, text, (size_t)size);
        if (code < 0) {
            return error_set(err, code, "standard input, line %zu: %s", sequence->line,
                             sequence->err.text);
        }
    }
    return 0;
}

// score_window computes and writes `count` sequences, up to the first that fails.
static int score_window(struct scorer *scorer, int threads, int count, struct error *err)
{
    parallel_run(threads < count ? threads : count, count, score_sequence, scorer);
    for (int i = 0; i < count; i++) {
        const struct sequence *sequence = &scorer->window[i];
        if (sequence->code < 0) {
            return error_set(err, sequence->code, "standard input, line %zu: %s", sequence->line,
                             sequence->err.text);
        }
        print_sequence(sequence);
    }
    return 0;
}

static void window_clear(struct scorer *scorer)
{
    for (int i = 0; i < WINDOW_LINES; i++) {
        free(scorer->window[i].ids.ids);
        free(scorer->window[i].logprob);
    }
    memset(scorer->window, 0, sizeof(scorer->window));
}

static int score_lines(struct scorer *scorer, int threads, struct error *err)
{
    int code = 0;
    for (int count = WINDOW_LINES; code == 0 && count == WINDOW_LINES;) {
        struct error unread = {0};
        int read = read_window(scorer, &count, &unread);
        code = count == 0 ? 0 : score_window(scorer, threads, count, err);
        if (code == 0 && read < 0) {
            code = error_set(err, read, "%s", unread.text);
        }
        window_clear(scorer);
    }
    return code;
}

int command_logprobs(int argc, char **argv)
{
    if (cli_wants_help(argc, argv)) {
        print_help();
        return 0;
    }
    struct options options = {.compute = COMPUTE_AUTO, .threads = parallel_cores()};
    struct error err = {0};
    CLEANUP(freep) struct scorer *scorer = calloc(1, sizeof(*scorer));
    CHECK(scorer != NULL);
    int code = parse_options(&options, argc, argv, &err);
    scorer->dir = options.model;
    code = code == 0 ? model_load(&scorer->model, scorer->dir, options.compute, &err) : code;
    code = code == 0 ? score_lines(scorer, options.threads, &err) : code;
    scorer_close(scorer);
    if (fflush(stdout) != 0 && code == 0) {
        code = error_set(&err, -EIO, "cannot write to standard output");
    }
    return code == 0 ? 0 : cli_fail(argv[0], "%s", err.text);
}
