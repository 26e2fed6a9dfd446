// Model folders: what is written is read back bit for bit under the names of Hugging Face, both
// spellings of a config say the same, and damaged files are refused by file and tensor.
#include "tests/support.h"

#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/model/model.h"
#include "common/model/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const families[] = {"qwen2", "qwen3", "llama3", "gpt2"};
enum { FAMILIES = sizeof(families) / sizeof(*families), PATH_BYTES = 512 };

struct folder {
    char dir[PATH_BYTES];
    struct shape shape;
    struct params params;
    float *weights;
    enum dtype stored;
};

static void folder_finish(struct folder *folder)
{
    params_finish(&folder->params);
    free(folder->weights);
}

static void folder_read(struct folder *folder, const char *dir)
{
    struct error err = {0};
    *folder = (struct folder){0};
    (void)snprintf(folder->dir, sizeof(folder->dir), "%s", dir);
    if (shape_read(&folder->shape, dir, &err) < 0) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(params_init(&folder->params, &folder->shape, &err), 0);
    folder->weights = malloc(folder->params.elements * sizeof(float));
    assert_non_null(folder->weights);
    if (safetensors_read(folder->weights, &folder->stored, &folder->params, &folder->shape, dir,
                         &err) < 0) {
        fail_msg("%s", err.text);
    }
}

// Two shapes are the same when they are written the same.
static void same_shape(const struct shape *a, const struct shape *b)
{
    CLEANUP(freep) char *left = shape_write_json(a, "float32");
    CLEANUP(freep) char *right = shape_write_json(b, "float32");
    assert_string_equal(left, right);
}

static void folder_write(const struct folder *folder, const char *dir, enum dtype type)
{
    char path[PATH_BYTES + 32];
    CLEANUP(freep)
    char *config = shape_write_json(&folder->shape, type == DTYPE_F32 ? "float32" : "bfloat16");
    (void)snprintf(path, sizeof(path), "%s/config.json", dir);
    assert_int_equal(file_write(path, config, strlen(config), NULL), 0);
    (void)snprintf(path, sizeof(path), "%s/model.safetensors", dir);
    assert_int_equal(
        safetensors_write(path, folder->weights, &folder->params, &folder->shape, type, NULL), 0);
}

static json_t *header_of(const char *path)
{
    CLEANUP(freep) char *bytes = NULL;
    size_t size = 0;
    uint64_t length = 0;
    json_t *header = NULL;
    assert_int_equal(file_read(&bytes, &size, path, 1 << 24, NULL), 0);
    memcpy(&length, bytes, sizeof(length));
    assert_true(length % 8 == 0 && length + 8 <= size);
    assert_int_equal(json_parse(&header, bytes + 8, length, path, NULL), 0);
    return header;
}

// A family's folder is read, written in f32 and in bf16, and read again: shape and every bit.
static void test_write_read(void **state)
{
    (void)state;
    for (int f = 0; f < FAMILIES; f++) {
        char dir[PATH_BYTES];
        char made[] = "/tmp/kelvin-model-XXXXXX";
        CLEANUP(folder_finish) struct folder golden;
        CLEANUP(folder_finish) struct folder f32;
        CLEANUP(folder_finish) struct folder bf16;
        (void)snprintf(dir, sizeof(dir), GOLDEN_DIR "/%s", families[f]);
        assert_non_null(mkdtemp(made));
        folder_read(&golden, dir);
        folder_write(&golden, made, DTYPE_F32);
        folder_read(&f32, made);
        same_shape(&golden.shape, &f32.shape);
        assert_int_equal(f32.stored, DTYPE_F32);
        assert_memory_equal(golden.weights, f32.weights, golden.params.elements * sizeof(float));
        folder_write(&golden, made, DTYPE_BF16);
        folder_read(&bf16, made);
        assert_int_equal(bf16.stored, DTYPE_BF16);
        for (size_t i = 0; i < golden.params.elements; i++) {
            float rounded = bf16_to_float(bf16_from_float(golden.weights[i]));
            assert_memory_equal(&rounded, &bf16.weights[i], sizeof(rounded));
        }
        assert_int_equal(file_remove_tree(made, NULL), 0);
    }
}

// The written file has the names and shapes of the file that `transformers` wrote.
static void test_names(void **state)
{
    (void)state;
    static const char *const whole[] = {"qwen2", "qwen3", "gpt2"}; // llama3's is in shards
    for (int f = 0; f < 3; f++) {
        char path[PATH_BYTES];
        char made[] = "/tmp/kelvin-model-XXXXXX";
        assert_non_null(mkdtemp(made));
        CLEANUP(folder_finish) struct folder golden;
        (void)snprintf(path, sizeof(path), GOLDEN_DIR "/%s", whole[f]);
        folder_read(&golden, path);
        folder_write(&golden, made, DTYPE_F32);
        (void)snprintf(path, sizeof(path), GOLDEN_DIR "/%s/model.safetensors", whole[f]);
        CLEANUP(json_decrefp) json_t *wanted = header_of(path);
        (void)snprintf(path, sizeof(path), "%s/model.safetensors", made);
        CLEANUP(json_decrefp) json_t *got = header_of(path);
        const char *key = NULL;
        json_t *value = NULL;
        json_object_foreach(wanted, key, value)
        {
            const json_t *entry = json_object_get(got, key);
            assert_non_null(entry);
            if (strcmp(key, "__metadata__") == 0) {
                continue;
            }
            assert_true(
                json_equal(json_object_get(entry, "shape"), json_object_get(value, "shape")));
        }
        assert_int_equal(json_object_size(wanted), json_object_size(got));
        assert_int_equal(file_remove_tree(made, NULL), 0);
    }
}

// The two spellings of RoPE in config.json say the same.
static void test_spellings(void **state)
{
    (void)state;
    for (int f = 0; f < FAMILIES; f++) {
        char made[] = "/tmp/kelvin-model-XXXXXX";
        char path[PATH_BYTES];
        struct shape shapes[2];
        CLEANUP(freep) char *text = NULL;
        size_t size = 0;
        assert_non_null(mkdtemp(made));
        (void)snprintf(path, sizeof(path), GOLDEN_DIR "/%s", families[f]);
        assert_int_equal(shape_read(&shapes[0], path, NULL), 0);
        (void)snprintf(path, sizeof(path), GOLDEN_DIR "/%s/config.alt.json", families[f]);
        assert_int_equal(file_read(&text, &size, path, 1 << 20, NULL), 0);
        (void)snprintf(path, sizeof(path), "%s/config.json", made);
        assert_int_equal(file_write(path, text, size, NULL), 0);
        assert_int_equal(shape_read(&shapes[1], made, NULL), 0);
        same_shape(&shapes[0], &shapes[1]);
        assert_int_equal(file_remove_tree(made, NULL), 0);
    }
}

// struct broken is a copy of the qwen2 folder to be damaged.
struct broken {
    char dir[32];
    json_t *header;
    char *bytes; // of the golden file
    size_t data_at, size;
};

static void broken_make(struct broken *broken)
{
    CLEANUP(freep) char *config = NULL;
    char path[64];
    size_t size = 0;
    uint64_t length = 0;
    *broken = (struct broken){.dir = "/tmp/kelvin-model-XXXXXX"};
    assert_non_null(mkdtemp(broken->dir));
    assert_int_equal(file_read(&config, &size, GOLDEN_DIR "/qwen2/config.json", 1 << 20, NULL), 0);
    (void)snprintf(path, sizeof(path), "%s/config.json", broken->dir);
    assert_int_equal(file_write(path, config, size, NULL), 0);
    const char *golden = GOLDEN_DIR "/qwen2/model.safetensors";
    assert_int_equal(file_read(&broken->bytes, &broken->size, golden, 1 << 24, NULL), 0);
    memcpy(&length, broken->bytes, sizeof(length));
    broken->data_at = 8 + (size_t)length;
    broken->header = header_of(golden);
}

static void broken_finish(struct broken *broken)
{
    assert_int_equal(file_remove_tree(broken->dir, NULL), 0);
    json_decref(broken->header);
    free(broken->bytes);
}

static void refuses(const struct broken *broken, const char *sentence)
{
    struct model *model = NULL;
    struct error err = {0};
    assert_true(model_load(&model, broken->dir, COMPUTE_F32, &err) < 0);
    assert_null(model);
    assert_non_null(strstr(err.text, broken->dir));
    if (strstr(err.text, sentence) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", err.text, sentence);
    }
}

// Writes the damaged header in front of the data.
static void broken_write(const struct broken *broken)
{
    char path[64];
    CLEANUP(freep) char *text = json_dumps(broken->header, JSON_COMPACT);
    uint64_t length = strlen(text);
    size_t data = broken->size - broken->data_at;
    CLEANUP(freep) char *file = malloc(8 + length + data);
    memcpy(file, &length, sizeof(length));
    memcpy(file + 8, text, length); // NOLINT(bugprone-not-null-terminated-result)
    memcpy(file + 8 + length, broken->bytes + broken->data_at, data);
    (void)snprintf(path, sizeof(path), "%s/model.safetensors", broken->dir);
    assert_int_equal(file_write(path, file, 8 + length + data, NULL), 0);
}

// A tensor with a member of its entry changed is refused by its name.
static void test_bad_entries(void **state)
{
    (void)state;
    static const char name[] = "model.layers.1.mlp.up_proj.weight";
    static const struct {
        const char *key, *value, *sentence;
    } damages[] = {
        {"data_offsets", "[0, 40960]", "overlap"},
        {"data_offsets", "[9000000, 9040960]", "outside the file"},
        {"data_offsets", "[-4, 40956]", "outside the file"},
        {"data_offsets", "[9223372036854775800, 9223372036854775807]", "outside the file"},
        {"data_offsets", "[8, 4]", "outside the file"},
        {"data_offsets", "[1.5, 4]", "outside the file"},
        {"data_offsets", "null", "outside the file"},
        {"shape", "[64, 160]", "config.json asks for"},
        {"shape", "[160, 65]", "size of its shape"},
        {"shape", "[4294967296, 4294967296]", "positive numbers"},
        {"shape", "[-160, -64]", "positive numbers"},
        {"shape", "[160, 8, 8]", "neither a vector nor a matrix"},
        {"shape", "[]", "neither a vector nor a matrix"},
        {"dtype", "\"F64\"", "F32, BF16 or F16"},
        {"dtype", "7", "F32, BF16 or F16"},
        {"dtype", "\"F16\"", "size of its shape"},
    };
    for (size_t i = 0; i < sizeof(damages) / sizeof(*damages); i++) {
        struct broken broken;
        broken_make(&broken);
        json_t *value = json_loads(damages[i].value, JSON_DECODE_ANY, NULL);
        assert_non_null(value);
        json_t *entry = json_object_get(broken.header, name);
        assert_int_equal(json_object_set_new(entry, damages[i].key, value), 0);
        broken_write(&broken);
        refuses(&broken, damages[i].sentence);
        broken_finish(&broken);
    }
}

// A file without one of its tensors, with one too many, or cut short is refused.
static void test_bad_files(void **state)
{
    (void)state;
    struct broken broken;
    char path[64];
    broken_make(&broken);
    (void)snprintf(path, sizeof(path), "%s/model.safetensors", broken.dir);
    refuses(&broken, "cannot open"); // no file yet
    for (size_t size = 0; size < broken.size; size += size < 16 ? 1 : broken.size / 61) {
        assert_int_equal(file_write(path, broken.bytes, size, NULL), 0);
        refuses(&broken, "model.safetensors");
    }
    json_t *entry = json_incref(json_object_get(broken.header, "model.norm.weight"));
    assert_int_equal(json_object_del(broken.header, "model.norm.weight"), 0);
    broken_write(&broken);
    refuses(&broken, "there is no tensor model.norm.weight");
    assert_int_equal(json_object_set_new(broken.header, "model.norm.wait", entry), 0);
    broken_write(&broken);
    refuses(&broken, "tensor model.norm.wait has no place");
    broken_finish(&broken);
}

// A config that Kelvin does not run is refused with its key, before any memory is taken for it.
static void test_bad_configs(void **state)
{
    (void)state;
    static const struct {
        const char *key, *value, *sentence;
    } damages[] = {
        {"model_type", "\"mamba\"", "\"model_type\" is \"mamba\""},
        {"model_type", "null", "\"model_type\""},
        {"hidden_size", "\"big\"", "\"hidden_size\""},
        {"hidden_size", "65536", "config.json asks for"},
        {"vocab_size", "16777216", "config.json asks for"},
        {"num_hidden_layers", "0", "\"num_hidden_layers\""},
        {"num_hidden_layers", "1024", "there is no tensor model.layers"},
        {"num_attention_heads", "3", "no multiple"},
        {"max_position_embeddings", "99999999999999999", "\"max_position_embeddings\""},
        {"hidden_act", "\"gelu\"", "\"hidden_act\" is gelu"},
        {"rms_norm_eps", "-1", "\"rms_norm_eps\""},
        {"layer_types", "[\"full_attention\", \"sliding_attention\"]", "\"layer_types\""},
        {"use_sliding_window", "true", "sliding"},
        {"rope_parameters", "{\"rope_theta\": 1e6, \"rope_type\": \"yarn\", \"factor\": 4}",
         "yarn"},
        {"rope_parameters", "{\"rope_theta\": \"x\"}", "\"rope_theta\""},
    };
    for (size_t i = 0; i < sizeof(damages) / sizeof(*damages); i++) {
        struct broken broken;
        char path[64];
        broken_make(&broken);
        broken_write(&broken);
        (void)snprintf(path, sizeof(path), "%s/config.json", broken.dir);
        CLEANUP(json_decrefp) json_t *config = NULL;
        assert_int_equal(json_read_file(&config, path, NULL), 0);
        json_t *value = json_loads(damages[i].value, JSON_DECODE_ANY, NULL);
        assert_int_equal(json_object_set_new(config, damages[i].key, value), 0);
        CLEANUP(freep) char *text = json_dumps(config, 0);
        assert_int_equal(file_write(path, text, strlen(text), NULL), 0);
        refuses(&broken, damages[i].sentence);
        broken_finish(&broken);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write_read), cmocka_unit_test(test_names),
        cmocka_unit_test(test_spellings),  cmocka_unit_test(test_bad_entries),
        cmocka_unit_test(test_bad_files),  cmocka_unit_test(test_bad_configs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
