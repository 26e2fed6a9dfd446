#include "common/model/shape.h"

#include "common/base/check.h"
#include "common/base/json.h"
#include "common/base/limits.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// What a family is: its names, and the flags that its models share.
static const struct {
    const char *name;  // "model_type" of config.json, and "general.architecture" of GGUF
    const char *class; // of transformers
    struct shape shape;
} families[] = {
    [FAMILY_QWEN2] = {"qwen2", "Qwen2ForCausalLM", {.gated = true, .qkv_bias = true}},
    [FAMILY_QWEN3] = {"qwen3", "Qwen3ForCausalLM", {.gated = true, .qk_norm = true}},
    [FAMILY_LLAMA] = {"llama", "LlamaForCausalLM", {.gated = true}},
    [FAMILY_GPT2] = {"gpt2",
                     "GPT2LMHeadModel",
                     {.layer_norm = true,
                      .qkv_bias = true,
                      .out_bias = true,
                      .positions = true,
                      .transposed = true,
                      .tied = true}},
};

// struct reader reads one config.json; the first failure stays in `code`.
struct reader {
    const json_t *root;
    const char *path;
    struct error *err;
    int code;
};

static int fail(struct reader *reader, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static int fail(struct reader *reader, const char *format, ...)
{
    if (reader->code == 0) {
        char sentence[200];
        va_list args;
        va_start(args, format);
        (void)vsnprintf(sentence, sizeof(sentence), format, args);
        va_end(args);
        reader->code = error_set(reader->err, -EINVAL, "%s: %s", reader->path, sentence);
    }
    return reader->code;
}

// null stands for "not given" in these files.
static const json_t *member(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static int32_t read_int(struct reader *reader, const char *key, int64_t min, int64_t max,
                        int64_t missing)
{
    const json_t *value = member(reader->root, key);
    if (value == NULL && missing != 0) {
        return (int32_t)missing;
    }
    if (!json_is_integer(value) || json_integer_value(value) < min ||
        json_integer_value(value) > max) {
        (void)fail(reader, "\"%s\" must be a whole number from %lld to %lld", key, (long long)min,
                   (long long)max);
        return (int32_t)min;
    }
    return (int32_t)json_integer_value(value);
}

static double read_real(struct reader *reader, const json_t *object, const char *key, double min,
                        double missing)
{
    const json_t *value = member(object, key);
    if (value == NULL && missing > 0) {
        return missing;
    }
    double real = json_number_value(value);
    if (!json_is_number(value) || !isfinite(real) || real < min) {
        (void)fail(reader, "\"%s\" must be a number of at least %g", key, min);
        return min;
    }
    return real;
}

static bool read_bool(struct reader *reader, const char *key, bool missing)
{
    const json_t *value = member(reader->root, key);
    if (value != NULL && !json_is_boolean(value)) {
        (void)fail(reader, "\"%s\" must be true or false", key);
    }
    return value == NULL ? missing : json_is_true(value);
}

static void want_string(struct reader *reader, const char *key, const char *wanted)
{
    const json_t *value = member(reader->root, key);
    if (value != NULL &&
        (!json_is_string(value) || strcmp(json_string_value(value), wanted) != 0)) {
        (void)fail(reader, "\"%s\" is %.60s; Kelvin runs \"%s\"", key,
                   json_is_string(value) ? json_string_value(value) : "not a string", wanted);
    }
}

static int32_t read_token(struct reader *reader, const char *key)
{
    const json_t *value = member(reader->root, key);
    if (json_is_array(value)) {
        value = json_array_get(value, 0);
    }
    return json_is_integer(value) && json_integer_value(value) >= 0 &&
                   json_integer_value(value) < INT32_MAX
               ? (int32_t)json_integer_value(value)
               : -1;
}

// read_rope knows both spellings: "rope_parameters", or "rope_theta" beside "rope_scaling".
static void read_rope(struct reader *reader, struct shape *shape)
{
    const json_t *joined = member(reader->root, "rope_parameters");
    const json_t *scaling = joined != NULL ? joined : member(reader->root, "rope_scaling");
    shape->rope_theta =
        read_real(reader, joined != NULL ? joined : reader->root, "rope_theta", 1.0, 10000.0);
    const json_t *type = member(scaling, "rope_type");
    type = type != NULL ? type : member(scaling, "type");
    const char *name = type == NULL ? "default" : json_string_value(type);
    if (name == NULL || strcmp(name, "default") == 0) {
        return;
    }
    shape->rope_factor = read_real(reader, scaling, "factor", 1.0, 0);
    if (strcmp(name, "linear") == 0) {
        shape->rope_scaling = ROPE_LINEAR;
    } else if (strcmp(name, "llama3") == 0) {
        shape->rope_scaling = ROPE_LLAMA3;
        shape->rope_low_freq = read_real(reader, scaling, "low_freq_factor", 0.0, 0);
        shape->rope_high_freq = read_real(reader, scaling, "high_freq_factor", 0.0, 0);
        shape->rope_original_T = (int32_t)fmin(
            read_real(reader, scaling, "original_max_position_embeddings", 1.0, 0), POSITIONS_MAX);
        if (!(shape->rope_high_freq > shape->rope_low_freq)) {
            (void)fail(reader, "\"high_freq_factor\" must be above \"low_freq_factor\"");
        }
    } else {
        (void)fail(reader, "rope type \"%.40s\" is not known; Kelvin runs default, linear, llama3",
                   name);
    }
}

static void read_llama_like(struct reader *reader, struct shape *shape)
{
    shape->L = read_int(reader, "num_hidden_layers", 1, 1024, 0);
    shape->C = read_int(reader, "hidden_size", 16, 65536, 0);
    shape->H = read_int(reader, "num_attention_heads", 1, 1024, 0);
    shape->KV = read_int(reader, "num_key_value_heads", 1, 1024, shape->H);
    shape->D = read_int(reader, "head_dim", 2, 1024, shape->C / (shape->H > 0 ? shape->H : 1));
    shape->F = read_int(reader, "intermediate_size", 16, 1 << 20, 0);
    shape->T = read_int(reader, "max_position_embeddings", 16, POSITIONS_MAX, 0);
    shape->norm_eps = (float)read_real(reader, reader->root, "rms_norm_eps", 0.0, 1e-6);
    want_string(reader, "hidden_act", "silu");
    const json_t *types = member(reader->root, "layer_types");
    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *type = json_string_value(json_array_get(types, i));
        if (type == NULL || strcmp(type, "full_attention") != 0) {
            (void)fail(reader, "\"layer_types\" has more than full_attention, which Kelvin runs");
        }
    }
    if (read_bool(reader, "use_sliding_window", false)) {
        (void)fail(reader, "\"use_sliding_window\" is true; Kelvin runs full attention only");
    }
    if (read_bool(reader, "mlp_bias", false) ||
        (shape->family != FAMILY_QWEN2 && read_bool(reader, "attention_bias", false))) {
        (void)fail(reader, "biases in attention or feed-forward are not known for this family");
    }
    read_rope(reader, shape);
}

static void read_gpt2(struct reader *reader, struct shape *shape)
{
    shape->L = read_int(reader, "n_layer", 1, 1024, 0);
    shape->C = read_int(reader, "n_embd", 16, 65536, 0);
    shape->H = read_int(reader, "n_head", 1, 1024, 0);
    shape->KV = shape->H;
    shape->D = shape->C / (shape->H > 0 ? shape->H : 1);
    shape->F = read_int(reader, "n_inner", 16, 1 << 20, 4LL * shape->C);
    shape->T = read_int(reader, "n_positions", 16, POSITIONS_MAX, 0);
    shape->norm_eps = (float)read_real(reader, reader->root, "layer_norm_epsilon", 0.0, 1e-5);
    want_string(reader, "activation_function", "gelu_new");
    if (read_bool(reader, "scale_attn_by_inverse_layer_idx", false) ||
        !read_bool(reader, "scale_attn_weights", true)) {
        (void)fail(reader, "attention scaled by layer is not known");
    }
}

int shape_check(const struct shape *shape, const char *what, struct error *err)
{
    CHECK(shape->H > 0 && shape->KV > 0);
    if (shape->H % shape->KV != 0) {
        return error_set(err, -EINVAL, "%s: %d query heads are no multiple of %d key heads", what,
                         shape->H, shape->KV);
    }
    if (shape->D % 2 != 0 || (shape->family == FAMILY_GPT2 && shape->D * shape->H != shape->C)) {
        return error_set(err, -EINVAL, "%s: %d heads do not divide a width of %d", what, shape->H,
                         shape->C);
    }
    if (shape->C % 16 != 0 || shape->F % 16 != 0 || shape->KV * shape->D % 16 != 0) {
        return error_set(err, -EINVAL, "%s: widths must be multiples of 16", what);
    }
    double elements = (double)shape->V * shape->C * (shape->tied ? 1 : 2) +
                      (double)shape->L * shape->C *
                          ((2.0 * shape->H + 2.0 * shape->KV) * shape->D + 3.0 * shape->F);
    if (elements > 64e9) {
        return error_set(err, -EINVAL, "%s: %.0f billion parameters are more than Kelvin addresses",
                         what, elements / 1e9);
    }
    return 0;
}

bool shape_of_family(struct shape *shape, const char *name, size_t size)
{
    for (size_t i = 0; i < sizeof(families) / sizeof(*families); i++) {
        if (strlen(families[i].name) == size && memcmp(families[i].name, name, size) == 0) {
            *shape = families[i].shape;
            shape->family = (enum family)i;
            shape->bos_token = -1;
            shape->eos_token = -1;
            return true;
        }
    }
    return false;
}

static void read_shape(struct reader *reader, struct shape *shape)
{
    shape->V = read_int(reader, "vocab_size", 2, 1 << 24, 0);
    shape->tied = read_bool(reader, "tie_word_embeddings", shape->tied);
    shape->bos_token = read_token(reader, "bos_token_id");
    shape->eos_token = read_token(reader, "eos_token_id");
    if (shape->family == FAMILY_GPT2) {
        read_gpt2(reader, shape);
    } else {
        read_llama_like(reader, shape);
    }
}

int shape_read(struct shape *shape, const char *dir, struct error *err)
{
    char path[4096];
    int length = snprintf(path, sizeof(path), "%s/config.json", dir);
    if (length < 0 || (size_t)length >= sizeof(path)) {
        return error_set(err, -ENAMETOOLONG, "the model folder's name is too long");
    }
    CLEANUP(json_decrefp) json_t *root = NULL;
    int code = json_read_file(&root, path, err);
    if (code < 0) {
        return code;
    }
    struct reader reader = {.root = root, .path = path, .err = err};
    const json_t *type = member(root, "model_type");
    struct shape read = {0};
    if (!json_is_object(root)) {
        (void)fail(&reader, "not a JSON object");
    } else if (!json_is_string(type) ||
               !shape_of_family(&read, json_string_value(type), json_string_length(type))) {
        (void)fail(&reader, "\"model_type\" is \"%.40s\"; Kelvin runs qwen2, qwen3, llama, gpt2",
                   json_is_string(type) ? json_string_value(type) : "missing");
    }
    if (reader.code == 0) {
        read_shape(&reader, &read);
    }
    code = reader.code < 0 ? reader.code : shape_check(&read, path, err);
    if (code == 0) {
        *shape = read;
    }
    return code;
}

static void set_token(json_t *root, const char *key, int32_t token)
{
    CHECK(json_object_set_new(root, key, token >= 0 ? json_integer(token) : json_null()) == 0);
}

static json_t *rope_json(const struct shape *shape)
{
    if (shape->rope_scaling == ROPE_PLAIN) {
        return json_null();
    }
    if (shape->rope_scaling == ROPE_LINEAR) {
        return json_pack("{s:s, s:f}", "rope_type", "linear", "factor", shape->rope_factor);
    }
    return json_pack("{s:s, s:f, s:f, s:f, s:i}", "rope_type", "llama3", "factor",
                     shape->rope_factor, "low_freq_factor", shape->rope_low_freq,
                     "high_freq_factor", shape->rope_high_freq, "original_max_position_embeddings",
                     shape->rope_original_T);
}

// The shortest decimal that is this float: 1e-06, not 9.99999997475242708e-07.
static json_t *short_real(float value)
{
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        (void)snprintf(text, sizeof(text), "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value) {
            break;
        }
    }
    return json_real(strtod(text, NULL));
}

static json_t *llama_like_json(const struct shape *shape)
{
    json_t *root = json_pack(
        "{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:o, s:f, s:o, s:s, s:f}", "num_hidden_layers",
        shape->L, "hidden_size", shape->C, "num_attention_heads", shape->H, "num_key_value_heads",
        shape->KV, "head_dim", shape->D, "intermediate_size", shape->F, "max_position_embeddings",
        shape->T, "rms_norm_eps", short_real(shape->norm_eps), "rope_theta", shape->rope_theta,
        "rope_scaling", rope_json(shape), "hidden_act", "silu", "attention_dropout", 0.0);
    CHECK(root != NULL);
    if (shape->family != FAMILY_QWEN2) {
        CHECK(json_object_set_new(root, "attention_bias", json_false()) == 0);
    }
    return root;
}

static json_t *gpt2_json(const struct shape *shape)
{
    json_t *root = json_pack("{s:i, s:i, s:i, s:i, s:i, s:o, s:s}", "n_layer", shape->L, "n_embd",
                             shape->C, "n_head", shape->H, "n_inner", shape->F, "n_positions",
                             shape->T, "layer_norm_epsilon", short_real(shape->norm_eps),
                             "activation_function", "gelu_new");
    CHECK(root != NULL);
    return root;
}

char *shape_write_json(const struct shape *shape, const char *dtype)
{
    CLEANUP(json_decrefp)
    json_t *root = shape->family == FAMILY_GPT2 ? gpt2_json(shape) : llama_like_json(shape);
    CHECK(json_object_set_new(root, "architectures",
                              json_pack("[s]", families[shape->family].class)) == 0);
    CHECK(json_object_set_new(root, "model_type", json_string(families[shape->family].name)) == 0);
    CHECK(json_object_set_new(root, "vocab_size", json_integer(shape->V)) == 0);
    CHECK(json_object_set_new(root, "tie_word_embeddings", json_boolean(shape->tied)) == 0);
    CHECK(json_object_set_new(root, "torch_dtype", json_string(dtype)) == 0);
    CHECK(json_object_set_new(root, "use_cache", json_true()) == 0);
    set_token(root, "bos_token_id", shape->bos_token);
    set_token(root, "eos_token_id", shape->eos_token);
    char *text = json_dumps(root, JSON_INDENT(2) | JSON_SORT_KEYS);
    CHECK(text != NULL);
    return text;
}

double shape_rope_frequency(const struct shape *shape, int32_t i)
{
    const double turn = 6.283185307179586;
    double frequency = pow(shape->rope_theta, -2.0 * i / shape->D);
    if (shape->rope_scaling == ROPE_LINEAR) {
        return frequency / shape->rope_factor;
    }
    if (shape->rope_scaling == ROPE_PLAIN) {
        return frequency;
    }
    // Llama 3: long waves are stretched by the factor, short ones kept, those between blended.
    double wave = turn / frequency;
    double old = shape->rope_original_T;
    if (wave > old / shape->rope_low_freq) {
        return frequency / shape->rope_factor;
    }
    if (wave < old / shape->rope_high_freq) {
        return frequency;
    }
    double smooth =
        (old / wave - shape->rope_low_freq) / (shape->rope_high_freq - shape->rope_low_freq);
    return (1.0 - smooth) * frequency / shape->rope_factor + smooth * frequency;
}
