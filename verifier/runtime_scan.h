// runtime_scan.h: which names a program binds and reads, from its syntax tree. Used by the
// runtime's files that judge and change programs.
#ifndef VERIFIER_RUNTIME_SCAN_H
#define VERIFIER_RUNTIME_SCAN_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "verifier/runtime.h"

struct runtime_scan {
    PyObject *forbidden; // set of module names that are looked for, or NULL; borrowed
    PyObject *bound;     // set of names that the program binds anywhere
    PyObject *outer;     // set of names that it binds at top level
    PyObject *read;      // set of names that it reads
    PyObject *hit;       // first forbidden module
    PyObject *only;      // name of the one top-level function, or NULL
    int functions;       // at top level
    int def_line;        // of `only`
    int def_column;
};

// runtime_scan_begin: false when there is no memory; runtime_scan_end frees it either way.
bool runtime_scan_begin(struct runtime_scan *scan, PyObject *forbidden);
void runtime_scan_end(struct runtime_scan *scan);

// runtime_scan_program reads a whole tree; a Python error is left when it is too deep.
// runtime_scan_node, which fits runtime_walk, reads one node into `bound`, `read` and `hit`.
void runtime_scan_program(struct runtime_scan *scan, PyObject *tree);
void runtime_scan_node(void *context, PyObject *node);

// Attributes of a node: a borrowed string, kept alive by the tree, or NULL; a number, or -1.
PyObject *runtime_text_of(PyObject *node, const char *name);
int runtime_number_of(PyObject *node, const char *name);

// Renames the one function where the program names it: new bytes, or NULL without an error for a
// program that binds its name in other ways too, or that uses `name` for something else
// (runtime_rename.c).
PyObject *runtime_rename_only(PyObject *tree, const struct runtime_scan *scan, const char *text,
                              size_t size, const char *name);

// What is wrong with a program behind so many helpers (runtime_composite.c): false, and a sentence.
// Every g_i is bound once, by the function that stands in front, and called by f.
bool runtime_check_helpers(const char *text, int helpers, char *why, size_t why_size);

#endif
