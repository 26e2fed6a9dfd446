// compact_vocab.h: the vocabulary of the compact style, as a tokenizer.json. It has the 256 single
// bytes (id = byte), the tags of the prompt forms and the pieces of code that the small model's
// programs are made of. There are no merges: a piece of code is an added token, found leftmost and
// longest. Digits are single tokens, and so is a list element ("[3", ", 1"): without that a small
// model learns to copy lists late.
#ifndef COMMON_TEXT_COMPACT_VOCAB_H
#define COMMON_TEXT_COMPACT_VOCAB_H

// compact_tokenizer_json returns fresh JSON text that Kelvin and Hugging Face tokenizers read
// alike; NULL when memory runs out. The caller frees it.
char *compact_tokenizer_json(void);

// The tag that ends a response, and the one that fills up or ends a sequence.
#define COMPACT_STOP "</answer>"
#define COMPACT_END  "<|end|>"

#endif
