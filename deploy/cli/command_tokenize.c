// kelvin tokenize: text to ids and back, a line at a time, by the code that training uses.
#include "common/base/cleanup.h"
#include "common/base/json.h"
#include "common/text/tokenizer.h"
#include "common/text/utf8.h"
#include "deploy/cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

CLEANUP_FUNCTION(struct tokenizer, tokenizer_destroy)

struct options {
    const char *model;
    bool decode;
    bool specials;
};

static void print_help(void)
{
    (void)puts(
        "Usage: kelvin tokenize --model DIR [--decode] [--no-specials] < LINES\n\n"
        "Reads a JSON string per line and writes its ids as a JSON array per line, by the\n"
        "tokenizer.json in DIR. No token is added at the beginning.\n\n"
        "  --model DIR     a model folder\n"
        "  --decode        the other way: a JSON array of ids per line becomes a JSON string;\n"
        "                  bytes that are no UTF-8, which a JSON string cannot hold, become\n"
        "                  U+FFFD\n"
        "  --no-specials   special tokens in a text are plain text\n\n"
        "A line that cannot be read ends the command with exit code 2; the lines before it are\n"
        "written.");
}

static int parse_options(struct options *options, int argc, char **argv, struct error *err)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--decode") == 0) {
            options->decode = true;
        } else if (strcmp(argv[i], "--no-specials") == 0) {
            options->specials = false;
        } else if (strcmp(argv[i], "--model") == 0 && i + 1 < argc) {
            options->model = argv[++i];
        } else {
            return error_set(err, -EINVAL, "\"%s\" is not understood; see kelvin tokenize --help",
                             argv[i]);
        }
    }
    return options->model != NULL ? 0
                                  : error_set(err, -EINVAL, "--model DIR is missing; see --help");
}

static int encode_line(const struct tokenizer *tokenizer, const json_t *line, bool specials,
                       struct error *err)
{
    if (!json_is_string(line)) {
        return error_set(err, -EINVAL, "not a JSON string");
    }
    struct token_list list = {0};
    int code = tokenizer_encode(tokenizer, &list, json_string_value(line), json_string_length(line),
                                specials, err);
    if (code == 0) {
        (void)fputc('[', stdout);
        for (size_t i = 0; i < list.count; i++) {
            (void)printf(i == 0 ? "%d" : ",%d", list.ids[i]);
        }
        (void)fputs("]\n", stdout);
    }
    free(list.ids);
    return code;
}

static int read_ids(int32_t *ids, const json_t *line, struct error *err)
{
    for (size_t i = 0; i < json_array_size(line); i++) {
        const json_t *id = json_array_get(line, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) > INT32_MAX) {
            return error_set(err, -EINVAL, "item %zu is not an id", i);
        }
        ids[i] = (int32_t)json_integer_value(id);
    }
    return 0;
}

static int decode_line(const struct tokenizer *tokenizer, const json_t *line, struct error *err)
{
    if (!json_is_array(line)) {
        return error_set(err, -EINVAL, "not a JSON array of ids");
    }
    size_t count = json_array_size(line);
    CLEANUP(freep) int32_t *ids = calloc(count + 1, sizeof(*ids));
    CLEANUP(freep) char *bytes = NULL;
    CLEANUP(words_finish) struct words text = {0};
    size_t size = 0;
    int code = ids == NULL ? error_set(err, -ENOMEM, "out of memory") : read_ids(ids, line, err);
    code = code == 0 ? tokenizer_decode(tokenizer, &bytes, &size, ids, count, err) : code;
    if (code < 0) {
        return code;
    }
    utf8_add_lossy(&text, bytes, size);
    words_add(&text, "");
    CLEANUP(json_decrefp) json_t *string = text.failed ? NULL : json_stringn(text.text, text.size);
    if (string == NULL || json_dumpf(string, stdout, JSON_ENCODE_ANY | JSON_ENSURE_ASCII) < 0) {
        return error_set(err, -EIO, "cannot write the text");
    }
    (void)fputc('\n', stdout);
    return 0;
}

static int translate_lines(const struct tokenizer *tokenizer, const struct options *options,
                           struct error *err)
{
    CLEANUP(freep) char *text = NULL;
    size_t capacity = 0;
    ssize_t size;
    for (size_t number = 1; (size = getline(&text, &capacity, stdin)) >= 0; number++) {
        CLEANUP(json_decrefp) json_t *line = NULL;
        struct error inner = {0};
        int code = json_parse(&line, text, (size_t)size, "the text", &inner);
        if (code == 0) {
            code = options->decode ? decode_line(tokenizer, line, &inner)
                                   : encode_line(tokenizer, line, options->specials, &inner);
        }
        if (code < 0) {
            return error_set(err, code, "standard input, line %zu: %s", number, inner.text);
        }
    }
    return 0;
}

int command_tokenize(int argc, char **argv)
{
    if (cli_wants_help(argc, argv)) {
        print_help();
        return 0;
    }
    struct options options = {.specials = true};
    CLEANUP(tokenizer_destroyp) struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    char path[4096];
    int code = parse_options(&options, argc, argv, &err);
    if (code == 0 &&
        snprintf(path, sizeof(path), "%s/tokenizer.json", options.model) >= (int)sizeof(path)) {
        code = error_set(&err, -ENAMETOOLONG, "the name of the model folder is too long");
    }
    code = code == 0 ? tokenizer_create(&tokenizer, path, &err) : code;
    code = code == 0 ? translate_lines(tokenizer, &options, &err) : code;
    if (fflush(stdout) != 0 && code == 0) {
        code = error_set(&err, -EIO, "cannot write to standard output");
    }
    return code == 0 ? 0 : cli_fail(argv[0], "%s", err.text);
}
