#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <marshal.h>

#include "common/base/task.h"
#include "verifier/runtime.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

// What programs may import: present before the sandbox closes, since there is no file system
// afterwards. The second image also holds the last ones, so the table of modules differs.
static const char modules[] =
    "math typing collections collections.abc re heapq itertools functools string bisect copy "
    "operator statistics fractions decimal numbers random datetime time json enum dataclasses abc "
    "contextlib types textwrap array struct cmath unicodedata difflib pprint calendar zlib base64 "
    "binascii warnings io queue graphlib keyword reprlib weakref inspect traceback "
    "os sys gc";
static const char more_modules[] = "colorsys sched fnmatch";

enum { EXCEPTIONS_MAX = 512 };

// --- the names of exceptions, by type pointer, from before any program ran ---

static struct {
    PyTypeObject *type[EXCEPTIONS_MAX];
    char name[EXCEPTIONS_MAX][48];
    size_t count;
} exceptions;

static void note_exceptions(PyObject *type)
{
    if (exceptions.count == EXCEPTIONS_MAX) {
        return;
    }
    const char *name = strrchr(((PyTypeObject *)type)->tp_name, '.');
    exceptions.type[exceptions.count] = (PyTypeObject *)type;
    (void)snprintf(exceptions.name[exceptions.count], sizeof(exceptions.name[0]), "%s",
                   name == NULL ? ((PyTypeObject *)type)->tp_name : name + 1);
    exceptions.count++;
    PyObject *children = PyObject_CallMethod(type, "__subclasses__", NULL);
    for (Py_ssize_t i = 0; children != NULL && i < PyList_GET_SIZE(children); i++) {
        note_exceptions(PyList_GET_ITEM(children, i));
    }
    Py_XDECREF(children);
    PyErr_Clear();
}

static bool is_plain_name(const char *name)
{
    size_t size = strspn(name, EXCEPTION_NAME_CHARACTERS);
    return size > 0 && name[size] == '\0';
}

// A program's own type keeps its name, unless it wears that of a known one or is no plain word: the
// name becomes the gold of error deduction and stands in prompts.
static const char *exception_name(PyTypeObject *type, char *out, size_t size)
{
    for (size_t i = 0; i < exceptions.count; i++) {
        if (exceptions.type[i] == type) {
            return exceptions.name[i];
        }
    }
    (void)snprintf(out, size, "%s", type->tp_name);
    bool known = false;
    for (size_t i = 0; i < exceptions.count; i++) {
        known = known || strcmp(exceptions.name[i], out) == 0;
    }
    return known || !is_plain_name(out) ? "UserException" : out;
}

// --- start ---

static bool start_python(const struct runtime_config *config)
{
    PyConfig python;
    PyConfig_InitIsolatedConfig(&python);
    python.site_import = 0;
    python.install_signal_handlers = 0;
    python.write_bytecode = 0;
    python.use_hash_seed = 1;
    python.hash_seed = config->hash_seed;
    PyStatus status = PyConfig_SetBytesString(&python, &python.home, PYTHON_HOME);
    if (!PyStatus_Exception(status)) {
        status = PyConfig_SetBytesString(&python, &python.program_name, PYTHON_HOME "/bin/python3");
    }
    if (!PyStatus_Exception(status)) {
        status = Py_InitializeFromConfig(&python);
    }
    PyConfig_Clear(&python);
    if (PyStatus_Exception(status)) {
        (void)fprintf(stderr, "image: Python does not start: %s\n",
                      status.err_msg == NULL ? "unknown" : status.err_msg);
        return false;
    }
    return true;
}

static bool import_modules(const char *names)
{
    char name[64];
    for (const char *at = names; *at != '\0';) {
        size_t size = strcspn(at, " ");
        (void)snprintf(name, sizeof(name), "%.*s", (int)size, at);
        PyObject *module = PyImport_ImportModule(name);
        if (module == NULL) {
            PyErr_Print();
            (void)fprintf(stderr, "image: cannot import %s\n", name);
            return false;
        }
        Py_DECREF(module);
        at += size + strspn(at + size, " ");
    }
    return true;
}

static const char quiet[] = "import gc, sys, io, os, random\n"
                            "class _Null(io.TextIOBase):\n"
                            "    def write(self, text):\n"
                            "        return len(text)\n"
                            "sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = _Null()\n"
                            "sys.stdin = sys.__stdin__ = None\n"
                            "sys.path.clear()\n"
                            "sys.meta_path[:] = sys.meta_path[:2]\n"
                            "sys.path_hooks.clear()\n"
                            "sys.path_importer_cache.clear()\n"
                            "sys.argv = ['']\n"
                            "os.environ.clear()\n"
                            "gc.collect()\n"
                            "gc.freeze()\n";

// Before Python starts: blocks of every small size, so that its first objects, builtins and
// modules, lie elsewhere inside their pages too.
static void perturb_early(uint32_t amount)
{
    enum { SMALL_MAX = 512, STEP = 16 };
    for (size_t size = STEP; size <= SMALL_MAX; size += STEP) {
        for (uint32_t i = 0; i < amount % 7; i++) {
            (void)PyObject_Malloc(size); // kept for good
        }
    }
}

// After the freeze: what the collector counts.
static void perturb_collector(uint32_t amount)
{
    for (uint32_t i = 0; i < amount % 7; i++) {
        (void)PyGC_Collect();
        (void)PyList_New(0); // kept for good
    }
}

// Objects and heap blocks that shift what comes later.
static void perturb(uint32_t amount)
{
    for (uint32_t i = 0; i < amount; i++) {
        void *block = malloc(16 + 16 * (size_t)(i % 23)); // kept for good
        PyObject *object = i % 3 == 0   ? PyList_New((Py_ssize_t)(i % 7))
                           : i % 3 == 1 ? PyDict_New()
                                        : PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(i % 97));
        if (block == NULL || object == NULL) {
            PyErr_Clear();
        }
    }
}

// One compile, tree and call, so that what CPython builds lazily is in place.
static bool warm_up(void)
{
    static const char program[] = "import math\n"
                                  "def g(x):\n"
                                  "    return sorted({str(i): math.sqrt(i) for i in x}.items())\n";
    for (int i = 0; i < 3; i++) {
        struct runtime_source source;
        runtime_source_compile(&source, program, sizeof(program) - 1, IMAGE_ENTRY | IMAGE_FILTER);
        if (source.code == NULL) {
            (void)fprintf(stderr, "image: warm-up: %s\n", source.detail);
            return false;
        }
        PyObject *globals = PyDict_New();
        (void)PyDict_SetItemString(globals, "__builtins__", PyEval_GetBuiltins());
        PyObject *done = PyEval_EvalCode(source.code, globals, globals);
        PyObject *f = done == NULL ? NULL : PyDict_GetItemString(globals, "f");
        PyObject *result = f == NULL ? NULL : PyObject_CallFunction(f, "((ii))", 1, 2);
        PyObject *repr = result == NULL ? NULL : PyObject_Repr(result);
        bool good = repr != NULL;
        if (!good) {
            PyErr_Print();
        }
        Py_XDECREF(repr);
        Py_XDECREF(result);
        Py_XDECREF(done);
        Py_XDECREF(globals);
        Py_XDECREF(source.code);
        Py_XDECREF(source.normalized);
        if (!good) {
            return false;
        }
    }
    return true;
}

bool runtime_prepare(const struct runtime_config *config)
{
    if (!runtime_memory_reserve(config->heap_mb, config->arena_mb)) {
        (void)fprintf(stderr, "image: cannot reserve memory\n");
        return false;
    }
    perturb_early(config->perturbation);
    if (!start_python(config) || !import_modules(modules) ||
        (config->perturbation > 0 && !import_modules(more_modules)) ||
        !runtime_source_prepare(config->forbidden)) {
        return false;
    }
    perturb(config->perturbation);
    note_exceptions(PyExc_BaseException);
    if (!warm_up()) {
        return false;
    }
    runtime_clock_start(config->clock_base_s, config->clock_tick_ns);
    Py_SetRecursionLimit((int)config->recursion_limit);
    return true;
}

void runtime_detach(const struct runtime_config *config)
{
    // Its names go with its dictionary: a program finds in __main__ only what it puts there.
    PyObject *globals = PyDict_New();
    (void)PyDict_SetItemString(globals, "__builtins__", PyEval_GetBuiltins());
    PyObject *done = PyRun_String(quiet, Py_file_input, globals, globals);
    if (done == NULL) {
        PyErr_Print();
    }
    Py_XDECREF(done);
    Py_XDECREF(globals);
    perturb_collector(config->perturbation);
    runtime_memory_settle();
}

// --- one run ---

static void write_all(const void *data, size_t size)
{
    const uint8_t *at = data;
    while (size > 0) {
        ssize_t done = write(IMAGE_FD_REPLY, at, size);
        if (done <= 0) {
            _exit(1); // the daemon is gone
        }
        at += done;
        size -= (size_t)done;
    }
}

static void read_all(void *data, size_t size)
{
    uint8_t *at = data;
    while (size > 0) {
        ssize_t done = read(IMAGE_FD_REQUEST, at, size);
        if (done <= 0) {
            _exit(0); // the daemon has closed the pipe
        }
        at += done;
        size -= (size_t)done;
    }
}

static void begin_frame(struct bytes *out, uint32_t kind)
{
    struct image_frame frame = {.kind = kind};
    bytes_clear(out);
    bytes_append(out, &frame, sizeof(frame));
}

static void end_frame(struct bytes *out)
{
    struct image_frame frame;
    if (out->failed) { // no memory is left, not even for a result
        const struct {
            struct image_frame frame;
            uint32_t outcome;
            uint32_t sizes[4];
        } result = {.frame = {.size = sizeof(result) - sizeof(frame), .kind = FRAME_RESULT},
                    .outcome = OUTCOME_OUT_OF_MEMORY};
        write_all(&result, sizeof(result));
        _exit(0);
    }
    memcpy(&frame, out->data, sizeof(frame));
    frame.size = (uint32_t)(out->size - sizeof(frame));
    memcpy(out->data, &frame, sizeof(frame));
    write_all(out->data, out->size);
}

static void append_run(struct bytes *out, const void *data, size_t size)
{
    bytes_append_u32(out, (uint32_t)size);
    bytes_append(out, data, size);
}

static void reply(enum outcome outcome, const char *exception, const char *detail)
{
    struct bytes out = {0};
    begin_frame(&out, FRAME_RESULT);
    bytes_append_u32(&out, outcome);
    append_run(&out, exception, strlen(exception));
    append_run(&out, detail, strlen(detail));
    append_run(&out, NULL, 0);
    append_run(&out, NULL, 0);
    end_frame(&out);
}

// The exception that is set becomes the reply.
static void reply_raised(void)
{
    char own[64];
    PyObject *type = PyErr_Occurred();
    const char *name = type == NULL || !PyType_Check(type)
                           ? "SystemError"
                           : exception_name((PyTypeObject *)type, own, sizeof(own));
    reply(type == PyExc_MemoryError ? OUTCOME_OUT_OF_MEMORY : OUTCOME_RAISED, name, "");
}

static void reply_value(PyObject *value, const struct image_request *request)
{
    struct bytes out = {0};
    struct bytes typed = {0};
    size_t typed_max = 8 * (size_t)request->output_max + 64; // more than any repr of that size
    enum encode_status status = runtime_encode(&typed, value, typed_max);
    if (status == ENCODE_UNSUPPORTED) {
        char detail[128];
        (void)snprintf(detail, sizeof(detail), "the result is or holds a %.60s",
                       Py_TYPE(value)->tp_name);
        reply(OUTCOME_UNSUPPORTED_VALUE, "", detail);
        return;
    }
    PyObject *repr = status == ENCODE_DONE ? PyObject_Repr(value) : NULL;
    Py_ssize_t size = 0;
    const char *text = repr == NULL ? NULL : PyUnicode_AsUTF8AndSize(repr, &size);
    if (text == NULL || (size_t)size > request->output_max) {
        reply(OUTCOME_OUTPUT_TOO_LARGE, "", "");
        return;
    }
    begin_frame(&out, FRAME_RESULT);
    bytes_append_u32(&out, OUTCOME_OK);
    append_run(&out, NULL, 0);
    append_run(&out, NULL, 0);
    append_run(&out, typed.data, (request->flags & IMAGE_NO_VALUE) != 0 ? 0 : typed.size);
    append_run(&out, text, (size_t)size);
    end_frame(&out);
}

// Sends the program and goes on with what the other images will get: marshalled code read back.
// They are not the same (marshal sorts the members of constant sets), and a verdict may not depend
// on who compiled.
static void reply_program(struct runtime_source *source)
{
    struct bytes out = {0};
    PyObject *code = PyMarshal_WriteObjectToString(source->code, Py_MARSHAL_VERSION);
    begin_frame(&out, FRAME_PROGRAM);
    if (source->normalized != NULL) {
        append_run(&out, PyBytes_AS_STRING(source->normalized),
                   (size_t)PyBytes_GET_SIZE(source->normalized));
    } else {
        append_run(&out, NULL, 0);
    }
    if (code != NULL) {
        bytes_append(&out, PyBytes_AS_STRING(code), (size_t)PyBytes_GET_SIZE(code));
    }
    PyErr_Clear();
    end_frame(&out);
    bytes_finish(&out);
    Py_CLEAR(source->code);
    if (code != NULL) {
        source->code =
            PyMarshal_ReadObjectFromString(PyBytes_AS_STRING(code), PyBytes_GET_SIZE(code));
    }
    Py_XDECREF(code);
}

static void execute(PyObject *code, const struct image_request *request, const uint8_t *arguments)
{
    PyObject *globals = PyModule_GetDict(PyImport_AddModule("__main__"));
    PyObject *done = PyEval_EvalCode(code, globals, globals);
    PyObject *f = done == NULL ? NULL : PyDict_GetItemString(globals, "f");
    if (done != NULL && f == NULL) {
        PyErr_SetString(PyExc_NameError, "name 'f' is not defined");
    }
    PyObject *positional = NULL;
    PyObject *keywords = NULL;
    if (f == NULL ||
        !runtime_decode_arguments(&positional, &keywords, arguments, request->arguments_size)) {
        reply_raised();
        return;
    }
    PyObject *value = PyObject_Call(f, positional, keywords);
    if (value == NULL) {
        reply_raised();
    } else {
        reply_value(value, request);
    }
}

static void reply_facts(const char *text, const uint8_t *references, size_t size)
{
    struct source_facts facts;
    struct bytes out = {0};
    if (!runtime_describe(&facts, text, references, size)) {
        reply(OUTCOME_SYNTAX_ERROR, "", "no syntax tree");
        return;
    }
    begin_frame(&out, FRAME_RESULT);
    bytes_append_u32(&out, OUTCOME_OK);
    append_run(&out, NULL, 0);
    append_run(&out, NULL, 0);
    append_run(&out, &facts, sizeof(facts));
    append_run(&out, NULL, 0);
    end_frame(&out);
}

static void reply_renamed(const char *text, size_t size, const uint8_t *name, size_t name_size)
{
    struct bytes out = {0};
    bool named = name_size > 1 && name[name_size - 1] == '\0';
    PyObject *renamed = named ? runtime_rename(text, size, (const char *)name) : NULL;
    if (renamed == NULL) {
        reply(OUTCOME_MALFORMED, "", "f cannot be renamed");
        return;
    }
    begin_frame(&out, FRAME_RESULT);
    bytes_append_u32(&out, OUTCOME_OK);
    append_run(&out, NULL, 0);
    append_run(&out, NULL, 0);
    append_run(&out, NULL, 0);
    append_run(&out, PyBytes_AS_STRING(renamed), (size_t)PyBytes_GET_SIZE(renamed));
    end_frame(&out);
}

void runtime_serve(void)
{
    struct image_request request;
    read_all(&request, sizeof(request));
    size_t size = (size_t)request.source_size + request.code_size + request.arguments_size;
    uint8_t *body = malloc(size + 2);
    if (body == NULL) {
        reply(OUTCOME_OUT_OF_MEMORY, "", "the request is larger than the sandbox");
        return;
    }
    read_all(body, request.source_size);
    body[request.source_size] = '\0'; // the compiler reads a C string
    uint8_t *code_at = body + request.source_size + 1;
    read_all(code_at, (size_t)request.code_size + request.arguments_size);
    runtime_clock_limit(request.sleep_ms);
    runtime_memory_limit(request.memory_mb);

    if ((request.flags & IMAGE_DESCRIBE) != 0) {
        reply_facts((const char *)body, code_at, request.arguments_size);
        return;
    }
    if ((request.flags & IMAGE_RENAME) != 0) {
        reply_renamed((const char *)body, request.source_size, code_at, request.arguments_size);
        return;
    }
    struct runtime_source source = {0};
    if (request.code_size > 0) {
        source.code =
            PyMarshal_ReadObjectFromString((const char *)code_at, (Py_ssize_t)request.code_size);
        source.outcome = OUTCOME_OUT_OF_MEMORY; // what else could it be: the compiler wrote it
    } else {
        runtime_source_compile(&source, (const char *)body, request.source_size, request.flags);
    }
    if (source.code == NULL) {
        reply(source.outcome, "", source.detail);
        return;
    }
    if ((request.flags & IMAGE_WANT_CODE) != 0 && request.code_size == 0) {
        reply_program(&source);
        if (source.code == NULL) {
            reply(OUTCOME_OUT_OF_MEMORY, "MemoryError", "");
            return;
        }
    }
    if ((request.flags & IMAGE_COMPILE_ONLY) != 0) {
        reply(OUTCOME_OK, "", "");
        return;
    }
    execute(source.code, &request, code_at + request.code_size);
}
