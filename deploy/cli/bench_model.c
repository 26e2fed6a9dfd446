// Models, options and the report of the engine's benchmarks.
#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/base/parallel.h"
#include "common/base/rng.h"
#include "deploy/cli/bench_engine.h"
#include "deploy/cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum {
    BURN_MS = 60,             // of each try of the peak
    BURN_TRIES = 5,           // the best one counts
    STREAM_FLOATS = 16 << 20, // of each thread: more than the caches hold
};

struct named_shape {
    const char *name;
    int32_t C, L, H, KV, F, V;
    enum family family;
};

// Head size 64. The first three are the small models of our own tables, then SmolLM2-135M and
// Qwen2.5-0.5B.
static const struct named_shape shapes[] = {
    {"1m", 128, 4, 2, 1, 416, 1024, FAMILY_QWEN2},
    {"5m", 256, 6, 4, 2, 704, 2048, FAMILY_QWEN2},
    {"30m", 512, 8, 8, 2, 1856, 4096, FAMILY_QWEN2},
    {"135m", 576, 30, 9, 3, 1536, 49152, FAMILY_LLAMA},
    {"0.5b", 896, 24, 14, 2, 4864, 151936, FAMILY_QWEN2},
};

struct bench_word {
    const char *name;
    size_t offset;
    int64_t min, max;
    bool training; // an option of benchmarks that train
    const char *help;
};

#define WORD_OF(training_, name_, field_, min_, max_, help_)                                       \
    {                                                                                              \
        name_, offsetof(struct bench_options, field_), min_, max_, training_, help_                \
    }
#define WORD(...)          WORD_OF(false, __VA_ARGS__)
#define TRAINING_WORD(...) WORD_OF(true, __VA_ARGS__)

static const struct bench_word words[] = {
    WORD("--batch", batch, 1, 4096, "sequences"),
    WORD("--prompt", prompt, 1, PROMPT_TOKENS_MAX, "prompt tokens of each"),
    WORD("--tokens", tokens, 1, RESPONSE_TOKENS_MAX, "response tokens of each"),
    WORD("--samples", samples, 1, SAMPLES_MAX, "responses that share one prompt"),
    WORD("--threads", threads, 0, PARALLEL_THREADS_MAX, "threads; 0: every core"),
    WORD("--rows", rows, 1, 65536, "rows computed at once, at most, by a thread"),
    WORD("--repeats", repeats, 1, 1000, "runs; the fastest one counts"),
    TRAINING_WORD("--deterministic", deterministic, 0, 1,
                  "1: as learner.deterministic; 0: gradients are summed in any order"),
};

enum { WORDS = sizeof(words) / sizeof(*words), SHAPES = sizeof(shapes) / sizeof(*shapes) };

static int64_t *field_of(struct bench_options *options, const struct bench_word *word)
{
    return (int64_t *)(void *)((char *)options + word->offset);
}

static bool has_word(const struct engine_bench *bench, const struct bench_word *word)
{
    return bench->trains || !word->training;
}

static void print_help(const char *name, const struct engine_bench *bench)
{
    (void)printf("usage: kelvin %s --model DIR | --shape NAME [...]\n\n%s\n\n", name, bench->what);
    (void)printf("  --model DIR    a model folder\n  --shape NAME   random weights; NAME is");
    for (int i = 0; i < SHAPES; i++) {
        (void)printf("%s %s", i == 0 ? "" : i + 1 < SHAPES ? "," : " or", shapes[i].name);
    }
    (void)puts(
        "\n  --compute TYPE f32, bf16, bf16-amx, or auto: the fastest one of this host (auto)");
    struct bench_options shown = bench->defaults;
    for (int i = 0; i < WORDS; i++) {
        if (has_word(bench, &words[i])) {
            (void)printf("  %-10s N   %s (%lld)\n", words[i].name, words[i].help,
                         (long long)*field_of(&shown, &words[i]));
        }
    }
}

static int read_number(struct bench_options *options, const struct engine_bench *bench,
                       const char *name, const char *value, struct error *err)
{
    for (int i = 0; i < WORDS; i++) {
        if (strcmp(words[i].name, name) != 0 || !has_word(bench, &words[i])) {
            continue;
        }
        char *end = NULL;
        errno = 0;
        long long number = strtoll(value, &end, 10);
        if (errno != 0 || end == value || *end != '\0' || number < words[i].min ||
            number > words[i].max) {
            return error_set(err, -EINVAL, "%s takes a number from %lld to %lld, not \"%s\"", name,
                             (long long)words[i].min, (long long)words[i].max, value);
        }
        *field_of(options, &words[i]) = number;
        return 0;
    }
    return error_set(err, -EINVAL, "\"%s\" is not understood; see --help", name);
}

static int read_options(struct bench_options *options, const struct engine_bench *bench, int argc,
                        char **argv, struct error *err)
{
    *options = bench->defaults;
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc) {
            return error_set(err, -EINVAL, "%s needs a value; see --help", argv[i]);
        }
        int code = 0;
        if (strcmp(argv[i], "--model") == 0) {
            options->model = argv[i + 1];
        } else if (strcmp(argv[i], "--shape") == 0) {
            options->shape = argv[i + 1];
        } else if (strcmp(argv[i], "--compute") == 0) {
            code = cli_compute(&options->compute, argv[i + 1], err);
        } else {
            code = read_number(options, bench, argv[i], argv[i + 1], err);
        }
        if (code < 0) {
            return code;
        }
    }
    if ((options->model == NULL) == (options->shape == NULL)) {
        return error_set(err, -EINVAL, "give --model DIR or --shape NAME; see --help");
    }
    if (options->batch % options->samples != 0) {
        return error_set(err, -EINVAL, "--batch %lld is no multiple of --samples %lld",
                         (long long)options->batch, (long long)options->samples);
    }
    options->threads = options->threads > 0 ? options->threads : parallel_cores();
    options->positions = options->prompt + options->tokens;
    return 0;
}

static int shape_of(struct shape *shape, const struct bench_options *options, struct error *err)
{
    for (int i = 0; i < SHAPES; i++) {
        const struct named_shape *named = &shapes[i];
        if (strcmp(named->name, options->shape) == 0) {
            *shape = (struct shape){.family = named->family,
                                    .L = named->L,
                                    .C = named->C,
                                    .H = named->H,
                                    .KV = named->KV,
                                    .D = 64,
                                    .F = named->F,
                                    .V = named->V,
                                    .T = (int32_t)options->positions,
                                    .norm_eps = 1e-6f,
                                    .tied = true,
                                    .gated = true,
                                    .qkv_bias = named->family == FAMILY_QWEN2,
                                    .rope_theta = 10000.0,
                                    .rope_scaling = ROPE_PLAIN,
                                    .bos_token = -1,
                                    .eos_token = -1};
            return 0;
        }
    }
    return error_set(err, -EINVAL, "there is no shape \"%s\"; see --help", options->shape);
}

// A number in [-1, 1) with 8 bits, from one step of SplitMix64: quick, and exact in bf16.
static float noise(uint64_t index)
{
    uint64_t z = (index + 1) * 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z ^= z >> 27;
    return ((float)(z & 0xFF) - 127.5f) / 128.0f;
}

float *bench_weights(const struct params *params)
{
    float *weights = calloc(params->elements, sizeof(*weights));
    for (int32_t i = 0; weights != NULL && i < params->count; i++) {
        const struct param *param = &params->items[i];
        const bool gain = param->role == PARAM_NORM1 || param->role == PARAM_NORM2 ||
                          param->role == PARAM_FINAL_NORM || param->role == PARAM_Q_NORM ||
                          param->role == PARAM_K_NORM;
        for (size_t k = 0; k < param->count; k++) {
            weights[param->offset + k] = gain ? 1.0f : 0.0625f * noise(param->offset + k);
        }
    }
    return weights;
}

int bench_model(struct model **out, const struct bench_options *options, struct error *err)
{
    if (options->model != NULL) {
        int code = model_load(out, options->model, options->compute, err);
        if (code == 0 && (*out)->shape.T < options->positions) {
            code = error_set(err, -EINVAL, "%s has %d positions; --prompt and --tokens need %lld",
                             options->model, (*out)->shape.T, (long long)options->positions);
            model_destroy(*out);
        }
        return code;
    }
    struct shape shape;
    int code = shape_of(&shape, options, err);
    code = code < 0 ? code : model_create(out, &shape, options->compute, err);
    if (code < 0) {
        return code;
    }
    CLEANUP(freep) float *weights = bench_weights(&(*out)->params);
    if (weights == NULL) {
        model_destroy(*out);
        return error_set(err, -ENOMEM, "no memory for the weights");
    }
    model_set(*out, weights, DTYPE_BF16);
    return 0;
}

void bench_ids(int32_t *ids, int64_t count, int32_t V, uint64_t seed)
{
    struct rng rng = {.key = seed};
    for (int64_t i = 0; i < count; i++) {
        ids[i] = (int32_t)rng_below(&rng, (uint64_t)V);
    }
}

double bench_parameters(const struct model *model)
{
    double count = 0.0;
    for (int32_t i = 0; i < model->params.count; i++) {
        count += (double)model->params.items[i].count;
    }
    return count;
}

double bench_cpu_seconds(void)
{
    struct rusage usage;
    CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

// struct peak is what the threads reach together.
struct peak {
    const struct kernels *kernels;
    double operations[PARALLEL_THREADS_MAX]; // a second, by thread
    double bytes[PARALLEL_THREADS_MAX];
    float *memory;
};

static void burn_thread(void *context, int index, int worker)
{
    (void)worker;
    struct peak *peak = context;
    float sink = 1.0f;
    const uint64_t start = clock_ns();
    uint64_t now = start;
    double done = 0.0;
    while (now - start < BURN_MS * 1000000ULL) {
        done += peak->kernels->burn(&sink, 100000);
        now = clock_ns();
    }
    peak->operations[index] = done / ((double)(now - start) / 1e9);
}

static void stream_thread(void *context, int index, int worker)
{
    (void)worker;
    struct peak *peak = context;
    const float *memory = peak->memory + (size_t)index * STREAM_FLOATS;
    const uint64_t start = clock_ns();
    double sum = peak->kernels->square_sum(memory, STREAM_FLOATS);
    CHECK(sum >= 0.0);
    peak->bytes[index] = STREAM_FLOATS * 4.0 / ((double)(clock_ns() - start) / 1e9);
}

static double total_of(const double *values, int count)
{
    double total = 0.0;
    for (int i = 0; i < count; i++) {
        total += values[i];
    }
    return total;
}

// measure_peak finds the multiply-add rate and the rate of reading memory of `threads` threads.
static int measure_peak(double *operations, double *bytes, const struct kernels *kernels,
                        int threads, struct error *err)
{
    struct peak peak = {.kernels = kernels};
    size_t floats = (size_t)threads * STREAM_FLOATS;
    CLEANUP(freep) float *memory = malloc(floats * sizeof(*memory));
    if (memory == NULL) {
        return error_set(err, -ENOMEM, "no memory to measure the peak");
    }
    memset(memory, 0, floats * sizeof(*memory));
    peak.memory = memory;
    *operations = 0.0;
    *bytes = 0.0;
    for (int i = 0; i < BURN_TRIES; i++) {
        parallel_run(threads, threads, burn_thread, &peak);
        double total = total_of(peak.operations, threads);
        *operations = total > *operations ? total : *operations;
        parallel_run(threads, threads, stream_thread, &peak);
        total = total_of(peak.bytes, threads);
        *bytes = total > *bytes ? total : *bytes;
    }
    return 0;
}

static double rounded(double value)
{
    char text[32];
    (void)snprintf(text, sizeof(text), "%.4g", value);
    return strtod(text, NULL);
}

int bench_print(const struct bench_options *options, const struct model *model,
                const struct bench_result *result, json_t *extra, struct error *err)
{
    CLEANUP(json_decrefp) json_t *more = extra != NULL ? extra : json_object();
    double operations = 0.0, bytes = 0.0;
    int code = measure_peak(&operations, &bytes, model->kernels, (int)options->threads, err);
    if (code < 0) {
        return code;
    }
    const double rate = result->operations / result->seconds;
    CLEANUP(json_decrefp)
    json_t *object = json_pack(
        "{s:s, s:s, s:f, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f}",
        "bench", result->name, "model", options->model != NULL ? options->model : options->shape,
        "parameters", bench_parameters(model), "numerics", model->numerics, "kernels",
        model->kernels->name, "threads", options->threads, "batch", options->batch, "prompt",
        options->prompt, "tokens", options->tokens, "samples", options->samples, "rows",
        options->rows, "seconds", rounded(result->seconds), "cpu_seconds",
        rounded(result->cpu_seconds), "tokens_per_s", rounded(result->tokens / result->seconds),
        "gflops", rounded(rate / 1e9), "peak_gflops", rounded(operations / 1e9), "peak_fraction",
        rounded(rate / operations));
    if (object == NULL || json_object_update_missing(object, more) != 0) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    (void)json_object_set_new(object, "peak_gbytes_per_s", json_real(rounded(bytes / 1e9)));
    if (result->bytes > 0.0) {
        (void)json_object_set_new(object, "gbytes_per_s",
                                  json_real(rounded(result->bytes / result->seconds / 1e9)));
    }
    if (json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6)) < 0 ||
        fputc('\n', stdout) == EOF) {
        return error_set(err, -EIO, "cannot write to standard output");
    }
    return 0;
}

int bench_engine_run(int argc, char **argv, const struct engine_bench *bench)
{
    struct bench_options options;
    struct error err = {0};
    if (cli_wants_help(argc, argv)) {
        print_help(argv[0], bench);
        return 0;
    }
    int code = read_options(&options, bench, argc, argv, &err);
    code = code < 0 ? code : bench->measure(&options, &err);
    return code < 0 ? cli_fail(argv[0], "%s", err.text) : 0;
}
