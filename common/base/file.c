#include "common/base/file.h"

#include "common/base/cleanup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void fd_closep(int *fd)
{
    if (*fd >= 0) {
        (void)close(*fd);
    }
}

static int open_file(int *fd, size_t *size, const char *path, struct error *err)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0) {
        return error_set(err, -errno, "cannot open %s: %s", path, strerrordesc_np(errno));
    }
    struct stat st;
    if (fstat(*fd, &st) < 0) {
        return error_set(err, -errno, "cannot read %s: %s", path, strerrordesc_np(errno));
    }
    if (!S_ISREG(st.st_mode)) {
        return error_set(err, -EINVAL, "cannot read %s: not a regular file", path);
    }
    *size = (size_t)st.st_size;
    return 0;
}

int file_map(struct file_map *out, const char *path, struct error *err)
{
    CLEANUP(fd_closep) int fd = -1;
    size_t size = 0;
    int code = open_file(&fd, &size, path, err);
    if (code < 0) {
        return code;
    }
    void *data = NULL;
    if (size > 0) {
        data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            return error_set(err, -errno, "cannot map %s: %s", path, strerrordesc_np(errno));
        }
    }
    *out = (struct file_map){.data = data, .size = size};
    return 0;
}

void file_unmap(struct file_map *map)
{
    if (map != NULL && map->data != NULL) {
        (void)munmap(without_const(map->data), map->size);
        *map = (struct file_map){0};
    }
}

int file_read(char **out, size_t *size, const char *path, size_t size_max, struct error *err)
{
    CLEANUP(fd_closep) int fd = -1;
    size_t bytes = 0;
    int code = open_file(&fd, &bytes, path, err);
    if (code < 0) {
        return code;
    }
    if (bytes > size_max) {
        return error_set(err, -EFBIG, "%s is %zu bytes; at most %zu are read", path, bytes,
                         size_max);
    }
    CLEANUP(freep) char *data = malloc(bytes + 1);
    if (data == NULL) {
        return error_set(err, -ENOMEM, "cannot read %s: out of memory", path);
    }
    size_t done = 0;
    while (done < bytes) {
        ssize_t got = read(fd, data + done, bytes - done);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return error_set(err, got < 0 ? -errno : -EIO, "cannot read %s: %s", path,
                             got < 0 ? strerrordesc_np(errno) : "it shrank while it was read");
        }
        done += (size_t)got;
    }
    data[bytes] = '\0';
    *out = TAKE(data);
    *size = bytes;
    return 0;
}

static int write_all(int fd, const void *data, size_t size)
{
    const char *bytes = data;
    while (size > 0) {
        ssize_t put = write(fd, bytes, size);
        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put < 0) {
            return -errno;
        }
        bytes += put;
        size -= (size_t)put;
    }
    return 0;
}

int file_write(const char *path, const void *data, size_t size, struct error *err)
{
    char beside[4096];
    int length = snprintf(beside, sizeof(beside), "%s.tmp%d", path, (int)getpid());
    if (length < 0 || (size_t)length >= sizeof(beside)) {
        return error_set(err, -ENAMETOOLONG, "cannot write %s: the name is too long", path);
    }
    CLEANUP(fd_closep) int fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) {
        return error_set(err, -errno, "cannot write %s: %s", beside, strerrordesc_np(errno));
    }
    int code = write_all(fd, data, size);
    if (code == 0 && fsync(fd) < 0) {
        code = -errno;
    }
    if (code == 0 && rename(beside, path) < 0) {
        code = -errno;
    }
    if (code < 0) {
        (void)unlink(beside);
        return error_set(err, code, "cannot write %s: %s", path, strerrordesc_np(-code));
    }
    return 0;
}

int file_join(char *out, size_t size, const char *dir, const char *name, struct error *err)
{
    int length = snprintf(out, size, "%s/%s", dir, name);
    return length < 0 || (size_t)length >= size
               ? error_set(err, -ENAMETOOLONG, "%s/%s: the name is too long", dir, name)
               : 0;
}

int file_make_dirs(const char *path, struct error *err)
{
    char part[4096];
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof(part)) {
        return error_set(err, -ENAMETOOLONG, "cannot create folder: bad name \"%s\"", path);
    }
    memcpy(part, path, length + 1);
    for (size_t i = 1; i <= length; i++) {
        if (part[i] != '/' && part[i] != '\0') {
            continue;
        }
        char keep = part[i];
        part[i] = '\0';
        if (mkdir(part, 0755) < 0 && errno != EEXIST) {
            return error_set(err, -errno, "cannot create folder %s: %s", part,
                             strerrordesc_np(errno));
        }
        part[i] = keep;
    }
    struct stat st;
    if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode)) {
        return error_set(err, -ENOTDIR, "cannot create folder %s: a file has that name", path);
    }
    return 0;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)st, (void)type, (void)walk;
    return remove(path) == 0 ? 0 : -1;
}

int file_remove_tree(const char *path, struct error *err)
{
    // NOLINTNEXTLINE(concurrency-mt-unsafe): unsafe only with FTW_CHDIR
    if (nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) < 0 && errno != ENOENT) {
        return error_set(err, -errno, "cannot remove %s: %s", path, strerrordesc_np(errno));
    }
    return 0;
}

int file_sync_dir(const char *path, struct error *err)
{
    CLEANUP(fd_closep) int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0) {
        return error_set(err, -errno, "cannot sync folder %s: %s", path, strerrordesc_np(errno));
    }
    return 0;
}

static int copy_bytes(int to, int from)
{
    for (;;) {
        ssize_t copied = copy_file_range(from, NULL, to, NULL, 1 << 30, 0);
        if (copied == 0) {
            return fsync(to) < 0 ? -errno : 0;
        }
        if (copied < 0 && errno != EINTR) {
            return -errno;
        }
    }
}

int file_copy(const char *to, const char *from, struct error *err)
{
    CLEANUP(fd_closep) int source = open(from, O_RDONLY | O_CLOEXEC);
    if (source < 0) {
        return error_set(err, -errno, "cannot read %s: %s", from, strerrordesc_np(errno));
    }
    CLEANUP(fd_closep) int target = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    int code = target < 0 ? -errno : copy_bytes(target, source);
    return code < 0 ? error_set(err, code, "cannot write %s: %s", to, strerrordesc_np(-code)) : 0;
}

static void closedirp(DIR **dir)
{
    if (*dir != NULL) {
        (void)closedir(*dir);
    }
}

static bool is_listed(const char *name, const char *const *list)
{
    for (; list != NULL && *list != NULL; list++) {
        if (strcmp(name, *list) == 0) {
            return true;
        }
    }
    return false;
}

int file_copy_dir(const char *to, const char *from, const char *const *skip, struct error *err)
{
    CLEANUP(closedirp) DIR *dir = opendir(from);
    if (dir == NULL) {
        return error_set(err, -errno, "cannot read %s: %s", from, strerrordesc_np(errno));
    }
    int code = file_make_dirs(to, err);
    const struct dirent *entry = NULL;
    // NOLINTNEXTLINE(concurrency-mt-unsafe): the stream is this call's own
    while (code == 0 && (entry = readdir(dir)) != NULL) {
        char source[4096];
        char target[4096];
        struct stat st;
        code = file_join(source, sizeof(source), from, entry->d_name, err);
        code = code < 0 ? code : file_join(target, sizeof(target), to, entry->d_name, err);
        if (code == 0 && !is_listed(entry->d_name, skip) && stat(source, &st) == 0 &&
            S_ISREG(st.st_mode)) {
            code = file_copy(target, source, err);
        }
    }
    return code < 0 ? code : file_sync_dir(to, err);
}
