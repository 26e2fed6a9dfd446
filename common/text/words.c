#include "common/text/words.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void words_finish(struct words *words)
{
    if (words != NULL) {
        free(words->text);
        *words = (struct words){0};
    }
}

// Makes room for `size` more bytes and the terminator.
static bool reserve(struct words *words, size_t size)
{
    if (words->failed) {
        return false;
    }
    size_t needed = words->size + size + 1;
    if (needed <= words->capacity) {
        return true;
    }
    size_t capacity = words->capacity * 2 > needed ? words->capacity * 2 : needed + 256;
    char *text = realloc(words->text, capacity);
    if (text == NULL) {
        words->failed = true;
        return false;
    }
    words->text = text;
    words->capacity = capacity;
    return true;
}

void words_add_bytes(struct words *words, const char *bytes, size_t size)
{
    if (!reserve(words, size)) {
        return;
    }
    if (size > 0) {
        memcpy(words->text + words->size, bytes, size);
    }
    words->size += size;
    words->text[words->size] = '\0';
}

void words_add(struct words *words, const char *text)
{
    words_add_bytes(words, text, strlen(text));
}

void words_addf(struct words *words, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int size = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (size < 0 || !reserve(words, (size_t)size)) {
        words->failed = true;
        return;
    }
    va_start(args, format);
    (void)vsnprintf(words->text + words->size, (size_t)size + 1, format, args);
    va_end(args);
    words->size += (size_t)size;
}

char *words_take(struct words *words)
{
    if (words->failed) {
        words_finish(words);
        words->failed = true;
        return NULL;
    }
    words_add_bytes(words, "", 0);
    char *text = words->text;
    *words = (struct words){0};
    return text;
}
