// kelvin bench verifier: the verifier's rates and latencies, by its own code in this process.
#include "common/base/cleanup.h"
#include "deploy/cli/bench.h"
#include "deploy/cli/cli.h"
#include "verifier/bench.h"

#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORDS_MAX = 64, SECONDS_MAX = 3600 };

static const char help[] =
    "usage: kelvin bench verifier [--file tasks.jsonl] [--workers N] [--backend NAME]\n"
    "                             [--seconds S] [key=value...]\n"
    "\n"
    "Plays a workload through the sandbox, without caches, and prints one JSON object: runs a\n"
    "second from source and from bytecode, checks a second by as many interpreters as\n"
    "verifier.images says, latency with one in flight, and memory.\n"
    "\n"
    "  --file FILE     JSON lines: requests as `kelvin verify` reads them, or seed tasks with\n"
    "                  snippet and input or inputs. Programs that do not end with a value here\n"
    "                  (they import what the sandbox lacks, say) are skipped and counted.\n"
    "                  Without it: a small workload that is built in\n"
    "  --workers N     sandboxes that run at once; default: one per core\n"
    "  --backend NAME  auto, rewind, zygote\n"
    "  --seconds S     of each of the five measurements; default 3\n"
    "  key=value       verifier.* as in `kelvin-verifier --help`\n";

struct command {
    struct bench_config bench;
    char *words[WORDS_MAX];
    int word_count;
    char owned[WORDS_MAX][96];
};

static int add_word(struct command *command, const char *key, const char *value)
{
    if (command->word_count == WORDS_MAX) {
        return -1;
    }
    char *word = command->owned[command->word_count];
    command->words[command->word_count++] = word;
    return snprintf(word, sizeof(command->owned[0]), "%s%s", key, value) <
                   (int)sizeof(command->owned[0])
               ? 0
               : -1;
}

static bool is_option(const char *word)
{
    static const char *const options[] = {"--file", "--workers", "--backend", "--seconds"};
    for (size_t i = 0; i < sizeof(options) / sizeof(*options); i++) {
        if (strcmp(word, options[i]) == 0) {
            return true;
        }
    }
    return false;
}

static bool read_seconds(double *out, const char *text)
{
    char *end = NULL;
    *out = strtod(text, &end);
    return end != text && *end == '\0' && *out > 0.0 && *out <= SECONDS_MAX;
}

static int parse(struct command *command, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        bool option = is_option(word);
        if (option && i + 1 == argc) {
            return cli_fail(argv[0], "%s needs a value", word);
        }
        const char *value = option ? argv[++i] : word;
        int code = 0;
        if (strcmp(word, "--file") == 0) {
            command->bench.file = value;
        } else if (strcmp(word, "--workers") == 0) {
            code = add_word(command, "verifier.workers=", value);
        } else if (strcmp(word, "--backend") == 0) {
            code = add_word(command, "verifier.backend=", value);
        } else if (strcmp(word, "--seconds") == 0) {
            if (!read_seconds(&command->bench.seconds, value)) {
                return cli_fail(argv[0], "--seconds: \"%s\" is no number above 0 and up to %d",
                                value, SECONDS_MAX);
            }
        } else if (strchr(word, '=') != NULL) {
            code = add_word(command, "", word);
        } else {
            return cli_fail(argv[0], "unknown option %s; see --help", word);
        }
        if (code < 0) {
            return cli_fail(argv[0], "%s: its value is too long", word);
        }
    }
    return 0;
}

static json_t *latency(const struct bench_latency *latency)
{
    return json_pack("{s:f,s:f,s:f}", "p50_ms", latency->p50_ms, "p99_ms", latency->p99_ms,
                     "max_ms", latency->max_ms);
}

static int print(const struct bench_result *result, const struct run_config *config)
{
    double memory_mb = result->images_mb + result->daemon_mb;
    CLEANUP(json_decrefp)
    json_t *object = json_pack(
        "{s:s,s:s,s:i,s:I,s:I,s:I,s:I,s:f,s:f,s:f,s:f,s:o,s:o,s:f,s:f,s:I,s:I,s:I,s:{s:f,s:f,s:f}}",
        "bench", "verifier", "engine", result->engine, "workers", result->workers, "requests",
        (json_int_t)result->requests, "programs", (json_int_t)result->programs, "skipped",
        (json_int_t)result->skipped, "images_per_check", (json_int_t)config->verifier.images,
        "start_s", result->start_s, "runs_per_s", result->runs_per_s, "code_runs_per_s",
        result->code_runs_per_s, "checks_per_s", result->checks_per_s, "run_latency",
        latency(&result->run), "check_latency", latency(&result->check), "image_cpu_us",
        result->image_cpu_us, "daemon_cpu_us", result->daemon_cpu_us, "runs",
        (json_int_t)result->runs, "images", (json_int_t)result->images, "images_lost",
        (json_int_t)result->images_lost, "memory_mb", "total", memory_mb, "daemon",
        result->daemon_mb, "per_image",
        result->images > 0 ? memory_mb / (double)result->images : 0.0);
    bool good = object != NULL &&
                json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6)) == 0 &&
                fputc('\n', stdout) != EOF && fflush(stdout) == 0;
    return good ? 0 : 1;
}

int bench_verifier(int argc, char **argv)
{
    static struct command command;
    static struct run_config config;
    struct error err = {0};
    struct bench_result result;
    if (cli_wants_help(argc, argv)) {
        (void)fputs(help, stdout);
        return 0;
    }
    command.bench = (struct bench_config){.seconds = 3.0, .run = &config};
    // Helpers are admitted, and every program is checked by the same number of interpreters.
    (void)add_word(&command, "verifier.multiple_functions=", "true");
    (void)add_word(&command, "verifier.images_risky=", "2");
    int code = parse(&command, argc, argv);
    if (code != 0) {
        return code;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    if (run_config_read(&config, NULL, command.words, command.word_count, &err) < 0 ||
        bench_run(&result, &command.bench, &err) < 0) {
        return cli_fail(argv[0], "%s", err.text);
    }
    return print(&result, &config);
}
