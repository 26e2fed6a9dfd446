#define PCRE2_CODE_UNIT_WIDTH 8
#include "common/text/split.h"

#include "common/base/cleanup.h"
#include "common/text/utf8.h"
#include "common/text/words.h"

#include <errno.h>
#include <pcre2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

const char split_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|"
                          "\\s+(?!\\S)|\\s+";
const char split_llama3[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char split_qwen2[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
                           " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char split_digits[] = "\\p{N}";

// --- ASCII by hand

enum class { SPACE = 1, BREAK = 2, LETTER = 4, DIGIT = 8, OTHER = 16, BEYOND = 32 };

// The class of each byte: BREAK (CR, LF) is a SPACE too; BEYOND is a part of a character that is
// not ASCII.
static const uint8_t classes[256] = {
    [0 ... 8] = OTHER,      [9] = SPACE,           [10] = SPACE | BREAK,   [11 ... 12] = SPACE,
    [13] = SPACE | BREAK,   [14 ... 31] = OTHER,   [32] = SPACE,           [33 ... 47] = OTHER,
    ['0' ... '9'] = DIGIT,  [58 ... 64] = OTHER,   ['A' ... 'Z'] = LETTER, [91 ... 96] = OTHER,
    ['a' ... 'z'] = LETTER, [123 ... 127] = OTHER, [128 ... 255] = BEYOND,
};

// struct scan is the text from the word's beginning on. A scanner returns the word's size, or 0
// where a byte beyond ASCII could matter.
struct scan {
    const unsigned char *text;
    size_t size;
};

static unsigned class_at(const struct scan *scan, size_t at)
{
    return at < scan->size ? classes[scan->text[at]] : 0;
}

// The end of the run of bytes in `class` that begins at `at`.
static size_t run_end(const struct scan *scan, size_t at, unsigned class)
{
    while (at < scan->size && (classes[scan->text[at]] & class) != 0) {
        at++;
    }
    return at;
}

// A run's end is certain unless a byte beyond ASCII follows.
static size_t certain(const struct scan *scan, size_t end)
{
    return class_at(scan, end) == BEYOND ? 0 : end;
}

// The size of 's 't 're 've 'm 'll 'd at an apostrophe, or 0.
static size_t contraction(const struct scan *scan, bool any_case)
{
    unsigned char fold = any_case ? 0x20 : 0;
    unsigned char first = scan->size > 1 ? scan->text[1] | fold : 0;
    unsigned char second = scan->size > 2 ? scan->text[2] | fold : 0;
    switch (first) {
    case 's':
    case 't':
    case 'm':
    case 'd':
        return 2;
    case 'r':
    case 'v':
        return second == 'e' ? 3 : 0;
    case 'l':
        return second == 'l' ? 3 : 0;
    default:
        return 0;
    }
}

// Spaces without a line break: \s+(?!\S)|\s+, so all at the end of the text, else all but the last,
// which belongs to the next word unless it stands alone.
static size_t spaces(const struct scan *scan, size_t end)
{
    if (end == scan->size) {
        return end;
    }
    return end > 1 ? end - 1 : end;
}

static size_t scan_gpt2(const struct scan *scan)
{
    size_t found = scan->text[0] == '\'' ? contraction(scan, false) : 0;
    if (found > 0) {
        return found;
    }
    size_t begin = scan->text[0] == ' ' ? 1 : 0;
    unsigned class = class_at(scan, begin);
    if (class == BEYOND) {
        return 0;
    }
    if ((class & (LETTER | DIGIT | OTHER)) != 0) {
        return certain(scan, run_end(scan, begin, class));
    }
    size_t end = certain(scan, run_end(scan, 0, SPACE));
    return end == 0 ? 0 : spaces(scan, end);
}

// White space that is not the beginning of a longer word: \s*[\r\n]+|\s+(?!\S)|\s+.
static size_t scan_spaces(const struct scan *scan)
{
    size_t end = certain(scan, run_end(scan, 0, SPACE));
    for (size_t i = end; i > 0; i--) {
        if ((class_at(scan, i - 1) & BREAK) != 0) {
            return i;
        }
    }
    return end == 0 ? 0 : spaces(scan, end);
}

// The Llama 3 and Qwen2 patterns, which differ in how many digits make a word.
static size_t scan_words(const struct scan *scan, size_t digits_max)
{
    unsigned first = class_at(scan, 0);
    unsigned second = class_at(scan, 1);
    if (first == LETTER) {
        return certain(scan, run_end(scan, 0, LETTER));
    }
    if (first == DIGIT) {
        size_t end = run_end(scan, 0, DIGIT);
        return end >= digits_max ? digits_max : certain(scan, end);
    }
    if (second == BEYOND || first == BEYOND) {
        return 0;
    }
    size_t found = scan->text[0] == '\'' ? contraction(scan, true) : 0;
    if (found > 0) {
        return found;
    }
    if (second == LETTER && (first & BREAK) == 0) {
        return certain(scan, run_end(scan, 1, LETTER));
    }
    if (first == OTHER || (scan->text[0] == ' ' && second == OTHER)) {
        size_t end = certain(scan, run_end(scan, 1, OTHER));
        return end == 0 ? 0 : run_end(scan, end, BREAK);
    }
    return scan_spaces(scan);
}

static size_t scan_llama3(const struct scan *scan)
{
    return scan_words(scan, 3);
}

static size_t scan_qwen2(const struct scan *scan)
{
    return scan_words(scan, 1);
}

static size_t scan_digits(const struct scan *scan)
{
    if (class_at(scan, 0) == DIGIT) {
        return 1;
    }
    return certain(scan, run_end(scan, 0, SPACE | LETTER | OTHER));
}

// --- the expression

struct splitter {
    pcre2_code *code;
    size_t (*scan)(const struct scan *scan); // NULL: the expression alone
};

// White space in the expressions of Hugging Face is Unicode's White_Space; PCRE2's \s also takes
// U+180E, which is none since Unicode 6.3. So \s and \S are written out as classes.
static void translate(struct words *out, const char *pattern)
{
    static const char spaces_of_unicode[] = "\\t-\\r \\x{85}\\p{Z}";
    bool in_class = false;
    for (const char *c = pattern; *c != '\0'; c++) {
        if (c[0] == '\\' && (c[1] == 's' || (c[1] == 'S' && !in_class))) {
            words_addf(out, in_class ? "%s" : c[1] == 's' ? "[%s]" : "[^%s]", spaces_of_unicode);
            c++;
            continue;
        }
        if (c[0] == '\\' && c[1] != '\0') {
            words_add_bytes(out, c, 2);
            c++;
            continue;
        }
        in_class = c[0] == '[' || (in_class && c[0] != ']');
        words_add_bytes(out, c, 1);
    }
}

static int compile(struct splitter *splitter, const char *pattern, struct error *err)
{
    CLEANUP(words_finish) struct words expression = {0};
    translate(&expression, pattern);
    if (expression.failed) {
        return error_set(err, -ENOMEM, "tokenizer: out of memory");
    }
    int problem = 0;
    PCRE2_SIZE offset = 0;
    splitter->code = pcre2_compile((PCRE2_SPTR)expression.text, expression.size,
                                   PCRE2_UTF | PCRE2_UCP, &problem, &offset, NULL);
    if (splitter->code == NULL) {
        char text[128];
        (void)pcre2_get_error_message(problem, (PCRE2_UCHAR *)text, sizeof(text));
        return error_set(err, -EINVAL, "the pre-tokenizer's pattern is not understood: %s", text);
    }
    // Without the compiler (some hardened kernels forbid it) PCRE2 interprets: slower, the same.
    (void)pcre2_jit_compile(splitter->code, PCRE2_JIT_COMPLETE);
    return 0;
}

CLEANUP_FUNCTION(struct splitter, splitter_destroy)

int splitter_create(struct splitter **out, const char *pattern, bool fast, struct error *err)
{
    static const struct {
        const char *pattern;
        size_t (*scan)(const struct scan *scan);
    } known[] = {{split_gpt2, scan_gpt2},
                 {split_llama3, scan_llama3},
                 {split_qwen2, scan_qwen2},
                 {split_digits, scan_digits}};
    CLEANUP(splitter_destroyp) struct splitter *splitter = calloc(1, sizeof(*splitter));
    if (splitter == NULL) {
        return error_set(err, -ENOMEM, "tokenizer: out of memory");
    }
    for (size_t i = 0; fast && i < sizeof(known) / sizeof(*known); i++) {
        if (strcmp(pattern, known[i].pattern) == 0) {
            splitter->scan = known[i].scan;
        }
    }
    int code = compile(splitter, pattern, err);
    if (code < 0) {
        return code;
    }
    *out = TAKE(splitter);
    return 0;
}

void splitter_destroy(struct splitter *splitter)
{
    if (splitter != NULL) {
        pcre2_code_free(splitter->code);
        free(splitter);
    }
}

void split_state_finish(struct split_state *state)
{
    pcre2_match_data_free(state->match);
    state->match = NULL;
}

// The word at `at` by the expression: a match, or the gap up to the next one. An empty match cuts
// nothing.
static int match(const struct splitter *splitter, struct split_state *state, const char *text,
                 size_t size, size_t at, size_t *length, struct error *err)
{
    if (state->match == NULL) {
        state->match = pcre2_match_data_create(1, NULL);
        if (state->match == NULL) {
            return error_set(err, -ENOMEM, "tokenizer: out of memory");
        }
    }
    size_t from = at;
    while (from < size) {
        int found = pcre2_match(splitter->code, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK,
                                state->match, NULL);
        if (found == PCRE2_ERROR_NOMATCH) {
            break;
        }
        if (found < 0) {
            return error_set(err, -EIO, "the pre-tokenizer's pattern gave up (PCRE2 error %d)",
                             found);
        }
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(state->match);
        if (span[1] > span[0]) {
            *length = span[0] > at ? span[0] - at : span[1] - at;
            return 0;
        }
        from = span[1];
        if (from < size) {
            (void)utf8_next(text, &from);
        }
    }
    *length = size - at;
    return 0;
}

int splitter_next(const struct splitter *splitter, struct split_state *state, const char *text,
                  size_t size, size_t at, size_t *length, struct error *err)
{
    if (splitter->scan != NULL) {
        const struct scan scan = {.text = (const unsigned char *)text + at, .size = size - at};
        *length = splitter->scan(&scan);
        if (*length > 0) {
            return 0;
        }
    }
    return match(splitter, state, text, size, at, length, err);
}
