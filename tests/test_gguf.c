// GGUF files: block formats widen to the bits of the gguf package, files of llama.cpp's converter
// come back as the folders that they were made from, and damaged files are refused by name.
#include "tests/support.h"

#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/model/gguf_model.h"
#include "common/model/safetensors.h"
#include "common/text/tokenizer.h"
#include "deploy/cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char llama_path[] = GOLDEN_DIR "/gguf/llama3.gguf";

static size_t unhex(uint8_t *out, const char *hex)
{
    size_t count = 0;
    for (; hex[0] != '\0' && hex[1] != '\0'; hex += 2) {
        char byte[3] = {hex[0], hex[1], '\0'};
        out[count++] = (uint8_t)strtoul(byte, NULL, 16);
    }
    return count;
}

// Every format that is read widens random blocks to the very floats of Python's gguf package.
static void test_blocks(void **state)
{
    (void)state;
    CLEANUP(json_decrefp) json_t *list = NULL;
    assert_int_equal(json_read_file(&list, GOLDEN_DIR "/gguf/blocks.json", NULL), 0);
    assert_int_equal(json_array_size(list), 11);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        const json_t *floats = json_object_get(item, "floats");
        uint32_t number = (uint32_t)json_integer_value(json_object_get(item, "number"));
        const struct gguf_format *format = gguf_format_of(number);
        assert_non_null(format);
        const char *name = json_string_value(json_object_get(item, "format"));
        assert_string_equal(format->name, name);
        assert_string_equal(gguf_format_name(number), name);
        uint8_t blocks[1024];
        float out[1024];
        size_t bytes = unhex(blocks, json_string_value(json_object_get(item, "blocks")));
        int64_t count = (int64_t)json_array_size(floats);
        assert_int_equal(bytes, (size_t)(count / format->elements * format->bytes));
        gguf_widen(out, format, blocks, count);
        for (int64_t e = 0; e < count; e++) {
            uint32_t bits = 0;
            memcpy(&bits, &out[e], sizeof(bits));
            assert_int_equal(bits, json_integer_value(json_array_get(floats, (size_t)e)));
        }
    }
}

// struct folder is a model folder's shape and weights.
struct folder {
    struct shape shape;
    struct params params;
    float *weights;
};

static void folder_finish(struct folder *folder)
{
    params_finish(&folder->params);
    free(folder->weights);
}

static struct folder folder_read(const char *dir)
{
    struct folder folder = {0};
    struct error err = {0};
    enum dtype stored = DTYPE_F32;
    if (shape_read(&folder.shape, dir, &err) < 0) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(params_init(&folder.params, &folder.shape, &err), 0);
    folder.weights = calloc(folder.params.elements, sizeof(float));
    if (safetensors_read(folder.weights, &stored, &folder.params, &folder.shape, dir, &err) < 0) {
        fail_msg("%s", err.text);
    }
    return folder;
}

static void same_tokens(const char *dir, const char *imported)
{
    char path[1024];
    struct tokenizer *tokenizers[2] = {NULL, NULL};
    struct token_list lists[2] = {{0}, {0}};
    static const char text[] =
        "def f(x):\n    return x + 1234  # caf\xc3\xa9\n<|im_end|><|eot_id|>";
    for (int i = 0; i < 2; i++) {
        (void)snprintf(path, sizeof(path), "%s/tokenizer.json", i == 0 ? dir : imported);
        assert_int_equal(tokenizer_create(&tokenizers[i], path, NULL), 0);
        assert_int_equal(tokenizer_encode(tokenizers[i], &lists[i], text, strlen(text), true, NULL),
                         0);
    }
    assert_true(lists[0].count > 10);
    assert_int_equal(lists[0].count, lists[1].count);
    assert_memory_equal(lists[0].ids, lists[1].ids, lists[0].count * sizeof(int32_t));
    for (int i = 0; i < 2; i++) {
        tokenizer_destroy(tokenizers[i]);
        free(lists[i].ids);
    }
}

static int import(const char *from, const char *to)
{
    char name[] = "import";
    char *words[] = {name, without_const(from), without_const(to), NULL};
    return command_import(3, words);
}

// A file that llama.cpp's converter made from a golden folder, with weights in bf16, is imported as
// that folder: weights rounded to nearest even and in Hugging Face's order, shape, RoPE scaling,
// tokenizer. (Llama interleaves its query and key rows; GPT-2 has q, k and v in one tensor.)
static void test_import(void **state)
{
    (void)state;
    static const char *const families[] = {"llama3", "gpt2"};
    for (size_t f = 0; f < 2; f++) {
        char root[] = "/tmp/kelvin-import-XXXXXX";
        char from[512], to[512], dir[512];
        assert_non_null(mkdtemp(root));
        (void)snprintf(from, sizeof(from), GOLDEN_DIR "/gguf/%s.gguf", families[f]);
        (void)snprintf(dir, sizeof(dir), GOLDEN_DIR "/%s", families[f]);
        (void)snprintf(to, sizeof(to), "%s/model", root);
        assert_int_equal(import(from, to), 0);
        CLEANUP(folder_finish) struct folder wanted = folder_read(dir);
        CLEANUP(folder_finish) struct folder got = folder_read(to);
        CLEANUP(freep) char *wanted_shape = shape_write_json(&wanted.shape, "bfloat16");
        CLEANUP(freep) char *got_shape = shape_write_json(&got.shape, "bfloat16");
        assert_string_equal(wanted_shape, got_shape);
        assert_int_equal(wanted.params.elements, got.params.elements);
        for (size_t i = 0; i < got.params.elements; i++) {
            float rounded = bf16_to_float(bf16_from_float(wanted.weights[i]));
            assert_memory_equal(&rounded, &got.weights[i], sizeof(rounded));
        }
        same_tokens(dir, to);
        assert_int_equal(import(from, to), CLI_BAD_INPUT); // the folder exists
        assert_int_equal(file_remove_tree(root, NULL), 0);
    }
}

// struct patched is a copy of the llama3 file, to be damaged.
struct patched {
    char *bytes;
    size_t size;
};

static void patched_finish(struct patched *file)
{
    free(file->bytes);
}

static struct patched patched_read(void)
{
    struct patched file = {0};
    assert_int_equal(file_read(&file.bytes, &file.size, llama_path, 1 << 20, NULL), 0);
    return file;
}

// The entry of a tensor: behind its name stand rank (4 bytes), two dimensions, format, offset.
static char *entry_of(const struct patched *file, const char *name)
{
    char *at = memmem(file->bytes, file->size, name, strlen(name));
    assert_non_null(at);
    return at + strlen(name);
}

static void put(char *at, uint64_t value, size_t size)
{
    memcpy(at, &value, size);
}

static void refuses(const struct patched *file, size_t size, const char *sentence)
{
    struct gguf *gguf = NULL;
    struct error err = {0};
    assert_true(gguf_parse(&gguf, file->bytes, size, "x.gguf", &err) < 0);
    assert_null(gguf);
    assert_non_null(strstr(err.text, "x.gguf"));
    if (strstr(err.text, sentence) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", err.text, sentence);
    }
}

// However short a file is cut, it is refused.
static void test_cut_short(void **state)
{
    (void)state;
    CLEANUP(patched_finish) struct patched file = patched_read();
    struct gguf *gguf = NULL;
    assert_int_equal(gguf_parse(&gguf, file.bytes, file.size, "x.gguf", NULL), 0);
    const char *data = gguf_tensor_at(gguf, 0)->data;
    size_t head = (size_t)(data - file.bytes);
    gguf_close(gguf);
    for (size_t size = 0; size < head; size += size < 4096 ? 1 : 37) {
        refuses(&file, size, "");
    }
    refuses(&file, file.size - 1, "outside the file");
    refuses(&file, head + 5, "outside the file");
}

// Damaged entries are refused with the tensor's name.
static void test_bad_tensors(void **state)
{
    (void)state;
    static const char name[] = "blk.0.attn_q.weight";
    static const struct {
        size_t at, size; // in the entry
        uint64_t value;
        const char *sentence;
    } damages[] = {
        {0, 4, 5, "1 to 4 dimensions"},
        {0, 4, 0, "1 to 4 dimensions"},
        {4, 8, 0, "its shape"},
        {4, 8, UINT64_MAX, "its shape"},
        {4, 8, 1 << 20, "outside the file"},
        {20, 4, 16, "IQ2_XXS (16)"},
        {20, 4, 999, "unknown (999)"},
        {20, 4, 12, "whole blocks"}, // Q4_K wants multiples of 256
        {24, 8, 1, "not aligned"},
        {24, 8, 0, "overlap"},
        {24, 8, UINT64_MAX - 31, "outside the file"},
        {24, 8, 1 << 30, "outside the file"},
    };
    for (size_t i = 0; i < sizeof(damages) / sizeof(*damages); i++) {
        CLEANUP(patched_finish) struct patched file = patched_read();
        put(entry_of(&file, name) + damages[i].at, damages[i].value, damages[i].size);
        refuses(&file, file.size, damages[i].sentence);
    }
    CLEANUP(patched_finish) struct patched file = patched_read();
    put(file.bytes, 'X', 1);
    refuses(&file, file.size, "not a GGUF file");
    put(file.bytes, 'G', 1);
    put(file.bytes + 4, 1, 4);
    refuses(&file, file.size, "version 1");
    put(file.bytes + 4, 3, 4);
    put(file.bytes + 8, UINT64_MAX, 8);
    refuses(&file, file.size, "more than");
}

// A model of another family, or with a tensor that is missing, misshapen or not finite, is refused.
static void test_bad_models(void **state)
{
    (void)state;
    static const struct {
        const char *find, *replace, *sentence;
    } damages[] = {
        {"blk.1.ffn_up.weight", "blk.1.ffn_xx.weight", "no place in this model"},
        {"llama.block_count", "llama.block_xxxxx", "no key llama.block_count"},
        {"llama.feed_forward_length", "llama.feed_forward_xxxxxx", "llama.feed_forward_length"},
        {"token_embd.weight", "token_xxxx.weight", "no tensor token_embd.weight"},
    };
    for (size_t i = 0; i < sizeof(damages) / sizeof(*damages); i++) {
        CLEANUP(patched_finish) struct patched file = patched_read();
        memcpy(entry_of(&file, damages[i].find) - strlen(damages[i].find), damages[i].replace,
               strlen(damages[i].replace));
        struct gguf *gguf = NULL;
        struct error err = {0};
        struct shape shape;
        CLEANUP(params_finish) struct params params = {0};
        assert_int_equal(gguf_parse(&gguf, file.bytes, file.size, "x.gguf", &err), 0);
        int code = gguf_shape(&shape, gguf, &err);
        if (code == 0) {
            assert_int_equal(params_init(&params, &shape, &err), 0);
            CLEANUP(freep) float *weights = calloc(params.elements, sizeof(*weights));
            code = gguf_weights(weights, &params, &shape, gguf, &err);
        }
        gguf_close(gguf);
        assert_true(code < 0);
        assert_non_null(strstr(err.text, damages[i].sentence));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks),     cmocka_unit_test(test_import),
        cmocka_unit_test(test_cut_short),  cmocka_unit_test(test_bad_tensors),
        cmocka_unit_test(test_bad_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
