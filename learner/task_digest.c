#include "learner/task_digest.h"

#include <sodium.h>
#include <string.h>

// Lines lose trailing blanks and blank lines vanish, so that layout makes no new task.
static void hash_program(crypto_generichash_state *hash, const char *program)
{
    while (*program != '\0') {
        size_t length = strcspn(program, "\n");
        size_t kept = length;
        while (kept > 0 && strchr(" \t\r", program[kept - 1]) != NULL) {
            kept--;
        }
        if (kept > 0) {
            (void)crypto_generichash_update(hash, (const unsigned char *)program, kept);
            (void)crypto_generichash_update(hash, (const unsigned char *)"\n", 1);
        }
        program += length + (program[length] == '\n');
    }
}

static void hash_trimmed(crypto_generichash_state *hash, const char *text)
{
    text += strspn(text, " \t\r\n");
    size_t length = strlen(text);
    while (length > 0 && strchr(" \t\r\n", text[length - 1]) != NULL) {
        length--;
    }
    (void)crypto_generichash_update(hash, (const unsigned char *)text, length);
    (void)crypto_generichash_update(hash, (const unsigned char *)"", 1); // its NUL ends the input
}

uint64_t task_digest(const Kelvin__Task *task)
{
    crypto_generichash_state hash;
    (void)crypto_generichash_init(&hash, NULL, 0, 16);
    unsigned char kind = (unsigned char)task->kind;
    (void)crypto_generichash_update(&hash, &kind, 1);
    hash_program(&hash, task->program);
    for (size_t i = 0; i < task->n_inputs; i++) {
        hash_trimmed(&hash, task->inputs[i]);
    }
    unsigned char bytes[16];
    (void)crypto_generichash_final(&hash, bytes, sizeof(bytes));
    uint64_t digest = 0;
    memcpy(&digest, bytes, sizeof(digest));
    return digest;
}
