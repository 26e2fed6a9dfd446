#include "common/model/params.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { PARAM_ALIGN = 16 };

// Names under "model.layers.N." (Qwen, Llama) and "transformer.h.N." (GPT-2); {role} → name.
// GPT-2's q, k and v share c_attn, whose parts carry the part's letter here and are split by
// safetensors.c.
static const char *const llama_names[PARAM_ROLES] = {
    [PARAM_EMBED] = "model.embed_tokens.weight",
    [PARAM_NORM1] = "input_layernorm.weight",
    [PARAM_Q] = "self_attn.q_proj.weight",
    [PARAM_Q_BIAS] = "self_attn.q_proj.bias",
    [PARAM_K] = "self_attn.k_proj.weight",
    [PARAM_K_BIAS] = "self_attn.k_proj.bias",
    [PARAM_V] = "self_attn.v_proj.weight",
    [PARAM_V_BIAS] = "self_attn.v_proj.bias",
    [PARAM_Q_NORM] = "self_attn.q_norm.weight",
    [PARAM_K_NORM] = "self_attn.k_norm.weight",
    [PARAM_O] = "self_attn.o_proj.weight",
    [PARAM_NORM2] = "post_attention_layernorm.weight",
    [PARAM_GATE] = "mlp.gate_proj.weight",
    [PARAM_UP] = "mlp.up_proj.weight",
    [PARAM_DOWN] = "mlp.down_proj.weight",
    [PARAM_FINAL_NORM] = "model.norm.weight",
    [PARAM_HEAD] = "lm_head.weight",
};

static const char *const gpt2_names[PARAM_ROLES] = {
    [PARAM_EMBED] = "transformer.wte.weight",
    [PARAM_POSITIONS] = "transformer.wpe.weight",
    [PARAM_NORM1] = "ln_1.weight",
    [PARAM_NORM1_BIAS] = "ln_1.bias",
    [PARAM_Q] = "attn.c_attn.weight.q",
    [PARAM_Q_BIAS] = "attn.c_attn.bias.q",
    [PARAM_K] = "attn.c_attn.weight.k",
    [PARAM_K_BIAS] = "attn.c_attn.bias.k",
    [PARAM_V] = "attn.c_attn.weight.v",
    [PARAM_V_BIAS] = "attn.c_attn.bias.v",
    [PARAM_O] = "attn.c_proj.weight",
    [PARAM_O_BIAS] = "attn.c_proj.bias",
    [PARAM_NORM2] = "ln_2.weight",
    [PARAM_NORM2_BIAS] = "ln_2.bias",
    [PARAM_UP] = "mlp.c_fc.weight",
    [PARAM_UP_BIAS] = "mlp.c_fc.bias",
    [PARAM_DOWN] = "mlp.c_proj.weight",
    [PARAM_DOWN_BIAS] = "mlp.c_proj.bias",
    [PARAM_FINAL_NORM] = "transformer.ln_f.weight",
    [PARAM_FINAL_NORM_BIAS] = "transformer.ln_f.bias",
    [PARAM_HEAD] = "lm_head.weight",
};

static void add(struct params *params, const struct shape *shape, int32_t layer,
                enum param_role role, int64_t rows, int64_t columns)
{
    const bool gpt2 = shape->family == FAMILY_GPT2;
    const char *name = (gpt2 ? gpt2_names : llama_names)[role];
    CHECK(name != NULL);
    struct param *param = &params->items[params->count];
    *param = (struct param){.role = role, .layer = layer, .offset = params->elements};
    int length = 0;
    if (layer >= 0) {
        length = snprintf(param->name, sizeof(param->name), "%s.%d.%s",
                          gpt2 ? "transformer.h" : "model.layers", layer, name);
    } else {
        length = snprintf(param->name, sizeof(param->name), "%s", name);
    }
    CHECK(length > 0 && (size_t)length < sizeof(param->name));
    param->rank = columns > 0 ? 2 : 1;
    param->shape[0] = rows;
    param->shape[1] = columns > 0 ? columns : 1;
    param->count = (size_t)(rows * param->shape[1]);
    params->elements += (param->count + PARAM_ALIGN - 1) / PARAM_ALIGN * PARAM_ALIGN;
    params->index[(layer + 1) * PARAM_ROLES + (int32_t)role] = params->count++;
}

static void add_norm(struct params *params, const struct shape *shape, int32_t layer,
                     enum param_role role)
{
    add(params, shape, layer, role, shape->C, 0);
    if (shape->layer_norm) {
        add(params, shape, layer, role + 1, shape->C, 0); // the bias follows its gain in the enum
    }
}

// q, k, v (and their biases), and gate and up, lie side by side so that each group is one product.
static void add_layer(struct params *params, const struct shape *shape, int32_t layer)
{
    const int64_t C = shape->C, F = shape->F;
    const int64_t HD = (int64_t)shape->H * shape->D, KD = (int64_t)shape->KV * shape->D;
    add_norm(params, shape, layer, PARAM_NORM1);
    add(params, shape, layer, PARAM_Q, HD, C);
    add(params, shape, layer, PARAM_K, KD, C);
    add(params, shape, layer, PARAM_V, KD, C);
    if (shape->qkv_bias) {
        add(params, shape, layer, PARAM_Q_BIAS, HD, 0);
        add(params, shape, layer, PARAM_K_BIAS, KD, 0);
        add(params, shape, layer, PARAM_V_BIAS, KD, 0);
    }
    if (shape->qk_norm) {
        add(params, shape, layer, PARAM_Q_NORM, shape->D, 0);
        add(params, shape, layer, PARAM_K_NORM, shape->D, 0);
    }
    add(params, shape, layer, PARAM_O, C, HD);
    if (shape->out_bias) {
        add(params, shape, layer, PARAM_O_BIAS, C, 0);
    }
    add_norm(params, shape, layer, PARAM_NORM2);
    if (shape->gated) {
        add(params, shape, layer, PARAM_GATE, F, C);
    }
    add(params, shape, layer, PARAM_UP, F, C);
    if (shape->out_bias) {
        add(params, shape, layer, PARAM_UP_BIAS, F, 0);
    }
    add(params, shape, layer, PARAM_DOWN, C, F);
    if (shape->out_bias) {
        add(params, shape, layer, PARAM_DOWN_BIAS, C, 0);
    }
}

int params_init(struct params *params, const struct shape *shape, struct error *err)
{
    struct params made = {0};
    size_t count_max = ((size_t)shape->L + 1) * PARAM_ROLES;
    CLEANUP(freep) struct param *items = calloc(count_max, sizeof(*items));
    CLEANUP(freep) int32_t *index = malloc(count_max * sizeof(*index));
    if (items == NULL || index == NULL) {
        return error_set(err, -ENOMEM, "params: out of memory");
    }
    memset(index, -1, count_max * sizeof(*index));
    made.items = items;
    made.index = index;
    add(&made, shape, -1, PARAM_EMBED, shape->V, shape->C);
    if (shape->positions) {
        add(&made, shape, -1, PARAM_POSITIONS, shape->T, shape->C);
    }
    for (int32_t layer = 0; layer < shape->L; layer++) {
        add_layer(&made, shape, layer);
    }
    add_norm(&made, shape, -1, PARAM_FINAL_NORM);
    if (!shape->tied) {
        add(&made, shape, -1, PARAM_HEAD, shape->V, shape->C);
    }
    (void)TAKE(items);
    (void)TAKE(index);
    *params = made;
    return 0;
}

void params_finish(struct params *params)
{
    if (params != NULL) {
        free(params->items);
        free(params->index);
        *params = (struct params){0};
    }
}

const struct param *params_find(const struct params *params, int32_t layer, enum param_role role)
{
    int32_t at = params->index[(layer + 1) * PARAM_ROLES + (int32_t)role];
    return at < 0 ? NULL : &params->items[at];
}
