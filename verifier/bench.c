#include "verifier/bench.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "verifier/literal.h"
#include "verifier/privileges.h"
#include "verifier/protocol.h"
#include "verifier/request_json.h"
#include "verifier/service.h"
#include "verifier/spawn.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    WORKLOAD_BYTES_MAX = 64 << 20,
    REQUESTS_BENCHED_MAX = 1 << 15,
    OPEN_PER_WORKER = 4,    // requests in work, as a front keeps them
    LATENCIES_MAX = 200000, // that are kept for the percentiles
    RUN_TIMEOUT_MS = 2000,
};

// What is built in: small programs as a model writes them.
static const char built_in[] =
    "{\"snippet\":\"def f(a):\\n    return a\",\"input\":\"'Hello world'\"}\n"
    "{\"snippet\":\"def f(numbers: list, target: int):\\n    seen = {}\\n    pairs = []\\n"
    "    for i, n in enumerate(numbers):\\n        if target - n in seen:\\n"
    "            pairs.append((seen[target - n], i))\\n        seen[n] = i\\n"
    "    return pairs\",\"input\":\"[3, 9, 4, 7, 1, 6, 2], 10\"}\n"
    "{\"snippet\":\"def f(text: str):\\n    counts = {}\\n    for word in text.lower().split():\\n"
    "        word = ''.join(c for c in word if c.isalnum())\\n        if word:\\n"
    "            counts[word] = counts.get(word, 0) + 1\\n"
    "    return sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))[:3]\",\"input\":"
    "\"'the cat and the dog, and the bird'\"}\n"
    "{\"snippet\":\"import math\\ndef f(n: int):\\n    primes = []\\n    for k in range(2, n):\\n"
    "        if all(k % p for p in primes if p <= math.isqrt(k)):\\n            primes.append(k)\\n"
    "    return primes\",\"input\":\"60\"}\n"
    "{\"snippet\":\"from collections import deque\\ndef f(grid: list):\\n"
    "    rows, cols = len(grid), len(grid[0])\\n    queue = deque([(0, 0, 0)])\\n"
    "    seen = {(0, 0): 0}\\n    while queue:\\n        r, c, d = queue.popleft()\\n"
    "        for dr, dc in ((0, 1), (1, 0), (0, -1), (-1, 0)):\\n"
    "            y, x = r + dr, c + dc\\n"
    "            if 0 <= y < rows and 0 <= x < cols and not grid[y][x] and (y, x) not in seen:\\n"
    "                seen[y, x] = d + 1\\n                queue.append((y, x, d + 1))\\n"
    "    return seen.get((rows - 1, cols - 1), -1)\",\"input\":"
    "\"[[0, 0, 1], [1, 0, 0], [0, 0, 0]]\"}\n"
    "{\"snippet\":\"def f(matrix):\\n    turned = [list(row) for row in zip(*matrix[::-1])]\\n"
    "    total = sum(turned[i][i] for i in range(len(turned)))\\n    return turned, total\","
    "\"input\":\"[[1, 2, 3], [4, 5, 6], [7, 8, 9]]\"}\n"
    "{\"snippet\":\"import re\\ndef f(s: str):\\n    parts = re.findall('[a-z]+|[0-9]+', s)\\n"
    "    return [int(p) * 2 if p.isdigit() else p[::-1] for p in parts]\",\"input\":"
    "\"'abc12def7gh301'\"}\n"
    "{\"snippet\":\"def f(a: str, b: str):\\n    table = [[0] * (len(b) + 1) for _ in range(len(a) "
    "+ 1)]\\n    for i, x in enumerate(a):\\n        for j, y in enumerate(b):\\n"
    "            table[i + 1][j + 1] = (table[i][j] + 1 if x == y\\n"
    "                                   else max(table[i][j + 1], table[i + 1][j]))\\n"
    "    return table[-1][-1]\",\"input\":\"'interpreter', 'internationale'\"}\n"
    "{\"snippet\":\"class Stack:\\n    def __init__(self):\\n        self.items = []\\n"
    "    def push(self, x):\\n        self.items.append(x)\\n    def pop(self):\\n"
    "        return self.items.pop() if self.items else None\\ndef f(tokens: list):\\n"
    "    stack = Stack()\\n    for t in tokens:\\n        if t in ('+', '*'):\\n"
    "            y, x = stack.pop(), stack.pop()\\n"
    "            stack.push(x + y if t == '+' else x * y)\\n        else:\\n"
    "            stack.push(t)\\n    return stack.pop()\",\"input\":\"[3, 4, '+', 5, '*', 2, "
    "'+']\"}\n"
    "{\"snippet\":\"def f(n: int):\\n    steps = [n]\\n    while n != 1:\\n"
    "        n = n // 2 if n % 2 == 0 else 3 * n + 1\\n        steps.append(n)\\n"
    "    return {'steps': len(steps) - 1, 'peak': max(steps)}\",\"input\":\"27\"}\n";

// One request of the workload, and the run that stands for it where it has a program.
struct item {
    json_t *json; // what the request's texts lie in
    Kelvin__VerifyRequest request;
    char *input[1];
    bool owns_lists;
    const char *program;
    struct bytes arguments;
    struct bytes code;
    bool runs; // it ends with a value
    bool needs_no_run;
};

// Indices of items.
struct set {
    size_t *index;
    size_t count;
};

struct bench {
    uv_loop_t loop;
    struct service service;
    struct item *items;
    size_t count;
    struct set runnable; // those that run
    struct set judged;   // and those that need no run
    bool ready;
    struct error failure;
    double *latencies;
};

// --- the workload ---

// NULL when there are too many.
static struct item *add_item(struct bench *bench, json_t *json, struct error *err)
{
    if (bench->count == REQUESTS_BENCHED_MAX) {
        (void)error_set(err, -EINVAL, "more than %d requests", REQUESTS_BENCHED_MAX);
        return NULL;
    }
    struct item *item = &bench->items[bench->count++];
    item->json = json_incref(json);
    return item;
}

static int add_seed(struct bench *bench, json_t *json, const char *program, struct error *err)
{
    json_t *list = json_object_get(json, "inputs");
    size_t count = json_is_array(list) ? json_array_size(list) : 1;
    for (size_t i = 0; i < count; i++) {
        json_t *input = list == NULL ? json_object_get(json, "input") : json_array_get(list, i);
        if (!json_is_string(input)) {
            return error_set(err, -EINVAL, "\"input\" must be a text, or \"inputs\" a list");
        }
        struct item *item = add_item(bench, json, err);
        if (item == NULL) {
            return -EINVAL;
        }
        kelvin__verify_request__init(&item->request);
        item->request.program = without_const(program);
        item->input[0] = without_const(json_string_value(input));
        item->request.inputs = item->input;
        item->request.n_inputs = 1;
    }
    return 0;
}

static int add_line(struct bench *bench, const char *text, size_t size, struct error *err)
{
    CLEANUP(json_decrefp) json_t *json = NULL;
    const char *program = NULL;
    int code = json_parse(&json, text, size, "the line", err);
    code = code < 0 ? code : json_get_string(&program, json, "snippet", err);
    if (code < 0) {
        return code;
    }
    if (program != NULL) {
        return add_seed(bench, json, program, err);
    }
    struct item *item = add_item(bench, json, err);
    if (item == NULL) {
        return -EINVAL;
    }
    item->owns_lists = true;
    return request_from_json(&item->request, json, err);
}

static int add_lines(struct bench *bench, const char *text, const char *path, struct error *err)
{
    int line = 0;
    for (const char *at = text; *at != '\0';) {
        size_t size = strcspn(at, "\n");
        struct error why = {0};
        line++;
        if (strspn(at, " \t\r") < size && add_line(bench, at, size, &why) < 0) {
            return error_set(err, -EINVAL, "%s: line %d: %.160s", path, line, why.text);
        }
        at += size + (at[size] == '\n');
    }
    return bench->count > 0 ? 0 : error_set(err, -EINVAL, "%s holds no request", path);
}

static int load(struct bench *bench, const char *path, struct error *err)
{
    bench->items = calloc(REQUESTS_BENCHED_MAX, sizeof(*bench->items));
    bench->runnable.index = calloc(REQUESTS_BENCHED_MAX, sizeof(size_t));
    bench->judged.index = calloc(REQUESTS_BENCHED_MAX, sizeof(size_t));
    bench->latencies = calloc(LATENCIES_MAX, sizeof(*bench->latencies));
    if (bench->items == NULL || bench->runnable.index == NULL || bench->judged.index == NULL ||
        bench->latencies == NULL) {
        return error_set(err, -ENOMEM, "bench: out of memory");
    }
    if (path == NULL) {
        return add_lines(bench, built_in, "the built-in workload", err);
    }
    CLEANUP(freep) char *text = NULL;
    size_t size = 0;
    int code = file_read(&text, &size, path, WORKLOAD_BYTES_MAX, err);
    return code < 0 ? code : add_lines(bench, text, path, err);
}

// The program and the first input of a request that runs one.
static void find_run(struct item *item)
{
    const Kelvin__VerifyRequest *request = &item->request;
    bool judged = request->check == KELVIN__CHECK__JUDGE;
    bool induction = judged && request->kind == KELVIN__TASK_KIND__INDUCTION;
    bool abduction = judged && request->kind == KELVIN__TASK_KIND__ABDUCTION;
    const char *program = induction ? request->answer : request->program;
    const char *input = abduction               ? request->answer
                        : request->n_inputs > 0 ? request->inputs[0]
                                                : NULL;
    item->needs_no_run = judged && !induction && !abduction;
    if (item->needs_no_run || input == NULL || program[0] == '\0' ||
        literal_parse_arguments(&item->arguments, input, strlen(input), NULL) < 0) {
        return;
    }
    item->program = program;
}

// --- runs ---

// What is going on: a number of slots, each with one run or request at a time.
struct play {
    struct bench *bench;
    const struct set *set; // NULL: every item once
    bool from_code;
    uint64_t until_ns; // no new ones after this
    size_t next;
    size_t done;
    int open;
    size_t latency_count;
    uint64_t image_cpu_us;
};

struct lane {
    struct play *play;
    struct pool_run run;
    struct item *item;
    uint64_t begun_ns;
};

static bool begin_one(struct lane *lane)
{
    struct play *play = lane->play;
    struct bench *bench = play->bench;
    const struct set *set = play->set;
    if (set == NULL ? play->next == bench->count : clock_ns() >= play->until_ns) {
        return false;
    }
    lane->item = &bench->items[set == NULL ? play->next : set->index[play->next % set->count]];
    play->next++;
    lane->begun_ns = clock_ns();
    play->open++;
    return true;
}

static void end_one(struct lane *lane)
{
    struct play *play = lane->play;
    if (--play->open == 0) {
        uv_stop(&play->bench->loop); // it may be about to wait for nothing
    }
    play->done++;
    if (play->latency_count < LATENCIES_MAX) {
        play->bench->latencies[play->latency_count++] = (double)(clock_ns() - lane->begun_ns) / 1e6;
    }
}

static void play_run(struct lane *lane);

static void on_run_done(struct pool_run *run, int variant, const struct image_result *result)
{
    struct lane *lane = run->context;
    struct item *item = lane->item;
    (void)variant;
    if (lane->play->set == NULL && result->outcome == OUTCOME_OK) {
        item->runs = true;
        bytes_append(&item->code, result->code, result->code_size);
    }
    lane->play->image_cpu_us += result->cpu_us;
    end_one(lane);
    play_run(lane);
}

static void play_run(struct lane *lane)
{
    struct play *play = lane->play;
    do {
        if (!begin_one(lane)) {
            return;
        }
        if (lane->item->program == NULL) {
            end_one(lane);
        }
    } while (lane->item->program == NULL);
    const struct item *item = lane->item;
    lane->run = (struct pool_run){
        .job = {.flags = IMAGE_ENTRY | IMAGE_FILTER |
                         (uint32_t)(play->set == NULL ? IMAGE_WANT_CODE : 0),
                .timeout_ms = RUN_TIMEOUT_MS,
                .output_max = OUTPUT_BYTES_MAX,
                .source = play->from_code ? NULL : item->program,
                .source_size = play->from_code ? 0 : strlen(item->program),
                .code = item->code.data,
                .code_size = play->from_code ? item->code.size : 0,
                .arguments = item->arguments.data,
                .arguments_size = item->arguments.size},
        .variant = POOL_ANY_VARIANT,
        .deadline_ns = lane->begun_ns,
        .done = on_run_done,
        .context = lane,
    };
    pool_submit(play->bench->service.pool, &lane->run);
}

static void play_check(struct lane *lane);

static void on_verdict(void *context, uint64_t tag, const Kelvin__Verdict *verdict)
{
    (void)tag;
    (void)verdict;
    end_one(context);
    play_check(context);
}

static void play_check(struct lane *lane)
{
    if (begin_one(lane)) {
        judge_submit(lane->play->bench->service.judge, &lane->item->request, on_verdict, lane, 0);
    }
}

// Plays with `width` in flight and returns how many ended a second.
static double play(struct bench *bench, struct play *play, int width, double seconds,
                   void (*begin)(struct lane *lane))
{
    CLEANUP(freep) struct lane *lanes = calloc((size_t)width, sizeof(*lanes));
    CHECK(lanes != NULL);
    uint64_t start_ns = clock_ns();
    play->bench = bench;
    play->until_ns = start_ns + (uint64_t)(seconds * 1e9);
    for (int i = 0; i < width; i++) {
        lanes[i].play = play;
        begin(&lanes[i]);
    }
    while (play->open > 0) {
        (void)uv_run(&bench->loop, UV_RUN_ONCE);
    }
    return (double)play->done / ((double)(clock_ns() - start_ns) / 1e9);
}

static int compare_reals(const void *a, const void *b)
{
    double left = *(const double *)a;
    double right = *(const double *)b;
    return (left > right) - (left < right);
}

static void fill_latency(struct bench_latency *out, struct bench *bench, const struct play *play)
{
    size_t count = play->latency_count;
    if (count == 0) {
        return;
    }
    qsort(bench->latencies, count, sizeof(*bench->latencies), compare_reals);
    *out = (struct bench_latency){.p50_ms = bench->latencies[count / 2],
                                  .p99_ms = bench->latencies[count * 99 / 100],
                                  .max_ms = bench->latencies[count - 1]};
}

static void on_ready(void *context, const struct error *failure)
{
    struct bench *bench = context;
    bench->ready = true;
    if (failure != NULL) {
        bench->failure = *failure;
    }
}

static int open_service(struct bench *bench, const struct run_config *config, struct error *err)
{
    int code = privileges_drop(PRIVILEGE_NONE, err);
    code = code < 0
               ? code
               : service_open(&bench->service, &bench->loop, config, false, on_ready, bench, err);
    while (code == 0 && !bench->ready) {
        (void)uv_run(&bench->loop, UV_RUN_ONCE);
    }
    return code == 0 && bench->failure.text[0] != '\0'
               ? error_set(err, -EIO, "%s", bench->failure.text)
               : code;
}

// Runs everything once: what ends with a value is measured, and its bytecode is kept.
static void screen(struct bench *bench)
{
    for (size_t i = 0; i < bench->count; i++) {
        find_run(&bench->items[i]);
    }
    struct play once = {0};
    (void)play(bench, &once, bench->service.workers, 0.0, play_run);
    for (size_t i = 0; i < bench->count; i++) {
        const struct item *item = &bench->items[i];
        if (item->runs) {
            bench->runnable.index[bench->runnable.count++] = i;
        }
        if (item->runs || item->needs_no_run) {
            bench->judged.index[bench->judged.count++] = i;
        }
    }
}

static double own_cpu_us(void)
{
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static void measure(struct bench *bench, struct bench_result *out, double seconds)
{
    int width = bench->service.workers * OPEN_PER_WORKER;
    struct play warm = {.set = &bench->judged};
    (void)play(bench, &warm, width, 0.2, play_check);
    if (bench->runnable.count > 0) {
        struct play runs = {.set = &bench->runnable};
        double before_us = own_cpu_us();
        out->runs_per_s = play(bench, &runs, width, seconds, play_run);
        out->daemon_cpu_us = (own_cpu_us() - before_us) / (double)runs.done;
        out->image_cpu_us = (double)runs.image_cpu_us / (double)runs.done;
        struct play code = {.set = &bench->runnable, .from_code = true};
        out->code_runs_per_s = play(bench, &code, width, seconds, play_run);
        struct play one = {.set = &bench->runnable};
        (void)play(bench, &one, 1, seconds, play_run);
        fill_latency(&out->run, bench, &one);
    }
    struct play checks = {.set = &bench->judged};
    out->checks_per_s = play(bench, &checks, width, seconds, play_check);
    struct play one = {.set = &bench->judged};
    (void)play(bench, &one, 1, seconds, play_check);
    fill_latency(&out->check, bench, &one);
}

static void close_bench(struct bench *bench)
{
    service_close(&bench->service);
    while (uv_run(&bench->loop, UV_RUN_DEFAULT) != 0) { // a verdict may have stopped it
    }
    (void)uv_loop_close(&bench->loop);
    for (size_t i = 0; bench->items != NULL && i < bench->count; i++) {
        struct item *item = &bench->items[i];
        if (item->owns_lists) {
            request_finish(&item->request);
        }
        bytes_finish(&item->arguments);
        bytes_finish(&item->code);
        json_decref(item->json);
    }
    free(bench->items);
    free(bench->runnable.index);
    free(bench->judged.index);
    free(bench->latencies);
}

int bench_run(struct bench_result *out, const struct bench_config *config, struct error *err)
{
    struct bench bench = {0};
    *out = (struct bench_result){0};
    CHECK(uv_loop_init(&bench.loop) == 0);
    uint64_t start_ns = clock_ns();
    int code = load(&bench, config->file, err);
    code = code < 0 ? code : open_service(&bench, config->run, err);
    if (code == 0) {
        out->start_s = (double)(clock_ns() - start_ns) / 1e9;
        (void)snprintf(out->engine, sizeof(out->engine), "%s", bench.service.description);
        out->workers = bench.service.workers;
        screen(&bench);
        out->requests = bench.count;
        out->programs = bench.runnable.count;
        out->skipped = bench.count - bench.judged.count;
        if (bench.judged.count == 0) {
            code = error_set(err, -EINVAL, "no program of the workload ends with a value here");
        }
    }
    if (code == 0) {
        measure(&bench, out, config->seconds);
        struct pool_stats stats = pool_stats(bench.service.pool);
        out->runs = stats.runs;
        out->images = (uint64_t)stats.images;
        out->images_lost = stats.lost;
        out->images_mb = (double)pool_memory_kb(bench.service.pool) / 1024;
        out->daemon_mb = (double)spawn_memory_kb(getpid()) / 1024;
    }
    close_bench(&bench);
    return code;
}
