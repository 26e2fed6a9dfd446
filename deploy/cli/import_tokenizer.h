// import_tokenizer.h: the tokenizer of a GGUF file as the files of a Hugging Face folder.
#ifndef DEPLOY_CLI_IMPORT_TOKENIZER_H
#define DEPLOY_CLI_IMPORT_TOKENIZER_H

#include "common/base/error.h"
#include "common/model/gguf.h"

// import_tokenizer returns the text of tokenizer.json, import_tokenizer_config that of
// tokenizer_config.json with the chat template; fresh, the caller frees them. NULL with `err` for a
// tokenizer that is not byte-level BPE with a pre-tokenizer that Kelvin knows.
char *import_tokenizer(const struct gguf *gguf, struct error *err);
char *import_tokenizer_config(const struct gguf *gguf, struct error *err);

#endif
