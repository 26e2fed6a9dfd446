// Plays the attack suite: every entry of the given files, through the judge, against one back-end.
// After each entry a canary task must come out right in every variant, and the host must be as it
// was: the working folder, the shared temporary folders, processes, descriptors, connections.
//
// usage: hostile BACKEND FILE...       exit code 77: this host does not offer the back-end
//
// An entry is a request of `kelvin verify` with a name, a class, the verdicts that are right
// (`wanted`: more than one where back-ends, or the place of a failure, may differ) and, where the
// verdict is ok, the `output` that is right. @PORT@ stands for a port that listens on this host.
#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/json.h"
#include "common/base/task.h"
#include "common/wire/codec.h"
#include "verifier/privileges.h"
#include "verifier/request_json.h"
#include "verifier/service.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <glob.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    EXIT_NOT_OFFERED = 77,
    PROCESSES_MAX = 64,
    IMAGES_MAX = 16,
    STATE_MAX = 4096,
    PATIENCE_MS = 10000,                   // of entries that are not about time
    IMAGE_DESCRIPTORS_MAX = 3 + 3 + 1 + 2, // standard, pipes, pidfd of a child, . and ..
};

struct suite {
    uv_loop_t loop;
    struct run_config config;
    struct service service;
    struct codec *codec;
    bool ready;
    struct error failure;
    int listener;
    char port[8];
    char folder[STATE_MAX];      // the working folder as it was
    int descriptors[IMAGES_MAX]; // in use with so many images; 0: not known yet
    // the answer
    bool answered;
    enum outcome outcome;
    json_t *outputs;
    struct error unsendable; // why the verdict could not go to a learner
    char detail[512];
    int entries;
    int failures;
};

// --- the host ---

// Names, sizes, times and modes of the working folder.
static void describe_folder(char *out, size_t size)
{
    struct dirent **names = NULL;
    int count = scandir(".", &names, NULL, alphasort);
    size_t used = 0;
    for (int i = 0; i < count; i++) {
        struct stat about = {0};
        if (names[i]->d_name[0] != '.' && lstat(names[i]->d_name, &about) == 0 && used < size) {
            used += (size_t)snprintf(out + used, size - used, "%s %o %lld %lld.%09ld;",
                                     names[i]->d_name, about.st_mode, (long long)about.st_size,
                                     (long long)about.st_mtim.tv_sec, about.st_mtim.tv_nsec);
        }
        free(names[i]);
    }
    free((void *)names);
}

static bool marks_left(void)
{
    glob_t found = {0};
    int code = glob("/tmp/kelvin-hostile-mark*", 0, NULL, &found);
    code &= glob("/dev/shm/kelvin-hostile-mark*", GLOB_APPEND, NULL, &found);
    globfree(&found);
    return code == 0;
}

static pid_t parent_of(const char *pid)
{
    char path[300];
    char text[512] = "";
    int parent = 0;
    (void)snprintf(path, sizeof(path), "/proc/%s/stat", pid);
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        return 0;
    }
    size_t size = fread(text, 1, sizeof(text) - 1, file);
    (void)fclose(file);
    const char *name_end = size == 0 ? NULL : strrchr(text, ')');
    if (name_end != NULL) {
        parent = (int)strtol(name_end + 4, NULL, 10); // ") S PARENT"
    }
    return parent;
}

struct process {
    pid_t pid;
    int generation; // 0: this process; 1: an image; 2: the child in which a zygote runs a program
    int children;
};

static int index_of(const struct process *family, int count, pid_t pid)
{
    for (int i = 0; i < count; i++) {
        if (family[i].pid == pid) {
            return i;
        }
    }
    return -1;
}

// This process and all that descend from it, at most PROCESSES_MAX.
static int find_family(struct process *family)
{
    int count = 1;
    family[0] = (struct process){.pid = getpid()};
    for (int before = 0; before != count;) {
        before = count;
        DIR *proc = opendir("/proc");
        CHECK(proc != NULL);
        for (struct dirent *entry; (entry = readdir(proc)) != NULL;) {
            pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
            int parent = pid > 0 ? index_of(family, count, parent_of(entry->d_name)) : -1;
            if (parent >= 0 && index_of(family, count, pid) < 0 && count < PROCESSES_MAX) {
                family[parent].children++;
                family[count++] =
                    (struct process){.pid = pid, .generation = family[parent].generation + 1};
            }
        }
        (void)closedir(proc);
    }
    return count;
}

// Open descriptors of a process; 0 where the host does not tell.
static int descriptors_of(pid_t pid)
{
    char path[64];
    int count = 0;
    (void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    DIR *folder = opendir(path);
    while (folder != NULL && readdir(folder) != NULL) {
        count++;
    }
    if (folder != NULL) {
        (void)closedir(folder);
    }
    return count;
}

// An image has at most the child that waits for the next program, and that has none.
static const char *process_change(struct suite *suite)
{
    static char words[128];
    struct process family[PROCESSES_MAX];
    int count = find_family(family);
    int images = pool_stats(suite->service.pool).images;
    CHECK(images < IMAGES_MAX);
    if (family[0].children != images) {
        (void)snprintf(words, sizeof(words), "%d processes for %d images", family[0].children,
                       images);
        return words;
    }
    for (int i = 1; i < count; i++) {
        bool too_many = family[i].children > (family[i].generation == 1);
        if (too_many || descriptors_of(family[i].pid) > IMAGE_DESCRIPTORS_MAX) {
            return "a sandbox has a process or a descriptor too many";
        }
    }
    int descriptors = descriptors_of(getpid());
    int *before = &suite->descriptors[images];
    if (*before != 0 && *before != descriptors) {
        (void)snprintf(words, sizeof(words), "%d descriptors instead of %d", descriptors, *before);
        return words;
    }
    *before = descriptors;
    return NULL;
}

// What an entry changed on the host, or NULL.
static const char *host_change(struct suite *suite)
{
    static char now[STATE_MAX];
    describe_folder(now, sizeof(now));
    if (strcmp(now, suite->folder) != 0) {
        return "the working folder has changed";
    }
    if (marks_left()) {
        return "a file was written outside";
    }
    int peer = accept(suite->listener, NULL, NULL);
    if (peer >= 0) {
        (void)close(peer);
        return "a connection was made";
    }
    return process_change(suite);
}

static void prepare_host(struct suite *suite)
{
    char folder[] = "/tmp/kelvin-suite-XXXXXX";
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    CHECK(mkdtemp(folder) != NULL && chmod(folder, 0777) == 0 && chdir(folder) == 0);
    FILE *canary = fopen("canary.txt", "w");
    CHECK(canary != NULL && fputs("canary", canary) >= 0 && fclose(canary) == 0);
    CHECK(chmod("canary.txt", 0666) == 0 && setenv("KELVIN_SECRET", "secret", 1) == 0);
    describe_folder(suite->folder, sizeof(suite->folder));
    suite->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK(bind(suite->listener, (struct sockaddr *)&address, size) == 0);
    CHECK(listen(suite->listener, 8) == 0);
    CHECK(getsockname(suite->listener, (struct sockaddr *)&address, &size) == 0);
    (void)snprintf(suite->port, sizeof(suite->port), "%d", (int)ntohs(address.sin_port));
}

static void leave_host(void)
{
    char folder[64];
    if (getcwd(folder, sizeof(folder)) != NULL && unlink("canary.txt") == 0 && chdir("/") == 0) {
        (void)rmdir(folder);
    }
}

// --- one request ---

static void on_ready(void *context, const struct error *failure)
{
    struct suite *suite = context;
    suite->ready = true;
    if (failure != NULL) {
        suite->failure = *failure;
    }
}

static void on_verdict(void *context, uint64_t tag, const Kelvin__Verdict *verdict)
{
    struct suite *suite = context;
    (void)tag;
    suite->answered = true;
    uv_stop(&suite->loop); // a verdict may come from a timer, before a long poll
    suite->outcome = (enum outcome)verdict->outcome;
    (void)snprintf(suite->detail, sizeof(suite->detail), "%s %s", verdict->exception,
                   verdict->detail);
    static char sender[] = "suite";
    Kelvin__Verdict copy = *verdict;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    struct zframe packed;
    envelope.sender = sender;
    envelope.body_case = KELVIN__ENVELOPE__BODY_VERDICT;
    envelope.verdict = &copy;
    (void)codec_encode(suite->codec, &packed, &envelope, &suite->unsendable);
    for (size_t i = 0; i < verdict->n_outputs; i++) {
        (void)json_array_append_new(suite->outputs, json_string(verdict->outputs[i]));
    }
}

static void ask(struct suite *suite, const json_t *entry)
{
    struct error err = {0};
    Kelvin__VerifyRequest request;
    suite->answered = false;
    suite->unsendable.text[0] = '\0';
    (void)json_array_clear(suite->outputs);
    if (request_from_json(&request, entry, &err) < 0) {
        suite->outcome = OUTCOME_MALFORMED; // as the front of JSON lines says it
        (void)snprintf(suite->detail, sizeof(suite->detail), "%s", err.text);
        request_finish(&request);
        return;
    }
    judge_submit(suite->service.judge, &request, on_verdict, suite, 0);
    request_finish(&request);
    while (!suite->answered) {
        (void)uv_run(&suite->loop, UV_RUN_ONCE);
    }
}

// Every variant takes part: the text looks risky.
static bool canary_sings(struct suite *suite)
{
    static const char output[] = "[[1, 2, 3], 4.0, 'ABC', '16', True, {'a': 1}]";
    CLEANUP(json_decrefp)
    json_t *canary =
        json_pack("{s:s,s:s,s:s}", "kind", "validate", "input", "16", "program",
                  "import math, json\n"
                  "def f(x):\n"
                  "    return [sorted(set([3, 1, 2])), math.sqrt(x), 'abc'.upper(), repr(x),\n"
                  "            isinstance(x, int), json.loads(json.dumps(dict(a=len('a'))))]\n");
    ask(suite, canary);
    const char *said = json_string_value(json_array_get(suite->outputs, 0));
    return suite->outcome == OUTCOME_OK && said != NULL && strcmp(said, output) == 0;
}

// --- one entry ---

static bool is_wanted(const json_t *entry, const char *outcome)
{
    size_t i = 0;
    json_t *name = NULL;
    json_array_foreach(json_object_get(entry, "wanted"), i, name)
    {
        if (strcmp(json_string_value(name), outcome) == 0) {
            return true;
        }
    }
    return false;
}

static bool outputs_are_right(const struct suite *suite, const json_t *entry)
{
    const json_t *output = json_object_get(entry, "output");
    if (output == NULL || suite->outcome != OUTCOME_OK) {
        return true;
    }
    return json_is_array(output) ? json_equal(output, suite->outputs) != 0
                                 : json_array_size(suite->outputs) == 1 &&
                                       json_equal(output, json_array_get(suite->outputs, 0)) != 0;
}

static void complete(const struct suite *suite, json_t *entry)
{
    const char *program = json_string_value(json_object_get(entry, "program"));
    const char *mark = program == NULL ? NULL : strstr(program, "@PORT@");
    if (json_object_get(entry, "kind") == NULL) {
        (void)json_object_set_new(entry, "kind", json_string("validate"));
    }
    if (json_object_get(entry, "timeout_ms") == NULL) {
        (void)json_object_set_new(entry, "timeout_ms", json_integer(PATIENCE_MS));
    }
    if (mark != NULL) {
        json_t *text = json_sprintf("%.*s%s%s", (int)(mark - program), program, suite->port,
                                    mark + strlen("@PORT@"));
        (void)json_object_set_new(entry, "program", text);
    }
}

static void complain(struct suite *suite, const json_t *entry, const char *what)
{
    CLEANUP(freep) char *wanted = json_dumps(json_object_get(entry, "wanted"), JSON_COMPACT);
    suite->failures++;
    (void)fprintf(stderr, "%s: %s: %s (wanted %s)\n",
                  json_string_value(json_object_get(entry, "class")),
                  json_string_value(json_object_get(entry, "name")), what, wanted);
}

static void play(struct suite *suite, json_t *entry)
{
    char words[1024];
    suite->entries++;
    complete(suite, entry);
    ask(suite, entry);
    const char *outcome = outcome_name(suite->outcome);
    if (!is_wanted(entry, outcome) || !outputs_are_right(suite, entry)) {
        CLEANUP(freep) char *outputs = json_dumps(suite->outputs, JSON_COMPACT);
        (void)snprintf(words, sizeof(words), "%s %.300s %s", outcome, outputs, suite->detail);
        complain(suite, entry, words);
    }
    if (suite->unsendable.text[0] != '\0') {
        complain(suite, entry, suite->unsendable.text);
    }
    if (!canary_sings(suite)) {
        CLEANUP(freep) char *outputs = json_dumps(suite->outputs, JSON_COMPACT);
        (void)snprintf(words, sizeof(words), "the canary came out wrong: %s %.300s %s",
                       outcome_name(suite->outcome), outputs, suite->detail);
        complain(suite, entry, words);
    }
    const char *change = host_change(suite);
    if (change != NULL) {
        complain(suite, entry, change);
    }
}

static void signal_children(const struct process *family, int count, int number)
{
    for (int i = 0; i < count; i++) {
        if (family[i].generation == 2) {
            (void)kill(family[i].pid, number);
        }
    }
}

// A child of a zygote that is killed before it has read its request leaves it to nobody: here the
// children are held, one request runs out of time, and the canary must not hear of it.
static void play_unread(struct suite *suite)
{
    CLEANUP(json_decrefp)
    json_t *entry =
        json_pack("{s:s,s:s,s:s,s:s,s:s,s:i,s:[s]}", "name", "a request that was never read",
                  "class", "pipe", "kind", "run", "program", "def f(x):\n    return 'stale'",
                  "input", "1", "timeout_ms", 100, "wanted", "timeout");
    struct process family[PROCESSES_MAX];
    for (int i = 0; i < 3; i++) {
        int count = find_family(family);
        signal_children(family, count, SIGSTOP);
        ask(suite, entry);
        bool held = suite->outcome == OUTCOME_TIMEOUT;
        signal_children(family, count, SIGCONT);
        if (!held || !canary_sings(suite)) {
            complain(suite, entry, suite->detail);
        }
    }
}

// Before rights are dropped: the files may lie where only root can read.
static json_t *read_entries(const char *path)
{
    json_t *entries = NULL;
    struct error err = {0};
    if (json_read_file(&entries, path, &err) < 0) {
        (void)fprintf(stderr, "%s\n", err.text);
        exit(2);
    }
    return entries;
}

static void play_entries(struct suite *suite, const json_t *entries)
{
    size_t i = 0;
    json_t *entry = NULL;
    json_array_foreach(entries, i, entry)
    {
        play(suite, entry);
    }
}

// --- the whole ---

// False when the host does not offer the back-end.
static bool open_suite(struct suite *suite, const char *backend)
{
    char words[5][64] = {"", "verifier.isolation=process", "verifier.workers=1",
                         "verifier.memory_mb=64", "verifier.multiple_functions=true"};
    char *pointers[] = {words[0], words[1], words[2], words[3], words[4]};
    (void)snprintf(words[0], sizeof(words[0]), "verifier.backend=%s", backend);
    CHECK(uv_loop_init(&suite->loop) == 0);
    CHECK(run_config_read(&suite->config, NULL, pointers, 5, &suite->failure) == 0);
    suite->outputs = json_array();
    CHECK(codec_create(&suite->codec, &suite->failure) == 0);
    if (service_open(&suite->service, &suite->loop, &suite->config, false, on_ready, suite,
                     &suite->failure) < 0) {
        return false;
    }
    while (!suite->ready) {
        (void)uv_run(&suite->loop, UV_RUN_ONCE);
    }
    return suite->failure.text[0] == '\0';
}

int main(int argc, char **argv)
{
    static struct suite suite;
    json_t *files[16];
    struct error err = {0};
    if (argc < 3 || argc > 16) {
        (void)fprintf(stderr, "usage: hostile BACKEND FILE...\n");
        return 2;
    }
    for (int i = 2; i < argc; i++) {
        files[i] = read_entries(argv[i]);
    }
    if (privileges_drop(PRIVILEGE_NONE, &err) < 0) { // as the daemon does
        (void)fprintf(stderr, "%s\n", err.text);
        return 2;
    }
    prepare_host(&suite);
    bool offered = open_suite(&suite, argv[1]);
    if (!offered) {
        (void)fprintf(stderr, "%s is not offered here: %s\n", argv[1], suite.failure.text);
    }
    for (int i = 2; i < argc; i++) {
        if (offered) {
            play_entries(&suite, files[i]);
        }
        json_decref(files[i]);
    }
    if (offered && suite.service.backend == BACKEND_ZYGOTE) {
        play_unread(&suite);
    }
    struct pool_stats stats = offered ? pool_stats(suite.service.pool) : (struct pool_stats){0};
    printf("%s: %d entries, %d failures, %llu images lost in %llu runs\n", argv[1], suite.entries,
           suite.failures, (unsigned long long)stats.lost, (unsigned long long)stats.runs);
    service_close(&suite.service);
    (void)uv_run(&suite.loop, UV_RUN_DEFAULT);
    (void)uv_loop_close(&suite.loop);
    json_decref(suite.outputs);
    codec_destroy(suite.codec);
    (void)close(suite.listener);
    leave_host();
    return !offered ? EXIT_NOT_OFFERED : suite.failures > 0;
}
