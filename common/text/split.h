// split.h: cuts text into the words that byte-pair encoding works on.
//
// A splitter is one regular expression, written for the engine of Hugging Face tokenizers and run
// by PCRE2. Every match and every gap between matches is a word. For the patterns of GPT-2, Llama 3
// and Qwen2, and for single digits, ASCII text is cut by hand-written code that gives the same
// words; where a word touches a byte beyond ASCII, the expression decides.
#ifndef COMMON_TEXT_SPLIT_H
#define COMMON_TEXT_SPLIT_H

#include "common/base/error.h"

#include <stdbool.h>
#include <stddef.h>

struct splitter;

// The pattern of the ByteLevel pre-tokenizer with its regular expression on, and those of Split.
extern const char split_gpt2[];
extern const char split_llama3[];
extern const char split_qwen2[];
extern const char split_digits[];

// splitter_create compiles `pattern`. `fast` false leaves the hand-written code out (tests compare
// the two).
int splitter_create(struct splitter **out, const char *pattern, bool fast, struct error *err);
void splitter_destroy(struct splitter *splitter);

// struct split_state is one thread's memory for matching; all zero to begin with.
struct split_state {
    void *match; // of PCRE2; made when first needed
};
void split_state_finish(struct split_state *state);

// splitter_next sets *length (≥ 1) to the size of the word at text[at], at < size. The text is
// valid UTF-8; words are whole characters. -ENOMEM, or -EIO when PCRE2 gives up.
int splitter_next(const struct splitter *splitter, struct split_state *state, const char *text,
                  size_t size, size_t at, size_t *length, struct error *err);

#endif
