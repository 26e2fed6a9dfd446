// kelvin bench tokenize: bytes of text that one core turns into ids in a second.
#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/text/tokenizer.h"
#include "deploy/cli/bench.h"
#include "deploy/cli/cli.h"
#include "learner/generator.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

CLEANUP_FUNCTION(struct tokenizer, tokenizer_destroy)

enum { ROUNDS = 5, DEFAULT_BYTES = 4 << 20 };

static const char help[] =
    "usage: kelvin bench tokenize --model DIR [--file FILE]\n"
    "\n"
    "Encodes a text five times on one thread, by the tokenizer.json in DIR, and prints one JSON\n"
    "object; mb_per_s is the median of megabytes (10^6 bytes) per second of processor time.\n"
    "\n"
    "  --model DIR   a model folder\n"
    "  --file FILE   the text, at most 64 MiB; default: 4 MiB of generated Python programs\n";

struct options {
    const char *model;
    const char *file;
};

static int parse(struct options *options, int argc, char **argv)
{
    for (int i = 1; i < argc; i += 2) {
        const char *value = argv[i + 1]; // NULL behind the last word
        if (value != NULL && strcmp(argv[i], "--model") == 0) {
            options->model = value;
        } else if (value != NULL && strcmp(argv[i], "--file") == 0) {
            options->file = value;
        } else {
            return cli_fail(argv[0], "\"%s\" is not understood or lacks its value; see --help",
                            argv[i]);
        }
    }
    return options->model != NULL ? 0 : cli_fail(argv[0], "--model DIR is missing; see --help");
}

static int generate_text(char **out, size_t *size, struct error *err)
{
    static const double lengths[GENERATED_LENGTHS] = {1, 1, 1, 1, 1};
    static struct generated program;
    struct rng rng = {.key = 1};
    char *text = malloc(DEFAULT_BYTES + GENERATED_TEXT_MAX);
    if (text == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    *size = 0;
    while (*size < DEFAULT_BYTES) {
        generate(&program, &rng, lengths, 1, false);
        size_t length = strlen(program.program);
        memcpy(text + *size, program.program, length);
        *size += length;
    }
    *out = text;
    return 0;
}

static double cpu_seconds(void)
{
    struct timespec now;
    CHECK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) == 0);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int by_size(const void *a, const void *b)
{
    const double *left = a, *right = b;
    return *left < *right ? -1 : *left > *right;
}

static int measure(const struct tokenizer *tokenizer, const char *text, size_t size,
                   struct error *err)
{
    struct token_list list = {0};
    double seconds[ROUNDS];
    int code = 0;
    for (int i = -1; code == 0 && i < ROUNDS; i++) { // the first is not counted
        double start = cpu_seconds();
        list.count = 0;
        code = tokenizer_encode(tokenizer, &list, text, size, true, err);
        seconds[i < 0 ? 0 : i] = cpu_seconds() - start;
    }
    free(list.ids);
    if (code < 0) {
        return code;
    }
    qsort(seconds, ROUNDS, sizeof(*seconds), by_size);
    double median = seconds[ROUNDS / 2];
    (void)printf("{\"bench\":\"tokenize\",\"mb_per_s\":%.4g,\"tokens_per_s\":%.4g,"
                 "\"cpu_seconds\":%.4g,\"bytes\":%zu,\"tokens\":%zu}\n",
                 (double)size / median / 1e6, (double)list.count / median, median, size,
                 list.count);
    return 0;
}

int bench_tokenize(int argc, char **argv)
{
    struct options options = {0};
    struct error err = {0};
    CLEANUP(tokenizer_destroyp) struct tokenizer *tokenizer = NULL;
    CLEANUP(freep) char *text = NULL;
    char path[4096];
    size_t size = 0;
    if (cli_wants_help(argc, argv)) {
        (void)fputs(help, stdout);
        return 0;
    }
    int code = parse(&options, argc, argv);
    if (code != 0) {
        return code;
    }
    if (snprintf(path, sizeof(path), "%s/tokenizer.json", options.model) >= (int)sizeof(path)) {
        return cli_fail(argv[0], "the name of the model folder is too long");
    }
    code = tokenizer_create(&tokenizer, path, &err);
    if (code == 0) {
        code = options.file == NULL ? generate_text(&text, &size, &err)
                                    : file_read(&text, &size, options.file, JSON_BYTES_MAX, &err);
    }
    if (code == 0 && size == 0) {
        code = error_set(&err, -EINVAL, "%s is empty", options.file);
    }
    code = code < 0 ? code : measure(tokenizer, text, size, &err);
    return code < 0 ? cli_fail(argv[0], "%s", err.text) : 0;
}
