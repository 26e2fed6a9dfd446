// A seed program without what is not its algorithm: comments, docstrings, and module-level
// statements other than imports, functions and classes (AZR.md section 2). A program without any of
// them keeps its text letter for letter: a small model knows its own layout only.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "verifier/runtime.h"

#include <string.h>

static bool keeps(PyObject *node)
{
    static const char *const kinds[] = {"Import", "ImportFrom", "FunctionDef", "AsyncFunctionDef",
                                        "ClassDef"};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
        if (runtime_is_node(node, kinds[i])) {
            return true;
        }
    }
    return false;
}

static bool is_docstring(PyObject *node)
{
    PyObject *value = runtime_is_node(node, "Expr") ? PyObject_GetAttrString(node, "value") : NULL;
    PyObject *text = value != NULL && runtime_is_node(value, "Constant")
                         ? PyObject_GetAttrString(value, "value")
                         : NULL;
    bool docstring = text != NULL && PyUnicode_CheckExact(text);
    Py_XDECREF(text);
    Py_XDECREF(value);
    PyErr_Clear();
    return docstring;
}

// A body of nothing but its docstring keeps it: a function needs a statement.
static void drop_docstring(void *context, PyObject *node)
{
    bool *changed = context;
    if (!runtime_is_node(node, "FunctionDef") && !runtime_is_node(node, "AsyncFunctionDef") &&
        !runtime_is_node(node, "ClassDef")) {
        return;
    }
    PyObject *body = PyObject_GetAttrString(node, "body");
    if (body != NULL && PyList_CheckExact(body) && PyList_GET_SIZE(body) > 1 &&
        is_docstring(PyList_GET_ITEM(body, 0))) {
        (void)PyList_SetSlice(body, 0, 1, NULL);
        *changed = true;
    }
    Py_XDECREF(body);
}

// The text of a tree, as bytes.
static PyObject *unparse(PyObject *tree)
{
    PyObject *module = PyImport_ImportModule("ast");
    PyObject *plain = module == NULL ? NULL : PyObject_CallMethod(module, "unparse", "O", tree);
    PyObject *bytes = plain == NULL ? NULL : PyUnicode_AsUTF8String(plain);
    Py_XDECREF(plain);
    Py_XDECREF(module);
    return bytes;
}

PyObject *runtime_strip(const char *text)
{
    bool changed = strchr(text, '#') != NULL; // a comment, or a string that holds the sign
    PyObject *tree = runtime_tree(text);
    PyObject *body = tree == NULL ? NULL : PyObject_GetAttrString(tree, "body");
    if (body == NULL) {
        Py_XDECREF(tree);
        return NULL;
    }
    for (Py_ssize_t i = PyList_GET_SIZE(body) - 1; i >= 0; i--) {
        if (!keeps(PyList_GET_ITEM(body, i))) {
            (void)PyList_SetSlice(body, i, i + 1, NULL);
            changed = true;
        }
    }
    runtime_walk(tree, drop_docstring, &changed);
    PyObject *bytes = PyErr_Occurred() ? NULL : changed ? unparse(tree) : PyBytes_FromString(text);
    Py_DECREF(body);
    Py_DECREF(tree);
    return bytes;
}
