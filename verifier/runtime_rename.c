// Gives the one function of a program another name, in its text, where its syntax tree says that
// the name stands.
#include "verifier/runtime_scan.h"

#include <stdlib.h>
#include <string.h>

enum { RENAMES_MAX = 256 };

struct rename {
    const char *text;
    size_t size;
    PyObject *name;
    size_t at[RENAMES_MAX]; // byte offsets of the name
    int count;              // RENAMES_MAX + 1: too many
};

static size_t offset_of(const struct rename *rename, int line, int column)
{
    const char *at = rename->text;
    for (int i = 1; i < line; i++) {
        const char *end = memchr(at, '\n', rename->size - (size_t)(at - rename->text));
        if (end == NULL) {
            return rename->size;
        }
        at = end + 1;
    }
    size_t offset = (size_t)(at - rename->text) + (size_t)column;
    return offset < rename->size ? offset : rename->size;
}

static void visit_rename(void *context, PyObject *node)
{
    struct rename *rename = context;
    PyObject *name = runtime_is_node(node, "Name") ? runtime_text_of(node, "id") : NULL;
    if (name == NULL || PyUnicode_Compare(name, rename->name) != 0) {
        return;
    }
    if (rename->count < RENAMES_MAX) {
        rename->at[rename->count] = offset_of(rename, runtime_number_of(node, "lineno"),
                                              runtime_number_of(node, "col_offset"));
        rename->count++;
    } else {
        rename->count = RENAMES_MAX + 1;
    }
}

static int compare_offsets(const void *a, const void *b)
{
    size_t left = *(const size_t *)a;
    size_t right = *(const size_t *)b;
    return (left > right) - (left < right);
}

// The text with each occurrence replaced, or NULL when one is not where the tree says.
static PyObject *splice(struct rename *rename, const char *old, size_t old_size, const char *name)
{
    struct bytes out = {0};
    size_t from = 0;
    qsort(rename->at, (size_t)rename->count, sizeof(rename->at[0]), compare_offsets);
    bool good = true;
    for (int i = 0; i < rename->count && good; i++) {
        size_t at = rename->at[i];
        good = at >= from && rename->size - at >= old_size &&
               memcmp(rename->text + at, old, old_size) == 0;
        if (good) {
            bytes_append(&out, rename->text + from, at - from);
            bytes_append(&out, name, strlen(name));
            from = at + old_size;
        }
    }
    bytes_append(&out, rename->text + from, rename->size - from);
    PyObject *bytes = good && !out.failed
                          ? PyBytes_FromStringAndSize((const char *)out.data, (Py_ssize_t)out.size)
                          : NULL;
    bytes_finish(&out);
    return bytes;
}

// Where the name stands behind `def`.
static size_t def_name_at(const struct rename *rename, const struct runtime_scan *scan)
{
    size_t at = offset_of(rename, scan->def_line, scan->def_column) + strlen("def");
    while (at < rename->size && (rename->text[at] == ' ' || rename->text[at] == '\t')) {
        at++;
    }
    return at < rename->size ? at : rename->size;
}

PyObject *runtime_rename_only(PyObject *tree, const struct runtime_scan *scan, const char *text,
                              size_t size, const char *name)
{
    struct rename rename = {.text = text, .size = size, .name = scan->only};
    const char *old = PyUnicode_AsUTF8(scan->only);
    PyObject *new = PyUnicode_FromString(name);
    if (old == NULL || new == NULL) {
        Py_XDECREF(new);
        PyErr_Clear();
        return NULL;
    }
    bool clash = PySet_Contains(scan->bound, new) != 0 || PySet_Contains(scan->read, new) != 0 ||
                 memchr(text, '\r', size) != NULL;
    Py_DECREF(new);
    // The name must be bound once, by the def: as a parameter, target or import it means other
    // things in places that only a scope analysis could tell apart.
    PyObject *others = PySet_New(NULL);
    struct runtime_scan again = {.bound = others, .read = scan->read};
    PyObject *body = PyObject_GetAttrString(tree, "body");
    for (Py_ssize_t i = 0; body != NULL && i < PyList_GET_SIZE(body); i++) {
        PyObject *node = PyList_GET_ITEM(body, i);
        if (!runtime_is_node(node, "FunctionDef")) {
            runtime_walk(node, runtime_scan_node, &again);
            continue;
        }
        static const char *const inner[] = {"args", "body", "decorator_list"};
        for (int k = 0; k < 3; k++) {
            PyObject *child = PyObject_GetAttrString(node, inner[k]);
            if (child != NULL) {
                runtime_walk(child, runtime_scan_node, &again);
            }
            Py_XDECREF(child);
        }
    }
    Py_XDECREF(body);
    Py_XDECREF(again.hit);
    clash = clash || PySet_Contains(others, scan->only) != 0;
    Py_XDECREF(others);
    PyObject *out = NULL;
    if (!clash) {
        rename.at[rename.count++] = def_name_at(&rename, scan);
        runtime_walk(tree, visit_rename, &rename);
        out = rename.count > RENAMES_MAX ? NULL : splice(&rename, old, strlen(old), name);
    }
    PyErr_Clear();
    return out;
}

PyObject *runtime_rename(const char *text, size_t size, const char *name)
{
    PyObject *tree = runtime_tree(text);
    PyObject *out = NULL;
    struct runtime_scan scan;
    if (runtime_scan_begin(&scan, NULL) && tree != NULL) {
        runtime_scan_program(&scan, tree);
        bool one = scan.functions == 1 && PyUnicode_CompareWithASCIIString(scan.only, "f") == 0;
        out = one && !PyErr_Occurred() ? runtime_rename_only(tree, &scan, text, size, name) : NULL;
    }
    PyErr_Clear();
    runtime_scan_end(&scan);
    Py_XDECREF(tree);
    return out;
}
