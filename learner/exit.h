// exit.h: what kelvin-learner's exit code says.
#ifndef LEARNER_EXIT_H
#define LEARNER_EXIT_H

enum {
    EXIT_FAULT = 1,
    EXIT_BAD_INPUT = 2,
    EXIT_REQUEUE = 75, // stopped by a signal after a checkpoint: --resume goes on
};

#endif
