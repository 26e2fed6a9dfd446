// Numbers of a literal: integers of any base and size, floats, imaginary numbers, and the sum that
// makes a complex one.
#include "verifier/literal_text.h"

#include "common/base/cleanup.h"
#include "verifier/value.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { LIMBS_MAX = 1024 }; // 32-bit: 4300 decimal digits need 447; other bases are held to this

struct number {
    enum { NUMBER_INT, NUMBER_REAL, NUMBER_IMAGINARY } kind;
    bool negative;
    double real;              // REAL, IMAGINARY: with its sign
    uint32_t limb[LIMBS_MAX]; // INT: magnitude
    size_t limbs;
};

static bool at_word(const struct literal_cursor *cursor, const char *word)
{
    size_t size = strlen(word);
    return literal_word_size(cursor) == size && memcmp(cursor->at, word, size) == 0;
}

static bool at_special(const struct literal_cursor *cursor)
{
    return at_word(cursor, "inf") || at_word(cursor, "nan") || at_word(cursor, "infj") ||
           at_word(cursor, "nanj");
}

static bool at_unsigned(const struct literal_cursor *cursor)
{
    const char *at = cursor->at;
    if (at == cursor->end) {
        return false;
    }
    bool fraction = *at == '.' && at + 1 < cursor->end && isdigit((unsigned char)at[1]);
    return isdigit((unsigned char)*at) || fraction || at_special(cursor);
}

static bool at_ellipsis(const struct literal_cursor *cursor)
{
    return cursor->end - cursor->at >= 3 && memcmp(cursor->at, "...", 3) == 0;
}

bool literal_at_number(const struct literal_cursor *cursor)
{
    return cursor->at < cursor->end &&
           (*cursor->at == '-' || *cursor->at == '+' || at_unsigned(cursor) || at_ellipsis(cursor));
}

// --- integers ---

static bool multiply_add(struct number *number, uint32_t factor, uint32_t term)
{
    uint64_t carry = term;
    for (size_t i = 0; i < number->limbs; i++) {
        carry += (uint64_t)number->limb[i] * factor;
        number->limb[i] = (uint32_t)carry;
        carry >>= 32;
    }
    if (carry != 0) {
        if (number->limbs == LIMBS_MAX) {
            return false;
        }
        number->limb[number->limbs++] = (uint32_t)carry;
    }
    return true;
}

static int hex_value(char c)
{
    if (isdigit((unsigned char)c)) {
        return c - '0';
    }
    c = (char)tolower((unsigned char)c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
}

// Digits in `base` with single underscores between them.
static int read_int(struct literal_cursor *cursor, struct number *number, uint32_t base)
{
    number->kind = NUMBER_INT;
    number->limbs = 0;
    int digits = 0;
    while (cursor->at < cursor->end) {
        bool separator = *cursor->at == '_' && (digits > 0 || base != 10);
        cursor->at += separator;
        if (cursor->at == cursor->end || hex_value(*cursor->at) >= (int)base) {
            if (separator) {
                return literal_fail(cursor, "digit expected");
            }
            break;
        }
        if (++digits > VALUE_INT_DIGITS_MAX ||
            !multiply_add(number, base, (uint32_t)hex_value(*cursor->at))) {
            return literal_fail(cursor, "integer too long");
        }
        cursor->at++;
    }
    return digits == 0 ? literal_fail(cursor, "digit expected") : 0;
}

static void put_big(struct bytes *out, const struct number *number)
{
    // Two's complement with a sign bit to spare.
    size_t size = number->limbs * 4 + 1;
    bytes_append_u8(out, VALUE_BIG_INT);
    bytes_append_u32(out, (uint32_t)size);
    unsigned carry = 1;
    for (size_t i = 0; i < size; i++) {
        unsigned digit = i / 4 < number->limbs ? number->limb[i / 4] >> (8 * (i % 4)) & 0xff : 0;
        if (number->negative) {
            digit = (~digit & 0xff) + carry;
            carry = digit >> 8;
        }
        bytes_append_u8(out, (uint8_t)digit);
    }
}

static void put_int(struct bytes *out, const struct number *number)
{
    uint64_t magnitude = 0;
    for (size_t i = 0; i < number->limbs && i < 2; i++) {
        magnitude |= (uint64_t)number->limb[i] << (32 * i);
    }
    if (number->limbs > 2 || magnitude > INT64_MAX) {
        put_big(out, number);
        return;
    }
    int64_t value = number->negative ? -(int64_t)magnitude : (int64_t)magnitude;
    bytes_append_u8(out, VALUE_INT);
    bytes_append(out, &value, sizeof(value));
}

// The nearest double, ties to even, as Python converts; infinite beyond its range.
static double int_to_double(const struct number *number)
{
    size_t limbs = number->limbs; // the highest is not zero
    if (limbs <= 2) {
        uint64_t low = limbs > 0 ? number->limb[0] : 0;
        return (double)(low | (limbs > 1 ? (uint64_t)number->limb[1] << 32 : 0));
    }
    int shift = __builtin_clz(number->limb[limbs - 1]);
    uint64_t top = (uint64_t)number->limb[limbs - 1] << 32 | number->limb[limbs - 2];
    uint32_t next = number->limb[limbs - 3];
    uint64_t bits = shift == 0 ? top : top << shift | next >> (32 - shift);
    bool rest = (uint32_t)(next << shift) != 0;
    for (size_t i = 0; i + 3 < limbs; i++) {
        rest = rest || number->limb[i] != 0;
    }
    return ldexp((double)(bits | rest),
                 32 * (int)(limbs - 2) - shift); // the last bit only breaks ties
}

// --- floats ---

// The size of a decimal float without its sign; underscores count. 0: it is an integer.
static size_t float_size(const struct literal_cursor *cursor)
{
    const char *at = cursor->at;
    bool is_float = false;
    while (at < cursor->end && (isdigit((unsigned char)*at) || *at == '_')) {
        at++;
    }
    if (at < cursor->end && *at == '.') {
        is_float = true;
        at++;
        while (at < cursor->end && (isdigit((unsigned char)*at) || *at == '_')) {
            at++;
        }
    }
    if (at < cursor->end && (*at == 'e' || *at == 'E')) {
        const char *power = at + 1;
        power += power < cursor->end && (*power == '+' || *power == '-');
        if (power < cursor->end && isdigit((unsigned char)*power)) {
            is_float = true;
            while (power < cursor->end && (isdigit((unsigned char)*power) || *power == '_')) {
                power++;
            }
            at = power;
        }
    }
    bool imaginary = at < cursor->end && (*at == 'j' || *at == 'J');
    return is_float || imaginary ? (size_t)(at - cursor->at) : 0;
}

static int read_float(struct literal_cursor *cursor, struct number *number, size_t size)
{
    CLEANUP(freep) char *text = malloc(size + 1);
    if (text == NULL) {
        return literal_fail(cursor, "out of memory");
    }
    size_t used = 0;
    for (size_t i = 0; i < size; i++) {
        char c = cursor->at[i];
        if (c != '_') {
            text[used++] = c;
        } else if (i == 0 || i + 1 == size || !isdigit((unsigned char)cursor->at[i - 1]) ||
                   !isdigit((unsigned char)cursor->at[i + 1])) {
            return literal_fail(cursor, "underscore outside digits");
        }
    }
    text[used] = '\0';
    number->kind = NUMBER_REAL;
    number->real = strtod(text, NULL);
    cursor->at += size;
    return 0;
}

static int read_special(struct literal_cursor *cursor, struct number *number)
{
    size_t size = literal_word_size(cursor);
    number->kind = size == 4 ? NUMBER_IMAGINARY : NUMBER_REAL;
    number->real = *cursor->at == 'i' ? INFINITY : NAN;
    cursor->at += size;
    return 0;
}

static int read_decimal(struct literal_cursor *cursor, struct number *number)
{
    size_t size = float_size(cursor);
    if (size > 0) {
        int code = read_float(cursor, number, size);
        if (code == 0 && cursor->at < cursor->end && (*cursor->at == 'j' || *cursor->at == 'J')) {
            number->kind = NUMBER_IMAGINARY;
            cursor->at++;
        }
        return code;
    }
    const char *start = cursor->at;
    int code = read_int(cursor, number, 10);
    if (code == 0 && *start == '0' && number->limbs > 0) {
        return literal_fail(cursor, "leading zero");
    }
    return code;
}

static int read_unsigned(struct literal_cursor *cursor, struct number *number)
{
    *number = (struct number){.kind = NUMBER_INT};
    if (!at_unsigned(cursor)) {
        return literal_fail(cursor, "number expected");
    }
    int code = 0;
    int second = cursor->end - cursor->at > 1 ? tolower((unsigned char)cursor->at[1]) : 0;
    uint32_t base = second == 'x' ? 16 : second == 'o' ? 8 : second == 'b' ? 2 : 10;
    if (at_special(cursor)) {
        code = read_special(cursor, number);
    } else if (*cursor->at == '0' && base != 10) {
        cursor->at += 2;
        code = read_int(cursor, number, base);
    } else {
        code = read_decimal(cursor, number);
    }
    if (code == 0 && literal_word_size(cursor) > 0) {
        return literal_fail(cursor, "a number runs into a name");
    }
    if (code == 0 && cursor->at < cursor->end && isdigit((unsigned char)*cursor->at)) {
        return literal_fail(cursor, "digit out of range");
    }
    return code;
}

// A sign, optional; then the number.
static int read_signed(struct literal_cursor *cursor, struct number *number)
{
    char sign = *cursor->at;
    if (sign == '-' || sign == '+') {
        cursor->at++;
        literal_skip_space(cursor);
    }
    int code = read_unsigned(cursor, number);
    number->negative = sign == '-';
    number->real = sign == '-' ? -number->real : number->real;
    return code;
}

// The number as a float; an integer beyond its range has none.
static int real_part(struct literal_cursor *cursor, const struct number *number, double *real)
{
    if (number->kind != NUMBER_INT) {
        *real = number->real;
        return 0;
    }
    double value = int_to_double(number);
    *real = number->negative && value != 0 ? -value : value; // an integer's zero has no sign
    return isinf(value) ? literal_fail(cursor, "integer beyond the range of a float") : 0;
}

static void put_complex(struct bytes *out, double real, double imaginary)
{
    double part[2] = {real, imaginary};
    bytes_append_u8(out, VALUE_COMPLEX);
    bytes_append(out, part, sizeof(part));
}

static void put_real(struct bytes *out, double real)
{
    bytes_append_u8(out, VALUE_FLOAT);
    bytes_append(out, &real, sizeof(real));
}

static int put_number(struct literal_cursor *cursor, const struct number *number)
{
    if (number->kind == NUMBER_INT) {
        put_int(cursor->out, number);
    } else if (number->kind == NUMBER_REAL) {
        put_real(cursor->out, number->real);
    } else {
        put_complex(cursor->out, number->negative ? -0.0 : 0.0, number->real);
    }
    return 0;
}

int literal_number(struct literal_cursor *cursor)
{
    if (at_ellipsis(cursor)) {
        cursor->at += 3;
        bytes_append_u8(cursor->out, VALUE_ELLIPSIS);
        return 0;
    }
    struct number first;
    int code = read_signed(cursor, &first);
    if (code < 0) {
        return code;
    }
    literal_skip_space(cursor);
    bool sum = cursor->at < cursor->end && (*cursor->at == '+' || *cursor->at == '-');
    if (!sum) {
        return put_number(cursor, &first);
    }
    struct number second;
    code = read_signed(cursor, &second);
    if (code < 0) {
        return code;
    }
    if (first.kind == NUMBER_IMAGINARY || second.kind != NUMBER_IMAGINARY) {
        return literal_fail(cursor, "only a real and an imaginary number add up to a literal");
    }
    double real = 0;
    code = real_part(cursor, &first, &real);
    // As Python adds: a zero loses its sign.
    put_complex(cursor->out, second.negative ? real - 0.0 : real + 0.0, 0.0 + second.real);
    return code;
}

// --- calls ---

static int close_call(struct literal_cursor *cursor)
{
    literal_skip_space(cursor);
    if (cursor->at == cursor->end || *cursor->at != ')') {
        return literal_fail(cursor, "expected ')'");
    }
    cursor->at++;
    return 0;
}

// A number that is not complex.
static int read_real(struct literal_cursor *cursor, double *real)
{
    literal_skip_space(cursor);
    struct number number;
    if (!literal_at_number(cursor)) {
        return literal_fail(cursor, "number expected");
    }
    int code = read_signed(cursor, &number);
    if (code == 0 && number.kind == NUMBER_IMAGINARY) {
        return literal_fail(cursor, "real number expected");
    }
    return code < 0 ? code : real_part(cursor, &number, real);
}

// The text of float("..."): strtod reads what Python does, but for hexadecimal.
static int float_of_text(struct literal_cursor *cursor, const uint8_t *typed, size_t size)
{
    char text[64];
    size_t head = 1 + sizeof(uint32_t);
    if (typed[0] != VALUE_STRING || size - head >= sizeof(text)) {
        return literal_fail(cursor, "float() takes a number or a short text");
    }
    memcpy(text, typed + head, size - head);
    text[size - head] = '\0';
    char *end = text;
    double real = strtod(text, &end);
    while (*end == ' ') {
        end++;
    }
    if (end == text || end != text + (size - head) || strpbrk(text, "xXpP(") != NULL) {
        return literal_fail(cursor, "float() of a text that is no number");
    }
    put_real(cursor->out, real);
    return 0;
}

int literal_float_call(struct literal_cursor *cursor)
{
    literal_skip_space(cursor);
    if (literal_at_string(cursor)) {
        CLEANUP(bytes_finish) struct bytes text = {0};
        struct bytes *out = cursor->out;
        cursor->out = &text;
        int code = literal_string(cursor);
        cursor->out = out;
        code = code < 0 || text.failed ? literal_fail(cursor, "float() of a broken text")
                                       : float_of_text(cursor, text.data, text.size);
        return code < 0 ? code : close_call(cursor);
    }
    double real = 0;
    int code = read_real(cursor, &real);
    if (code < 0) {
        return code;
    }
    put_real(cursor->out, real);
    return close_call(cursor);
}

int literal_complex_call(struct literal_cursor *cursor)
{
    double part[2] = {0, 0};
    int code = read_real(cursor, &part[0]);
    literal_skip_space(cursor);
    if (code == 0 && cursor->at < cursor->end && *cursor->at == ',') {
        cursor->at++;
        code = read_real(cursor, &part[1]);
    }
    if (code < 0) {
        return code;
    }
    put_complex(cursor->out, part[0], part[1]);
    return close_call(cursor);
}
