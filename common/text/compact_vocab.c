#include "common/text/compact_vocab.h"

#include "common/base/json.h"
#include "common/text/utf8.h"

#include <stdlib.h>

static const char *const tags[] = {COMPACT_END, "<solve>",  "<propose>", "<ded>",     "<abd>",
                                   "<ind>",     "<prog>",   "<in>",      "<out>",     "<go>",
                                   "<think>",   "</think>", "<answer>",  COMPACT_STOP};

static const char *const pieces[] = {"def f(a):",
                                     "def f(a,b):",
                                     "\n return ",
                                     "\n a=",
                                     "\n  a=",
                                     "\n r=",
                                     "\n  r=",
                                     "\n   r=",
                                     "\n if ",
                                     "\n  if ",
                                     "\n else:",
                                     "\n for x in a:",
                                     "\n for i in range(",
                                     "[x",
                                     " for x in ",
                                     " if x",
                                     "sorted(",
                                     "sum(",
                                     "len(",
                                     "max(",
                                     "min(",
                                     "abs(",
                                     "str(",
                                     "list(",
                                     "range(",
                                     "[::-1]",
                                     "[::2]",
                                     "''.join(",
                                     ".upper()",
                                     ".lower()",
                                     ".swapcase()",
                                     ".replace(",
                                     ".count(",
                                     ".find(",
                                     " in ",
                                     "==",
                                     "!=",
                                     "//",
                                     ", ",
                                     "True",
                                     "False",
                                     "None",
                                     "[]",
                                     "''",
                                     "[-",
                                     ":]",
                                     "[:",
                                     ", 0",
                                     ", 1",
                                     ", 2",
                                     ", 3",
                                     ", 4",
                                     ", 5",
                                     ", 6",
                                     ", 7",
                                     ", 8",
                                     ", 9",
                                     "[0",
                                     "[1",
                                     "[2",
                                     "[3",
                                     "[4",
                                     "[5",
                                     "[6",
                                     "[7",
                                     "[8",
                                     "[9"};

static json_t *byte_vocab(void)
{
    json_t *vocab = json_object();
    for (int byte = 0; byte < 256; byte++) {
        char text[5] = {0};
        (void)utf8_put(text, byte_character((uint8_t)byte));
        if (json_object_set_new(vocab, text, json_integer(byte)) < 0) {
            json_decref(vocab);
            return NULL;
        }
    }
    return vocab;
}

static int add_tokens(json_t *list, const char *const *texts, size_t count, bool special)
{
    int failed = 0;
    for (size_t i = 0; i < count; i++) {
        json_t *token =
            json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", 256 + (int)json_array_size(list),
                      "content", texts[i], "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized",
                      0, "special", special);
        failed |= json_array_append_new(list, token);
    }
    return failed;
}

static json_t *byte_level(void)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                     "trim_offsets", 0, "use_regex", 0);
}

char *compact_tokenizer_json(void)
{
    CLEANUP(json_decrefp) json_t *added = json_array();
    int failed = add_tokens(added, tags, sizeof(tags) / sizeof(*tags), true);
    failed |= add_tokens(added, pieces, sizeof(pieces) / sizeof(*pieces), false);
    CLEANUP(json_decrefp)
    json_t *model =
        json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o*, s:[]}", "type", "BPE", "dropout",
                  "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0,
                  "byte_fallback", 0, "ignore_merges", 0, "vocab", byte_vocab(), "merges");
    CLEANUP(json_decrefp)
    json_t *root = failed != 0
                       ? NULL
                       : json_pack("{s:s, s:n, s:n, s:O, s:n, s:o, s:n, s:o, s:O}", "version",
                                   "1.0", "truncation", "padding", "added_tokens", added,
                                   "normalizer", "pre_tokenizer", byte_level(), "post_processor",
                                   "decoder", byte_level(), "model", model);
    return root == NULL ? NULL : json_dumps(root, JSON_INDENT(1));
}
