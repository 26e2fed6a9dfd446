// folder.h: a folder for targets whose parser opens files by name. It lives as long as the process.
#ifndef TESTS_FUZZ_FOLDER_H
#define TESTS_FUZZ_FOLDER_H

#include "common/base/check.h"
#include "common/base/file.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char fuzz_dir[] = "/tmp/kelvin-fuzz-XXXXXX";

static void fuzz_remove(void)
{
    (void)file_remove_tree(fuzz_dir, NULL);
}

// fuzz_file puts `data` under `name` in the folder fuzz_dir, which it makes at the first call.
static void fuzz_file(const char *name, const uint8_t *data, size_t size)
{
    static int made = 0;
    char path[256];
    if (!made) {
        CHECK(mkdtemp(fuzz_dir) != NULL && atexit(fuzz_remove) == 0);
        made = 1;
    }
    (void)snprintf(path, sizeof(path), "%s/%s", fuzz_dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && write(fd, data, size) == (ssize_t)size && close(fd) == 0);
}

#endif
