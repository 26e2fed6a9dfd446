#include "tests/support.h"

#include "common/base/cleanup.h"
#include "common/text/compact_vocab.h"
#include "learner/examples.h"
#include "tests/python.h"

#include <math.h>

enum { COUNT = 240 };

static const struct example_mix even = {.forms = {1, 1, 1, 1, 1, 1},
                                        .lengths = {0.40, 0.34, 0.18, 0.06, 0.02},
                                        .induction_lengths = {0.55, 0.45, 0, 0, 0},
                                        .scratchpad = 0.5,
                                        .prompt_weight = 0.2f};

CLEANUP_FUNCTION(struct tokenizer, tokenizer_destroy)

static struct tokenizer *compact_tokenizer(void)
{
    CLEANUP(freep) char *json = compact_tokenizer_json();
    assert_non_null(json);
    struct tokenizer *tokenizer = NULL;
    assert_int_equal(tokenizer_parse(&tokenizer, json, strlen(json), "compact", NULL), 0);
    return tokenizer;
}

static struct examples *draw(uint64_t number, const struct example_mix *mix)
{
    struct examples *examples = NULL;
    assert_int_equal(examples_draw(&examples, 1, number, COUNT, mix, NULL), 0);
    return examples;
}

static struct examples *make(uint64_t number, const struct example_mix *mix,
                             const struct tokenizer *tokenizer)
{
    struct examples *examples = draw(number, mix);
    CLEANUP(freep) char *source = examples_source(examples);
    CLEANUP(freep) char *result = python_run(source);
    struct error err = {0};
    assert_int_equal(examples_render(examples, result, tokenizer, &err), 0);
    return examples;
}

static const char *prefix_of(enum role role, enum task_kind kind)
{
    static const char *const prefixes[ROLES][3] = {
        [ROLE_PROPOSE] = {"<propose><ded>", "<propose><abd>", "<propose><ind><prog>"},
        [ROLE_SOLVE] = {"<solve><ded><prog>", "<solve><abd><prog>", "<solve><ind><in>"}};
    return prefixes[role][kind];
}

// Every form occurs; an example is its prompt, then its response to the stop tag, and its ids
// spell it.
static void test_forms(void **state)
{
    (void)state;
    CLEANUP(tokenizer_destroyp) struct tokenizer *tokenizer = compact_tokenizer();
    CLEANUP(examples_destroyp) struct examples *examples = make(3, &even, tokenizer);
    int count = 0, seen[ROLES][3] = {0}, scratchpads = 0;
    const struct sequence *sequences = examples_sequences(examples, &count);
    assert_int_equal(count, COUNT);
    for (int i = 0; i < count; i++) {
        const char *text = examples_text(examples, i);
        enum role role = examples_role(examples, i);
        enum task_kind kind = examples_kind(examples, i);
        seen[role][kind]++;
        scratchpads += strstr(text, "<think>") != NULL;
        assert_int_equal(strncmp(text, prefix_of(role, kind), strlen(prefix_of(role, kind))), 0);
        CLEANUP(freep) char *bytes = NULL;
        size_t size = 0;
        assert_int_equal(tokenizer_decode(tokenizer, &bytes, &size, sequences[i].ids,
                                          (size_t)sequences[i].count, NULL),
                         0);
        assert_string_equal(bytes, text);
        assert_int_equal(sequences[i].ids[sequences[i].count - 1],
                         tokenizer_find(tokenizer, COMPACT_STOP));
        int32_t response = examples_response(examples, i);
        assert_int_equal(sequences[i].ids[response - 1], tokenizer_find(tokenizer, "<go>"));
    }
    for (int form = 0; form < 6; form++) {
        assert_true(seen[form / 3][form % 3] > COUNT / 12);
    }
    assert_true(scratchpads > COUNT / 12 && scratchpads < COUNT / 3);
}

// Weights sum to one; a prompt token weighs a fifth of a response token, the first token nothing.
static void test_weights(void **state)
{
    (void)state;
    CLEANUP(tokenizer_destroyp) struct tokenizer *tokenizer = compact_tokenizer();
    CLEANUP(examples_destroyp) struct examples *examples = make(4, &even, tokenizer);
    int count = 0;
    const struct sequence *sequences = examples_sequences(examples, &count);
    double sum = 0.0;
    for (int i = 0; i < count; i++) {
        int32_t response = examples_response(examples, i), last = sequences[i].count - 1;
        assert_true(sequences[i].weight[0] == 0.0f);
        double ratio = (double)sequences[i].weight[response - 1] / sequences[i].weight[last];
        assert_true(fabs(ratio - 0.2) < 1e-6);
        for (int32_t k = 0; k <= last; k++) {
            sum += (double)sequences[i].weight[k];
        }
    }
    assert_true(fabs(sum - 1.0) < 1e-5);
}

// A batch is a function of seed and number; another number is another batch.
static void test_batches_are_reproducible(void **state)
{
    (void)state;
    CLEANUP(examples_destroyp) struct examples *a = draw(5, &even);
    CLEANUP(examples_destroyp) struct examples *b = draw(5, &even);
    CLEANUP(examples_destroyp) struct examples *c = draw(6, &even);
    CLEANUP(freep) char *source_a = examples_source(a);
    CLEANUP(freep) char *source_b = examples_source(b);
    CLEANUP(freep) char *source_c = examples_source(c);
    assert_string_equal(source_a, source_b);
    assert_string_not_equal(source_a, source_c);
}

// program_of copies the program that an induction response answers with.
static bool program_of(char *out, size_t size, const char *text)
{
    const char *begin = strstr(text, "<answer>def ");
    if (begin == NULL) {
        return false;
    }
    begin += strlen("<answer>");
    (void)snprintf(out, size, "%.*s", (int)(strstr(begin, COMPACT_STOP) - begin), begin);
    return true;
}

// Held-out batches show programs of the held-out side only, others none of them.
static void test_split(void **state)
{
    (void)state;
    CLEANUP(tokenizer_destroyp) struct tokenizer *tokenizer = compact_tokenizer();
    for (int held = 0; held < 2; held++) {
        struct example_mix mix = even;
        mix.held_out = held == 1;
        CLEANUP(examples_destroyp) struct examples *examples = make(7, &mix, tokenizer);
        int programs = 0;
        for (int i = 0; i < COUNT; i++) {
            char program[GENERATED_TEXT_MAX];
            if (program_of(program, sizeof(program), examples_text(examples, i))) {
                assert_int_equal(generator_held_out(program), mix.held_out);
                programs++;
            }
        }
        assert_true(programs > COUNT / 12);
    }
}

// Most programs run: failures cost little. The scratchpad's last state is what the program returns
// where it returns its variable.
static void test_programs_run(void **state)
{
    (void)state;
    struct rng rng = {.key = 1, .stream = 9};
    struct generated *programs = calloc(COUNT, sizeof(*programs));
    assert_non_null(programs);
    for (int i = 0; i < COUNT; i++) {
        generate(&programs[i], &rng, even.lengths, 2, false);
    }
    CLEANUP(freep) char *source = generator_source(programs, COUNT);
    CLEANUP(freep) char *result = python_run(source);
    assert_int_equal(generator_results(programs, COUNT, result, NULL), 0);
    int ran = 0;
    for (int i = 0; i < COUNT; i++) {
        const struct generated *g = &programs[i];
        ran += g->outputs[0][0] != '\0';
        const char *end = strstr(g->program, "\n return a");
        if (g->outputs[0][0] != '\0' && g->states[0] != '\0' && end != NULL && end[10] == '\0') {
            const char *last = strrchr(g->states, ';');
            assert_string_equal(last != NULL ? last + 1 : g->states, g->outputs[0]);
        }
    }
    assert_true(ran > COUNT * 8 / 10);
    free(programs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_split),        cmocka_unit_test(test_batches_are_reproducible),
        cmocka_unit_test(test_programs_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
