#include "learner/settle.h"

#include "common/base/task.h"
#include "common/text/prompt.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

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
