// A recursive-descent parser that writes the typed form as it reads. Containers reserve their count
// and fill it in at the end. Depth, nodes and digits are bounded, so any text costs bounded time.
#include "verifier/literal.h"

#include "common/base/cleanup.h"
#include "verifier/literal_text.h"
#include "verifier/value.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int parse_value(struct literal_cursor *cursor);

static bool next_is(struct literal_cursor *cursor, char wanted)
{
    literal_skip_space(cursor);
    return cursor->at < cursor->end && *cursor->at == wanted;
}

static bool accept(struct literal_cursor *cursor, char wanted)
{
    if (!next_is(cursor, wanted)) {
        return false;
    }
    cursor->at++;
    return true;
}

static int expect(struct literal_cursor *cursor, char wanted)
{
    if (accept(cursor, wanted)) {
        return 0;
    }
    char what[] = "expected ' '";
    what[10] = wanted;
    return literal_fail(cursor, what);
}

static void set_count(struct literal_cursor *cursor, size_t at, uint32_t count)
{
    if (!cursor->out->failed) {
        memcpy(cursor->out->data + at, &count, sizeof(count));
    }
}

// Lists and dicts cannot be members of a set or keys of a dict; a tuple can when its members can.
static bool hashable(const uint8_t *typed, size_t size, size_t *span)
{
    *span = value_span(typed, size);
    if (*span == 0) {
        return false;
    }
    switch (typed[0]) {
    case VALUE_LIST:
    case VALUE_DICT:
    case VALUE_SET:
    case VALUE_BYTE_ARRAY:
        return false;
    case VALUE_TUPLE:
        break;
    default:
        return true;
    }
    uint32_t count = bytes_get_u32(typed + 1);
    size_t at = 1 + sizeof(count);
    for (uint32_t i = 0; i < count; i++) {
        size_t inner = 0;
        if (!hashable(typed + at, size - at, &inner)) {
            return false;
        }
        at += inner;
    }
    return true;
}

static int parse_hashable(struct literal_cursor *cursor)
{
    size_t start = cursor->out->size;
    int code = parse_value(cursor);
    size_t span = 0;
    if (code == 0 && !cursor->out->failed &&
        !hashable(cursor->out->data + start, cursor->out->size - start, &span)) {
        return literal_fail(cursor, "unhashable member or key");
    }
    return code;
}

// Items up to `close`; the count is left in *count.
static int parse_items(struct literal_cursor *cursor, char close, uint32_t *count)
{
    for (*count = 0; !accept(cursor, close); (*count)++) {
        if (*count > 0) {
            int code = expect(cursor, ',');
            if (code < 0) {
                return code;
            }
            if (accept(cursor, close)) {
                return 0;
            }
        }
        int code = parse_value(cursor);
        if (code < 0) {
            return code;
        }
    }
    return 0;
}

static int parse_list(struct literal_cursor *cursor)
{
    uint32_t count = 0;
    bytes_append_u8(cursor->out, VALUE_LIST);
    size_t count_at = cursor->out->size;
    bytes_append_u32(cursor->out, 0);
    int code = parse_items(cursor, ']', &count);
    set_count(cursor, count_at, count);
    return code;
}

// `()`, `(1,)`, `(1, 2)` are tuples; `(1)` is 1.
static int parse_parentheses(struct literal_cursor *cursor)
{
    size_t start = cursor->out->size;
    bytes_append_u8(cursor->out, VALUE_TUPLE);
    bytes_append_u32(cursor->out, 0);
    size_t first = cursor->out->size;
    if (accept(cursor, ')')) {
        return 0;
    }
    int code = parse_value(cursor);
    if (code < 0) {
        return code;
    }
    if (accept(cursor, ')')) { // only brackets: take the tuple's head away again
        if (!cursor->out->failed) {
            memmove(cursor->out->data + start, cursor->out->data + first,
                    cursor->out->size - first);
            cursor->out->size -= first - start;
        }
        return 0;
    }
    uint32_t rest = 0;
    code = expect(cursor, ',');
    code = code < 0 ? code : parse_items(cursor, ')', &rest);
    set_count(cursor, start + 1, rest + 1);
    return code;
}

static int parse_braces(struct literal_cursor *cursor)
{
    size_t start = cursor->out->size;
    bytes_append_u8(cursor->out, VALUE_DICT);
    bytes_append_u32(cursor->out, 0);
    uint32_t count = 0;
    bool is_set = false;
    while (!accept(cursor, '}')) {
        int code = count > 0 ? expect(cursor, ',') : 0;
        if (code < 0) {
            return code;
        }
        if (count > 0 && accept(cursor, '}')) {
            break;
        }
        code = parse_hashable(cursor);
        if (code < 0) {
            return code;
        }
        bool has_value = accept(cursor, ':');
        if (count > 0 && has_value == is_set) {
            return literal_fail(cursor, "a dict and a set mixed");
        }
        is_set = !has_value;
        code = has_value ? parse_value(cursor) : 0;
        if (code < 0) {
            return code;
        }
        count++;
    }
    if (is_set && !cursor->out->failed) {
        cursor->out->data[start] = VALUE_SET;
    }
    set_count(cursor, start + 1, count);
    return 0;
}

// --- calls that stand for values ---

// A set from any literal that has members; the layout is the same, only the tag changes.
static int parse_set_call(struct literal_cursor *cursor, uint8_t tag)
{
    size_t start = cursor->out->size;
    if (accept(cursor, ')')) {
        bytes_append_u8(cursor->out, tag);
        bytes_append_u32(cursor->out, 0);
        return 0;
    }
    int code = parse_value(cursor);
    if (code < 0 || cursor->out->failed) {
        return code;
    }
    uint8_t *head = cursor->out->data + start;
    if (*head != VALUE_LIST && *head != VALUE_TUPLE && *head != VALUE_SET &&
        *head != VALUE_FROZEN_SET) {
        return literal_fail(cursor, "a set is made of a list, tuple or set");
    }
    *head = VALUE_TUPLE; // so that its members are looked at
    size_t span = 0;
    if (!hashable(head, cursor->out->size - start, &span)) {
        return literal_fail(cursor, "unhashable member");
    }
    *head = tag;
    return expect(cursor, ')');
}

// dict([(k, v), ...]): the pairs lose their heads.
static int unwrap_pairs(struct literal_cursor *cursor, size_t start)
{
    CLEANUP(bytes_finish) struct bytes flat = {0};
    const uint8_t *data = cursor->out->data;
    size_t end = cursor->out->size;
    uint32_t count = bytes_get_u32(data + start + 1);
    size_t at = start + 1 + sizeof(count);
    size_t head = 1 + sizeof(count);
    for (uint32_t i = 0; i < count; i++) {
        size_t span = value_span(data + at, end - at);
        bool pair = (data[at] == VALUE_TUPLE || data[at] == VALUE_LIST) &&
                    bytes_get_u32(data + at + 1) == 2;
        size_t key = 0;
        if (!pair || !hashable(data + at + head, span - head, &key)) {
            return literal_fail(cursor, "dict() takes pairs with hashable keys");
        }
        bytes_append(&flat, data + at + head, span - head);
        at += span;
    }
    cursor->out->size = start;
    bytes_append_u8(cursor->out, VALUE_DICT);
    bytes_append_u32(cursor->out, count);
    bytes_append(cursor->out, flat.data, flat.size);
    cursor->out->failed = cursor->out->failed || flat.failed;
    return 0;
}

// The names of one call's keywords.
struct names {
    struct {
        uint32_t at; // offset in the text
        uint32_t size;
    } name[VALUE_ARGUMENTS_MAX];
    uint32_t count;
};

// `name =`, which did not stand in this call before.
static int parse_name(struct literal_cursor *cursor, struct names *names)
{
    literal_skip_space(cursor);
    const char *name = cursor->at;
    size_t size = literal_word_size(cursor);
    int code = literal_keyword(cursor);
    if (code < 0) {
        return code;
    }
    if (names->count == VALUE_ARGUMENTS_MAX) {
        return literal_fail(cursor, "too many arguments");
    }
    for (uint32_t i = 0; i < names->count; i++) {
        if (names->name[i].size == size &&
            memcmp(cursor->start + names->name[i].at, name, size) == 0) {
            return literal_fail(cursor, "a keyword twice");
        }
    }
    names->name[names->count].at = (uint32_t)(name - cursor->start);
    names->name[names->count++].size = (uint32_t)size;
    return 0;
}

static int parse_keywords(struct literal_cursor *cursor, uint32_t *count)
{
    struct names names;
    names.count = 0;
    while (!accept(cursor, ')')) {
        int code = *count > 0 ? expect(cursor, ',') : 0;
        if (code == 0 && *count > 0 && accept(cursor, ')')) {
            return 0;
        }
        code = code < 0 ? code : parse_name(cursor, &names);
        code = code < 0 ? code : parse_value(cursor);
        if (code < 0) {
            return code;
        }
        (*count)++;
    }
    return 0;
}

static int parse_dict_call(struct literal_cursor *cursor)
{
    size_t start = cursor->out->size;
    if (next_is(cursor, ')') || literal_at_keyword(cursor)) {
        uint32_t count = 0;
        bytes_append_u8(cursor->out, VALUE_DICT);
        bytes_append_u32(cursor->out, 0);
        int code = parse_keywords(cursor, &count);
        set_count(cursor, start + 1, count);
        return code;
    }
    int code = parse_value(cursor);
    if (code < 0 || cursor->out->failed) {
        return code;
    }
    uint8_t tag = cursor->out->data[start];
    if (tag == VALUE_LIST || tag == VALUE_TUPLE) {
        code = unwrap_pairs(cursor, start);
    } else if (tag != VALUE_DICT) {
        code = literal_fail(cursor, "dict() takes a dict or pairs");
    }
    return code < 0 ? code : expect(cursor, ')');
}

static int parse_range_call(struct literal_cursor *cursor)
{
    CLEANUP(bytes_finish) struct bytes numbers = {0};
    struct bytes *out = cursor->out;
    uint32_t count = 0;
    cursor->out = &numbers;
    int code = parse_items(cursor, ')', &count);
    cursor->out = out;
    if (code < 0 || numbers.failed) {
        return code < 0 ? code : literal_fail(cursor, "out of memory");
    }
    int64_t part[3] = {0, 0, 1};
    size_t each = 1 + sizeof(int64_t);
    if (count < 1 || count > 3 || numbers.size != count * each) {
        return literal_fail(cursor, "range() takes one to three integers");
    }
    for (uint32_t i = 0; i < count; i++) {
        if (numbers.data[i * each] != VALUE_INT) {
            return literal_fail(cursor, "range() takes one to three integers");
        }
        memcpy(&part[count == 1 ? 1 : i], numbers.data + i * each + 1, sizeof(int64_t));
    }
    if (part[2] == 0) {
        return literal_fail(cursor, "range() with step zero");
    }
    bytes_append_u8(out, VALUE_RANGE);
    bytes_append(out, part, sizeof(part));
    return 0;
}

static int parse_byte_array_call(struct literal_cursor *cursor)
{
    size_t start = cursor->out->size;
    if (accept(cursor, ')')) {
        bytes_append_u8(cursor->out, VALUE_BYTE_ARRAY);
        bytes_append_u32(cursor->out, 0);
        return 0;
    }
    int code = parse_value(cursor);
    if (code < 0 || cursor->out->failed) {
        return code;
    }
    if (cursor->out->data[start] != VALUE_BYTES) {
        return literal_fail(cursor, "bytearray() takes bytes");
    }
    cursor->out->data[start] = VALUE_BYTE_ARRAY;
    return expect(cursor, ')');
}

// --- words ---

struct word {
    const char *name;
    uint8_t tag; // of a constant; 0 for a call
    int (*call)(struct literal_cursor *cursor);
};

static int parse_set_word(struct literal_cursor *cursor)
{
    return parse_set_call(cursor, VALUE_SET);
}

static int parse_frozen_set_word(struct literal_cursor *cursor)
{
    return parse_set_call(cursor, VALUE_FROZEN_SET);
}

// A call such as frozenset({1}) is two levels of text and one of value; the value's own depth is
// checked where it is read.
static int parse_container(struct literal_cursor *cursor, int (*parse)(struct literal_cursor *))
{
    if (cursor->depth == 2 * VALUE_DEPTH_MAX) {
        return literal_fail(cursor, "nested too deeply");
    }
    cursor->depth++;
    int code = parse(cursor);
    cursor->depth--;
    return code;
}

static int parse_word(struct literal_cursor *cursor)
{
    static const struct word words[] = {
        {"None", VALUE_NONE, NULL},
        {"True", VALUE_TRUE, NULL},
        {"False", VALUE_FALSE, NULL},
        {"Ellipsis", VALUE_ELLIPSIS, NULL},
        {"set", 0, parse_set_word},
        {"frozenset", 0, parse_frozen_set_word},
        {"dict", 0, parse_dict_call},
        {"range", 0, parse_range_call},
        {"float", 0, literal_float_call},
        {"complex", 0, literal_complex_call},
        {"bytearray", 0, parse_byte_array_call},
    };
    size_t size = literal_word_size(cursor);
    for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
        const struct word *word = &words[i];
        if (size != strlen(word->name) || memcmp(cursor->at, word->name, size) != 0) {
            continue;
        }
        cursor->at += size;
        if (word->call == NULL) {
            bytes_append_u8(cursor->out, word->tag);
            return 0;
        }
        int code = expect(cursor, '(');
        return code < 0 ? code : parse_container(cursor, word->call);
    }
    return literal_fail(cursor, "not a literal");
}

static int parse_value(struct literal_cursor *cursor)
{
    literal_skip_space(cursor);
    if (cursor->at == cursor->end) {
        return literal_fail(cursor, "a value is missing");
    }
    if (++cursor->nodes > VALUE_NODES_MAX || cursor->out->size > VALUE_BYTES_MAX) {
        return literal_fail(cursor, "too many values");
    }
    switch (*cursor->at) {
    case '(':
        cursor->at++;
        return parse_container(cursor, parse_parentheses);
    case '[':
        cursor->at++;
        return parse_container(cursor, parse_list);
    case '{':
        cursor->at++;
        return parse_container(cursor, parse_braces);
    default:
        break;
    }
    if (literal_at_string(cursor)) {
        return literal_string(cursor);
    }
    if (literal_at_number(cursor)) {
        return literal_number(cursor);
    }
    return parse_word(cursor);
}

static int parse_whole(struct literal_cursor *cursor)
{
    size_t start = cursor->out->size;
    int code = parse_value(cursor);
    if (code < 0) {
        return code;
    }
    literal_skip_space(cursor);
    if (cursor->at == cursor->end) {
        return 0;
    }
    // A bare tuple: put its head in front of the first member.
    CLEANUP(bytes_finish) struct bytes first = {0};
    bytes_append(&first, cursor->out->data + start, cursor->out->size - start);
    cursor->out->size = start;
    bytes_append_u8(cursor->out, VALUE_TUPLE);
    bytes_append_u32(cursor->out, 0);
    bytes_append(cursor->out, first.data, first.size);
    uint32_t count = 1;
    for (; cursor->at < cursor->end; count++) {
        code = expect(cursor, ',');
        literal_skip_space(cursor);
        if (code < 0 || cursor->at == cursor->end) {
            break;
        }
        code = parse_value(cursor);
        literal_skip_space(cursor);
        if (code < 0) {
            break;
        }
    }
    set_count(cursor, start + 1, count);
    return code;
}

static int parse_arguments(struct literal_cursor *cursor)
{
    uint32_t counts[2] = {0, 0}; // positional, keywords
    CLEANUP(bytes_finish) struct bytes keywords = {0};
    struct names names;
    names.count = 0;
    struct bytes *out = cursor->out;
    size_t count_at = out->size;
    bytes_append_u32(out, 0);
    literal_skip_space(cursor);
    int code = 0;
    while (code == 0 && cursor->at < cursor->end) {
        bool named = literal_at_keyword(cursor);
        if (!named && counts[1] > 0) {
            return literal_fail(cursor, "a positional argument after a keyword");
        }
        cursor->out = named ? &keywords : out;
        code = named ? parse_name(cursor, &names) : 0;
        code = code < 0 ? code : parse_value(cursor);
        cursor->out = out;
        if (++counts[named] > VALUE_ARGUMENTS_MAX) {
            return literal_fail(cursor, "too many arguments");
        }
        literal_skip_space(cursor);
        if (code == 0 && cursor->at < cursor->end) {
            code = expect(cursor, ',');
            literal_skip_space(cursor);
        }
    }
    set_count(cursor, count_at, counts[0]);
    bytes_append_u32(out, counts[1]);
    bytes_append(out, keywords.data, keywords.size);
    out->failed = out->failed || keywords.failed;
    return code;
}

static int run(struct bytes *out, const char *text, size_t size, struct error *err,
               int (*parse)(struct literal_cursor *))
{
    struct literal_cursor cursor = {
        .start = text, .at = text, .end = text + size, .out = out, .err = err};
    size_t before = out->size;
    int code = literal_check_utf8(&cursor);
    code = code < 0 ? code : parse(&cursor);
    if (code == 0 && out->failed) {
        code = error_set(err, -ENOMEM, "literal: out of memory");
    } else if (code == 0 && out->size - before > VALUE_BYTES_MAX) {
        code = literal_fail(&cursor, "too large");
    }
    if (code < 0) {
        out->size = before;
    }
    return code;
}

int literal_parse(struct bytes *out, const char *text, size_t size, struct error *err)
{
    return run(out, text, size, err, parse_whole);
}

int literal_parse_arguments(struct bytes *out, const char *text, size_t size, struct error *err)
{
    return run(out, text, size, err, parse_arguments);
}
