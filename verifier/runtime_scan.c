// Walks through syntax trees, and what they say about names.
#include "verifier/runtime_scan.h"

#include <string.h>

bool runtime_is_node(PyObject *node, const char *kind)
{
    return strcmp(Py_TYPE(node)->tp_name, kind) == 0;
}

PyObject *runtime_text_of(PyObject *node, const char *name)
{
    PyObject *value = PyObject_GetAttrString(node, name);
    if (value == NULL || !PyUnicode_CheckExact(value)) {
        PyErr_Clear();
        Py_XDECREF(value);
        return NULL;
    }
    Py_DECREF(value);
    return value;
}

int runtime_number_of(PyObject *node, const char *name)
{
    PyObject *value = PyObject_GetAttrString(node, name);
    int number = value == NULL ? -1 : (int)PyLong_AsLong(value);
    Py_XDECREF(value);
    PyErr_Clear();
    return number;
}

static void note_module(struct runtime_scan *scan, PyObject *dotted)
{
    if (scan->forbidden == NULL) {
        return;
    }
    PyObject *dot = PyUnicode_FromString(".");
    PyObject *parts = dotted == NULL || dot == NULL ? NULL : PyUnicode_Split(dotted, dot, -1);
    for (Py_ssize_t i = 0; parts != NULL && i < PyList_GET_SIZE(parts); i++) {
        PyObject *part = PyList_GET_ITEM(parts, i);
        if (scan->hit == NULL && PySet_Contains(scan->forbidden, part) == 1) {
            scan->hit = Py_NewRef(part);
        }
    }
    Py_XDECREF(dot);
    Py_XDECREF(parts);
}

static void note_import(struct runtime_scan *scan, PyObject *node)
{
    if (runtime_is_node(node, "ImportFrom")) {
        note_module(scan, runtime_text_of(node, "module"));
    }
    PyObject *names = PyObject_GetAttrString(node, "names");
    for (Py_ssize_t i = 0; names != NULL && i < PyList_GET_SIZE(names); i++) {
        PyObject *alias = PyList_GET_ITEM(names, i);
        PyObject *name = runtime_text_of(alias, "name");
        PyObject *as = runtime_text_of(alias, "asname");
        note_module(scan, name);
        (void)PySet_Add(scan->bound, as != NULL ? as : name);
    }
    Py_XDECREF(names);
}

static void note_name(struct runtime_scan *scan, PyObject *node)
{
    PyObject *context = PyObject_GetAttrString(node, "ctx");
    PyObject *name = runtime_text_of(node, "id");
    if (context != NULL && name != NULL) {
        (void)PySet_Add(runtime_is_node(context, "Load") ? scan->read : scan->bound, name);
    }
    Py_XDECREF(context);
}

void runtime_scan_node(void *context, PyObject *node)
{
    struct runtime_scan *scan = context;
    static const char *const binders[][2] = {
        {"arg", "arg"},        {"FunctionDef", "name"},   {"AsyncFunctionDef", "name"},
        {"ClassDef", "name"},  {"ExceptHandler", "name"}, {"MatchAs", "name"},
        {"MatchStar", "name"},
    };
    if (runtime_is_node(node, "Name")) {
        note_name(scan, node);
    } else if (runtime_is_node(node, "Import") || runtime_is_node(node, "ImportFrom")) {
        note_import(scan, node);
    }
    for (size_t i = 0; i < sizeof(binders) / sizeof(*binders); i++) {
        PyObject *name =
            runtime_is_node(node, binders[i][0]) ? runtime_text_of(node, binders[i][1]) : NULL;
        if (name != NULL) {
            (void)PySet_Add(scan->bound, name);
        }
    }
}

void runtime_walk(PyObject *node, runtime_visit_fn *visit, void *context)
{
    if (Py_EnterRecursiveCall(" in a syntax tree") != 0) {
        return; // leaves the error, which the caller looks for
    }
    if (PyList_CheckExact(node)) {
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(node); i++) {
            runtime_walk(PyList_GET_ITEM(node, i), visit, context);
        }
    } else if (PyObject_HasAttrString((PyObject *)Py_TYPE(node), "_fields")) {
        visit(context, node);
        PyObject *fields = PyObject_GetAttrString(node, "_fields");
        for (Py_ssize_t i = 0; fields != NULL && i < PyTuple_GET_SIZE(fields); i++) {
            PyObject *child = PyObject_GetAttr(node, PyTuple_GET_ITEM(fields, i));
            if (child != NULL && child != Py_None && !PyUnicode_CheckExact(child)) {
                runtime_walk(child, visit, context);
            }
            Py_XDECREF(child);
        }
        Py_XDECREF(fields);
    }
    Py_LeaveRecursiveCall();
}

static void scan_top(struct runtime_scan *scan, PyObject *tree)
{
    struct runtime_scan outer = {.bound = scan->outer, .read = scan->read};
    PyObject *body = PyObject_GetAttrString(tree, "body");
    for (Py_ssize_t i = 0; body != NULL && i < PyList_GET_SIZE(body); i++) {
        PyObject *node = PyList_GET_ITEM(body, i);
        bool function = runtime_is_node(node, "FunctionDef");
        if (function) {
            scan->functions++;
            scan->only = runtime_text_of(node, "name");
            scan->def_line = runtime_number_of(node, "lineno");
            scan->def_column = runtime_number_of(node, "col_offset");
        }
        if (function || runtime_is_node(node, "AsyncFunctionDef") ||
            runtime_is_node(node, "ClassDef")) {
            runtime_scan_node(&outer, node); // its name; what it binds inside is its own
        } else {
            runtime_walk(node, runtime_scan_node, &outer);
        }
    }
    Py_XDECREF(outer.hit);
    Py_XDECREF(body);
}

bool runtime_scan_begin(struct runtime_scan *scan, PyObject *forbidden)
{
    *scan = (struct runtime_scan){.forbidden = forbidden,
                                  .bound = PySet_New(NULL),
                                  .outer = PySet_New(NULL),
                                  .read = PySet_New(NULL)};
    return scan->bound != NULL && scan->outer != NULL && scan->read != NULL;
}

void runtime_scan_program(struct runtime_scan *scan, PyObject *tree)
{
    runtime_walk(tree, runtime_scan_node, scan);
    scan_top(scan, tree);
}

void runtime_scan_end(struct runtime_scan *scan)
{
    Py_XDECREF(scan->bound);
    Py_XDECREF(scan->outer);
    Py_XDECREF(scan->read);
    Py_XDECREF(scan->hit);
}
