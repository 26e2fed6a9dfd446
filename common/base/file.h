// file.h: whole files in and out.
#ifndef COMMON_BASE_FILE_H
#define COMMON_BASE_FILE_H

#include "common/base/error.h"

#include <stddef.h>

// struct file_map is a file's bytes, read-only and private. `data` is NULL for an empty file.
struct file_map {
    const void *data;
    size_t size;
};

// file_map opens `path` read-only into *out; file_unmap ends it (NULL data allowed).
int file_map(struct file_map *out, const char *path, struct error *err);
void file_unmap(struct file_map *map);

// file_read reads at most `size_max` bytes into a fresh, NUL-terminated buffer that the caller
// frees; *size leaves the terminator out. -EFBIG when the file is larger.
int file_read(char **out, size_t *size, const char *path, size_t size_max, struct error *err);

// file_write puts `size` bytes under `path` atomically: written beside it, synced, renamed.
int file_write(const char *path, const void *data, size_t size, struct error *err);

// file_join writes `dir`/`name` into out [size]; -ENAMETOOLONG when it does not fit.
int file_join(char *out, size_t size, const char *dir, const char *name, struct error *err);

// file_make_dirs creates `path` and its missing parents.
int file_make_dirs(const char *path, struct error *err);

// file_remove_tree removes a folder and all below it; a missing one is no error.
int file_remove_tree(const char *path, struct error *err);

// file_copy copies one file and syncs it. file_copy_dir makes the folder `to` and copies the files
// of `from` into it, not its folders nor what is in `skip`, a list that NULL ends (NULL: all).
int file_copy(const char *to, const char *from, struct error *err);
int file_copy_dir(const char *to, const char *from, const char *const *skip, struct error *err);

// file_sync_dir makes a rename inside the folder durable.
int file_sync_dir(const char *path, struct error *err);

#endif
