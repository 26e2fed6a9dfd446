// kelvin-learner: rank 0 of a run: options, the run, the loop.
#include "common/base/log.h"
#include "common/tensor/kernels.h"
#include "common/wire/http.h"
#include "learner/evaluate.h"
#include "learner/exit.h"
#include "learner/fork.h"
#include "learner/pretrain.h"
#include "learner/rank.h"
#include "learner/run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct learner {
    struct loop *loop;
    struct http *http;
    struct run *run;
    int exit_code;
};

static void print_help(void)
{
    (void)printf(
        "Usage: kelvin-learner [--pretrain] --config FILE [key=value ...]\n"
        "       kelvin-learner [--pretrain] --resume RUN [key=value ...]\n"
        "       kelvin-learner --fork RUN@STEP run_dir=FOLDER [key=value ...]\n"
        "       kelvin-learner --rank R --config FILE run_dir=FOLDER [key=value ...]\n"
        "       kelvin-learner --eval --config FILE [key=value ...]\n\n"
        "Runs the learner of a self-play run: waits for actors and verifiers at `endpoint`, gives\n"
        "them work, trains, and publishes weights at `weights_endpoint`. Writes a line of JSON "
        "per\n"
        "step to standard output and into the run folder. With --pretrain it makes a small model\n"
        "from generated programs instead (kelvin pretrain --help); only verifiers are needed. "
        "With\n"
        "--eval it plays held-out tasks with a model and writes eval.json (kelvin eval --help).\n\n"
        "--resume goes on at the newest checkpoint of a run folder. --fork makes a new run folder\n"
        "of a checkpoint, with the tasks of that time, and goes on there.\n\n"
        "With learner.ranks=N a step is shared by N processes of one host. Rank 0 starts the "
        "others,\n"
        "unless --rank is given (0 to N-1, each with the same file and keys). They only train, "
        "and\n"
        "end with rank 0. The number of ranks changes no bit of the weights.\n\n"
        "SIGUSR1 (Slurm's warning before the time limit), SIGTERM and SIGINT: the step that is in\n"
        "training is finished, a checkpoint is saved, the workers are told, exit code 75. A "
        "second\n"
        "SIGTERM or SIGINT ends at once.\n\n"
        "Exit code: 0 all steps done, 2 bad input, 75 stopped by a signal after saving (--resume\n"
        "goes on), 1 otherwise.\n\n"
        "Keys, in the file or as key=value:\n");
    config_help(&run_options, stdout);
}

// A run goes on with what made it; other keys may change.
static int read_resumed(struct run_config *config, const char *run_dir, char *const *words,
                        int count, struct error *err)
{
    static struct run_config before;
    int code = run_config_read_folder(&before, run_dir, NULL, 0, err);
    code = code < 0 ? code : run_config_read_folder(config, run_dir, words, count, err);
    if (code < 0) {
        return code;
    }
    if (strcmp(before.model, config->model) != 0 || before.seed != config->seed) {
        return error_set(err, -EINVAL,
                         "a run is resumed with its own model and seed; --fork RUN@STEP begins "
                         "another one");
    }
    return 0;
}

static int read_command(struct run_config *config, bool *resume, int argc, char **argv,
                        struct error *err)
{
    if (argc < 3) {
        return error_set(err, -EINVAL,
                         "--config FILE, --resume RUN or --fork RUN@STEP is needed; see --help");
    }
    *resume = strcmp(argv[1], "--config") != 0;
    if (strcmp(argv[1], "--config") == 0) {
        return run_config_read(config, argv[2], argv + 3, argc - 3, err);
    }
    if (strcmp(argv[1], "--resume") == 0) {
        return read_resumed(config, argv[2], argv + 3, argc - 3, err);
    }
    if (strcmp(argv[1], "--fork") == 0) {
        return fork_run(config, argv[2], argv + 3, argc - 3, err);
    }
    return error_set(err, -EINVAL, "%s is no option; see --help", argv[1]);
}

// What the first words ask for.
struct command {
    bool pretrain, eval;
    long rank; // -1: not given
};

// Takes --pretrain, --eval and --rank R off the front of the words.
static int read_mode(struct command *command, int *argc, char ***argv, struct error *err)
{
    *command = (struct command){.rank = -1};
    const char *word = *argc > 1 ? (*argv)[1] : "";
    command->pretrain = strcmp(word, "--pretrain") == 0;
    command->eval = strcmp(word, "--eval") == 0;
    int taken = command->pretrain || command->eval;
    if (*argc > 2 && strcmp(word, "--rank") == 0) {
        char *end = NULL;
        command->rank = strtol((*argv)[2], &end, 10);
        if (*end != '\0' || command->rank < 0 || command->rank >= RANKS_MAX) {
            return error_set(err, -EINVAL, "--rank is a number from 0 to %d", RANKS_MAX - 1);
        }
        taken = 2;
    }
    *argc -= taken;
    *argv += taken;
    return 0;
}

static void on_line(void *context, const char *line)
{
    (void)context;
    (void)printf("%s\n", line);
    (void)fflush(stdout);
}

static void on_ended(void *context, int exit_code)
{
    struct learner *learner = context;
    learner->exit_code = exit_code;
    http_close(learner->http);
    loop_stop(learner->loop);
}

static void on_stop(void *context, int signal_number)
{
    (void)signal_number;
    struct learner *learner = context;
    if (learner->run != NULL) {
        run_stop(learner->run);
    }
}

static int play(const struct run_config *config, bool resume)
{
    static struct learner learner;
    struct error err = {0};
    // Slurm warns with SIGUSR1 and later sends SIGTERM: the warning does not count as the first.
    const struct loop_events loop_events = {
        .context = &learner, .on_stop = on_stop, .on_warning = on_stop};
    const struct run_events events = {.context = &learner, .line = on_line, .ended = on_ended};
    int code = loop_create(&learner.loop, &loop_events, &err);
    code = code < 0 ? code
                    : http_create(&learner.http, loop_uv(learner.loop), config->learner.http, &err);
    code = code < 0 ? code : run_open(&learner.run, learner.loop, config, resume, &events, &err);
    if (code < 0) {
        log_error("learner", "%s", err.text);
        learner.exit_code = EXIT_BAD_INPUT;
        http_close(learner.http);
        if (learner.loop != NULL) {
            loop_stop(learner.loop);
        }
    } else {
        run_start(learner.run);
    }
    if (learner.loop != NULL) {
        loop_run(learner.loop);
        run_destroy(learner.run);
        loop_destroy(learner.loop);
    }
    return learner.exit_code;
}

int main(int argc, char **argv)
{
    static struct run_config config;
    struct error err = {0};
    struct command command;
    bool resume = false;
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        print_help();
        return 0;
    }
    int code = read_mode(&command, &argc, &argv, &err);
    code = code < 0 ? code : read_command(&config, &resume, argc, argv, &err);
    if (code < 0) {
        log_error("learner", "%s", err.text);
        return EXIT_BAD_INPUT;
    }
    // What auto is here goes into the run folder, so that a run is resumed in the same type
    // anywhere.
    config.learner.compute = (int)kernels_best((enum compute)config.learner.compute)->compute;
    if (command.pretrain) {
        return pretrain_run(&config, resume);
    }
    if (command.eval) {
        return evaluate_run(&config);
    }
    if (command.rank > 0) {
        return rank_run(&config, (int32_t)command.rank);
    }
    config.learner.start_ranks = config.learner.start_ranks && command.rank < 0;
    return play(&config, resume);
}
