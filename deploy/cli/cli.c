#include "deploy/cli/cli.h"
#include "common/base/run_config.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int cli_fail(const char *command, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)fprintf(stderr, "kelvin %s: ", command);
    (void)vfprintf(stderr, format, args);
    (void)fputc('\n', stderr);
    va_end(args);
    return CLI_BAD_INPUT;
}

bool cli_wants_help(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            return true;
        }
    }
    return false;
}

int cli_sibling(char *out, size_t size, const char *program, struct error *err)
{
    char self[4096];
    ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (length < 0) {
        return error_set(err, -errno, "cannot find my own path");
    }
    self[length] = '\0';
    char *slash = strrchr(self, '/');
    *slash = '\0';
    int written = snprintf(out, size, "%s/%s", self, program);
    if (written < 0 || (size_t)written >= size) {
        return error_set(err, -ENAMETOOLONG, "the path of %s is too long", program);
    }
    if (access(out, X_OK) < 0) {
        return error_set(err, -errno, "%s is not there; keep the programs in one folder", out);
    }
    return 0;
}

int cli_compute(enum compute *out, const char *text, struct error *err)
{
    for (size_t i = 0; run_computes[i] != NULL; i++) {
        if (strcmp(text, run_computes[i]) == 0) {
            *out = (enum compute)i;
            return 0;
        }
    }
    return error_set(err, -EINVAL, "--compute is \"%.40s\"; it must be auto, f32, bf16 or bf16-amx",
                     text);
}
