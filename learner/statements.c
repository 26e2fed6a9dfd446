#include "learner/statements.h"

#include <ctype.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { STATEMENT_BYTES = 256, RARITY_BITS = 10 }; // a longer statement is cut

// The end of the string literal that begins at `text`, behind its quote; a line ends it too.
static const char *skip_string(const char *text)
{
    char quote = *text++;
    while (*text != '\0' && *text != '\n' && *text != quote) {
        text += *text == '\\' && text[1] != '\0' && text[1] != '\n' ? 2 : 1;
    }
    return *text == quote ? text + 1 : text;
}

// next_statement writes the next statement at *cursor to `out`; false at the end.
static bool next_statement(const char **cursor, char out[STATEMENT_BYTES])
{
    const char *at = *cursor;
    at += strspn(at, " \t\r\n");
    while (strncmp(at, "def ", 4) == 0) {
        at += strcspn(at, "\n");
        at += strspn(at, " \t\r\n");
    }
    size_t size = 0;
    while (*at != '\0' && *at != '\n' && size + 3 < STATEMENT_BYTES) {
        if (*at == '\'' || *at == '"') {
            at = skip_string(at);
            out[size++] = '\'';
            out[size++] = '\'';
        } else if (isdigit((unsigned char)*at)) {
            at += strspn(at, "0123456789");
            out[size++] = '0';
        } else {
            out[size++] = *at++;
        }
    }
    out[size] = '\0';
    *cursor = at + strcspn(at, "\n");
    return size > 0;
}

void statements_add(struct counts *counts, const char *program, int by)
{
    char statement[STATEMENT_BYTES];
    while (next_statement(&program, statement)) {
        counts_add(counts, statement, by);
    }
}

double statements_rarity(const struct counts *counts, const char *program)
{
    char statement[STATEMENT_BYTES];
    double sum = 0.0;
    int count = 0;
    while (next_statement(&program, statement)) {
        double share = 1.0 - counts_surprise(counts, statement);
        sum += share > 0.0 ? fmin(1.0, -log2(share) / RARITY_BITS) : 1.0;
        count++;
    }
    return count > 0 ? sum / count : NAN;
}
