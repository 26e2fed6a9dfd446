// kelvin import: a GGUF file into a model folder that Kelvin trains and `transformers` opens.
//
// The folder is made under another name beside the wanted one and renamed when it is whole.
#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/model/gguf_model.h"
#include "common/model/safetensors.h"
#include "common/text/tokenizer.h"
#include "deploy/cli/cli.h"
#include "deploy/cli/import_tokenizer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_BYTES = 4096 };

CLEANUP_FUNCTION(struct gguf, gguf_close)

static void print_help(void)
{
    (void)puts(
        "Usage: kelvin import FILE.gguf DIR\n\n"
        "Turns a GGUF file of the families qwen2, qwen3, llama and gpt2 into the model folder "
        "DIR,\n"
        "which must not exist: config.json, model.safetensors, tokenizer.json and\n"
        "tokenizer_config.json with the chat template. Weights may be F32, F16, BF16, Q8_0, Q4_0,\n"
        "Q4_1, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K; they are widened to f32 and rounded to bf16, to\n"
        "nearest even.");
}

static int join(char out[PATH_BYTES], const char *dir, const char *name, struct error *err)
{
    int length = snprintf(out, PATH_BYTES, "%s%s", dir, name);
    return length < 0 || length >= PATH_BYTES
               ? error_set(err, -ENAMETOOLONG, "%s%s: the name is too long", dir, name)
               : 0;
}

static int write_text(const char *dir, const char *name, const char *text, struct error *err)
{
    char path[PATH_BYTES];
    int code = text == NULL ? -EINVAL : join(path, dir, name, err); // err is set for a NULL text
    return code < 0 ? code : file_write(path, text, strlen(text), err);
}

static int write_weights(const char *dir, const struct gguf *gguf, const struct shape *shape,
                         struct error *err)
{
    char path[PATH_BYTES];
    CLEANUP(params_finish) struct params params = {0};
    int code = join(path, dir, "/model.safetensors", err);
    code = code < 0 ? code : params_init(&params, shape, err);
    if (code < 0) {
        return code;
    }
    CLEANUP(freep) float *weights = malloc(params.elements * sizeof(*weights));
    if (weights == NULL) {
        return error_set(err, -ENOMEM, "%s: no memory for %zu weights", gguf_name(gguf),
                         params.elements);
    }
    code = gguf_weights(weights, &params, shape, gguf, err);
    return code < 0 ? code : safetensors_write(path, weights, &params, shape, DTYPE_BF16, err);
}

// A tokenizer that is written is one that Kelvin reads.
static int write_tokenizer(const char *dir, const struct gguf *gguf, const struct shape *shape,
                           struct error *err)
{
    CLEANUP(freep) char *text = import_tokenizer(gguf, err);
    CLEANUP(freep) char *config = text == NULL ? NULL : import_tokenizer_config(gguf, err);
    struct tokenizer *tokenizer = NULL;
    int code = config == NULL
                   ? -EINVAL
                   : tokenizer_parse(&tokenizer, text, strlen(text), gguf_name(gguf), err);
    if (code < 0) {
        return code;
    }
    int32_t ids = tokenizer_vocab(tokenizer);
    tokenizer_destroy(tokenizer);
    if (ids > shape->V) {
        return error_set(err, -EINVAL, "%s: the tokenizer has ids to %d; the embedding has %d rows",
                         gguf_name(gguf), ids - 1, shape->V);
    }
    code = write_text(dir, "/tokenizer.json", text, err);
    return code < 0 ? code : write_text(dir, "/tokenizer_config.json", config, err);
}

static int write_folder(const char *dir, const struct gguf *gguf, struct error *err)
{
    struct shape shape;
    int code = gguf_shape(&shape, gguf, err);
    if (code < 0) {
        return code;
    }
    CLEANUP(freep) char *config = shape_write_json(&shape, "bfloat16");
    code = write_tokenizer(dir, gguf, &shape, err);
    code = code < 0 ? code : write_weights(dir, gguf, &shape, err);
    return code < 0 ? code : write_text(dir, "/config.json", config, err);
}

static int import(const char *path, const char *dir, struct error *err)
{
    char partial[PATH_BYTES];
    CLEANUP(gguf_closep) struct gguf *gguf = NULL;
    int code = join(partial, dir, ".part", err);
    if (code == 0 && access(dir, F_OK) == 0) {
        code = error_set(err, -EEXIST, "%s exists; name a folder that does not", dir);
    }
    code = code < 0 ? code : gguf_open(&gguf, path, err);
    code = code < 0 ? code : file_remove_tree(partial, err);
    code = code < 0 ? code : file_make_dirs(partial, err);
    if (code < 0) {
        return code;
    }
    code = write_folder(partial, gguf, err);
    if (code == 0 && rename(partial, dir) < 0) {
        code = error_set(err, -errno, "cannot rename %s to %s: %s", partial, dir,
                         strerrordesc_np(errno));
    }
    if (code < 0) {
        (void)file_remove_tree(partial, NULL);
    }
    return code;
}

int command_import(int argc, char **argv)
{
    if (cli_wants_help(argc, argv)) {
        print_help();
        return 0;
    }
    if (argc != 3) {
        return cli_fail(argv[0], "it takes FILE.gguf and DIR; see --help");
    }
    struct error err = {0};
    return import(argv[1], argv[2], &err) == 0 ? 0 : cli_fail(argv[0], "%s", err.text);
}
