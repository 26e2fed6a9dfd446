// python.h: runs a generator source with the system's Python, in place of a verifier. Tests only:
// the sources are our own.
#ifndef TESTS_PYTHON_H
#define TESTS_PYTHON_H

#include "tests/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

// python_run is repr(f(0)) of `source`; the caller frees it.
static inline char *python_run(const char *source)
{
    char path[] = "/tmp/kelvin-test-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *file = fdopen(fd, "w");
    assert_non_null(file);
    assert_true(fputs(source, file) >= 0 && fputs("\nprint(repr(f(0)))\n", file) >= 0);
    assert_int_equal(fclose(file), 0);
    char command[128];
    (void)snprintf(command, sizeof(command), "/usr/bin/python3 -I %s", path);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    char *line = NULL;
    size_t capacity = 0;
    ssize_t size = getline(&line, &capacity, pipe);
    assert_int_equal(pclose(pipe), 0);
    assert_int_equal(unlink(path), 0);
    assert_true(size > 0 && line[size - 1] == '\n');
    line[size - 1] = '\0';
    return line;
}

#endif
