// kelvin export: a checkpoint's model as a folder of its own.
#include "common/base/file.h"
#include "common/model/safetensors.h"
#include "common/model/shape.h"
#include "deploy/cli/cli.h"
#include "learner/checkpoint.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { EXPORT_PATH_MAX = 4096 };

static void print_help(void)
{
    (void)printf(
        "Usage: kelvin export RUN@STEP DIR     the model after STEP (0: the starting model)\n"
        "       kelvin export RUN DIR          the model of the newest checkpoint\n\n"
        "Writes config.json, the tokenizer's files and model.safetensors: a folder for\n"
        "`transformers`, vLLM, and `model:` of another run. DIR must not exist yet.\n");
}

// A checkpoint whose model was cut or damaged is not handed on.
static int check_model(const char *checkpoint, struct error *err)
{
    struct shape shape;
    struct params params;
    int code = shape_read(&shape, checkpoint, err);
    code = code < 0 ? code : params_init(&params, &shape, err);
    if (code < 0) {
        return code;
    }
    code = safetensors_check(&params, &shape, checkpoint, err);
    params_finish(&params);
    return code;
}

// The model without what only training needs, under its final name at once.
static int export_model(const char *dir, const char *checkpoint, struct error *err)
{
    static const char *const training[] = {"trainer.bin", "state.json", NULL};
    char beside[EXPORT_PATH_MAX];
    int length = snprintf(beside, sizeof(beside), "%s.tmp%d", dir, (int)getpid());
    if (length < 0 || (size_t)length >= sizeof(beside)) {
        return error_set(err, -ENAMETOOLONG, "%s: the name is too long", dir);
    }
    int code = file_copy_dir(beside, checkpoint, training, err);
    if (code == 0 && rename(beside, dir) != 0) {
        code = error_set(err, -errno, "cannot make %s: %s", dir, strerrordesc_np(errno));
    }
    if (code < 0) {
        (void)file_remove_tree(beside, NULL);
    }
    return code;
}

int command_export(int argc, char **argv)
{
    if (cli_wants_help(argc, argv)) {
        print_help();
        return 0;
    }
    if (argc != 3) {
        return cli_fail(argv[0], "RUN@STEP and DIR are needed; see kelvin export --help");
    }
    char run_dir[EXPORT_PATH_MAX];
    char checkpoint[EXPORT_PATH_MAX];
    int64_t step = 0;
    struct error err = {0};
    if (access(argv[2], F_OK) == 0) {
        return cli_fail(argv[0], "%s is there already; choose another folder", argv[2]);
    }
    int code = checkpoint_parse(run_dir, sizeof(run_dir), &step, argv[1], &err);
    checkpoint_path(checkpoint, sizeof(checkpoint), run_dir, step);
    code = code < 0 ? code : check_model(checkpoint, &err);
    code = code < 0 ? code : export_model(argv[2], checkpoint, &err);
    if (code < 0) {
        return cli_fail(argv[0], "%s", err.text);
    }
    (void)printf("the model after step %lld: %s\n", (long long)step, argv[2]);
    return 0;
}
