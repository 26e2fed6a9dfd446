// One engine: whatever mix of sequences, chunks, pages, neighbours, threads and kernels computes a
// token's log-probability, the bits are those of the sequence alone. Mixes are drawn at random; a
// failure prints the seed of its draw.
#include "tests/support.h"
#include "tests/tables.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/rng.h"
#include "common/model/decode.h"
#include "common/model/forward.h"
#include "learner/step.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    DRAWS = 4,
    SEQUENCES = 7,
    LENGTH_MAX = 290,   // one draw is so long, with heads of HEAD_MAX: on tiles, attention takes
    LENGTH_SHORT = 110, // neither at once
    HEAD_MAX = 64 + 16,
    V = 61,
    ROWS_MAX = 40, // of a decode call
    PAGES = (LENGTH_MAX + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS,
};

// struct line is one sequence: its tokens, and what is expected of them.
struct line {
    int32_t ids[LENGTH_MAX];
    int32_t count;
    int32_t prompt;            // tokens that it has in common with its owner's first ones
    int32_t owner;             // index of the first line of its group; its own: it is that line
    float logprob[LENGTH_MAX]; // [i] of ids[i], from 1 on
    // Decoding.
    int32_t pages[PAGES];
    int32_t computed; // tokens put into calls
    int32_t cached;   // whose call has run
    float got[LENGTH_MAX];
};

struct draw {
    uint64_t seed;
    enum compute compute;
    struct rng rng;
    int32_t longest; // length of the first sequence; the others are short
    struct shape shape;
    struct model *model;
    struct line lines[SEQUENCES];
};

static int32_t below(struct draw *draw, int32_t bound)
{
    return (int32_t)rng_below(&draw->rng, (uint64_t)bound);
}

static void draw_shape(struct draw *draw)
{
    static const int32_t heads[][2] = {{4, 2}, {6, 1}, {3, 3}, {4, 1}};
    const int32_t *pair = heads[below(draw, 4)];
    const bool gpt2 = below(draw, 4) == 0;
    draw->shape = (struct shape){.family = gpt2 ? FAMILY_GPT2 : FAMILY_QWEN3,
                                 .L = 2,
                                 .C = 16 + 8 * below(draw, 4),
                                 .H = pair[0],
                                 .KV = gpt2 ? pair[0] : pair[1],
                                 .D = draw->longest == LENGTH_MAX ? HEAD_MAX : 8 << below(draw, 3),
                                 .F = 30 + below(draw, 50),
                                 .V = V,
                                 .T = LENGTH_MAX,
                                 .norm_eps = 1e-6f,
                                 .tied = below(draw, 2) == 0,
                                 .layer_norm = gpt2,
                                 .gated = !gpt2,
                                 .qkv_bias = gpt2 || below(draw, 2) == 0,
                                 .out_bias = gpt2,
                                 .qk_norm = !gpt2 && below(draw, 2) == 0,
                                 .positions = gpt2,
                                 .rope_theta = 10000.0,
                                 .bos_token = -1,
                                 .eos_token = -1};
}

static void draw_lines(struct draw *draw)
{
    for (int32_t k = 0; k < SEQUENCES; k++) {
        struct line *line = &draw->lines[k];
        const struct line *before = k > 0 ? &draw->lines[draw->lines[k - 1].owner] : NULL;
        *line = (struct line){.owner = k};
        int32_t longest = k == 0 ? draw->longest : LENGTH_SHORT;
        line->prompt = 1 + below(draw, longest - 20);
        for (int32_t i = 0; i < LENGTH_MAX; i++) {
            line->ids[i] = below(draw, V);
        }
        if (before != NULL && below(draw, 3) > 0) {
            line->owner = draw->lines[k - 1].owner;
            line->prompt = before->prompt;
            longest = longest > line->prompt + 20 ? longest : line->prompt + 20;
            memcpy(line->ids, before->ids, (size_t)line->prompt * sizeof(int32_t));
        }
        line->count = k == 0 ? longest : line->prompt + 1 + below(draw, longest - line->prompt);
    }
}

// The oracle: each sequence alone, with the portable kernels.
static void expect(struct draw *draw)
{
    CLEANUP(freep) float *logits = malloc(sizeof(float) * V * 4);
    struct forward *forward = NULL;
    draw->model->kernels = kernels_find("portable", draw->compute);
    assert_int_equal(forward_create(&forward, draw->model, LENGTH_MAX, NULL), 0);
    for (int32_t k = 0; k < SEQUENCES; k++) {
        struct line *line = &draw->lines[k];
        forward_logprobs(forward, draw->model, line->logprob + 1, line->ids, line->count, logits,
                         4);
    }
    forward_destroy(forward);
}

static void draw_make(struct draw *draw, uint64_t seed, enum compute compute)
{
    *draw = (struct draw){.seed = seed, .compute = compute, .rng = {.key = seed}};
    draw->longest = seed == 1 ? LENGTH_MAX : LENGTH_SHORT;
    draw_shape(draw);
    draw_lines(draw);
    assert_int_equal(model_create(&draw->model, &draw->shape, compute, NULL), 0);
    CLEANUP(freep) float *weights = calloc(draw->model->params.elements, sizeof(*weights));
    assert_non_null(weights);
    for (size_t i = 0; i < draw->model->params.elements; i++) {
        weights[i] = (float)(0.3 * rng_normal(&draw->rng));
    }
    model_set(draw->model, weights, DTYPE_F32);
    expect(draw);
}

static void compare(const struct draw *draw, const char *what, int32_t k, const float *got,
                    int32_t from)
{
    const struct line *line = &draw->lines[k];
    for (int32_t i = from; i < line->count; i++) {
        if (memcmp(&got[i], &line->logprob[i], sizeof(float)) != 0) {
            fail_msg("seed %llu, %s, %s kernels: token %d of sequence %d has %.9g, not %.9g",
                     (unsigned long long)draw->seed, what, draw->model->kernels->name, i, k,
                     (double)got[i], (double)line->logprob[i]);
        }
    }
}

// ---- Packing: sequences in any order, with shared rows or without.

struct packing {
    int32_t start[SEQUENCES + 1], shared[SEQUENCES], base[SEQUENCES], which[SEQUENCES];
    int32_t ids[SEQUENCES * LENGTH_MAX], position[SEQUENCES * LENGTH_MAX];
    struct pack pack;
};

static void pack_add(struct packing *packing, const struct draw *draw, int32_t k, int32_t shared,
                     int32_t base)
{
    struct pack *pack = &packing->pack;
    int32_t at = (int32_t)pack->T;
    packing->which[pack->count] = k;
    packing->start[pack->count] = at;
    packing->shared[pack->count] = shared;
    packing->base[pack->count++] = base;
    for (int32_t i = shared; i < draw->lines[k].count; i++) {
        packing->ids[at] = draw->lines[k].ids[i];
        packing->position[at++] = i;
    }
    packing->start[pack->count] = at;
    pack->T = at;
}

// Groups come in any rotation; each line shares its owner's prompt or does not.
static void pack_draw(struct packing *packing, struct draw *draw)
{
    *packing = (struct packing){0};
    const int32_t turn = below(draw, SEQUENCES);
    int32_t owner = -1, base = 0;
    for (int32_t n = 0; n < SEQUENCES; n++) {
        const int32_t k = (turn + n) % SEQUENCES;
        const struct line *line = &draw->lines[k];
        const bool can = n > 0 && owner == line->owner && k != line->owner;
        if (can && below(draw, 3) > 0) {
            pack_add(packing, draw, k, line->prompt, base);
        } else {
            owner = line->owner;
            base = (int32_t)packing->pack.T;
            pack_add(packing, draw, k, 0, base);
        }
    }
    struct pack *pack = &packing->pack;
    pack->start = packing->start;
    pack->shared = packing->shared;
    pack->base = packing->base;
    pack->ids = packing->ids;
    pack->position = packing->position;
}

static void check_packing(struct draw *draw)
{
    struct packing packing;
    struct forward *forward = NULL;
    const struct matrix *head = &draw->model->head;
    assert_int_equal(forward_create(&forward, draw->model, SEQUENCES * LENGTH_MAX, NULL), 0);
    pack_draw(&packing, draw);
    forward_run(forward, draw->model, &packing.pack);
    for (int32_t n = 0; n < SEQUENCES; n++) {
        const int32_t k = packing.which[n];
        float got[LENGTH_MAX];
        for (int32_t i = 1; i < draw->lines[k].count; i++) {
            float logits[V];
            const int32_t row = pack_row(&packing.pack, n, i - 1);
            draw->model->kernels->product(logits, V, inputs_from(forward->final, row), head->packed,
                                          1, V, head->K, false);
            got[i] = logprob_of(logits, V, draw->lines[k].ids[i]);
        }
        compare(draw, "packed", k, got, 1);
    }
    forward_destroy(forward);
}

// ---- Decoding: rows in any mix, prompts in any chunks, over shared pages or own ones.

struct decoding {
    struct draw *draw;
    struct kv_memory *memory;
    struct decode *decodes[2]; // as two threads would have them
    struct decode_row rows[ROWS_MAX];
    int32_t line_of[ROWS_MAX];
    int32_t count;
    bool share;
};

static void on_logits(void *context, int32_t row, float *logits)
{
    struct decoding *decoding = context;
    struct line *line = &decoding->draw->lines[decoding->line_of[row]];
    const int32_t next = decoding->rows[row].position + 1;
    line->got[next] = logprob_of(logits, V, line->ids[next]);
}

// ready is whether a line may run; one that shares its prompt takes the pages when they are full.
static bool ready(const struct decoding *decoding, int32_t k)
{
    struct line *line = &decoding->draw->lines[k];
    const struct line *owner = &decoding->draw->lines[line->owner];
    if (line->computed + 1 >= line->count) {
        return false; // its last token predicts nothing
    }
    if (line->owner == k || !decoding->share || line->computed > 0) {
        return true;
    }
    if (owner->cached < line->prompt) {
        return false;
    }
    const int32_t full = line->prompt / KV_PAGE_TOKENS;
    memcpy(line->pages, owner->pages, (size_t)full * sizeof(int32_t));
    if (line->prompt % KV_PAGE_TOKENS != 0) {
        kv_page_copy(decoding->memory, line->pages[full], owner->pages[full]);
    }
    memcpy(line->got, owner->got, (size_t)line->prompt * sizeof(float));
    line->computed = line->prompt;
    return line->computed + 1 < line->count;
}

// add puts some of a line's next tokens into the call: one, or a chunk.
static void add(struct decoding *decoding, int32_t k)
{
    struct draw *draw = decoding->draw;
    struct line *line = &draw->lines[k];
    const int32_t room = ROWS_MAX - decoding->count;
    int32_t n = below(draw, 2) == 0 ? 1 : 1 + below(draw, 30);
    n = n < room ? n : room;
    n = n < line->count - 1 - line->computed ? n : line->count - 1 - line->computed;
    for (int32_t i = 0; i < n; i++) {
        const int32_t position = line->computed + i;
        decoding->line_of[decoding->count] = k;
        decoding->rows[decoding->count++] = (struct decode_row){.token = line->ids[position],
                                                                .position = position,
                                                                .pages = line->pages,
                                                                .wants_logits = true};
    }
    line->computed += n;
}

// run_call draws the rows of one call; false when every line is done.
static bool run_call(struct decoding *decoding)
{
    const int32_t turn = below(decoding->draw, SEQUENCES);
    decoding->count = 0;
    for (int32_t n = 0; n < SEQUENCES && decoding->count < ROWS_MAX; n++) {
        const int32_t k = (turn + n) % SEQUENCES;
        if (ready(decoding, k) && below(decoding->draw, 4) > 0) {
            add(decoding, k);
        }
    }
    bool left = decoding->count > 0;
    for (int32_t k = 0; k < SEQUENCES && !left; k++) {
        left = decoding->draw->lines[k].computed + 1 < decoding->draw->lines[k].count;
    }
    if (decoding->count > 0) {
        decode_run(decoding->decodes[below(decoding->draw, 2)], decoding->draw->model,
                   decoding->memory, decoding->rows, decoding->count, on_logits, decoding);
    }
    for (int32_t k = 0; k < SEQUENCES; k++) {
        decoding->draw->lines[k].cached = decoding->draw->lines[k].computed;
    }
    return left;
}

static void check_decoding(struct draw *draw, bool share)
{
    struct decoding decoding = {.draw = draw, .share = share};
    assert_int_equal(kv_memory_create(&decoding.memory, draw->model, SEQUENCES * PAGES, NULL), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(decode_create(&decoding.decodes[i], draw->model, ROWS_MAX, NULL), 0);
    }
    for (int32_t k = 0; k < SEQUENCES; k++) {
        struct line *line = &draw->lines[k];
        line->computed = 0;
        line->cached = 0;
        for (int32_t p = 0; p < PAGES; p++) {
            line->pages[p] = k * PAGES + p;
        }
    }
    while (run_call(&decoding)) {
    }
    for (int32_t k = 0; k < SEQUENCES; k++) {
        // The first token behind a shared prompt is drawn from the owner's row.
        const bool follower = share && draw->lines[k].owner != k;
        compare(draw, share ? "decoded over shared pages" : "decoded", k, draw->lines[k].got,
                follower ? draw->lines[k].prompt + 1 : 1);
    }
    for (int i = 0; i < 2; i++) {
        decode_destroy(decoding.decodes[i]);
    }
    kv_memory_destroy(decoding.memory);
}

// ---- Training: any micro-batches and threads; what the sampler wrote down must match exactly.

// step_once makes a trainer and runs one step of it.
static struct trainer *step_once(const struct draw *draw, const struct sequence *sequences,
                                 float *const *logprobs, int32_t threads, int32_t micro_tokens)
{
    const struct trainer_config config = {.compute = draw->compute,
                                          .published = DTYPE_F32,
                                          .threads = threads,
                                          .micro_tokens = micro_tokens};
    const struct objective objective = {.clip_low = 0.2f, .clip_high = 0.2f};
    const struct optimizer optimizer = {
        .lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.99f, .epsilon = 1e-8f, .grad_norm_max = 1.0f};
    struct trainer *trainer = NULL;
    struct step_report report;
    assert_int_equal(trainer_create(&trainer, &draw->shape, draw->model->weights, &config, NULL),
                     0);
    assert_int_equal(trainer_step(trainer, sequences, SEQUENCES, &objective, &optimizer, logprobs,
                                  &report, NULL),
                     0);
    if (report.mismatch_max != 0.0) {
        fail_msg("seed %llu: the step's mismatch is %g", (unsigned long long)draw->seed,
                 report.mismatch_max);
    }
    return trainer;
}

// compare_gradients holds a step with shared prompts against one without: sums of the same numbers
// in another order. In bf16 such a sum may round to the neighbour, 1/256 away, on its way down
// through each half of the two layers.
static void compare_gradients(const struct draw *draw, const struct trainer *shared,
                              const struct trainer *alone)
{
    const float *a = trainer_gradients(shared), *b = trainer_gradients(alone);
    const double bound = draw->compute == COMPUTE_F32 ? 2e-5 : 4.0 / 256.0;
    double largest = 0.0, apart = 0.0;
    for (size_t i = 0; i < draw->model->params.elements; i++) {
        largest = fmax(largest, fabs((double)b[i]));
        apart = fmax(apart, fabs((double)a[i] - (double)b[i]));
    }
    if (!(apart <= bound * largest)) {
        fail_msg("seed %llu: gradients with and without shared prompts are %g apart, of %g",
                 (unsigned long long)draw->seed, apart, largest);
    }
}

static void check_training(struct draw *draw)
{
    float weight[SEQUENCES][LENGTH_MAX] = {0}, got[SEQUENCES][LENGTH_MAX];
    float *logprobs[SEQUENCES];
    struct sequence sequences[SEQUENCES];
    for (int32_t k = 0; k < SEQUENCES; k++) {
        const struct line *line = &draw->lines[k];
        for (int32_t i = line->prompt; i < line->count; i++) {
            weight[k][i] = 0.01f;
        }
        logprobs[k] = got[k];
        sequences[k] = (struct sequence){.count = line->count,
                                         .ids = line->ids,
                                         .weight = weight[k],
                                         .behaviour = line->logprob,
                                         .advantage = k % 2 == 0 ? 1.0f : -1.0f,
                                         .on_policy = true};
    }
    const bool wanted = below(draw, 2) == 0;
    struct trainer *shared = step_once(draw, sequences, wanted ? logprobs : NULL,
                                       1 + below(draw, 4), 40 + below(draw, 400));
    for (int32_t k = 0; wanted && k < SEQUENCES; k++) {
        compare(draw, "trained", k, got[k], 1);
    }
    struct trainer *alone = step_once(draw, sequences, NULL, 1, 1);
    compare_gradients(draw, shared, alone);
    trainer_destroy(shared);
    trainer_destroy(alone);
}

static void check_every_mix(enum compute compute, uint64_t draws)
{
    for (uint64_t seed = 1; seed <= draws; seed++) {
        struct draw draw;
        draw_make(&draw, seed, compute);
        for (size_t t = 0; t < TABLES; t++) {
            draw.model->kernels = kernels_find(tables[t], compute);
            if (draw.model->kernels != NULL) { // else this host cannot run it
                check_packing(&draw);
                check_decoding(&draw, false);
                check_decoding(&draw, true);
            }
        }
        draw.model->kernels = kernels_best(compute);
        check_training(&draw);
        model_destroy(draw.model);
    }
}

static void test_every_mix_computes_the_same_bits_in_f32(void **state)
{
    (void)state;
    check_every_mix(COMPUTE_F32, DRAWS);
}

static void test_every_mix_computes_the_same_bits_in_bf16(void **state)
{
    (void)state;
    check_every_mix(COMPUTE_BF16, DRAWS);
}

static void test_every_mix_computes_the_same_bits_on_tiles(void **state)
{
    (void)state;
    check_every_mix(COMPUTE_BF16_AMX, DRAWS / 2); // tiles are slow where there are none
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_mix_computes_the_same_bits_in_f32),
        cmocka_unit_test(test_every_mix_computes_the_same_bits_in_bf16),
        cmocka_unit_test(test_every_mix_computes_the_same_bits_on_tiles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
