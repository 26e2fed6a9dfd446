// kelvin eval: what a model can do, on held-out programs of the generator or tasks of a file.
#include "common/base/cleanup.h"
#include "common/base/json.h"
#include "common/base/task.h"
#include "deploy/cli/cli.h"
#include "deploy/cli/job.h"

#include <errno.h>
#include <stdio.h>

enum { ROWS = 5, EVAL_KINDS = 3 };

static const char *const rows[ROWS] = {"sampled", "greedy", "forced", "constant", "echo"};

static void print_help(void)
{
    (void)printf(
        "Usage: kelvin eval --config FILE [key=value ...]\n\n"
        "Plays held-out tasks of the program generator with `model` (style compact): programs\n"
        "that neither pretraining nor self-play trains on. Prints a table of accuracies in\n"
        "percent with their standard errors and writes RUN/eval.json, which has them by program\n"
        "length too. The rows:\n\n"
        "  sampled   mean of eval.samples answers a task at rollout.temperature\n"
        "  greedy    the one answer at temperature 0\n"
        "  forced    sampled, the answer made to begin with the thinking part\n"
        "  constant  a guesser: the commonest gold answer (induction: the first shown output)\n"
        "  echo      a guesser: what is given, as it is (induction: f returns its argument)\n\n"
        "Tasks are a function of `seed` and eval.tasks; with eval.file=FILE they are those of\n"
        "FILE, JSON lines with snippet, input, output (a deduction and an abduction) or with\n"
        "snippet, inputs, outputs, message (an induction), for any model and style.\n\n"
        "Exit code: 0 done, 2 bad input, 128+N stopped by signal N, 1 otherwise.\n\n"
        "Keys that matter here: eval.*, model, seed, rollout.*, azr.inputs, actors, verifiers,\n"
        "run_dir. All keys, in the file or as key=value:\n");
    config_help(&run_options, stdout);
}

static void print_cell(const json_t *cell)
{
    if (cell == NULL) {
        (void)printf("  %14s", "-");
    } else {
        (void)printf("  %7.1f ± %-4.1f",
                     100.0 * json_number_value(json_object_get(cell, "accuracy")),
                     100.0 * json_number_value(json_object_get(cell, "stderr")));
    }
}

static int print_table(const struct run_config *config, struct error *err)
{
    char path[JOB_PATH_MAX];
    CLEANUP(json_decrefp) json_t *result = NULL;
    (void)snprintf(path, sizeof(path), "%s/eval.json", config->run_dir);
    int code = json_read_file(&result, path, err);
    if (code < 0) {
        return code;
    }
    (void)printf("%-10s", "");
    for (int kind = 0; kind < EVAL_KINDS; kind++) {
        (void)printf("  %14s", task_kind_name((enum task_kind)kind));
    }
    (void)printf("\n");
    for (int row = 0; row < ROWS; row++) {
        const json_t *kinds = json_object_get(result, rows[row]);
        (void)printf("%-10s", rows[row]);
        for (int kind = 0; kind < EVAL_KINDS; kind++) {
            print_cell(json_object_get(kinds, task_kind_name((enum task_kind)kind)));
        }
        (void)printf("\n");
    }
    return 0;
}

int command_eval(int argc, char **argv)
{
    if (cli_wants_help(argc, argv)) {
        print_help();
        return 0;
    }
    struct job job = {.command = argv[0], .learner_word = "--eval"};
    struct error err = {0};
    int code = job_read(&job, argc, argv, &err);
    if (code == 0 && job.start != JOB_FRESH) {
        code = error_set(&err, -EINVAL, "an evaluation is not resumed; give --config FILE");
    }
    if (code < 0) {
        return cli_fail(argv[0], "%s", err.text);
    }
    code = job_run(&job);
    if (code == 0 && print_table(&job.config, &err) < 0) {
        return cli_fail(argv[0], "%s", err.text);
    }
    return code;
}
