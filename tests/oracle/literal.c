// Answers for literal.py, one line each, bytes in hexadecimal:
//   literal TEXT    → the typed form of the literal, or "no"
//   arguments TEXT  → the typed form of the argument list, or "no"
//   equal TEXT TEXT → "1" or "0", or "no" when one of them is no literal
#include "verifier/literal.h"
#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "verifier/value.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int digit(char c)
{
    return c <= '9' ? c - '0' : c - 'a' + 10;
}

static struct bytes from_hex(const char *text)
{
    struct bytes out = {0};
    for (; text[0] != '\0' && text[1] != '\0'; text += 2) {
        bytes_append_u8(&out, (uint8_t)(digit(text[0]) << 4 | digit(text[1])));
    }
    return out;
}

typedef int parse_fn(struct bytes *out, const char *text, size_t size, struct error *err);

// The text is given in a block of its own size, so that a sanitizer sees a read past its end.
static bool parse(struct bytes *out, const char *hex, parse_fn *parse_text)
{
    CLEANUP(bytes_finish) struct bytes text = from_hex(hex);
    char *exact = malloc(text.size == 0 ? 1 : text.size);
    struct error err = {0};
    CHECK(exact != NULL);
    if (text.size > 0) {
        memcpy(exact, text.data, text.size);
    }
    bool good = parse_text(out, exact, text.size, &err) == 0;
    CHECK(good || err.text[0] != '\0');
    free(exact);
    return good;
}

static void answer(const char *verb, const char *first, const char *second)
{
    CLEANUP(bytes_finish) struct bytes a = {0};
    CLEANUP(bytes_finish) struct bytes b = {0};
    bool good =
        parse(&a, first, strcmp(verb, "arguments") == 0 ? literal_parse_arguments : literal_parse);
    if (!good || (strcmp(verb, "equal") == 0 && !parse(&b, second, literal_parse))) {
        puts("no");
    } else if (strcmp(verb, "equal") == 0) {
        CHECK(value_equal(&a, &b) == value_equal(&b, &a));
        puts(value_equal(&a, &b) ? "1" : "0");
    } else {
        putchar('=');
        for (size_t i = 0; i < a.size; i++) {
            printf("%02x", a.data[i]);
        }
        putchar('\n');
    }
}

int main(void)
{
    char *line = NULL;
    size_t capacity = 0;
    while (getline(&line, &capacity, stdin) > 0) {
        line[strcspn(line, "\n")] = '\0';
        char *rest = line;
        const char *verb = strsep(&rest, " ");
        const char *first = strsep(&rest, " ");
        answer(verb, first == NULL ? "" : first, rest == NULL ? "" : rest);
    }
    free(line);
    return 0;
}
