// From text to code. Most programs need only the compiler. The syntax tree, which costs as much
// again, is built when the text holds a word that the filter looks for (runtime_words.c), or lacks
// a function f.
#include "verifier/runtime_scan.h"

#include "common/base/cleanup.h"
#include "common/base/limits.h"
#include "common/base/task.h"

#include <stdio.h>
#include <string.h>

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

static const char *refused_name(const struct runtime_scan *scan)
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

// Where it cannot be renamed, the program keeps its words and gets one more line: f = name.
static PyObject *rename_to_f(PyObject *tree, const struct runtime_scan *scan, const char *text,
                             size_t size)
{
    PyObject *out = runtime_rename_only(tree, scan, text, size, "f");
    return out != NULL ? out
                       : PyBytes_FromFormat("%s\nf = %s\n", text, PyUnicode_AsUTF8(scan->only));
}

// Judges the tree, and renames the one function when f is missing.
static void check_tree(struct runtime_source *out, PyObject *tree, const char *text, size_t size,
                       uint32_t flags, bool has_f)
{
    bool filter = (flags & IMAGE_FILTER) != 0;
    struct runtime_scan scan;
    PyObject *f = PyUnicode_FromString("f");
    bool ready = runtime_scan_begin(&scan, forbidden) && f != NULL;
    if (ready) {
        runtime_scan_program(&scan, tree);
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
    runtime_scan_end(&scan);
}

static void check(struct runtime_source *out, const char *text, size_t size, uint32_t flags)
{
    struct outline outline = outline_of(out->code);
    bool filter = (flags & IMAGE_FILTER) != 0;
    int helpers = (int)(flags / IMAGE_HELPERS);
    char why[sizeof(out->detail)];
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
    } else if (helpers > 0 && !runtime_check_helpers(text, helpers, why, sizeof(why))) {
        refuse(out, OUTCOME_MALFORMED, "%s", why);
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
