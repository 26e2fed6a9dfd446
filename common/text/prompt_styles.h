// prompt_styles.h: what the files of prompt.h share. Each writes one style's text and returns 0 or
// -EINVAL for a kind that it does not know; running out of memory shows in `words`.
#ifndef COMMON_TEXT_PROMPT_STYLES_H
#define COMMON_TEXT_PROMPT_STYLES_H

#include "common/text/prompt.h"
#include "common/text/words.h"

int prompt_compact(struct words *words, const struct prompt_request *request, struct error *err);
int prompt_azr(struct words *words, const struct prompt_request *request, struct error *err);
int prompt_llama3(struct words *words, const struct prompt_request *request, struct error *err);
int prompt_chatml(struct words *words, const struct prompt_request *request, struct error *err);

// prompt_fence writes a fenced block with this label around `text`.
void prompt_fence(struct words *words, const char *label, const char *text);

// prompt_composites writes, where there are any, the functions that a proposal has to build on.
void prompt_composites(struct words *words, const struct prompt_request *request);

// prompt_pairs writes the pairs that an induction prompt shows, as blocks input_k and output_k, and
// the message where there is one.
void prompt_pairs(struct words *words, const struct prompt_task *task);

#endif
