#include "learner/settle.h"

#include "common/base/file.h"
#include "common/base/task.h"
#include "common/model/safetensors.h"
#include "common/text/prompt.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 4096 };

int settle_config(struct run_config *config, const struct shape *shape,
                  const struct tokenizer *tokenizer, struct error *err)
{
    if (strcmp(config->azr.style, "auto") == 0) {
        bool tags = tokenizer_find(tokenizer, "<propose>") >= 0;
        enum prompt_style chosen = tags ? STYLE_COMPACT : STYLE_AZR;
        (void)snprintf(config->azr.style, sizeof(config->azr.style), "%s",
                       prompt_style_name(chosen));
    }
    int style = prompt_style_find(config->azr.style, err);
    if (style < 0) {
        return style;
    }
    if (style == STYLE_COMPACT && (config->azr.types >> KIND_ERROR & 1) != 0) {
        return error_set(err, -EINVAL,
                         "azr.types has error, and prompt style compact has no form for it; set "
                         "azr.style to azr, chatml or llama3");
    }
    if (style == STYLE_COMPACT && config->azr.composite_chance > 0.0) {
        return error_set(
            err, -EINVAL,
            "azr.composite_chance is above 0, and prompt style compact has no form for "
            "composite programs; set azr.style to azr, chatml or llama3");
    }
    if (config->azr.references < 0) {
        config->azr.references = style == STYLE_COMPACT ? 2 : 6;
    }
    if (config->azr.inputs == 0) {
        config->azr.inputs = style == STYLE_COMPACT ? 4 : 10;
    }
    if (config->azr.inputs == 1) {
        return error_set(err, -EINVAL,
                         "azr.inputs is 1: one input is shown and at least one judges");
    }
    run_config_lengths(config, shape->T);
    return 0;
}

// Settles by the tokenizer of `dir`, whose ids have to fit the shape.
static int settle_by_folder(struct run_config *config, const char *dir, const struct shape *shape,
                            struct error *err)
{
    char path[PATH_BYTES];
    struct tokenizer *tokenizer = NULL;
    int code = file_join(path, sizeof(path), dir, "tokenizer.json", err);
    code = code < 0 ? code : tokenizer_create(&tokenizer, path, err);
    if (code < 0) {
        return code;
    }
    int32_t ids = tokenizer_vocab(tokenizer);
    code = settle_config(config, shape, tokenizer, err);
    tokenizer_destroy(tokenizer);
    if (code == 0 && ids > shape->V) {
        code = error_set(err, -EINVAL, "%s has %d ids, more than the %d of config.json", path, ids,
                         shape->V);
    }
    return code;
}

int settle_model(struct run_config *config, const char *dir, struct shape *shape,
                 struct params *params, float **weights, struct error *err)
{
    if (dir[0] == '\0') {
        return error_set(err, -EINVAL,
                         "no model: set model to a folder with config.json, "
                         "tokenizer.json and model.safetensors");
    }
    int code = shape_read(shape, dir, err);
    code = code < 0 ? code : params_init(params, shape, err);
    code = code < 0 ? code : settle_by_folder(config, dir, shape, err);
    if (code < 0) {
        return code;
    }
    *weights = calloc(params->elements, sizeof(**weights));
    if (*weights == NULL) {
        return error_set(err, -ENOMEM, "%s: no memory for its weights", dir);
    }
    enum dtype stored = DTYPE_F32;
    return safetensors_read(*weights, &stored, params, shape, dir, err);
}
