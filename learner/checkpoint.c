#include "learner/checkpoint.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/model/safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FORMAT = 1, HASH_BYTES = 32, PATH_BYTES = 4096, HASH_CHUNK = 1 << 24 };

static const size_t queue_bytes_max = (size_t)1 << 32;

// The head of trainer.bin; the arrays weights, m, v and the hash of all follow. Before the first
// update the moments are zero and left out.
struct header {
    char magic[8]; // "KELVINTR"
    uint64_t format;
    uint64_t elements;
    uint64_t layout; // of the parameter table
    int64_t updates;
    int64_t step;
};

// Which parameter lies where: files of another model differ in it.
static uint64_t layout_of(const struct params *params)
{
    uint64_t hash = 1469598103934665603ULL; // FNV-1a
    for (int32_t i = 0; i < params->count; i++) {
        const struct param *param = &params->items[i];
        for (const char *at = param->name; *at != '\0'; at++) {
            hash = (hash ^ (uint64_t)(unsigned char)*at) * 1099511628211ULL;
        }
        hash = (hash ^ (uint64_t)param->shape[0]) * 1099511628211ULL;
        hash = (hash ^ (uint64_t)param->shape[1]) * 1099511628211ULL;
    }
    return hash;
}

void checkpoint_path(char *out, size_t size, const char *run_dir, int64_t step)
{
    (void)snprintf(out, size, "%s/checkpoints/step-%lld", run_dir, (long long)step);
}

static void close_filep(FILE **file)
{
    if (*file != NULL) {
        (void)fclose(*file);
    }
}

static int put(FILE *file, crypto_generichash_state *hash, const void *data, size_t size)
{
    const unsigned char *bytes = data;
    while (size > 0) {
        size_t part = size < HASH_CHUNK ? size : HASH_CHUNK;
        (void)crypto_generichash_update(hash, bytes, part);
        if (fwrite(bytes, 1, part, file) != part) {
            return -EIO;
        }
        bytes += part;
        size -= part;
    }
    return 0;
}

static int write_arrays(FILE *file, const struct params *params,
                        const struct checkpoint *checkpoint)
{
    const struct trainer_arrays *arrays = &checkpoint->arrays;
    struct header header = {.format = FORMAT,
                            .elements = params->elements,
                            .layout = layout_of(params),
                            .updates = arrays->updates,
                            .step = checkpoint->step};
    memcpy(header.magic, "KELVINTR", sizeof(header.magic));
    size_t size = params->elements * sizeof(float);
    crypto_generichash_state hash;
    (void)crypto_generichash_init(&hash, NULL, 0, HASH_BYTES);
    int code = put(file, &hash, &header, sizeof(header));
    code = code < 0 ? code : put(file, &hash, arrays->weights, size);
    if (code == 0 && arrays->updates > 0) {
        code = put(file, &hash, arrays->m, size);
        code = code < 0 ? code : put(file, &hash, arrays->v, size);
    }
    unsigned char digest[HASH_BYTES];
    (void)crypto_generichash_final(&hash, digest, sizeof(digest));
    if (code == 0 && fwrite(digest, 1, sizeof(digest), file) != sizeof(digest)) {
        code = -EIO;
    }
    if (code == 0 && (fflush(file) != 0 || fsync(fileno(file)) != 0)) {
        code = -errno;
    }
    return code;
}

static int write_trainer(const char *dir, const struct params *params,
                         const struct checkpoint *checkpoint, struct error *err)
{
    char path[PATH_BYTES];
    int code = file_join(path, sizeof(path), dir, "trainer.bin", err);
    if (code < 0) {
        return code;
    }
    CLEANUP(close_filep) FILE *file = fopen(path, "wbe");
    code = file == NULL ? -errno : write_arrays(file, params, checkpoint);
    return code < 0 ? error_set(err, code, "cannot write %s: %s; is the disk full?", path,
                                strerrordesc_np(-code))
                    : 0;
}

static int write_state(const char *dir, const struct checkpoint *checkpoint, struct error *err)
{
    char path[PATH_BYTES];
    int code = file_join(path, sizeof(path), dir, "state.json", err);
    if (code < 0) {
        return code;
    }
    CLEANUP(json_decrefp)
    json_t *state =
        json_pack("{s:i, s:I, s:I, s:I, s:I, s:I, s:I}", "format", FORMAT, "step",
                  (json_int_t)checkpoint->step, "version", (json_int_t)checkpoint->step + 1, "seed",
                  (json_int_t)checkpoint->seed, "updates", (json_int_t)checkpoint->arrays.updates,
                  "last_task", (json_int_t)checkpoint->last_task, "last_rollout",
                  (json_int_t)checkpoint->last_rollout);
    CLEANUP(freep) char *text = json_dumps(state, JSON_INDENT(2));
    return text == NULL ? error_set(err, -ENOMEM, "%s: out of memory", path)
                        : file_write(path, text, strlen(text), err);
}

static void hash_queue(unsigned char digest[HASH_BYTES], const void *bytes, size_t size)
{
    (void)crypto_generichash(digest, HASH_BYTES, bytes, size, NULL, 0);
}

// queue.bin is the queue and its hash.
static int write_queue(const char *dir, const struct checkpoint *checkpoint, struct error *err)
{
    char path[PATH_BYTES];
    size_t size = checkpoint->queue_size;
    if (size == 0) {
        return 0;
    }
    CLEANUP(freep) unsigned char *bytes = malloc(size + HASH_BYTES);
    if (bytes == NULL) {
        return error_set(err, -ENOMEM, "no memory for the queue of a checkpoint (%zu MB)",
                         size >> 20);
    }
    memcpy(bytes, checkpoint->queue, size);
    hash_queue(bytes + size, bytes, size);
    int code = file_join(path, sizeof(path), dir, "queue.bin", err);
    return code < 0 ? code : file_write(path, bytes, size + HASH_BYTES, err);
}

static int load_queue(const char *dir, struct checkpoint *checkpoint, struct error *err)
{
    char path[PATH_BYTES];
    CLEANUP(freep) char *bytes = NULL;
    size_t size = 0;
    int code = file_join(path, sizeof(path), dir, "queue.bin", err);
    if (code < 0 || access(path, F_OK) != 0) {
        return code; // a run whose steps do not overlap has none
    }
    code = file_read(&bytes, &size, path, queue_bytes_max, err);
    if (code < 0) {
        return code;
    }
    unsigned char digest[HASH_BYTES] = {0};
    if (size > HASH_BYTES) {
        hash_queue(digest, bytes, size - HASH_BYTES);
    }
    if (size <= HASH_BYTES || memcmp(digest, bytes + size - HASH_BYTES, HASH_BYTES) != 0) {
        return error_set(err, -EINVAL,
                         "%s is cut or damaged: its hash does not fit; remove this checkpoint to "
                         "go on from the one before",
                         path);
    }
    checkpoint->queue = (uint8_t *)TAKE(bytes);
    checkpoint->queue_size = size - HASH_BYTES;
    return 0;
}

static int copy_file(const char *from_dir, const char *to_dir, const char *name, struct error *err)
{
    char path[PATH_BYTES];
    int code = file_join(path, sizeof(path), from_dir, name, err);
    if (code < 0 || access(path, F_OK) != 0) {
        return code; // not every model has every file
    }
    CLEANUP(freep) char *data = NULL;
    size_t size = 0;
    code = file_read(&data, &size, path, JSON_BYTES_MAX, err);
    code = code < 0 ? code : file_join(path, sizeof(path), to_dir, name, err);
    return code < 0 ? code : file_write(path, data, size, err);
}

// config.json says the type of the weights, which need not be the one that the model came in.
static int write_config(const struct checkpoint_target *target, const char *dir, struct error *err)
{
    char path[PATH_BYTES];
    CLEANUP(json_decrefp) json_t *config = NULL;
    int code = file_join(path, sizeof(path), target->model_dir, "config.json", err);
    code = code < 0 ? code : json_read_file(&config, path, err);
    if (code < 0) {
        return code;
    }
    const char *key = json_object_get(config, "dtype") != NULL ? "dtype" : "torch_dtype";
    const char *type = target->published == DTYPE_BF16 ? "bfloat16" : "float32";
    (void)json_object_set_new(config, key, json_string(type));
    CLEANUP(freep) char *text = json_dumps(config, JSON_INDENT(2));
    if (text == NULL) {
        return error_set(err, -ENOMEM, "%s: out of memory", path);
    }
    code = file_join(path, sizeof(path), dir, "config.json", err);
    return code < 0 ? code : file_write(path, text, strlen(text), err);
}

static int write_folder(const struct checkpoint_target *target, const char *dir,
                        const struct checkpoint *checkpoint, struct error *err)
{
    static const char *const names[] = {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "generation_config.json",
        "chat_template.jinja",
        "kelvin.json",
    };
    int code = file_make_dirs(dir, err);
    code = code < 0 ? code : write_config(target, dir, err);
    for (size_t i = 0; code == 0 && i < sizeof(names) / sizeof(*names); i++) {
        code = copy_file(target->model_dir, dir, names[i], err);
    }
    if (code < 0) {
        return code;
    }
    char path[PATH_BYTES];
    code = file_join(path, sizeof(path), dir, "model.safetensors", err);
    code = code < 0 ? code
                    : safetensors_write(path, checkpoint->arrays.weights, target->params,
                                        target->shape, target->published, err);
    code = code < 0 ? code : write_trainer(dir, target->params, checkpoint, err);
    code = code < 0 ? code : write_queue(dir, checkpoint, err);
    code = code < 0 ? code : write_state(dir, checkpoint, err);
    return code < 0 ? code : file_sync_dir(dir, err);
}

// The step that a folder's name says, or -1.
static int64_t step_of_name(const char *name)
{
    if (strncmp(name, "step-", 5) != 0) {
        return -1;
    }
    char *end = NULL;
    long long step = strtoll(name + 5, &end, 10);
    return end == name + 5 || *end != '\0' || step < 0 ? -1 : (int64_t)step;
}

static int is_step(const struct dirent *entry)
{
    return step_of_name(entry->d_name) >= 0;
}

// The largest step on disk below `below`; -1 when there is none.
static int64_t largest_below(const char *folder, int64_t below)
{
    struct dirent **entries = NULL;
    int count = scandir(folder, &entries, is_step, NULL);
    int64_t largest = -1;
    for (int i = 0; i < count; i++) {
        int64_t step = step_of_name(entries[i]->d_name);
        largest = step < below && step > largest ? step : largest;
        free(entries[i]);
    }
    free(entries);
    return largest;
}

int checkpoint_latest(const char *run_dir, int64_t *step, struct error *err)
{
    char folder[PATH_BYTES];
    int code = file_join(folder, sizeof(folder), run_dir, "checkpoints", err);
    if (code < 0) {
        return code;
    }
    if (access(folder, F_OK) != 0 && errno != ENOENT) {
        return error_set(err, -errno, "cannot read %s: %s", folder, strerrordesc_np(errno));
    }
    *step = largest_below(folder, INT64_MAX);
    return 0;
}

int checkpoint_find(const char *run_dir, int64_t step, struct error *err)
{
    char path[PATH_BYTES];
    checkpoint_path(path, sizeof(path), run_dir, step);
    if (access(path, F_OK) == 0) {
        return 0;
    }
    char folder[PATH_BYTES];
    int code = file_join(folder, sizeof(folder), run_dir, "checkpoints", err);
    if (code < 0) {
        return code;
    }
    char list[256] = "";
    size_t used = 0;
    for (int64_t at = largest_below(folder, INT64_MAX); at >= 0 && used + 32 < sizeof(list);
         at = largest_below(folder, at)) {
        used += (size_t)snprintf(list + used, sizeof(list) - used, " %lld", (long long)at);
    }
    return error_set(err, -ENOENT, "%s has no checkpoint of step %lld; it has%s", run_dir,
                     (long long)step, used > 0 ? list : " none");
}

int checkpoint_parse(char *run_dir, size_t size, int64_t *step, const char *text, struct error *err)
{
    const char *at = strrchr(text, '@');
    size_t length = at != NULL ? (size_t)(at - text) : strlen(text);
    if (length == 0 || length >= size) {
        return error_set(err, -EINVAL, "%s is no run folder; write RUN@STEP", text);
    }
    memcpy(run_dir, text, length);
    run_dir[length] = '\0';
    if (at == NULL) {
        int code = checkpoint_latest(run_dir, step, err);
        return code < 0 ? code : checkpoint_find(run_dir, *step < 0 ? 0 : *step, err);
    }
    char *end = NULL;
    errno = 0;
    *step = strtoll(at + 1, &end, 10);
    if (end == at + 1 || *end != '\0' || errno != 0 || *step < 0) {
        return error_set(err, -EINVAL, "%s: \"%s\" is no step; write RUN@STEP", text, at + 1);
    }
    return checkpoint_find(run_dir, *step, err);
}

static bool stays(const struct checkpoint_target *target, int64_t step)
{
    return step == 0 || (target->keep_every > 0 && step % target->keep_every == 0);
}

// Removes what is older than the newest `keep` checkpoints and need not stay.
static int prune(const struct checkpoint_target *target, struct error *err)
{
    char folder[PATH_BYTES];
    int code = file_join(folder, sizeof(folder), target->run_dir, "checkpoints", err);
    int64_t step = INT64_MAX;
    for (int32_t i = 0; i < target->keep && step >= 0; i++) {
        step = largest_below(folder, step);
    }
    for (step = step < 0 ? -1 : largest_below(folder, step); step >= 0 && code == 0;
         step = largest_below(folder, step)) {
        char path[PATH_BYTES];
        checkpoint_path(path, sizeof(path), target->run_dir, step);
        code = stays(target, step) ? 0 : file_remove_tree(path, err);
    }
    return code;
}

int checkpoint_save(const struct checkpoint_target *target, const struct checkpoint *checkpoint,
                    struct error *err)
{
    int64_t step = checkpoint->step;
    char path[PATH_BYTES];
    char beside[PATH_BYTES];
    char folder[PATH_BYTES];
    checkpoint_path(path, sizeof(path), target->run_dir, step);
    (void)snprintf(folder, sizeof(folder), "%s/checkpoints", target->run_dir);
    (void)snprintf(beside, sizeof(beside), "%s/checkpoints/.step-%lld.tmp", target->run_dir,
                   (long long)step);
    int code = file_remove_tree(beside, err); // of a save that was killed
    code = code < 0 ? code : write_folder(target, beside, checkpoint, err);
    code = code < 0 ? code : file_remove_tree(path, err);
    if (code == 0 && rename(beside, path) != 0) {
        code = error_set(err, -errno, "cannot rename %s to %s: %s", beside, path,
                         strerrordesc_np(errno));
    }
    if (code < 0) {
        (void)file_remove_tree(beside, NULL);
        return code;
    }
    code = file_sync_dir(folder, err);
    return code < 0 ? code : prune(target, err);
}

static int check_header(const struct header *header, size_t file_size, int64_t step,
                        const struct params *params, const char *path, struct error *err)
{
    if (memcmp(header->magic, "KELVINTR", sizeof(header->magic)) != 0) {
        return error_set(err, -EINVAL, "%s is no checkpoint of Kelvin", path);
    }
    if (header->format > FORMAT) {
        return error_set(err, -EINVAL,
                         "%s has format %llu and this program knows format %d; use the Kelvin that "
                         "wrote it",
                         path, (unsigned long long)header->format, FORMAT);
    }
    if (header->elements != params->elements || header->layout != layout_of(params)) {
        return error_set(err, -EINVAL,
                         "%s belongs to another model (its parameters differ); give the model that "
                         "the run began with",
                         path);
    }
    size_t arrays = header->updates > 0 ? 3 : 1;
    size_t wanted = sizeof(*header) + arrays * params->elements * sizeof(float) + HASH_BYTES;
    if (file_size != wanted || header->step != step) {
        return error_set(err, -EINVAL,
                         "%s is cut: %zu bytes instead of %zu; remove this checkpoint to go on "
                         "from the one before",
                         path, file_size, wanted);
    }
    return 0;
}

static bool hash_fits(const struct file_map *map)
{
    crypto_generichash_state hash;
    (void)crypto_generichash_init(&hash, NULL, 0, HASH_BYTES);
    const unsigned char *bytes = map->data;
    size_t size = map->size - HASH_BYTES;
    for (size_t at = 0; at < size; at += HASH_CHUNK) {
        size_t part = size - at < HASH_CHUNK ? size - at : HASH_CHUNK;
        (void)crypto_generichash_update(&hash, bytes + at, part);
    }
    unsigned char digest[HASH_BYTES];
    (void)crypto_generichash_final(&hash, digest, sizeof(digest));
    return memcmp(digest, bytes + size, HASH_BYTES) == 0;
}

static bool all_finite(const float *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(values[i])) {
            return false;
        }
    }
    return true;
}

static int load_map(const struct file_map *map, const char *path, int64_t step,
                    const struct params *params, struct trainer_arrays *arrays, struct error *err)
{
    struct header header;
    if (map->size < sizeof(header)) {
        return error_set(err, -EINVAL, "%s is cut: %zu bytes; remove this checkpoint", path,
                         map->size);
    }
    memcpy(&header, map->data, sizeof(header));
    int code = check_header(&header, map->size, step, params, path, err);
    if (code < 0) {
        return code;
    }
    if (!hash_fits(map)) {
        return error_set(err, -EINVAL,
                         "%s is damaged: its hash does not fit; remove this checkpoint to go on "
                         "from the one before",
                         path);
    }
    const char *bytes = (const char *)map->data + sizeof(header);
    size_t size = params->elements * sizeof(float);
    memcpy(arrays->weights, bytes, size);
    if (header.updates > 0) {
        memcpy(arrays->m, bytes + size, size);
        memcpy(arrays->v, bytes + 2 * size, size);
    } else {
        memset(arrays->m, 0, size);
        memset(arrays->v, 0, size);
    }
    arrays->updates = header.updates;
    if (!all_finite(arrays->weights, params->elements) ||
        !all_finite(arrays->m, params->elements) || !all_finite(arrays->v, params->elements)) {
        return error_set(err, -EINVAL,
                         "%s holds a weight or moment that is not a finite number; remove this "
                         "checkpoint to go on from the one before",
                         path);
    }
    return 0;
}

static int load_state(const char *dir, struct checkpoint *checkpoint, struct error *err)
{
    char path[PATH_BYTES];
    CLEANUP(json_decrefp) json_t *state = NULL;
    int code = file_join(path, sizeof(path), dir, "state.json", err);
    code = code < 0 ? code : json_read_file(&state, path, err);
    if (code < 0) {
        return code;
    }
    if (json_integer_value(json_object_get(state, "format")) > FORMAT) {
        return error_set(err, -EINVAL,
                         "%s is of a newer Kelvin than this one (format %d); use the Kelvin that "
                         "wrote it",
                         path, FORMAT);
    }
    const json_t *step = json_object_get(state, "step");
    if (!json_is_integer(step) || json_integer_value(step) != checkpoint->step ||
        !json_is_integer(json_object_get(state, "last_task")) ||
        !json_is_integer(json_object_get(state, "last_rollout"))) {
        return error_set(err, -EINVAL,
                         "%s does not describe step %lld; remove this checkpoint to go on from the "
                         "one before",
                         path, (long long)checkpoint->step);
    }
    checkpoint->seed = (uint64_t)json_integer_value(json_object_get(state, "seed"));
    checkpoint->last_task = json_integer_value(json_object_get(state, "last_task"));
    checkpoint->last_rollout = json_integer_value(json_object_get(state, "last_rollout"));
    return 0;
}

int checkpoint_load(const char *run_dir, const struct params *params, struct checkpoint *checkpoint,
                    struct error *err)
{
    char path[PATH_BYTES];
    checkpoint_path(path, sizeof(path), run_dir, checkpoint->step);
    char file[PATH_BYTES];
    int code = file_join(file, sizeof(file), path, "trainer.bin", err);
    struct file_map map = {0};
    code = code < 0 ? code : load_state(path, checkpoint, err);
    code = code < 0 ? code : file_map(&map, file, err);
    if (code < 0) {
        return code;
    }
    code = load_map(&map, file, checkpoint->step, params, &checkpoint->arrays, err);
    file_unmap(&map);
    return code < 0 ? code : load_queue(path, checkpoint, err);
}
