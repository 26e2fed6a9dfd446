// Composite programs: functions g_0, g_1, ... stand in front, which f must call and nothing else
// may bind.
#include "verifier/runtime_scan.h"

#include <stdio.h>

struct calls {
    const char *name;
    int bindings; // of the name, in the whole program
    int calls;    // of it, inside f
};

static void visit_bindings(void *context, PyObject *node)
{
    struct calls *calls = context;
    struct runtime_scan scan;
    if (runtime_scan_begin(&scan, NULL)) {
        runtime_scan_node(&scan, node);
        PyObject *name = PyUnicode_FromString(calls->name);
        calls->bindings += name != NULL && PySet_Contains(scan.bound, name) == 1;
        Py_XDECREF(name);
    }
    runtime_scan_end(&scan);
}

static void visit_calls(void *context, PyObject *node)
{
    struct calls *calls = context;
    PyObject *callee = runtime_is_node(node, "Call") ? PyObject_GetAttrString(node, "func") : NULL;
    PyObject *name =
        callee != NULL && runtime_is_node(callee, "Name") ? runtime_text_of(callee, "id") : NULL;
    calls->calls += name != NULL && PyUnicode_CompareWithASCIIString(name, calls->name) == 0;
    Py_XDECREF(callee);
}

static void visit_f(PyObject *tree, struct calls *calls)
{
    PyObject *body = PyObject_GetAttrString(tree, "body");
    for (Py_ssize_t i = 0; body != NULL && i < PyList_GET_SIZE(body); i++) {
        PyObject *node = PyList_GET_ITEM(body, i);
        PyObject *name =
            runtime_is_node(node, "FunctionDef") ? runtime_text_of(node, "name") : NULL;
        if (name != NULL && PyUnicode_CompareWithASCIIString(name, "f") == 0) {
            runtime_walk(node, visit_calls, calls);
        }
    }
    Py_XDECREF(body);
}

bool runtime_check_helpers(const char *text, int helpers, char *why, size_t why_size)
{
    PyObject *tree = runtime_tree(text);
    bool good = true;
    for (int i = 0; tree != NULL && i < helpers && good; i++) {
        char name[16];
        (void)snprintf(name, sizeof(name), "g_%d", i);
        struct calls calls = {.name = name};
        runtime_walk(tree, visit_bindings, &calls);
        visit_f(tree, &calls);
        good = calls.bindings == 1 && calls.calls > 0;
        if (calls.bindings != 1) {
            (void)snprintf(why, why_size, "binds %s, which is given", name);
        } else if (calls.calls == 0) {
            (void)snprintf(why, why_size, "f does not call %s", name);
        }
    }
    Py_XDECREF(tree);
    PyErr_Clear();
    return good;
}
