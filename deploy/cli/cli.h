// cli.h: what the commands of the front `kelvin` share.
//
// A command is one file command_NAME.c with `int command_NAME(int argc, char **argv)`; argv[0] is
// the command's name. It returns the exit code: 0 done, CLI_BAD_INPUT when the user has to change
// something (after one clear line on standard error), 1 for anything else that failed.
#ifndef DEPLOY_CLI_CLI_H
#define DEPLOY_CLI_CLI_H

#include "common/base/error.h"
#include "common/model/model.h"

#include <stdbool.h>
#include <stddef.h>

enum { CLI_BAD_INPUT = 2 };

// cli_fail prints "kelvin COMMAND: SENTENCE" and returns CLI_BAD_INPUT.
int cli_fail(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

// cli_wants_help is whether any word is --help or -h.
bool cli_wants_help(int argc, char **argv);

// cli_sibling writes the path of a program that stands beside this one ("kelvin-learner").
int cli_sibling(char *out, size_t size, const char *program, struct error *err);

// cli_compute reads the value of --compute: auto, f32 or bf16.
int cli_compute(enum compute *out, const char *text, struct error *err);

int command_bench(int argc, char **argv);
int command_import(int argc, char **argv);
int command_export(int argc, char **argv);
int command_eval(int argc, char **argv);
int command_logprobs(int argc, char **argv);
int command_plan(int argc, char **argv);
int command_replay(int argc, char **argv);
int command_step(int argc, char **argv);
int command_pretrain(int argc, char **argv);
int command_tasks(int argc, char **argv);
int command_tokenize(int argc, char **argv);
int command_train(int argc, char **argv);
int command_verify(int argc, char **argv);

#endif
