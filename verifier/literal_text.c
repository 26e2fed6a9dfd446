#include "verifier/literal_text.h"

#include "common/base/cleanup.h"
#include "verifier/value.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int literal_fail(struct literal_cursor *cursor, const char *what)
{
    return error_set(cursor->err, -EBADMSG, "not a literal at byte %zu: %s",
                     (size_t)(cursor->at - cursor->start), what);
}

// The length of the UTF-8 sequence at `at`, or 0.
static size_t utf8_size(const uint8_t *at, size_t left)
{
    uint8_t lead = at[0];
    if (lead < 0x80) {
        return lead != 0;
    }
    size_t size = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || left < size) {
        return 0;
    }
    for (size_t i = 1; i < size; i++) {
        if ((at[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    bool bad = (lead == 0xe0 && at[1] < 0xa0) || (lead == 0xed && at[1] > 0x9f) ||
               (lead == 0xf0 && at[1] < 0x90) || (lead == 0xf4 && at[1] > 0x8f);
    return bad ? 0 : size;
}

int literal_check_utf8(struct literal_cursor *cursor)
{
    const char *start = cursor->at;
    while (cursor->at < cursor->end) {
        size_t size = utf8_size((const uint8_t *)cursor->at, (size_t)(cursor->end - cursor->at));
        if (size == 0) {
            return literal_fail(cursor, "not UTF-8");
        }
        cursor->at += size;
    }
    cursor->at = start;
    return 0;
}

void literal_skip_space(struct literal_cursor *cursor)
{
    while (cursor->at < cursor->end && (*cursor->at == ' ' || *cursor->at == '\t' ||
                                        *cursor->at == '\n' || *cursor->at == '\r')) {
        cursor->at++;
    }
}

static bool word_char(char c)
{
    return isalnum((unsigned char)c) || c == '_' || (unsigned char)c >= 0x80;
}

size_t literal_word_size(const struct literal_cursor *cursor)
{
    const char *at = cursor->at;
    if (at < cursor->end && isdigit((unsigned char)*at)) {
        return 0;
    }
    while (at < cursor->end && word_char(*at)) {
        at++;
    }
    return (size_t)(at - cursor->at);
}

// --- keywords ---

bool literal_at_keyword(const struct literal_cursor *cursor)
{
    struct literal_cursor ahead = *cursor;
    literal_skip_space(&ahead);
    size_t size = literal_word_size(&ahead);
    ahead.at += size;
    literal_skip_space(&ahead);
    return size > 0 && ahead.at < ahead.end && *ahead.at == '=' &&
           !(ahead.at + 1 < ahead.end && ahead.at[1] == '=');
}

static void put_text(struct bytes *out, uint8_t tag, const void *data, size_t size)
{
    bytes_append_u8(out, tag);
    bytes_append_u32(out, (uint32_t)size);
    bytes_append(out, data, size);
}

int literal_keyword(struct literal_cursor *cursor)
{
    static const char *const reserved[] = {
        "None",    "True",     "False", "and",      "as",   "assert", "async",  "await",
        "break",   "class",    "def",   "continue", "del",  "elif",   "else",   "except",
        "finally", "for",      "from",  "global",   "if",   "import", "in",     "is",
        "lambda",  "nonlocal", "not",   "or",       "pass", "raise",  "return", "try",
        "while",   "with",     "yield", "__debug__"};
    if (!literal_at_keyword(cursor)) {
        return literal_fail(cursor, "expected name=value");
    }
    literal_skip_space(cursor);
    size_t size = literal_word_size(cursor);
    for (size_t i = 0; i < sizeof(reserved) / sizeof(*reserved); i++) {
        if (size == strlen(reserved[i]) && memcmp(cursor->at, reserved[i], size) == 0) {
            return literal_fail(cursor, "a reserved word as a name");
        }
    }
    for (size_t i = 0; i < size; i++) {
        if ((unsigned char)cursor->at[i] >= 0x80) {
            return literal_fail(cursor, "a name is written in ASCII");
        }
    }
    put_text(cursor->out, VALUE_STRING, cursor->at, size);
    cursor->at += size;
    literal_skip_space(cursor);
    cursor->at++; // the `=` that literal_at_keyword saw
    return 0;
}

// --- strings ---

struct prefix {
    size_t size;
    bool raw;
    bool bytes;
    bool unicode;
};

// One letter before the quote: r and b once each in any order, or u alone.
static bool add_mark(struct prefix *prefix, char letter)
{
    bool *mark = NULL;
    switch (letter) {
    case 'r':
    case 'R':
        mark = &prefix->raw;
        break;
    case 'b':
    case 'B':
        mark = &prefix->bytes;
        break;
    case 'u':
    case 'U':
        mark = &prefix->unicode;
        break;
    default:
        return false;
    }
    bool alone = !prefix->raw && !prefix->bytes;
    bool fits = !*mark && !prefix->unicode && (mark != &prefix->unicode || alone);
    *mark = true;
    return fits;
}

static bool read_prefix(const struct literal_cursor *cursor, struct prefix *prefix)
{
    *prefix = (struct prefix){0};
    const char *at = cursor->at;
    for (; at < cursor->end && *at != '\'' && *at != '"'; at++) {
        if (!add_mark(prefix, *at)) {
            return false;
        }
    }
    prefix->size = (size_t)(at - cursor->at);
    return at < cursor->end;
}

bool literal_at_string(const struct literal_cursor *cursor)
{
    struct prefix prefix;
    return read_prefix(cursor, &prefix);
}

static void put_code_point(struct bytes *out, uint32_t code)
{
    uint8_t text[4];
    size_t size = 0;
    if (code < 0x80) {
        text[size++] = (uint8_t)code;
    } else if (code < 0x800) {
        text[size++] = (uint8_t)(0xc0 | code >> 6);
        text[size++] = (uint8_t)(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
        text[size++] = (uint8_t)(0xe0 | code >> 12);
        text[size++] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
        text[size++] = (uint8_t)(0x80 | (code & 0x3f));
    } else {
        text[size++] = (uint8_t)(0xf0 | code >> 18);
        text[size++] = (uint8_t)(0x80 | (code >> 12 & 0x3f));
        text[size++] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
        text[size++] = (uint8_t)(0x80 | (code & 0x3f));
    }
    bytes_append(out, text, size);
}

static int digit_value(char c)
{
    if (isdigit((unsigned char)c)) {
        return c - '0';
    }
    c = (char)tolower((unsigned char)c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
}

// Up to `most` digits in `base`, at least `least`.
static int read_digits(struct literal_cursor *cursor, int base, int least, int most,
                       uint32_t *value)
{
    *value = 0;
    int count = 0;
    for (; count < most && cursor->at < cursor->end && digit_value(*cursor->at) < base; count++) {
        *value = *value * (uint32_t)base + (uint32_t)digit_value(*cursor->at++);
    }
    return count < least ? literal_fail(cursor, "truncated escape") : 0;
}

static void put_unit(struct bytes *out, const struct prefix *prefix, uint32_t code)
{
    if (prefix->bytes) {
        bytes_append_u8(out, (uint8_t)code);
    } else {
        put_code_point(out, code);
    }
}

// The simple escapes: what follows the backslash, and what it means.
static const char escape_names[] = "\\'\"abfnrtv";
static const char escape_values[] = "\\'\"\a\b\f\n\r\t\v";

// After the backslash. An unknown escape keeps its backslash, as in Python.
static int read_escape(struct literal_cursor *cursor, const struct prefix *prefix)
{
    if (cursor->at == cursor->end) {
        return literal_fail(cursor, "string without an end");
    }
    char c = *cursor->at;
    const char *simple = c == '\0' ? NULL : strchr(escape_names, c);
    uint32_t value = 0;
    int code = 0;
    if (simple != NULL) {
        cursor->at++;
        bytes_append_u8(cursor->out, (uint8_t)escape_values[simple - escape_names]);
    } else if (c == '\n') {
        cursor->at++;
    } else if (c >= '0' && c <= '7') {
        code = read_digits(cursor, 8, 1, 3, &value);
        put_unit(cursor->out, prefix, value);
    } else if (c == 'x') {
        cursor->at++;
        code = read_digits(cursor, 16, 2, 2, &value);
        put_unit(cursor->out, prefix, value);
    } else if (!prefix->bytes && (c == 'u' || c == 'U')) {
        cursor->at++;
        int digits = c == 'u' ? 4 : 8;
        code = read_digits(cursor, 16, digits, digits, &value);
        if (code == 0 && value > 0x10ffff) {
            return literal_fail(cursor, "escape beyond Unicode");
        }
        put_code_point(cursor->out, value);
    } else if (!prefix->bytes && c == 'N') {
        return literal_fail(cursor, "named characters are not read");
    } else {
        bytes_append_u8(cursor->out, '\\');
    }
    return code;
}

static bool at_quotes(const struct literal_cursor *cursor, char quote, size_t count)
{
    if ((size_t)(cursor->end - cursor->at) < count) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (cursor->at[i] != quote) {
            return false;
        }
    }
    return true;
}

static int read_character(struct literal_cursor *cursor, const struct prefix *prefix, bool triple)
{
    char c = *cursor->at;
    if (c == '\\') {
        cursor->at++;
        if (!prefix->raw) {
            return read_escape(cursor, prefix);
        }
        bytes_append_u8(cursor->out, '\\');
        if (cursor->at == cursor->end) {
            return literal_fail(cursor, "string without an end");
        }
        c = *cursor->at; // in a raw string the backslash protects a quote and stays
    } else if (c == '\n' && !triple) {
        return literal_fail(cursor, "string without an end");
    }
    if (c == '\r') { // a line ends in \n whatever the file says
        cursor->at += cursor->at + 1 < cursor->end && cursor->at[1] == '\n';
        c = '\n';
        if (!triple) {
            return literal_fail(cursor, "string without an end");
        }
    }
    if (prefix->bytes && (unsigned char)c >= 0x80) {
        return literal_fail(cursor, "bytes are written in ASCII");
    }
    cursor->at++;
    bytes_append_u8(cursor->out, (uint8_t)c);
    return 0;
}

static int read_string(struct literal_cursor *cursor, const struct prefix *prefix)
{
    cursor->at += prefix->size;
    char quote = *cursor->at;
    bool triple = at_quotes(cursor, quote, 3);
    size_t quotes = triple ? 3 : 1;
    cursor->at += quotes;
    while (!at_quotes(cursor, quote, quotes)) {
        if (cursor->at == cursor->end) {
            return literal_fail(cursor, "string without an end");
        }
        int code = read_character(cursor, prefix, triple);
        if (code < 0) {
            return code;
        }
    }
    cursor->at += quotes;
    return 0;
}

int literal_string(struct literal_cursor *cursor)
{
    struct prefix first;
    struct prefix prefix;
    if (!read_prefix(cursor, &first)) {
        return literal_fail(cursor, "not a string");
    }
    bytes_append_u8(cursor->out, first.bytes ? VALUE_BYTES : VALUE_STRING);
    size_t size_at = cursor->out->size;
    bytes_append_u32(cursor->out, 0);
    prefix = first;
    do {
        if (prefix.bytes != first.bytes) {
            return literal_fail(cursor, "bytes and text mixed");
        }
        int code = read_string(cursor, &prefix);
        if (code < 0) {
            return code;
        }
        literal_skip_space(cursor);
    } while (read_prefix(cursor, &prefix));
    uint32_t size = (uint32_t)(cursor->out->size - size_at - sizeof(size));
    if (!cursor->out->failed) {
        memcpy(cursor->out->data + size_at, &size, sizeof(size));
    }
    return 0;
}
