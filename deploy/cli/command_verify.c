// kelvin verify: the verifier daemon with standard input as its front, so the same code judges here
// and in a training run.
#include "deploy/cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { VERIFY_WORDS_MAX = 64 };

int command_verify(int argc, char **argv)
{
    if (argc > VERIFY_WORDS_MAX) {
        return cli_fail(argv[0], "at most %d words are understood", VERIFY_WORDS_MAX);
    }
    char path[4096];
    struct error err = {0};
    if (cli_sibling(path, sizeof(path), "kelvin-verifier", &err) < 0) {
        return cli_fail(argv[0], "%s", err.text);
    }
    char stdin_word[] = "--stdin";
    char *words[VERIFY_WORDS_MAX + 2] = {path, stdin_word};
    for (int i = 1; i < argc; i++) {
        words[i + 1] = argv[i];
    }
    words[argc + 1] = NULL;
    (void)execv(path, words);
    return cli_fail(argv[0], "cannot run %s: %s", path, strerrordesc_np(errno));
}
