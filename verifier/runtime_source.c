// From text to code. Most programs need only the compiler. The syntax tree, which costs as much
// again, is built when the text holds a word that the filter looks for (runtime_words.c), or lacks
// a function f.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "common/base/cleanup.h"
#include "common/base/limits.h"
#include "common/base/task.h"
#include "verifier/runtime.h"

#include <stdio.h>
#include <string.h>

enum { RENAMES_MAX = 256 };

// Refused when the program reads one without binding it, whatever the depth.
static const char *const refused_names[] = {"__import__", "importlib", "eval", "exec",
                                            "compile",    "open",      "input"};
static const char forbidden_modules[] =
    "logging random multiprocessing pebble subprocess threading datetime time hashlib hmac bcrypt "
    "os sys shutil socket ctypes calendar importlib";

static PyObject *forbidden; // set of module names

bool runtime_source_prepare(const char *more)
{
    PyObject *text = PyUnicode_FromFormat("%s %s", forbidden_modules, more);
    PyObject *words = text == NULL ? NULL : PyUnicode_Split(text, NULL, -1);
    forbidden = words == NULL ? NULL : PySet_New(words);
    Py_XDECREF(text);
    Py_XDECREF(words);
    return forbidden != NULL;
}

// What one walk of the tree collects.
struct scan {
    PyObject *bound; // set of names that the program binds anywhere
    PyObject *outer; // set of names that it binds at top level
    PyObject *read;  // set of names that it reads
    PyObject *hit;   // first forbidden module
    PyObject *only;  // name of the one top-level function, or NULL
    int functions;   // at top level
    int def_line;    // of `only`
    int def_column;
};

bool runtime_is_node(PyObject *node, const char *kind)
{
    return strcmp(Py_TYPE(node)->tp_name, kind) == 0;
}

// A borrowed string attribute kept alive by the tree, or NULL.
static PyObject *text_of(PyObject *node, const char *name)
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

static int number_of(PyObject *node, const char *name)
{
    PyObject *value = PyObject_GetAttrString(node, name);
    int number = value == NULL ? -1 : (int)PyLong_AsLong(value);
    Py_XDECREF(value);
    PyErr_Clear();
    return number;
}

static void note_module(struct scan *scan, PyObject *dotted)
{
    PyObject *dot = PyUnicode_FromString(".");
    PyObject *parts = dotted == NULL || dot == NULL ? NULL : PyUnicode_Split(dotted, dot, -1);
    for (Py_ssize_t i = 0; parts != NULL && i < PyList_GET_SIZE(parts); i++) {
        PyObject *part = PyList_GET_ITEM(parts, i);
        if (scan->hit == NULL && PySet_Contains(forbidden, part) == 1) {
            scan->hit = Py_NewRef(part);
        }
    }
    Py_XDECREF(dot);
    Py_XDECREF(parts);
}

static void note_import(struct scan *scan, PyObject *node)
{
    if (runtime_is_node(node, "ImportFrom")) {
        note_module(scan, text_of(node, "module"));
    }
    PyObject *names = PyObject_GetAttrString(node, "names");
    for (Py_ssize_t i = 0; names != NULL && i < PyList_GET_SIZE(names); i++) {
        PyObject *alias = PyList_GET_ITEM(names, i);
        PyObject *name = text_of(alias, "name");
        PyObject *as = text_of(alias, "asname");
        note_module(scan, name);
        (void)PySet_Add(scan->bound, as != NULL ? as : name);
    }
    Py_XDECREF(names);
}

static void note_name(struct scan *scan, PyObject *node)
{
    PyObject *context = PyObject_GetAttrString(node, "ctx");
    PyObject *name = text_of(node, "id");
    if (context != NULL && name != NULL) {
        (void)PySet_Add(runtime_is_node(context, "Load") ? scan->read : scan->bound, name);
    }
    Py_XDECREF(context);
}

static void note_node(struct scan *scan, PyObject *node)
{
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
        PyObject *name = runtime_is_node(node, binders[i][0]) ? text_of(node, binders[i][1]) : NULL;
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

static void visit_scan(void *context, PyObject *node)
{
    note_node(context, node);
}

static void scan_top(struct scan *scan, PyObject *tree)
{
    struct scan outer = {.bound = scan->outer, .read = scan->read};
    PyObject *body = PyObject_GetAttrString(tree, "body");
    for (Py_ssize_t i = 0; body != NULL && i < PyList_GET_SIZE(body); i++) {
        PyObject *node = PyList_GET_ITEM(body, i);
        bool function = runtime_is_node(node, "FunctionDef");
        if (function) {
            scan->functions++;
            scan->only = text_of(node, "name");
            scan->def_line = number_of(node, "lineno");
            scan->def_column = number_of(node, "col_offset");
        }
        if (function || runtime_is_node(node, "AsyncFunctionDef") ||
            runtime_is_node(node, "ClassDef")) {
            note_node(&outer, node); // its name; what it binds inside is its own
        } else {
            runtime_walk(node, visit_scan, &outer);
        }
    }
    Py_XDECREF(outer.hit);
    Py_XDECREF(body);
}

// --- renaming the one function to f ---

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
    PyObject *name = runtime_is_node(node, "Name") ? text_of(node, "id") : NULL;
    if (name == NULL || PyUnicode_Compare(name, rename->name) != 0) {
        return;
    }
    if (rename->count < RENAMES_MAX) {
        rename->at[rename->count] =
            offset_of(rename, number_of(node, "lineno"), number_of(node, "col_offset"));
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
static size_t def_name_at(const struct rename *rename, const struct scan *scan)
{
    size_t at = offset_of(rename, scan->def_line, scan->def_column) + strlen("def");
    while (at < rename->size && (rename->text[at] == ' ' || rename->text[at] == '\t')) {
        at++;
    }
    return at < rename->size ? at : rename->size;
}

// Renames the one function where the program names it. NULL, without an error, for a program that
// binds its name in other ways too, or that uses `name` for something else.
static PyObject *rename_only(PyObject *tree, const struct scan *scan, const char *text, size_t size,
                             const char *name)
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
    struct scan again = {.bound = others, .read = scan->read};
    PyObject *body = PyObject_GetAttrString(tree, "body");
    for (Py_ssize_t i = 0; body != NULL && i < PyList_GET_SIZE(body); i++) {
        PyObject *node = PyList_GET_ITEM(body, i);
        if (!runtime_is_node(node, "FunctionDef")) {
            runtime_walk(node, visit_scan, &again);
            continue;
        }
        static const char *const inner[] = {"args", "body", "decorator_list"};
        for (int k = 0; k < 3; k++) {
            PyObject *child = PyObject_GetAttrString(node, inner[k]);
            if (child != NULL) {
                runtime_walk(child, visit_scan, &again);
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

// Where it cannot be renamed, the program keeps its words and gets one more line: f = name.
static PyObject *rename_to_f(PyObject *tree, const struct scan *scan, const char *text, size_t size)
{
    PyObject *out = rename_only(tree, scan, text, size, "f");
    return out != NULL ? out
                       : PyBytes_FromFormat("%s\nf = %s\n", text, PyUnicode_AsUTF8(scan->only));
}

// --- the whole ---

static void refuse(struct runtime_source *out, enum outcome outcome, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void refuse(struct runtime_source *out, enum outcome outcome, const char *format, ...)
{
    Py_CLEAR(out->code);
    Py_CLEAR(out->normalized);
    PyErr_Clear();
    out->outcome = outcome;
    va_list words;
    va_start(words, format);
    (void)vsnprintf(out->detail, sizeof(out->detail), format, words);
    va_end(words);
}

// The compiler's own error, as one line.
static void refuse_syntax(struct runtime_source *out)
{
    PyObject *type = NULL;
    PyObject *value = NULL;
    PyObject *trace = NULL;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    PyObject *text = value == NULL ? NULL : PyObject_Str(value);
    const char *words = text == NULL ? NULL : PyUnicode_AsUTF8(text);
    char line[sizeof(out->detail)];
    (void)snprintf(line, sizeof(line), "%s", words == NULL ? "cannot be compiled" : words);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
    Py_XDECREF(text);
    refuse(out, OUTCOME_SYNTAX_ERROR, "%s", line);
}

// What the module's code tells without a tree: functions and classes at top level.
struct outline {
    bool has_f;
    int parameters; // of f
    int others;     // helpers and classes
};

static struct outline outline_of(PyObject *code)
{
    struct outline outline = {0};
    PyObject *constants = ((PyCodeObject *)code)->co_consts;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(constants); i++) {
        PyObject *item = PyTuple_GET_ITEM(constants, i);
        if (!PyCode_Check(item)) {
            continue;
        }
        PyCodeObject *inner = (PyCodeObject *)item;
        const char *name = PyUnicode_AsUTF8(inner->co_name);
        bool function = (inner->co_flags & CO_OPTIMIZED) != 0;
        if (name == NULL || name[0] == '<') {
            continue; // a lambda or a comprehension
        }
        if (function && strcmp(name, "f") == 0) {
            outline.has_f = true;
            outline.parameters = inner->co_argcount + inner->co_kwonlyargcount +
                                 ((inner->co_flags & (CO_VARARGS | CO_VARKEYWORDS)) != 0);
        } else {
            outline.others++;
        }
    }
    PyErr_Clear();
    return outline;
}

static PyObject *compile(const char *text, int flags)
{
    PyCompilerFlags options = {.cf_flags = PyCF_SOURCE_IS_UTF8 | PyCF_IGNORE_COOKIE | flags,
                               .cf_feature_version = PY_MINOR_VERSION};
    return Py_CompileStringExFlags(text, "<program>", Py_file_input, &options, -1);
}

PyObject *runtime_tree(const char *text)
{
    return compile(text, PyCF_ONLY_AST);
}

PyObject *runtime_rename(const char *text, size_t size, const char *name)
{
    PyObject *tree = runtime_tree(text);
    PyObject *out = NULL;
    struct scan scan = {
        .bound = PySet_New(NULL), .outer = PySet_New(NULL), .read = PySet_New(NULL)};
    if (tree != NULL && scan.bound != NULL && scan.outer != NULL && scan.read != NULL) {
        runtime_walk(tree, visit_scan, &scan);
        scan_top(&scan, tree);
        bool one = scan.functions == 1 && PyUnicode_CompareWithASCIIString(scan.only, "f") == 0;
        out = one && !PyErr_Occurred() ? rename_only(tree, &scan, text, size, name) : NULL;
    }
    PyErr_Clear();
    Py_XDECREF(scan.bound);
    Py_XDECREF(scan.outer);
    Py_XDECREF(scan.read);
    Py_XDECREF(scan.hit);
    Py_XDECREF(tree);
    return out;
}

// --- composite programs ---

struct calls {
    const char *name;
    int bindings; // of the name, in the whole program
    int calls;    // of it, inside f
};

static void visit_bindings(void *context, PyObject *node)
{
    struct calls *calls = context;
    struct scan scan = {.bound = PySet_New(NULL), .read = PySet_New(NULL)};
    if (scan.bound != NULL && scan.read != NULL) {
        note_node(&scan, node);
        PyObject *name = PyUnicode_FromString(calls->name);
        calls->bindings += name != NULL && PySet_Contains(scan.bound, name) == 1;
        Py_XDECREF(name);
    }
    Py_XDECREF(scan.bound);
    Py_XDECREF(scan.read);
    Py_XDECREF(scan.hit);
}

static void visit_calls(void *context, PyObject *node)
{
    struct calls *calls = context;
    PyObject *callee = runtime_is_node(node, "Call") ? PyObject_GetAttrString(node, "func") : NULL;
    PyObject *name =
        callee != NULL && runtime_is_node(callee, "Name") ? text_of(callee, "id") : NULL;
    calls->calls += name != NULL && PyUnicode_CompareWithASCIIString(name, calls->name) == 0;
    Py_XDECREF(callee);
}

static void visit_f(PyObject *tree, struct calls *calls)
{
    PyObject *body = PyObject_GetAttrString(tree, "body");
    for (Py_ssize_t i = 0; body != NULL && i < PyList_GET_SIZE(body); i++) {
        PyObject *node = PyList_GET_ITEM(body, i);
        PyObject *name = runtime_is_node(node, "FunctionDef") ? text_of(node, "name") : NULL;
        if (name != NULL && PyUnicode_CompareWithASCIIString(name, "f") == 0) {
            runtime_walk(node, visit_calls, calls);
        }
    }
    Py_XDECREF(body);
}

static const char *refused_name(const struct scan *scan)
{
    for (size_t i = 0; i < sizeof(refused_names) / sizeof(*refused_names); i++) {
        PyObject *name = PyUnicode_FromString(refused_names[i]);
        bool bad = name != NULL && PySet_Contains(scan->read, name) == 1 &&
                   PySet_Contains(scan->bound, name) == 0;
        Py_XDECREF(name);
        if (bad) {
            return refused_names[i];
        }
    }
    return NULL;
}

// Every g_i is bound once, by the function that stands in front, and called by f.
static void check_helpers(struct runtime_source *out, const char *text, int helpers)
{
    PyObject *tree = runtime_tree(text);
    for (int i = 0; tree != NULL && i < helpers && out->code != NULL; i++) {
        char name[16];
        (void)snprintf(name, sizeof(name), "g_%d", i);
        struct calls calls = {.name = name};
        runtime_walk(tree, visit_bindings, &calls);
        visit_f(tree, &calls);
        if (calls.bindings != 1) {
            refuse(out, OUTCOME_MALFORMED, "binds %s, which is given", name);
        } else if (calls.calls == 0) {
            refuse(out, OUTCOME_MALFORMED, "f does not call %s", name);
        }
    }
    Py_XDECREF(tree);
    PyErr_Clear();
}

// Judges the tree, and renames the one function when f is missing.
static void check_tree(struct runtime_source *out, PyObject *tree, const char *text, size_t size,
                       uint32_t flags, bool has_f)
{
    bool filter = (flags & IMAGE_FILTER) != 0;
    struct scan scan = {
        .bound = PySet_New(NULL), .outer = PySet_New(NULL), .read = PySet_New(NULL)};
    PyObject *f = PyUnicode_FromString("f");
    bool ready = scan.bound != NULL && scan.outer != NULL && scan.read != NULL && f != NULL;
    if (ready) {
        runtime_walk(tree, visit_scan, &scan);
        scan_top(&scan, tree);
    }
    has_f = has_f || (ready && PySet_Contains(scan.outer, f) == 1);
    if (PyErr_Occurred() || !ready) {
        refuse(out, OUTCOME_SYNTAX_ERROR, "the program is nested too deeply");
    } else if (!has_f && scan.functions != 1) {
        refuse(out, OUTCOME_MALFORMED, "no function f");
    } else if (filter && scan.hit != NULL) {
        refuse(out, OUTCOME_FORBIDDEN, "imports %.80s", PyUnicode_AsUTF8(scan.hit));
    } else if (filter && refused_name(&scan) != NULL) {
        refuse(out, OUTCOME_FORBIDDEN, "uses %s", refused_name(&scan));
    } else if (!has_f) {
        out->normalized = rename_to_f(tree, &scan, text, size);
    }
    Py_XDECREF(f);
    Py_XDECREF(scan.bound);
    Py_XDECREF(scan.outer);
    Py_XDECREF(scan.read);
    Py_XDECREF(scan.hit);
}

static void check(struct runtime_source *out, const char *text, size_t size, uint32_t flags)
{
    struct outline outline = outline_of(out->code);
    bool filter = (flags & IMAGE_FILTER) != 0;
    int helpers = (int)(flags / IMAGE_HELPERS);
    if (!outline.has_f || (filter && runtime_needs_tree(text, size, forbidden))) {
        PyObject *tree = compile(text, PyCF_ONLY_AST);
        if (tree == NULL) {
            refuse_syntax(out);
            return;
        }
        check_tree(out, tree, text, size, flags, outline.has_f);
        Py_DECREF(tree);
        if (out->code == NULL) {
            return;
        }
    }
    if (out->normalized != NULL && PyBytes_GET_SIZE(out->normalized) > PROGRAM_BYTES_MAX) {
        refuse(out, OUTCOME_MALFORMED, "longer than a program may be once its function is named f");
        return;
    }
    if (out->normalized != NULL) {
        Py_DECREF(out->code);
        out->code = compile(PyBytes_AS_STRING(out->normalized), 0);
        if (out->code == NULL) {
            refuse_syntax(out);
            return;
        }
        outline = outline_of(out->code);
    }
    if (outline.has_f && outline.parameters == 0) {
        refuse(out, OUTCOME_MALFORMED, "f takes no argument");
    } else if ((flags & IMAGE_ONE_FUNCTION) != 0 && outline.others > helpers) {
        refuse(out, OUTCOME_MALFORMED, "more than one function or class");
    } else if (helpers > 0) {
        check_helpers(out, text, helpers);
    }
}

// Takes out what a seed must not have; what is left is the text from then on.
static bool strip(struct runtime_source *out, const char *text)
{
    PyObject *bytes = runtime_strip(text);
    PyObject *code = bytes == NULL ? NULL : compile(PyBytes_AS_STRING(bytes), 0);
    if (code == NULL) {
        PyErr_Clear();
        Py_XDECREF(bytes);
        refuse(out, OUTCOME_SYNTAX_ERROR, "the program cannot be stripped");
        return false;
    }
    Py_SETREF(out->code, code);
    out->normalized = bytes;
    return true;
}

static void rename_stripped(struct runtime_source *out, uint32_t flags)
{
    PyObject *stripped = TAKE(out->normalized);
    check(out, PyBytes_AS_STRING(stripped), (size_t)PyBytes_GET_SIZE(stripped), flags);
    if (out->normalized == NULL && out->code != NULL) {
        out->normalized = stripped; // it needed no other name
    } else {
        Py_DECREF(stripped);
    }
}

void runtime_source_compile(struct runtime_source *out, const char *text, size_t size,
                            uint32_t flags)
{
    *out = (struct runtime_source){.outcome = OUTCOME_OK};
    if (memchr(text, '\0', size) != NULL) {
        refuse(out, OUTCOME_SYNTAX_ERROR, "source code cannot contain null bytes");
        return;
    }
    out->code = compile(text, 0);
    if (out->code == NULL) {
        refuse_syntax(out);
        return;
    }
    if ((flags & IMAGE_STRIP) != 0) {
        if (strip(out, text)) {
            rename_stripped(out, flags);
        }
    } else if ((flags & (IMAGE_ENTRY | IMAGE_FILTER)) != 0) {
        check(out, text, size, flags);
    }
}
