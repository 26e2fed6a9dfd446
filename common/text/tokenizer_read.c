// Reads tokenizer.json. Everything that would change ids and is not built in is refused by name, so
// that a tokenizer that opens is exact.
#include "common/text/tokenizer_parts.h"

#include "common/base/limits.h"
#include "common/text/utf8.h"
#include "common/text/words.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int out_of_memory(struct error *err)
{
    return error_set(err, -ENOMEM, "tokenizer: out of memory");
}

static const char *type_of(const json_t *object)
{
    const char *type = json_string_value(json_object_get(object, "type"));
    return type == NULL ? "(none)" : type;
}

// Whether the member is absent, null, false, 0 or empty: the setting is off.
static bool is_off(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return value == NULL || json_is_null(value) || json_is_false(value) ||
           (json_is_number(value) && json_number_value(value) == 0.0) ||
           (json_is_string(value) && json_string_length(value) == 0);
}

// --- normalizer and pre-tokenizer

static int read_normalizer(struct tokenizer *tokenizer, const json_t *json, struct error *err)
{
    if (json == NULL || json_is_null(json)) {
        return 0;
    }
    const json_t *list = json_object_get(json, "normalizers");
    if (strcmp(type_of(json), "Sequence") == 0 && json_array_size(list) == 0) {
        return 0;
    }
    const json_t *only = json_array_size(list) == 1 ? json_array_get(list, 0) : json;
    if (strcmp(type_of(only), "NFC") != 0) {
        return error_set(err, -ENOTSUP, "normalizer %s is not supported; NFC and none are",
                         type_of(only));
    }
    tokenizer->nfc = true;
    return 0;
}

static int add_splitter(struct tokenizer *tokenizer, const char *pattern, struct error *err)
{
    if (tokenizer->splitter_count == SPLITTERS_MAX) {
        return error_set(err, -ENOTSUP, "more than %d pre-tokenizers in a row", SPLITTERS_MAX);
    }
    int code =
        splitter_create(&tokenizer->splitters[tokenizer->splitter_count], pattern, true, err);
    tokenizer->splitter_count += code == 0;
    return code;
}

static int read_split(struct tokenizer *tokenizer, const json_t *json, struct error *err)
{
    const char *behavior = json_string_value(json_object_get(json, "behavior"));
    const char *pattern =
        json_string_value(json_object_get(json_object_get(json, "pattern"), "Regex"));
    if (pattern == NULL || behavior == NULL || strcmp(behavior, "Isolated") != 0 ||
        !is_off(json, "invert")) {
        return error_set(err, -ENOTSUP,
                         "pre-tokenizer Split is supported with a Regex, \"Isolated\" and no "
                         "\"invert\" only");
    }
    return add_splitter(tokenizer, pattern, err);
}

static int read_byte_level(struct tokenizer *tokenizer, const json_t *json, struct error *err)
{
    if (!is_off(json, "add_prefix_space")) {
        return error_set(err, -ENOTSUP, "\"add_prefix_space\" is not supported");
    }
    const json_t *regex = json_object_get(json, "use_regex");
    return regex == NULL || json_is_true(regex) ? add_splitter(tokenizer, split_gpt2, err) : 0;
}

static int read_pre_tokenizer(struct tokenizer *tokenizer, const json_t *json, bool last,
                              struct error *err)
{
    const char *type = type_of(json);
    if (strcmp(type, "Split") == 0 && !last) {
        return read_split(tokenizer, json, err);
    }
    if (strcmp(type, "Digits") == 0 && !last) {
        return add_splitter(tokenizer, is_off(json, "individual_digits") ? "\\p{N}+" : split_digits,
                            err);
    }
    if (strcmp(type, "ByteLevel") == 0 && last) {
        return read_byte_level(tokenizer, json, err);
    }
    return error_set(err, -ENOTSUP,
                     "pre-tokenizer %s is not supported here; Split and Digits are, and ByteLevel "
                     "as the last",
                     type);
}

static int read_pre_tokenizers(struct tokenizer *tokenizer, const json_t *json, struct error *err)
{
    if (strcmp(type_of(json), "Sequence") != 0) {
        return read_pre_tokenizer(tokenizer, json, true, err);
    }
    const json_t *list = json_object_get(json, "pretokenizers");
    size_t count = json_array_size(list);
    int code = count == 0 ? error_set(err, -EINVAL, "\"pretokenizers\" is empty") : 0;
    for (size_t i = 0; i < count && code == 0; i++) {
        code = read_pre_tokenizer(tokenizer, json_array_get(list, i), i + 1 == count, err);
    }
    return code;
}

// --- tokens

// Gives a token its bytes: those that its text spells in the byte alphabet, or the text itself
// where it has other characters (added tokens with spaces). *spelled says which.
static int set_token(struct token *token, const char *text, size_t size, bool *spelled,
                     struct error *err)
{
    char *bytes = malloc(size + 1);
    if (bytes == NULL) {
        return out_of_memory(err);
    }
    size_t count = 0;
    *spelled = true;
    for (size_t at = 0; *spelled && at < size;) {
        int byte = character_byte(utf8_next(text, &at));
        *spelled = byte >= 0;
        bytes[count++] = (char)byte;
    }
    if (!*spelled) {
        memcpy(bytes, text, size);
        count = size;
    }
    bytes[count] = '\0';
    token->bytes = bytes;
    token->size = (uint32_t)count;
    return 0;
}

static bool id_is_valid(const json_t *id)
{
    return json_is_integer(id) && json_integer_value(id) >= 0 && json_integer_value(id) < VOCAB_MAX;
}

// The largest id + 1 of the vocabulary and the added tokens.
static int count_ids(struct tokenizer *tokenizer, json_t *vocab, const json_t *added,
                     struct error *err)
{
    const char *text;
    json_t *id;
    json_int_t largest = -1;
    json_object_foreach(vocab, text, id)
    {
        if (!id_is_valid(id)) {
            return error_set(err, -EINVAL, "the id of token \"%.32s\" is not 0 to %d", text,
                             VOCAB_MAX - 1);
        }
        largest = json_integer_value(id) > largest ? json_integer_value(id) : largest;
    }
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *token = json_array_get(added, i);
        id = json_object_get(token, "id");
        if (!id_is_valid(id) || !json_is_string(json_object_get(token, "content"))) {
            return error_set(err, -EINVAL, "added token %zu has no content or no id of 0 to %d", i,
                             VOCAB_MAX - 1);
        }
        largest = json_integer_value(id) > largest ? json_integer_value(id) : largest;
    }
    tokenizer->vocab = (int32_t)largest + 1;
    tokenizer->tokens = calloc((size_t)tokenizer->vocab + 1, sizeof(*tokenizer->tokens));
    return tokenizer->tokens == NULL ? out_of_memory(err) : 0;
}

static int read_vocab(struct tokenizer *tokenizer, json_t *vocab, struct error *err)
{
    const char *text;
    json_t *id;
    json_object_foreach(vocab, text, id)
    {
        struct token *token = &tokenizer->tokens[json_integer_value(id)];
        if (token->bytes != NULL) {
            return error_set(err, -EINVAL, "two tokens have the id %lld; one is \"%.32s\"",
                             (long long)json_integer_value(id), text);
        }
        int code = set_token(token, text, strlen(text), &token->word, err);
        if (code < 0) {
            return code;
        }
    }
    return 0;
}

static int add_to_trie(struct tokenizer *tokenizer, const json_t *text, bool normalized, int32_t id,
                       struct error *err)
{
    const char *bytes = json_string_value(text);
    size_t size = json_string_length(text);
    if (!normalized || !tokenizer->nfc) {
        return trie_add(&tokenizer->added[normalized], bytes, size, id, err);
    }
    CLEANUP(freep) char *nfc = utf8_to_nfc(&size, bytes, size, err);
    return nfc == NULL ? -ENOMEM : trie_add(&tokenizer->added[1], nfc, size, id, err);
}

static int read_added_token(struct tokenizer *tokenizer, const json_t *json, struct error *err)
{
    const json_t *text = json_object_get(json, "content");
    int32_t id = (int32_t)json_integer_value(json_object_get(json, "id"));
    if (json_string_length(text) == 0) {
        return error_set(err, -EINVAL, "added token %d is empty", id);
    }
    if (!is_off(json, "single_word") || !is_off(json, "lstrip") || !is_off(json, "rstrip")) {
        return error_set(err, -ENOTSUP,
                         "added token \"%.32s\": single_word, lstrip and rstrip are not supported",
                         json_string_value(text));
    }
    struct token *token = &tokenizer->tokens[id];
    struct token known = *token;
    bool spelled = false;
    int code = set_token(token, json_string_value(text), json_string_length(text), &spelled, err);
    CLEANUP(freep) char *before = known.bytes;
    if (code == 0 && before != NULL &&
        (known.size != token->size || memcmp(before, token->bytes, known.size) != 0)) {
        code = error_set(err, -EINVAL, "two tokens have the id %d; one is \"%.32s\"", id,
                         json_string_value(text));
    }
    if (code < 0) {
        return code;
    }
    token->added = true;
    token->special = json_is_true(json_object_get(json, "special"));
    return add_to_trie(tokenizer, text, !is_off(json, "normalized"), id, err);
}

// --- merges

static int make_by_bytes(struct tokenizer *tokenizer, struct error *err)
{
    size_t slots = 1024;
    while (slots < (size_t)tokenizer->vocab * 2) {
        slots *= 2;
    }
    tokenizer->by_bytes = malloc(slots * sizeof(*tokenizer->by_bytes));
    if (tokenizer->by_bytes == NULL) {
        return out_of_memory(err);
    }
    memset(tokenizer->by_bytes, -1, slots * sizeof(*tokenizer->by_bytes));
    tokenizer->by_bytes_mask = slots - 1;
    for (int32_t id = 0; id < tokenizer->vocab; id++) {
        const struct token *token = &tokenizer->tokens[id];
        if (token->bytes == NULL) {
            continue;
        }
        // Where an added token spells a model's token under another id, words mean the latter.
        int32_t *slot = &tokenizer->by_bytes[tokenizer_slot(tokenizer, token->bytes, token->size)];
        *slot = *slot >= 0 && !token->word ? *slot : id;
    }
    return 0;
}

static int32_t find_word(const struct tokenizer *tokenizer, const char *bytes, size_t size)
{
    int32_t id = tokenizer->by_bytes[tokenizer_slot(tokenizer, bytes, size)];
    return id >= 0 && tokenizer->tokens[id].word ? id : -1;
}

// A vocabulary trained on clean text may lack bytes that no text has (control characters, lead
// bytes beyond UTF-8), but one without those of printable ASCII is not byte-level.
static int find_bytes(struct tokenizer *tokenizer, const json_t *model, struct error *err)
{
    for (int byte = 0; byte < 256; byte++) {
        char text = (char)byte;
        tokenizer->byte_ids[byte] = find_word(tokenizer, &text, 1);
        if (tokenizer->byte_ids[byte] < 0 &&
            ((byte >= ' ' && byte <= '~') || !is_off(model, "unk_token"))) {
            return error_set(err, -ENOTSUP,
                             "the vocabulary has no token for the byte 0x%02x; only byte-level "
                             "vocabularies are supported",
                             byte);
        }
    }
    return 0;
}

// Adds the bytes that a part of a merge spells; false when it spells none.
static bool add_spelled(struct words *bytes, const char *text, size_t size)
{
    for (size_t at = 0; at < size;) {
        int byte = character_byte(utf8_next(text, &at));
        if (byte < 0) {
            return false;
        }
        char c = (char)byte;
        words_add_bytes(bytes, &c, 1);
    }
    return size > 0 && !bytes->failed;
}

// The two parts of a merge are written "a b" or ["a", "b"].
static bool split_merge(const json_t *json, const char **left, size_t *left_size,
                        const char **right, size_t *right_size)
{
    if (json_is_string(json)) {
        *left = json_string_value(json);
        const char *space = strchr(*left, ' ');
        if (space == NULL) {
            return false;
        }
        *left_size = (size_t)(space - *left);
        *right = space + 1;
        *right_size = strlen(*right);
        return true;
    }
    const json_t *first = json_array_get(json, 0);
    const json_t *second = json_array_get(json, 1);
    *left = json_string_value(first);
    *left_size = json_string_length(first);
    *right = json_string_value(second);
    *right_size = json_string_length(second);
    return json_array_size(json) == 2 && *left != NULL && *right != NULL;
}

static int read_merge(struct tokenizer *tokenizer, const json_t *json, uint32_t rank,
                      struct words *bytes, struct error *err)
{
    const char *left;
    const char *right;
    size_t left_size;
    size_t right_size;
    bytes->size = 0;
    if (!split_merge(json, &left, &left_size, &right, &right_size) ||
        !add_spelled(bytes, left, left_size)) {
        return error_set(err, -EINVAL, "merge %u is not a pair of tokens", rank);
    }
    size_t middle = bytes->size;
    if (!add_spelled(bytes, right, right_size)) {
        return error_set(err, -EINVAL, "merge %u is not a pair of tokens", rank);
    }
    int32_t a = find_word(tokenizer, bytes->text, middle);
    int32_t b = find_word(tokenizer, bytes->text + middle, bytes->size - middle);
    int32_t merged = find_word(tokenizer, bytes->text, bytes->size);
    if (a < 0 || b < 0 || merged < 0) {
        return error_set(err, -EINVAL, "merge %u (%.*s + %.*s): %s is not in the vocabulary", rank,
                         (int)left_size, left, (int)right_size, right,
                         a < 0   ? "its left part"
                         : b < 0 ? "its right part"
                                 : "the result");
    }
    bpe_merges_add(&tokenizer->merges, (uint32_t)a, (uint32_t)b, rank, (uint32_t)merged);
    return 0;
}

static int read_merges(struct tokenizer *tokenizer, const json_t *merges, struct error *err)
{
    size_t count = json_array_size(merges);
    if (!json_is_array(merges) || count > MERGES_MAX) {
        return error_set(err, -EINVAL, "\"merges\" is not a list of at most %d", MERGES_MAX);
    }
    int code = bpe_merges_init(&tokenizer->merges, count, err);
    CLEANUP(words_finish) struct words bytes = {0};
    for (size_t i = 0; i < count && code == 0; i++) {
        code = read_merge(tokenizer, json_array_get(merges, i), (uint32_t)i, &bytes, err);
    }
    return code;
}

// --- the file

static int check_model(const json_t *model, struct error *err)
{
    static const char *const off[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix",
                                      "byte_fallback"};
    if (strcmp(type_of(model), "BPE") != 0) {
        return error_set(err, -ENOTSUP, "model type %s is not supported; BPE is", type_of(model));
    }
    for (size_t i = 0; i < sizeof(off) / sizeof(*off); i++) {
        if (!is_off(model, off[i])) {
            return error_set(err, -ENOTSUP, "\"%s\" is not supported", off[i]);
        }
    }
    if (!json_is_object(json_object_get(model, "vocab"))) {
        return error_set(err, -EINVAL, "the model has no \"vocab\"");
    }
    return 0;
}

static int read_added_tokens(struct tokenizer *tokenizer, const json_t *added, struct error *err)
{
    int code = 0;
    for (size_t i = 0; i < json_array_size(added) && code == 0; i++) {
        code = read_added_token(tokenizer, json_array_get(added, i), err);
    }
    return code;
}

int tokenizer_read(struct tokenizer *tokenizer, const json_t *json, struct error *err)
{
    const json_t *model = json_object_get(json, "model");
    const json_t *added = json_object_get(json, "added_tokens");
    const json_t *decoder = json_object_get(json, "decoder");
    int code = check_model(model, err);
    if (code == 0 && strcmp(type_of(decoder), "ByteLevel") != 0) {
        code =
            error_set(err, -ENOTSUP, "decoder %s is not supported; ByteLevel is", type_of(decoder));
    }
    tokenizer->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    json_t *vocab = json_object_get(model, "vocab");
    code = code == 0 ? read_normalizer(tokenizer, json_object_get(json, "normalizer"), err) : code;
    code = code == 0 ? read_pre_tokenizers(tokenizer, json_object_get(json, "pre_tokenizer"), err)
                     : code;
    code = code == 0 ? count_ids(tokenizer, vocab, added, err) : code;
    code = code == 0 ? read_vocab(tokenizer, vocab, err) : code;
    code = code == 0 ? read_added_tokens(tokenizer, added, err) : code;
    code = code == 0 ? make_by_bytes(tokenizer, err) : code;
    code = code == 0 ? find_bytes(tokenizer, model, err) : code;
    code = code == 0 ? read_merges(tokenizer, json_object_get(model, "merges"), err) : code;
    return code == 0 ? tokenizer_words(tokenizer, err) : code;
}
