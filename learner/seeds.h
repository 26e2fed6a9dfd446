// seeds.h: seed tasks as JSON lines, in the shape of the original's seed files:
//   {"snippet", "input", "output", "imports"}                deduction and abduction
//   {"snippet", "inputs", "outputs", "message", "imports"}   induction
// Other members are ignored. Import lines that the snippet lacks are put in front of it.
#ifndef LEARNER_SEEDS_H
#define LEARNER_SEEDS_H

#include "common/base/error.h"
#include "learner/tasks.h"

struct seed_list {
    Kelvin__Task **items; // owned
    int32_t count;
};

// seeds_read reads a file, or several whose names are separated by commas (the original keeps
// induction in one of its own); an error names file and line. seeds_free frees the items (a zeroed
// list is allowed).
int seeds_read(struct seed_list *out, const char *paths, struct error *err);
void seeds_free(struct seed_list *list);

// seeds_write writes all seeds of the store to `path`, atomically.
int seeds_write(const char *path, struct tasks *tasks, struct error *err);

// task_create makes a task from copied parts, without outputs where `outputs` is NULL; the caller
// frees it with kelvin__task__free_unpacked(task, NULL).
Kelvin__Task *task_create(enum task_kind kind, const char *program, const char *const *inputs,
                          const char *const *outputs, int32_t pairs, const char *message);

#endif
