// words.h: text that grows while it is written. The first failure sticks, so a writer adds freely
// and asks once, at the end.
#ifndef COMMON_TEXT_WORDS_H
#define COMMON_TEXT_WORDS_H

#include <stdbool.h>
#include <stddef.h>

struct words {
    char *text; // NUL-terminated once anything was added
    size_t size;
    size_t capacity;
    bool failed; // out of memory; further additions do nothing
};

void words_finish(struct words *words);

void words_add_bytes(struct words *words, const char *bytes, size_t size);
void words_add(struct words *words, const char *text);
void words_addf(struct words *words, const char *format, ...) __attribute__((format(printf, 2, 3)));

// words_take moves the text to the caller, who frees it; NULL when memory ran out.
char *words_take(struct words *words);

#endif
