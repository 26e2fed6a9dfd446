// kelvin-verifier: options, parts, loop.
#include "common/base/log.h"
#include "common/base/run_config.h"
#include "common/wire/http.h"
#include "verifier/lines.h"
#include "verifier/privileges.h"
#include "verifier/server.h"
#include "verifier/service.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
#include <uv.h>
#include <zmq.h>

enum {
    EXIT_BAD_INPUT = 2,   // configuration, host or stream; the line before says which
    EXIT_BY_SIGNAL = 128, // plus its number, as shells say it
    WORDS_MAX = 256,
    OPEN_PER_WORKER = 16, // requests in work, so that no sandbox waits for the wire
};

static const char help[] =
    "usage: kelvin-verifier --config FILE [OPTION…] [key=value…]\n"
    "       kelvin-verifier --stdin [OPTION…] [key=value…] < tasks.jsonl > verdicts.jsonl\n"
    "       kelvin verify [OPTION…] [key=value…]   the same as kelvin-verifier --stdin\n"
    "\n"
    "Runs model-written Python in sandboxes and judges it. With --config it takes requests from "
    "the\n"
    "run's learner at `endpoint`; with --stdin it reads JSON lines and writes one verdict line "
    "each:\n"
    "  {\"id\":…,\"kind\":\"validate\",\"program\":…,\"input\":…}            or \"inputs\":[…]\n"
    "  {\"id\":…,\"kind\":\"deduction\",\"gold\":…,\"answer\":…}\n"
    "  {\"id\":…,\"kind\":\"abduction\",\"program\":…,\"gold\":…,\"answer\":…}\n"
    "  {\"id\":…,\"kind\":\"induction\",\"answer\":PROGRAM,\"inputs\":[…],\"outputs\":[…]}\n"
    "  {\"id\":…,\"kind\":\"error\",\"gold\":…,\"answer\":…}\n"
    "  {\"id\":…,\"kind\":\"run\",\"program\":…,\"input\":…}\n"
    "each with optional \"timeout_ms\", \"cpu_ms\", \"memory_mb\", \"output_bytes\" of one run;\n"
    "induction with an optional \"score\": binary, fraction or any. Other keys are ignored.\n"
    "A verdict line has id, verdict, and where they exist output or outputs (repr text), program,\n"
    "exception, score, detail, wall_us, cpu_us. Every request line gets one verdict line as soon "
    "as\n"
    "it is known, not in the order of the requests: give each an id. A line that is no request is\n"
    "malformed, and its detail has the line's number.\n"
    "\n"
    "  --workers N        sandboxes that run at once           (verifier.workers)\n"
    "  --backend NAME     auto, rewind, zygote                 (verifier.backend)\n"
    "  --isolation NAME   least that is accepted: strict, namespaces, process\n"
    "  --timeout-ms N     wall time of one run                 (verifier.timeout_ms)\n"
    "  --memory-mb N      memory of one run                    (verifier.memory_mb)\n"
    "  --images K         interpreters that must agree         (verifier.images)\n"
    "  --no-cache         judge every request anew\n"
    "  --help             this, and all keys\n"
    "\n"
    "Verdicts: ok wrong syntax-error forbidden raised timeout out-of-memory output-too-large\n"
    "nondeterministic unsupported-value crashed malformed infrastructure copied\n"
    "\n"
    "exit code: 0 when every line has its verdict; 2 for a bad option, configuration, host or\n"
    "stream (a sentence on standard error says which); 130 or 143 when --stdin was interrupted by\n"
    "SIGINT or SIGTERM.\n"
    "\n"
    "Started as root it listens, makes a control group for its sandboxes and becomes user 65534, "
    "as\n"
    "whom they run too. It keeps no capability; only a daemon whose endpoint is a socket in the "
    "file\n"
    "system (ipc://) keeps CAP_DAC_OVERRIDE, for the thread that connects to it. Where that user\n"
    "would have a weaker isolation or back-end than root, it stays root and the log says why.\n"
    "Started as an ordinary user it stays that user; strict isolation then takes control groups "
    "that\n"
    "are delegated to it.\n"
    "\n"
    "keys:\n";

// What the command line says.
struct command {
    const char *config_path;
    bool from_stdin;
    bool no_cache;
    char *words[WORDS_MAX]; // key=value, in the order given
    int word_count;
    char owned[WORDS_MAX][128]; // words made of options
};

struct verifier {
    struct http *http;
    uv_loop_t loop;
    uv_signal_t signals[2];
    struct command command;
    struct run_config config;
    struct service service;
    struct lines *lines;   // with --stdin
    struct server *server; // else
    void *zmq;
    int exit_code;
    bool leaving;
    bool stopping;
};

static int add_word(struct command *command, const char *key, const char *value)
{
    if (command->word_count == WORDS_MAX) {
        return -E2BIG;
    }
    char *word = command->owned[command->word_count];
    int size = snprintf(word, sizeof(command->owned[0]), "%s=%s", key, value);
    command->words[command->word_count++] = word;
    return size < (int)sizeof(command->owned[0]) ? 0 : -ENAMETOOLONG;
}

static const char *key_of_option(const char *option)
{
    static const char *const keys[][2] = {
        {"--workers", "verifier.workers"},     {"--backend", "verifier.backend"},
        {"--isolation", "verifier.isolation"}, {"--timeout-ms", "verifier.timeout_ms"},
        {"--memory-mb", "verifier.memory_mb"}, {"--images", "verifier.images"},
    };
    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
        if (strcmp(option, keys[i][0]) == 0) {
            return keys[i][1];
        }
    }
    return NULL;
}

static int parse_word(struct command *command, int argc, char **argv, int *at, struct error *err)
{
    char *word = argv[*at];
    const char *key = key_of_option(word);
    bool takes_value = key != NULL || strcmp(word, "--config") == 0;
    if (takes_value && *at + 1 == argc) {
        return error_set(err, -EINVAL, "%s needs a value", word);
    }
    if (key != NULL) {
        return add_word(command, key, argv[++*at]) < 0
                   ? error_set(err, -EINVAL, "the value of %s is too long", word)
                   : 0;
    }
    if (strcmp(word, "--config") == 0) {
        command->config_path = argv[++*at];
    } else if (strcmp(word, "--stdin") == 0) {
        command->from_stdin = true;
    } else if (strcmp(word, "--no-cache") == 0) {
        command->no_cache = true;
    } else if (strchr(word, '=') != NULL && command->word_count < WORDS_MAX) {
        command->words[command->word_count++] = word;
    } else {
        return error_set(err, -EINVAL, "unknown option %s; see --help", word);
    }
    return 0;
}

static int parse_command(struct command *command, int argc, char **argv, struct error *err)
{
    for (int i = 1; i < argc; i++) {
        int code = parse_word(command, argc, argv, &i, err);
        if (code < 0) {
            return code;
        }
    }
    if (!command->from_stdin && command->config_path == NULL) {
        return error_set(err, -EINVAL, "--config FILE or --stdin is needed; see --help");
    }
    return 0;
}

// As a tool of its own it takes programs with helpers, unless a file or a word says otherwise.
static int read_config(struct verifier *verifier, struct error *err)
{
    struct command *command = &verifier->command;
    char *words[WORDS_MAX + 1];
    int count = 0;
    char helpers[] = "verifier.multiple_functions=true";
    if (command->from_stdin && command->config_path == NULL) {
        words[count++] = helpers;
    }
    for (int i = 0; i < command->word_count; i++) {
        words[count++] = command->words[i];
    }
    return run_config_read(&verifier->config, command->config_path, words, count, err);
}

// --- the parts ---

static void stop(struct verifier *verifier, int exit_code)
{
    if (verifier->stopping) {
        return;
    }
    verifier->stopping = true;
    verifier->exit_code = exit_code;
    http_close(verifier->http);
    lines_close(verifier->lines);
    server_close(verifier->server);
    service_close(&verifier->service);
    for (int i = 0; i < 2; i++) {
        uv_close((uv_handle_t *)&verifier->signals[i], NULL);
    }
}

// The first signal says goodbye to the learner, so that its leases go back at once; a second one
// stops.
static void on_signal(uv_signal_t *signal, int number)
{
    struct verifier *verifier = signal->data;
    if (verifier->server != NULL && !verifier->leaving) {
        verifier->leaving = true;
        server_leave(verifier->server, "stopped by a signal");
    } else {
        stop(verifier, verifier->command.from_stdin ? EXIT_BY_SIGNAL + number : 0);
    }
}

static void on_server_end(void *context, int code, const char *sentence)
{
    if (code < 0) {
        (void)fprintf(stderr, "kelvin-verifier: %s\n", sentence);
    }
    stop(context, code < 0 ? EXIT_BAD_INPUT : 0);
}

static void on_lines_end(void *context, int code, const struct error *err)
{
    if (code < 0) {
        (void)fprintf(stderr, "kelvin-verifier: %s\n", err->text);
    }
    stop(context, code < 0 ? EXIT_BAD_INPUT : 0);
}

static int open_lines(struct verifier *verifier, struct error *err)
{
    struct lines_config config = {.input = STDIN_FILENO,
                                  .output = STDOUT_FILENO,
                                  .open_max = verifier->service.workers * OPEN_PER_WORKER};
    return lines_open(&verifier->lines, &verifier->loop, verifier->service.judge, &config,
                      on_lines_end, verifier, err);
}

static int open_server(struct verifier *verifier, struct error *err)
{
    const struct server_config config = {
        .endpoint = verifier->config.endpoint,
        .engine = verifier->service.description,
        .capacity = (uint32_t)(verifier->service.workers * OPEN_PER_WORKER),
        .connect_timeout_ms = (uint32_t)(verifier->config.connect_timeout_s * 1000)};
    return server_open(&verifier->server, &verifier->loop, verifier->zmq, verifier->service.judge,
                       &config, on_server_end, verifier, err);
}

static void on_ready(void *context, const struct error *failure)
{
    struct verifier *verifier = context;
    if (failure != NULL) {
        (void)fprintf(stderr, "kelvin-verifier: %s\n", failure->text);
        stop(verifier, EXIT_BAD_INPUT);
        return;
    }
    struct error err = {0};
    log_info("verifier", "ready: %s%s", verifier->service.description,
             geteuid() == 0 ? ", as root, sandboxes as user 65534" : "");
    if ((verifier->command.from_stdin ? open_lines : open_server)(verifier, &err) < 0) {
        (void)fprintf(stderr, "kelvin-verifier: %s\n", err.text);
        stop(verifier, EXIT_BAD_INPUT);
    }
}

// A learner's socket may lie where only root comes in, and its connection is made anew whenever the
// learner is: 0MQ's threads, which do that, are started with the right to it, and this one goes on
// without.
static int drop_privileges(struct verifier *verifier, struct error *err)
{
    bool in_files = !verifier->command.from_stdin &&
                    strncmp(verifier->config.endpoint, "ipc://", strlen("ipc://")) == 0;
    enum privilege kept = in_files ? PRIVILEGE_FILES : PRIVILEGE_NONE;
    int code = privileges_drop(kept, err);
    if (code <= 0) {
        return code;
    }
    void *first = in_files ? zmq_socket(verifier->zmq, ZMQ_PAIR) : NULL; // starts the threads
    if (in_files && first == NULL) {
        return error_set(err, -zmq_errno(), "0MQ: %s", zmq_strerror(zmq_errno()));
    }
    if (in_files) {
        (void)zmq_close(first);
    }
    privileges_rest(kept);
    return 0;
}

static int open_parts(struct verifier *verifier, struct error *err)
{
    static const int numbers[] = {SIGTERM, SIGINT};
    verifier->zmq = zmq_ctx_new();
    int code = verifier->zmq == NULL ? -ENOMEM : uv_loop_init(&verifier->loop);
    if (code < 0) {
        return error_set(err, code, "cannot make an event loop: %s", uv_strerror(code));
    }
    for (int i = 0; i < 2; i++) {
        (void)uv_signal_init(&verifier->loop, &verifier->signals[i]);
        verifier->signals[i].data = verifier;
        (void)uv_signal_start(&verifier->signals[i], on_signal, numbers[i]);
    }
    code = http_create(&verifier->http, &verifier->loop, verifier->config.verifier.http, err);
    code = code < 0 ? code : drop_privileges(verifier, err);
    code = code < 0 ? code
                    : service_open(&verifier->service, &verifier->loop, &verifier->config,
                                   !verifier->command.no_cache, on_ready, verifier, err);
    if (code < 0) {
        stop(verifier, EXIT_BAD_INPUT);
    }
    return code;
}

// A standard stream that was closed would give its number to the next descriptor that is opened.
static int check_streams(bool from_stdin, struct error *err)
{
    static const char *const names[] = {"input", "output", "error"};
    bool closed[3] = {false};
    for (int i = 0; i < 3; i++) {
        closed[i] = fcntl(i, F_GETFD) < 0;
        if (closed[i] && open("/dev/null", O_RDWR) != i) { // takes the lowest number that is free
            return error_set(err, -EBADF, "standard %s is closed", names[i]);
        }
    }
    for (int i = 0; i < 2 && from_stdin; i++) {
        if (closed[i]) {
            return error_set(err, -EBADF, "standard %s is closed", names[i]);
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    static struct verifier verifier;
    struct error err = {0};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            (void)fputs(help, stdout);
            config_help(&run_options, stdout);
            return 0;
        }
    }
    (void)signal(SIGPIPE, SIG_IGN);
    int code = parse_command(&verifier.command, argc, argv, &err);
    code = code < 0 ? code : check_streams(verifier.command.from_stdin, &err);
    code = code < 0 ? code : read_config(&verifier, &err);
    if (code == 0 && !verifier.command.from_stdin) {
        code = run_config_endpoints(&verifier.config, &err);
    }
    if (code < 0) {
        (void)fprintf(stderr, "kelvin-verifier: %s\n", err.text);
        return EXIT_BAD_INPUT;
    }
    code = open_parts(&verifier, &err);
    if (code < 0) {
        (void)fprintf(stderr, "kelvin-verifier: %s\n", err.text);
    }
    (void)uv_run(&verifier.loop, UV_RUN_DEFAULT);
    (void)uv_loop_close(&verifier.loop);
    (void)zmq_ctx_term(verifier.zmq);
    return verifier.exit_code;
}
