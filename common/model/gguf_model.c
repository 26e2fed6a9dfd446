#include "common/model/gguf_model.h"

#include "common/base/check.h"
#include "common/base/limits.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const tensor_names[PARAM_ROLES] = {
    [PARAM_EMBED] = "token_embd.weight",
    [PARAM_POSITIONS] = "position_embd.weight",
    [PARAM_NORM1] = "attn_norm.weight",
    [PARAM_NORM1_BIAS] = "attn_norm.bias",
    [PARAM_Q] = "attn_q.weight",
    [PARAM_Q_BIAS] = "attn_q.bias",
    [PARAM_K] = "attn_k.weight",
    [PARAM_K_BIAS] = "attn_k.bias",
    [PARAM_V] = "attn_v.weight",
    [PARAM_V_BIAS] = "attn_v.bias",
    [PARAM_Q_NORM] = "attn_q_norm.weight",
    [PARAM_K_NORM] = "attn_k_norm.weight",
    [PARAM_O] = "attn_output.weight",
    [PARAM_O_BIAS] = "attn_output.bias",
    [PARAM_NORM2] = "ffn_norm.weight",
    [PARAM_NORM2_BIAS] = "ffn_norm.bias",
    [PARAM_GATE] = "ffn_gate.weight",
    [PARAM_UP] = "ffn_up.weight",
    [PARAM_UP_BIAS] = "ffn_up.bias",
    [PARAM_DOWN] = "ffn_down.weight",
    [PARAM_DOWN_BIAS] = "ffn_down.bias",
    [PARAM_FINAL_NORM] = "output_norm.weight",
    [PARAM_FINAL_NORM_BIAS] = "output_norm.bias",
    [PARAM_HEAD] = "output.weight",
};

static const char rope_divisors[] = "rope_freqs.weight";

// --- the shape

// struct keys reads numbers under an architecture's prefix; the first failure stays in `code`.
struct keys {
    const struct gguf *gguf;
    char prefix[16];
    struct error *err;
    int code;
};

static void full_key(char out[96], const struct keys *keys, const char *key)
{
    (void)snprintf(out, 96, "%s.%s", keys->prefix, key);
}

// key_int is a number that the file must have, unless `missing` is positive.
static int32_t key_int(struct keys *keys, const char *key, int64_t min, int64_t max,
                       int64_t missing)
{
    char name[96];
    int64_t number = missing;
    full_key(name, keys, key);
    if (keys->code == 0) {
        keys->code = gguf_get_int(keys->gguf, &number, name, min, max, keys->err);
    }
    if (keys->code == 0 && number <= 0) {
        keys->code =
            error_set(keys->err, -EINVAL, "%s: there is no key %s", gguf_name(keys->gguf), name);
    }
    return keys->code == 0 ? (int32_t)number : (int32_t)min;
}

static double key_real(struct keys *keys, const char *key, double missing)
{
    char name[96];
    double number = missing;
    full_key(name, keys, key);
    if (keys->code == 0) {
        keys->code = gguf_get_real(keys->gguf, &number, name, keys->err);
    }
    if (keys->code == 0 && !(number > 0 && number < 1e12)) {
        keys->code = error_set(keys->err, -EINVAL, "%s: there is no key %s, or it is not positive",
                               gguf_name(keys->gguf), name);
    }
    return number;
}

static int32_t token_id(const struct gguf *gguf, const char *key)
{
    int64_t id = -1;
    struct error ignored;
    return gguf_get_int(gguf, &id, key, 0, INT32_MAX - 1, &ignored) == 0 ? (int32_t)id : -1;
}

static void read_scaling(struct keys *keys, struct shape *shape)
{
    char name[96];
    struct gguf_text type = {0};
    full_key(name, keys, "rope.scaling.type");
    if (keys->code == 0) {
        keys->code = gguf_get_text(keys->gguf, &type, name, keys->err);
    }
    if (keys->code < 0 || type.size == 0 ||
        (type.size == 4 && memcmp(type.bytes, "none", 4) == 0)) {
        return;
    }
    if (type.size == 6 && memcmp(type.bytes, "linear", 6) == 0) {
        shape->rope_scaling = ROPE_LINEAR;
        shape->rope_factor = key_real(keys, "rope.scaling.factor", 0);
        return;
    }
    keys->code =
        error_set(keys->err, -ENOTSUP,
                  "%s: key %s is \"%.*s\"; Kelvin runs linear and "
                  "Llama 3's scaling",
                  gguf_name(keys->gguf), name, (int)(type.size < 40 ? type.size : 40), type.bytes);
}

// Llama 3 files hold, for each frequency, the divisor that its scaling comes to. The scaling has
// four numbers: two are the same in all releases (low 1, high 4), the factor is the largest
// divisor, and the original positions follow from any divisor of the blended part; 8192 where none
// is.
static void guess_scaling(struct shape *scaled, const struct shape *plain, const float *divisor,
                          int32_t count)
{
    const double turn = 6.283185307179586;
    double factor = 1.0, positions = 8192.0;
    for (int32_t i = 0; i < count; i++) {
        factor = (double)divisor[i] > factor ? (double)divisor[i] : factor;
    }
    scaled->rope_scaling = ROPE_LLAMA3;
    scaled->rope_factor = factor;
    scaled->rope_low_freq = 1.0;
    scaled->rope_high_freq = 4.0;
    for (int32_t i = 0; i < count; i++) {
        double smooth = (1.0 / (double)divisor[i] - 1.0 / factor) / (1.0 - 1.0 / factor);
        if (smooth > 0.01 && smooth < 0.99) {
            double wave = turn / shape_rope_frequency(plain, i);
            positions = wave * (1.0 + smooth * (scaled->rope_high_freq - 1.0));
        }
    }
    scaled->rope_original_T = (int32_t)lround(fmin(positions, POSITIONS_MAX));
}

// read_divisors guesses, and checks the guess on every divisor.
static int read_divisors(struct shape *shape, const struct gguf *gguf, struct error *err)
{
    const struct gguf_tensor *tensor = gguf_tensor_find(gguf, rope_divisors);
    if (tensor == NULL) {
        return 0;
    }
    float divisor[512];
    int32_t count = shape->D / 2;
    if (tensor->rank != 1 || tensor->count != count || tensor->format->elements != 1 ||
        shape->rope_scaling != ROPE_PLAIN) {
        return error_set(err, -EINVAL, "%s: tensor %s is not one number per frequency",
                         gguf_name(gguf), rope_divisors);
    }
    gguf_widen(divisor, tensor->format, tensor->data, count);
    struct shape scaled = *shape;
    guess_scaling(&scaled, shape, divisor, count);
    for (int32_t i = 0; i < count; i++) {
        double wanted = shape_rope_frequency(shape, i) / shape_rope_frequency(&scaled, i);
        if (!(fabs(wanted - (double)divisor[i]) <= 1e-4 * wanted)) {
            return error_set(err, -ENOTSUP, "%s: tensor %s is not the scaling of Llama 3",
                             gguf_name(gguf), rope_divisors);
        }
    }
    if (scaled.rope_factor > 1.0) {
        *shape = scaled;
    }
    return 0;
}

// A head that repeats the embedding byte for byte is tied.
static bool is_tied(const struct gguf *gguf, const struct gguf_tensor *embedding)
{
    const struct gguf_tensor *head = gguf_tensor_find(gguf, tensor_names[PARAM_HEAD]);
    return head == NULL || (head->format == embedding->format && head->size == embedding->size &&
                            memcmp(head->data, embedding->data, head->size) == 0);
}

static int read_architecture(struct shape *shape, struct keys *keys)
{
    struct gguf_text name = {0};
    int code = gguf_get_text(keys->gguf, &name, "general.architecture", keys->err);
    if (code == 0 && !shape_of_family(shape, name.size > 0 ? name.bytes : "", name.size)) {
        code = error_set(keys->err, -ENOTSUP,
                         "%s: the architecture is \"%.*s\"; Kelvin runs qwen2, qwen3, llama, gpt2",
                         gguf_name(keys->gguf), (int)(name.size < 40 ? name.size : 40), name.bytes);
    }
    if (code == 0) {
        (void)snprintf(keys->prefix, sizeof(keys->prefix), "%.*s", (int)name.size, name.bytes);
    }
    return code;
}

static void read_sizes(struct keys *keys, struct shape *shape)
{
    shape->L = key_int(keys, "block_count", 1, 1024, 0);
    shape->C = key_int(keys, "embedding_length", 16, 65536, 0);
    shape->H = key_int(keys, "attention.head_count", 1, 1024, 0);
    shape->KV = key_int(keys, "attention.head_count_kv", 1, 1024, shape->H);
    shape->D = key_int(keys, "attention.key_length", 2, 1024, shape->C / shape->H);
    shape->F = key_int(keys, "feed_forward_length", 16, 1 << 20, 0);
    shape->T = key_int(keys, "context_length", 16, POSITIONS_MAX, 0);
    shape->norm_eps = (float)key_real(
        keys,
        shape->layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", 0);
    if (key_int(keys, "attention.value_length", 2, 1024, shape->D) != shape->D ||
        key_int(keys, "rope.dimension_count", 2, 1024, shape->D) != shape->D) {
        keys->code = keys->code < 0
                         ? keys->code
                         : error_set(keys->err, -ENOTSUP,
                                     "%s: keys, values and RoPE of different widths are not known",
                                     gguf_name(keys->gguf));
    }
    if (!shape->positions) {
        shape->rope_theta = key_real(keys, "rope.freq_base", 10000.0);
        read_scaling(keys, shape);
    }
}

int gguf_shape(struct shape *shape, const struct gguf *gguf, struct error *err)
{
    struct keys keys = {.gguf = gguf, .err = err};
    struct shape read = {0};
    int code = read_architecture(&read, &keys);
    if (code < 0) {
        return code;
    }
    const struct gguf_tensor *embedding = gguf_tensor_find(gguf, tensor_names[PARAM_EMBED]);
    read_sizes(&keys, &read);
    if (keys.code < 0) {
        return keys.code;
    }
    if (embedding == NULL || embedding->rank != 2) {
        return error_set(err, -EINVAL, "%s: there is no tensor %s", gguf_name(gguf),
                         tensor_names[PARAM_EMBED]);
    }
    read.V = (int32_t)embedding->shape[0];
    read.tied = is_tied(gguf, embedding);
    read.bos_token = token_id(gguf, "tokenizer.ggml.bos_token_id");
    read.eos_token = token_id(gguf, "tokenizer.ggml.eos_token_id");
    code = shape_check(&read, gguf_name(gguf), err);
    if (code == 0 && read.family == FAMILY_LLAMA) {
        code = read_divisors(&read, gguf, err);
    }
    if (code == 0) {
        *shape = read;
    }
    return code;
}

// --- the weights

// struct source says which part of a tensor a parameter is.
struct source {
    char name[96];
    int64_t from;     // its first row; of a vector, its first element
    int64_t rows;     // of the whole tensor
    bool interleaved; // rows of a head come in pairs (i, i + D/2)
};

static struct source source_of(const struct param *param, const struct shape *shape)
{
    struct source source = {.rows = param->shape[0]};
    const char *name = tensor_names[param->role];
    if (shape->family == FAMILY_GPT2 && param->role >= PARAM_Q && param->role <= PARAM_V_BIAS) {
        bool bias = ((int)param->role - PARAM_Q) % 2 != 0;
        name = bias ? "attn_qkv.bias" : "attn_qkv.weight";
        source.from = param->shape[0] * (((int)param->role - PARAM_Q) / 2);
        source.rows = 3 * param->shape[0];
    }
    source.interleaved =
        shape->family == FAMILY_LLAMA && (param->role == PARAM_Q || param->role == PARAM_K);
    if (param->layer >= 0) {
        (void)snprintf(source.name, sizeof(source.name), "blk.%d.%s", param->layer, name);
    } else {
        (void)snprintf(source.name, sizeof(source.name), "%s", name);
    }
    return source;
}

// file_row is where the file has row `r`. Within a head of D rows the file's order is 0, D/2, 1,
// D/2+1, ...: row 2i+p of the file is our row p·D/2 + i.
static int64_t file_row(const struct source *source, int64_t r, int64_t D)
{
    if (!source->interleaved) {
        return source->from + r;
    }
    int64_t at = r % D;
    return source->from + r - at + at % (D / 2) * 2 + at / (D / 2);
}

static int bad(const struct gguf *gguf, const char *name, struct error *err, const char *problem)
{
    return error_set(err, -EINVAL, "%s: tensor %s: %s", gguf_name(gguf), name, problem);
}

static int check_tensor(const struct gguf_tensor *tensor, const struct source *source,
                        const struct param *param, const struct gguf *gguf, struct error *err)
{
    if (tensor == NULL) {
        return error_set(err, -EINVAL, "%s: there is no tensor %s", gguf_name(gguf), source->name);
    }
    int64_t columns = param->rank == 2 ? param->shape[1] : 1;
    int64_t columns_there = tensor->rank == 2 ? tensor->shape[1] : 1;
    if (tensor->rank != param->rank || tensor->shape[0] != source->rows ||
        columns_there != columns) {
        return error_set(err, -EINVAL,
                         "%s: tensor %s is [%lld, %lld]; the keys ask for [%lld, %lld]",
                         gguf_name(gguf), source->name, (long long)tensor->shape[0],
                         (long long)columns_there, (long long)source->rows, (long long)columns);
    }
    if (param->rank == 1 && (source->from % tensor->format->elements != 0 ||
                             param->shape[0] % tensor->format->elements != 0)) {
        return bad(gguf, source->name, err, "its parts are not whole blocks");
    }
    return 0;
}

static int read_weights(float *out, const struct param *param, const struct shape *shape,
                        const struct gguf *gguf, struct error *err)
{
    struct source source = source_of(param, shape);
    const struct gguf_tensor *tensor = gguf_tensor_find(gguf, source.name);
    int code = check_tensor(tensor, &source, param, gguf, err);
    if (code < 0) {
        return code;
    }
    const struct gguf_format *format = tensor->format;
    // A vector is one row, of which a part may be wanted.
    const int64_t rows = param->rank == 2 ? param->shape[0] : 1;
    const int64_t columns = param->rank == 2 ? param->shape[1] : param->shape[0];
    for (int64_t r = 0; r < rows; r++) {
        int64_t element = param->rank == 2 ? file_row(&source, r, shape->D) * columns : source.from;
        gguf_widen(out + r * columns, format,
                   tensor->data + element / format->elements * format->bytes, columns);
        for (int64_t c = 0; c < columns; c++) {
            if (!isfinite(out[r * columns + c])) {
                return bad(gguf, source.name, err, "it holds NaN or infinity");
            }
        }
    }
    return 0;
}

static bool is_wanted(struct gguf_text name, const struct params *params, const struct shape *shape)
{
    const char *spare[] = {rope_divisors, shape->tied ? tensor_names[PARAM_HEAD] : rope_divisors};
    for (size_t i = 0; i < 2; i++) {
        if (name.size == strlen(spare[i]) && memcmp(name.bytes, spare[i], name.size) == 0) {
            return true;
        }
    }
    for (int32_t i = 0; i < params->count; i++) {
        struct source source = source_of(&params->items[i], shape);
        if (name.size == strlen(source.name) && memcmp(name.bytes, source.name, name.size) == 0) {
            return true;
        }
    }
    return false;
}

int gguf_weights(float *weights, const struct params *params, const struct shape *shape,
                 const struct gguf *gguf, struct error *err)
{
    for (int i = 0; i < gguf_tensor_count(gguf); i++) {
        struct gguf_text name = gguf_tensor_at(gguf, i)->name;
        if (!is_wanted(name, params, shape)) {
            return error_set(err, -EINVAL, "%s: tensor %.*s has no place in this model",
                             gguf_name(gguf), (int)(name.size < 80 ? name.size : 80), name.bytes);
        }
    }
    int code = 0;
    memset(weights, 0, params->elements * sizeof(*weights));
    for (int32_t i = 0; code == 0 && i < params->count; i++) {
        const struct param *param = &params->items[i];
        code = read_weights(weights + param->offset, param, shape, gguf, err);
    }
    return code;
}
