// GGUF has the tokens by id with a type each, the merges as "a b", and a name for what comes before
// the merges (normalizer and pre-tokenizer), which the table below spells out.
#include "deploy/cli/import_tokenizer.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/text/split.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

// Types of a token that matter here.
enum { TOKEN_NORMAL = 1, TOKEN_CONTROL = 3, TOKEN_USER = 4, TOKEN_UNUSED = 5 };

// struct before is what a name of tokenizer.ggml.pre means.
struct before {
    const char *name;
    const char *pattern; // of a Split; NULL: ByteLevel's own
    bool nfc;
    bool digits; // cut digits off one by one
    bool ignore_merges;
    bool bos; // a BOS is added unless the file says no
};

static const struct before befores[] = {
    {"gpt-2", .pattern = NULL},
    {"smollm", .digits = true},
    {"qwen2", .nfc = true, .pattern = split_qwen2},
    {"deepseek-r1-qwen", .nfc = true, .pattern = split_qwen2},
    {"llama-bpe", .pattern = split_llama3, .ignore_merges = true, .bos = true},
};

static bool same(struct gguf_text text, const char *wanted)
{
    return text.size == strlen(wanted) && memcmp(text.bytes, wanted, text.size) == 0;
}

static int shown(struct gguf_text text)
{
    return (int)(text.size < 60 ? text.size : 60);
}

static const struct before *find_before(const struct gguf *gguf, struct error *err)
{
    struct gguf_text model = {0}, pre = {0};
    if (gguf_get_text(gguf, &model, "tokenizer.ggml.model", err) < 0 ||
        gguf_get_text(gguf, &pre, "tokenizer.ggml.pre", err) < 0) {
        return NULL;
    }
    if (model.size == 0 || !same(model, "gpt2")) {
        (void)error_set(err, -ENOTSUP,
                        "%s: tokenizer.ggml.model is \"%.*s\"; Kelvin reads gpt2 (byte-level BPE)",
                        gguf_name(gguf), shown(model), model.size > 0 ? model.bytes : "");
        return NULL;
    }
    for (size_t i = 0; pre.size > 0 && i < sizeof(befores) / sizeof(*befores); i++) {
        if (same(pre, befores[i].name)) {
            return &befores[i];
        }
    }
    (void)error_set(err, -ENOTSUP,
                    "%s: tokenizer.ggml.pre is \"%.*s\"; Kelvin knows gpt-2, smollm, qwen2, "
                    "deepseek-r1-qwen, llama-bpe",
                    gguf_name(gguf), shown(pre), pre.size > 0 ? pre.bytes : "");
    return NULL;
}

// --- the tokens

static int bad_token(const struct gguf *gguf, uint64_t id, const char *problem, struct error *err)
{
    return error_set(err, -EINVAL, "%s: token %llu of tokenizer.ggml.tokens %s", gguf_name(gguf),
                     (unsigned long long)id, problem);
}

// struct tokens is the two parts of tokenizer.json that hold tokens.
struct tokens {
    json_t *vocab; // text → id, of all
    json_t *added; // list of objects: those that are found before the merges
};

static json_t *added_token(const char *text, size_t size, json_int_t id, bool special)
{
    return json_pack("{s:I, s:s%, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", text, size,
                     "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special",
                     special ? 1 : 0);
}

static int add_token(struct tokens *out, const struct gguf *gguf, struct gguf_text text,
                     uint64_t id, int64_t type, struct error *err)
{
    if (type == TOKEN_UNUSED) {
        return 0; // fills a hole of the numbering; the original has no such token
    }
    if (type != TOKEN_NORMAL && type != TOKEN_CONTROL && type != TOKEN_USER) {
        return bad_token(gguf, id, "is of a type that byte-level BPE does not have", err);
    }
    CLEANUP(freep) char *key = strndup(text.bytes, text.size);
    CLEANUP(json_decrefp) json_t *string = json_stringn(text.bytes, text.size);
    if (key == NULL || string == NULL || text.size == 0 || strlen(key) != text.size) {
        return bad_token(gguf, id, "is not valid text", err);
    }
    if (json_object_get(out->vocab, key) != NULL) {
        return bad_token(gguf, id, "is there twice", err);
    }
    // Added tokens stand in the vocabulary too: Hugging Face would number them anew otherwise.
    CHECK(json_object_set_new(out->vocab, key, json_integer((json_int_t)id)) == 0);
    if (type != TOKEN_NORMAL) {
        json_t *added = added_token(key, text.size, (json_int_t)id, type == TOKEN_CONTROL);
        CHECK(added != NULL && json_array_append_new(out->added, added) == 0);
    }
    return 0;
}

static int read_tokens(struct tokens *out, const struct gguf *gguf, struct error *err)
{
    const struct gguf_value *tokens = gguf_find(gguf, "tokenizer.ggml.tokens");
    const struct gguf_value *types = gguf_find(gguf, "tokenizer.ggml.token_type");
    if (tokens == NULL || !tokens->array || tokens->type != GGUF_STRING || types == NULL ||
        types->count != tokens->count || tokens->count > VOCAB_MAX) {
        return error_set(err, -EINVAL,
                         "%s: tokenizer.ggml.tokens and tokenizer.ggml.token_type are not two "
                         "equally long lists of at most %d",
                         gguf_name(gguf), VOCAB_MAX);
    }
    struct gguf_text text;
    size_t cursor = 0;
    int code = 0;
    for (uint64_t id = 0; code == 0 && gguf_next_text(&text, tokens, &cursor); id++) {
        int64_t type = 0;
        code = gguf_int(&type, types, id) ? add_token(out, gguf, text, id, type, err)
                                          : bad_token(gguf, id, "has no type", err);
    }
    return code;
}

static int read_merges(json_t *out, const struct gguf *gguf, struct error *err)
{
    const struct gguf_value *merges = gguf_find(gguf, "tokenizer.ggml.merges");
    if (merges == NULL || !merges->array || merges->type != GGUF_STRING ||
        merges->count > MERGES_MAX) {
        return error_set(err, -EINVAL, "%s: tokenizer.ggml.merges is not a list of at most %d",
                         gguf_name(gguf), MERGES_MAX);
    }
    struct gguf_text text;
    size_t cursor = 0;
    while (gguf_next_text(&text, merges, &cursor)) {
        json_t *merge = json_stringn(text.bytes, text.size);
        if (merge == NULL) {
            return error_set(err, -EINVAL, "%s: tokenizer.ggml.merges has one that is not text",
                             gguf_name(gguf));
        }
        CHECK(json_array_append_new(out, merge) == 0);
    }
    return 0;
}

// --- tokenizer.json

static json_t *byte_level(bool regex)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                     "trim_offsets", regex ? 1 : 0, "use_regex", regex ? 1 : 0);
}

static json_t *pre_tokenizer(const struct before *before)
{
    json_t *list = json_array();
    if (before->digits) {
        CHECK(json_array_append_new(
                  list, json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", 1)) == 0);
    }
    if (before->pattern != NULL) {
        json_t *split = json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex",
                                  before->pattern, "behavior", "Isolated", "invert", 0);
        CHECK(json_array_append_new(list, split) == 0);
    }
    CHECK(json_array_append_new(list, byte_level(before->pattern == NULL)) == 0);
    return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list);
}

// The text of the token whose id a key holds; NULL without the key or the token.
static char *token_of_key(const struct gguf *gguf, const char *key, int64_t *id)
{
    const struct gguf_value *tokens = gguf_find(gguf, "tokenizer.ggml.tokens");
    const struct gguf_value *value = gguf_find(gguf, key);
    struct gguf_text text;
    size_t cursor = 0;
    if (tokens == NULL || value == NULL || !gguf_int(id, value, 0)) {
        return NULL;
    }
    for (int64_t i = 0; gguf_next_text(&text, tokens, &cursor); i++) {
        if (i == *id) {
            return strndup(text.bytes, text.size);
        }
    }
    return NULL;
}

static bool wants_bos(const struct gguf *gguf, const struct before *before)
{
    bool wanted = before->bos;
    struct error ignored;
    (void)gguf_get_bool(gguf, &wanted, "tokenizer.ggml.add_bos_token", &ignored);
    return wanted;
}

// What `transformers` does to a text after the merges: nothing, or a BOS before it. Kelvin itself
// adds none.
static json_t *post_processor(const struct gguf *gguf, const struct before *before)
{
    int64_t id = 0;
    CLEANUP(freep) char *bos = token_of_key(gguf, "tokenizer.ggml.bos_token_id", &id);
    if (bos == NULL || !wants_bos(gguf, before)) {
        return json_null();
    }
    return json_pack("{s:s, s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}], s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}, "
                     "{s:{s:s, s:i}}, {s:{s:s, s:i}}], s:{s:{s:s, s:[I], s:[s]}}}",
                     "type", "TemplateProcessing", "single", "SpecialToken", "id", bos, "type_id",
                     0, "Sequence", "id", "A", "type_id", 0, "pair", "SpecialToken", "id", bos,
                     "type_id", 0, "Sequence", "id", "A", "type_id", 0, "SpecialToken", "id", bos,
                     "type_id", 1, "Sequence", "id", "B", "type_id", 1, "special_tokens", bos, "id",
                     bos, "ids", (json_int_t)id, "tokens", bos);
}

char *import_tokenizer(const struct gguf *gguf, struct error *err)
{
    const struct before *before = find_before(gguf, err);
    if (before == NULL) {
        return NULL;
    }
    CLEANUP(json_decrefp) json_t *vocab = json_object();
    CLEANUP(json_decrefp) json_t *added = json_array();
    CLEANUP(json_decrefp) json_t *merges = json_array();
    struct tokens tokens = {.vocab = vocab, .added = added};
    if (read_tokens(&tokens, gguf, err) < 0 || read_merges(merges, gguf, err) < 0) {
        return NULL;
    }
    CLEANUP(json_decrefp)
    json_t *root = json_pack(
        "{s:s, s:n, s:n, s:O, s:o, s:o, s:o, s:o, "
        "s:{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:O, s:O}}",
        "version", "1.0", "truncation", "padding", "added_tokens", added, "normalizer",
        before->nfc ? json_pack("{s:s}", "type", "NFC") : json_null(), "pre_tokenizer",
        pre_tokenizer(before), "post_processor", post_processor(gguf, before), "decoder",
        byte_level(true), "model", "type", "BPE", "dropout", "unk_token",
        "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0,
        "ignore_merges", before->ignore_merges ? 1 : 0, "vocab", vocab, "merges", merges);
    char *text = root == NULL ? NULL : json_dumps(root, JSON_INDENT(1));
    if (text == NULL) {
        (void)error_set(err, -ENOMEM, "%s: out of memory", gguf_name(gguf));
    }
    return text;
}

// --- tokenizer_config.json

static void add_named_token(json_t *root, const char *name, const struct gguf *gguf,
                            const char *key)
{
    int64_t id = 0;
    CLEANUP(freep) char *text = token_of_key(gguf, key, &id);
    json_t *string = text == NULL ? NULL : json_string(text);
    CHECK(json_object_set_new(root, name, string == NULL ? json_null() : string) == 0);
}

char *import_tokenizer_config(const struct gguf *gguf, struct error *err)
{
    const struct before *before = find_before(gguf, err);
    struct gguf_text template = {0};
    if (before == NULL || gguf_get_text(gguf, &template, "tokenizer.chat_template", err) < 0) {
        return NULL;
    }
    CLEANUP(json_decrefp)
    json_t *root = json_pack("{s:s, s:b, s:b}", "tokenizer_class", "PreTrainedTokenizerFast",
                             "clean_up_tokenization_spaces", 0, "add_bos_token",
                             wants_bos(gguf, before) ? 1 : 0);
    add_named_token(root, "bos_token", gguf, "tokenizer.ggml.bos_token_id");
    add_named_token(root, "eos_token", gguf, "tokenizer.ggml.eos_token_id");
    add_named_token(root, "unk_token", gguf, "tokenizer.ggml.unknown_token_id");
    add_named_token(root, "pad_token", gguf, "tokenizer.ggml.padding_token_id");
    if (template.size > 0) {
        json_t *string = json_stringn(template.bytes, template.size);
        if (string == NULL) {
            (void)error_set(err, -EINVAL, "%s: tokenizer.chat_template is not valid text",
                            gguf_name(gguf));
            return NULL;
        }
        CHECK(json_object_set_new(root, "chat_template", string) == 0);
    }
    char *text = json_dumps(root, JSON_INDENT(2));
    CHECK(text != NULL);
    return text;
}
