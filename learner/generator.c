#include "learner/generator.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STATES_COUNT_MAX = 12, STATES_BYTES_MAX = 110, TRIES_MAX = 64, INPUT_MAX_INT = 20 };

const double generator_lengths[GENERATED_LENGTHS] = {0.40, 0.34, 0.18, 0.06, 0.02};
const double generator_induction_lengths[GENERATED_LENGTHS] = {0.55, 0.45};

// struct form is one operation: its weight, the type of its result and its text. In the text @ is
// the variable; C a digit 1-9, M a factor, N a modulus, K a short length, P a parity, W a short
// string, X and Y a letter.
struct form {
    double weight;
    char type;
    const char *text;
};

#define FORMS(name) static const struct form name[]

FORMS(int_forms) = {{6, 'I', "@+C"},      {5, 'I', "@-C"},   {4, 'I', "@*M"},
                    {2, 'I', "@//2"},     {3, 'I', "@%N"},   {2, 'I', "max(@,C)"},
                    {2, 'I', "min(@,C)"}, {1, 'L', "[@,C]"}, {0, 0, NULL}};
FORMS(string_forms) = {
    {4, 'S', "@[::-1]"}, {4, 'S', "@+W"},        {4, 'S', "W+@"}, {3, 'S', "@.upper()"},
    {4, 'S', "@[1:]"},   {3, 'S', "@[:-1]"},     {1, 'S', "@*2"}, {2, 'S', "@.replace(X,Y)"},
    {2, 'I', "len(@)"},  {1, 'I', "@.count(X)"}, {0, 0, NULL}};
FORMS(list_forms) = {{4, 'L', "sorted(@)"},
                     {4, 'L', "@[::-1]"},
                     {4, 'L', "@+[C]"},
                     {4, 'L', "[C]+@"},
                     {4, 'L', "@[1:]"},
                     {3, 'L', "@[:-1]"},
                     {4, 'L', "[x+C for x in @]"},
                     {2, 'L', "[x*M for x in @]"},
                     {3, 'L', "[x for x in @ if x>C]"},
                     {2, 'I', "sum(@)"},
                     {1, 'I', "len(@)"},
                     {2, 'I', "max(@)"},
                     {1, 'I', "min(@)"},
                     {2, 'I', "@[0]"},
                     {2, 'I', "@[-1]"},
                     {0, 0, NULL}};
// What a program may return instead of its variable.
FORMS(int_ends) = {{1, 'B', "@>C"}, {1, 'B', "@%2==P"}, {0, 0, NULL}};
FORMS(string_ends) = {{1, 'B', "X in @"}, {0, 0, NULL}};
FORMS(list_ends) = {{1, 'B', "C in @"}, {0, 0, NULL}};
// Conditions of `if`.
FORMS(int_tests) = {{1, 'B', "@>C"}, {1, 'B', "@<C"}, {1, 'B', "@%2==P"}, {0, 0, NULL}};
FORMS(string_tests) = {{1, 'B', "len(@)>K"}, {1, 'B', "X in @"}, {0, 0, NULL}};
FORMS(list_tests) = {{1, 'B', "len(@)>K"}, {1, 'B', "C in @"}, {0, 0, NULL}};
// With a second argument b, by the types of both.
FORMS(pair_ii) = {
    {1, 'I', "@+b"}, {1, 'I', "@-b"}, {1, 'I', "max(@,b)"}, {1, 'I', "min(@,b)"}, {0, 0, NULL}};
FORMS(pair_si) = {{1, 'S', "@[b:]"}, {0, 0, NULL}};
FORMS(pair_same) = {{1, 0, "@+b"}, {1, 0, "b+@"}, {0, 0, NULL}};
FORMS(pair_li) = {{1, 'L', "@+[b]"}, {1, 'L', "[b]+@"}, {0, 0, NULL}};

static const struct form *by_type(char type, const struct form *ints, const struct form *strings,
                                  const struct form *lists)
{
    return type == 'I' ? ints : type == 'S' ? strings : lists;
}

static bool chance(struct rng *rng, double probability)
{
    return rng_uniform(rng) < probability;
}

static int below(struct rng *rng, int bound)
{
    return (int)rng_below(rng, (uint64_t)bound);
}

// draw picks a form by weight; with `type` not 0 only among those with that result.
static const struct form *draw(struct rng *rng, const struct form *forms, char type)
{
    double total = 0.0;
    const struct form *last = NULL;
    for (const struct form *form = forms; form->text != NULL; form++) {
        total += type == 0 || form->type == type ? form->weight : 0.0;
    }
    double x = rng_uniform(rng) * total;
    for (const struct form *form = forms; form->text != NULL; form++) {
        if (type == 0 || form->type == type) {
            last = form;
            x -= form->weight;
            if (x < 0.0) {
                break;
            }
        }
    }
    CHECK(last != NULL);
    return last;
}

struct text {
    char *bytes;
    size_t size, room;
};

static void add(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(struct text *text, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int more = vsnprintf(text->bytes + text->size, text->room - text->size, format, args);
    va_end(args);
    CHECK(more >= 0 && (size_t)more < text->room - text->size); // the grammar's texts are bounded
    text->size += (size_t)more;
}

static char letter(struct rng *rng)
{
    return (char)('a' + below(rng, 8));
}

static void add_letters(struct text *text, struct rng *rng, int count)
{
    add(text, "'");
    for (int i = 0; i < count; i++) {
        add(text, "%c", letter(rng));
    }
    add(text, "'");
}

static void fill(struct text *out, struct rng *rng, const char *form)
{
    for (const char *c = form; *c != '\0'; c++) {
        switch (*c) {
        case '@':
            add(out, "a");
            break;
        case 'C':
            add(out, "%d", 1 + below(rng, 9));
            break;
        case 'M':
            add(out, "%d", below(rng, 3) < 2 ? 2 : 3);
            break;
        case 'N':
            add(out, "%d", 2 + below(rng, 4));
            break;
        case 'K':
            add(out, "%d", below(rng, 3) < 2 ? 1 : 2);
            break;
        case 'P':
            add(out, "%d", below(rng, 2));
            break;
        case 'W':
            add_letters(out, rng, below(rng, 3) < 2 ? 1 : 2);
            break;
        case 'X':
        case 'Y':
            add_letters(out, rng, 1);
            break;
        default:
            add(out, "%c", *c);
        }
    }
}

// struct draft is a program under way: its text, its twin's, and the type of the variable.
struct draft {
    struct rng *rng;
    struct text program, twin;
    char type, second;
};

static void both(struct draft *draft, const char *text)
{
    add(&draft->program, "%s", text);
    add(&draft->twin, "%s", text);
}

static const struct form *pair_forms(char type, char second)
{
    if (type == 'I') {
        return second == 'I' ? pair_ii : NULL;
    }
    if (type == second) {
        return pair_same;
    }
    return second != 'I' ? NULL : type == 'S' ? pair_si : pair_li;
}

static void assign(struct draft *draft, const char *indent, bool keep_type)
{
    const struct form *pairs = draft->second != 0 ? pair_forms(draft->type, draft->second) : NULL;
    const struct form *form = NULL;
    if (pairs != NULL && chance(draft->rng, 0.45)) {
        form = draw(draft->rng, pairs, 0);
    } else {
        const char wanted[2] = {0, draft->type};
        form = draw(draft->rng, by_type(draft->type, int_forms, string_forms, list_forms),
                    wanted[keep_type]);
    }
    char expression[64];
    struct text text = {.bytes = expression, .room = sizeof(expression)};
    fill(&text, draft->rng, form->text);
    add(&draft->program, "\n%sa=%s", indent, expression);
    add(&draft->twin, "\n%sa=%s;_T(a)", indent, expression);
    if (form->type != 0) {
        draft->type = form->type;
    }
}

static void add_test(struct draft *draft)
{
    const struct form *form =
        draw(draft->rng, by_type(draft->type, int_tests, string_tests, list_tests), 0);
    char test[64];
    struct text text = {.bytes = test, .room = sizeof(test)};
    fill(&text, draft->rng, form->text);
    both(draft, "\n if ");
    both(draft, test);
    both(draft, ":");
}

static void statement(struct draft *draft)
{
    double kind = rng_uniform(draft->rng);
    if (kind < 0.08) {
        add_test(draft);
        assign(draft, "  ", true);
        if (chance(draft->rng, 0.4)) {
            both(draft, "\n else:");
            assign(draft, "  ", true);
        }
    } else if (kind < 0.13) {
        both(draft, chance(draft->rng, 0.5) ? "\n for i in range(2):" : "\n for i in range(3):");
        assign(draft, "  ", true);
    } else {
        assign(draft, " ", false);
    }
}

static void finish(struct draft *draft)
{
    char end[64];
    struct text text = {.bytes = end, .room = sizeof(end)};
    if (chance(draft->rng, 0.9)) {
        add(&text, "a");
    } else {
        fill(&text, draft->rng,
             draw(draft->rng, by_type(draft->type, int_ends, string_ends, list_ends), 0)->text);
    }
    both(draft, "\n return ");
    both(draft, end);
}

static int draw_length(struct rng *rng, const double lengths[GENERATED_LENGTHS])
{
    double total = 0.0;
    for (int i = 0; i < GENERATED_LENGTHS; i++) {
        total += lengths[i];
    }
    double x = rng_uniform(rng) * total;
    int length = 0;
    while (length < GENERATED_LENGTHS - 1 && (x -= lengths[length]) >= 0.0) {
        length++;
    }
    return length + 1;
}

static void draw_program(struct generated *out, struct rng *rng,
                         const double lengths[GENERATED_LENGTHS])
{
    double kind = rng_uniform(rng);
    struct draft draft = {.rng = rng, .type = "ISL"[(kind >= 0.34) + (kind >= 0.64)]};
    draft.program = (struct text){.bytes = out->program, .room = sizeof(out->program)};
    draft.twin = (struct text){.bytes = out->twin, .room = sizeof(out->twin)};
    if (chance(rng, 0.10)) {
        draft.second = 'I';
        if (draft.type != 'I' && chance(rng, 0.4)) {
            draft.second = draft.type;
        }
    }
    out->types[0] = draft.type;
    out->types[1] = draft.second;
    out->types[2] = '\0';
    add(&draft.program, "def f(%s):", draft.second != 0 ? "a,b" : "a");
    add(&draft.twin, "def g(%s):", draft.second != 0 ? "a,b" : "a");
    out->assignments = draw_length(rng, lengths);
    for (int i = 0; i < out->assignments; i++) {
        statement(&draft);
    }
    finish(&draft);
}

static void add_value(struct text *text, struct rng *rng, char type)
{
    static const int lengths[] = {2, 3, 3, 4};
    if (type == 'I') {
        add(text, "%d", below(rng, INPUT_MAX_INT + 1));
    } else if (type == 'S') {
        int length = below(rng, 5); // 2, 3, 3, 4, 4
        add_letters(text, rng, length == 0 ? 2 : length < 3 ? 3 : 4);
    } else {
        int length = lengths[below(rng, 4)];
        for (int i = 0; i < length; i++) {
            add(text, "%s%d", i == 0 ? "[" : ", ", below(rng, 10));
        }
        add(text, "]");
    }
}

static void draw_input(char *out, struct rng *rng, const char *types)
{
    struct text text = {.bytes = out, .room = GENERATED_INPUT_MAX};
    add_value(&text, rng, types[0]);
    if (types[1] != '\0') {
        add(&text, ", ");
        add_value(&text, rng, types[1]);
    }
}

static void draw_inputs(struct generated *out, struct rng *rng, int wanted)
{
    out->input_count = 0;
    for (int tries = 0; tries < TRIES_MAX && out->input_count < wanted; tries++) {
        char *input = out->inputs[out->input_count];
        draw_input(input, rng, out->types);
        bool seen = false;
        for (int i = 0; i < out->input_count; i++) {
            seen = seen || strcmp(out->inputs[i], input) == 0;
        }
        out->input_count += !seen;
    }
}

bool generator_held_out(const char *program)
{
    uint64_t hash = 0xcbf29ce484222325u; // FNV-1a
    for (const char *c = program; *c != '\0'; c++) {
        hash = (hash ^ (unsigned char)*c) * 0x100000001b3u;
    }
    return rng_mix(hash, 0) % 16 == 0;
}

void generate(struct generated *out, struct rng *rng, const double lengths[GENERATED_LENGTHS],
              int inputs, bool held_out)
{
    CHECK(inputs >= 1 && inputs <= GENERATED_INPUTS_MAX);
    memset(out, 0, sizeof(*out));
    do { // a sixteenth is held out, so this ends after a few turns
        draw_program(out, rng, lengths);
    } while (generator_held_out(out->program) != held_out);
    draw_inputs(out, rng, inputs);
}

// What a result may be: the bounds that keep examples short and spellable in the small vocabulary.
static const char source_head[] =
    "_S=[]\n_T=_S.append\n"
    "def _ok(v):\n"
    " if v is True or v is False: return True\n"
    " if isinstance(v,int): return -999<=v<=999\n"
    " if isinstance(v,str): return len(v)<=12 and v.isalnum()|(v=='')\n"
    " return isinstance(v,list) and len(v)<=8 and all(map(_ok,v))\n";
static const char source_tail[] = "def f(n):\n"
                                  " out=[]\n"
                                  " for g,xs in _P:\n"
                                  "  o=[]\n"
                                  "  first=None\n"
                                  "  for x in xs:\n"
                                  "   del _S[:]\n"
                                  "   try:\n"
                                  "    v=g(*x)\n"
                                  "    r=repr(v)\n"
                                  "    o.append(r if _ok(v) and len(r)<=32 else '')\n"
                                  "   except Exception:\n"
                                  "    o.append('')\n"
                                  "   if first is None: first=';'.join(map(repr,_S))\n"
                                  "  out.append('|'.join(o)+'~'+first)\n"
                                  " return '!'.join(out)\n";

char *generator_source(const struct generated *programs, int count)
{
    char *source = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&source, &size);
    CHECK(file != NULL);
    (void)fprintf(file, "%s_P=[]\n", source_head);
    for (int i = 0; i < count; i++) {
        const struct generated *g = &programs[i];
        (void)fprintf(file, "%s\n_P.append((g,[", g->twin);
        for (int k = 0; k < g->input_count; k++) {
            (void)fprintf(file, "(%s,),", g->inputs[k]);
        }
        (void)fprintf(file, "]))\n");
    }
    (void)fputs(source_tail, file);
    CHECK(fclose(file) == 0 && source != NULL);
    return source;
}

static void keep_states(struct generated *g, const char *states)
{
    int count = 1;
    for (const char *c = states; *c != '\0'; c++) {
        count += *c == ';';
    }
    size_t size = strlen(states);
    if (count <= STATES_COUNT_MAX && size - (size_t)(count - 1) <= STATES_BYTES_MAX &&
        size < sizeof(g->states)) {
        memcpy(g->states, states, size + 1);
    }
}

static int read_record(struct generated *g, char *record)
{
    char *states = strchr(record, '~');
    if (states == NULL) {
        return -EINVAL;
    }
    *states++ = '\0';
    for (int k = 0; k < g->input_count; k++) {
        const char *output = strsep(&record, "|");
        if (output == NULL || strlen(output) >= GENERATED_OUTPUT_MAX) {
            return -EINVAL;
        }
        memcpy(g->outputs[k], output, strlen(output) + 1);
    }
    keep_states(g, states);
    return record == NULL ? 0 : -EINVAL;
}

int generator_results(struct generated *programs, int count, const char *repr, struct error *err)
{
    size_t size = strlen(repr);
    CLEANUP(freep) char *text = strdup(repr);
    CHECK(text != NULL);
    if (size < 2 || text[0] != text[size - 1]) {
        return error_set(err, -EINVAL, "generator: the result is not a string");
    }
    text[size - 1] = '\0';
    // Strings of values are alphanumeric, so the repr escapes nothing but, at most, their quotes.
    char *from = text + 1, *to = text + 1;
    for (; *from != '\0'; from++) {
        if (*from != '\\') {
            *to++ = *from;
        }
    }
    *to = '\0';
    char *rest = text + 1;
    for (int i = 0; i < count; i++) {
        char *record = strsep(&rest, "!");
        if (record == NULL || read_record(&programs[i], record) < 0) {
            return error_set(err, -EINVAL, "generator: the result of program %d is cut short", i);
        }
    }
    return rest == NULL ? 0 : error_set(err, -EINVAL, "generator: more results than programs");
}

bool generated_pairs(const struct generated *g, int wanted, const char **inputs,
                     const char **outputs)
{
    int found = 0;
    bool varied = false;
    for (int k = 0; k < g->input_count && found < wanted; k++) {
        if (g->outputs[k][0] != '\0') {
            inputs[found] = g->inputs[k];
            outputs[found] = g->outputs[k];
            varied = varied || strcmp(outputs[0], outputs[found]) != 0;
            found++;
        }
    }
    return found == wanted && varied;
}
