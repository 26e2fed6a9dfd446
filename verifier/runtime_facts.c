// Facts about a program's text, from its syntax tree alone: nothing of the program runs. They are
// values for the learner to reward or report (learner/intrinsic.h).
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "verifier/protocol.h"
#include "verifier/runtime.h"

#include <stdlib.h>
#include <string.h>

enum { TREE_MAX = 8192, WORDS_MAX = TREE_MAX / 64, KINDS_OF_NODE = 256 };

// --- cyclomatic complexity ---

static Py_ssize_t list_size(PyObject *node, const char *field)
{
    PyObject *list = PyObject_GetAttrString(node, field);
    Py_ssize_t size = list != NULL && PyList_CheckExact(list) ? PyList_GET_SIZE(list) : 0;
    Py_XDECREF(list);
    PyErr_Clear();
    return size;
}

static void count_decisions(void *context, PyObject *node)
{
    static const char *const branches[] = {"If",    "For",    "AsyncFor",      "While",
                                           "IfExp", "Assert", "ExceptHandler", "match_case"};
    uint32_t *count = context;
    for (size_t i = 0; i < sizeof(branches) / sizeof(*branches); i++) {
        *count += runtime_is_node(node, branches[i]);
    }
    if (runtime_is_node(node, "BoolOp")) {
        *count += (uint32_t)list_size(node, "values") - 1;
    } else if (runtime_is_node(node, "comprehension")) {
        *count += 1 + (uint32_t)list_size(node, "ifs");
    }
}

// One more than the decisions of a block; a nested function counts with the outermost one.
static uint32_t complexity_of(PyObject *block)
{
    uint32_t count = 1;
    runtime_walk(block, count_decisions, &count);
    return count;
}

static void visit_blocks(PyObject *body, uint32_t *largest)
{
    for (Py_ssize_t i = 0; PyList_CheckExact(body) && i < PyList_GET_SIZE(body); i++) {
        PyObject *node = PyList_GET_ITEM(body, i);
        if (runtime_is_node(node, "ClassDef")) {
            PyObject *inner = PyObject_GetAttrString(node, "body");
            if (inner != NULL) {
                visit_blocks(inner, largest);
            }
            Py_XDECREF(inner);
            continue;
        }
        uint32_t own = complexity_of(node);
        *largest = own > *largest ? own : *largest;
    }
}

// --- Halstead's counts ---

struct halstead {
    struct source_facts *facts;
    PyObject *operators; // set of type names
    PyObject *operands;  // set of names and constants
};

static void note_operator(struct halstead *halstead, PyObject *operator, uint32_t times)
{
    PyObject *name = PyUnicode_FromString(Py_TYPE(operator)->tp_name);
    halstead->facts->operators += times;
    if (name != NULL) {
        (void)PySet_Add(halstead->operators, name);
    }
    Py_XDECREF(name);
}

// What an operand is known by: a name, an attribute or a constant by its text, else its place.
static PyObject *operand_key(PyObject *node)
{
    static const char *const fields[][2] = {
        {"Name", "id"}, {"Attribute", "attr"}, {"Constant", "value"}};
    for (int i = 0; i < 3; i++) {
        if (runtime_is_node(node, fields[i][0])) {
            PyObject *value = PyObject_GetAttrString(node, fields[i][1]);
            PyObject *key = value == NULL ? NULL : PyObject_Repr(value);
            Py_XDECREF(value);
            return key;
        }
    }
    return PyUnicode_FromFormat("%p", node);
}

static void note_operand(struct halstead *halstead, PyObject *node)
{
    PyObject *key = operand_key(node);
    halstead->facts->operands++;
    if (key != NULL) {
        (void)PySet_Add(halstead->operands, key);
    }
    Py_XDECREF(key);
    PyErr_Clear();
}

static void note_field(struct halstead *halstead, PyObject *node, const char *field)
{
    PyObject *child = PyObject_GetAttrString(node, field);
    if (child != NULL && PyList_CheckExact(child)) {
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(child); i++) {
            note_operand(halstead, PyList_GET_ITEM(child, i));
        }
    } else if (child != NULL) {
        note_operand(halstead, child);
    }
    Py_XDECREF(child);
    PyErr_Clear();
}

static void note_expression(void *context, PyObject *node)
{
    static const char *const forms[][4] = {
        {"BinOp", "op", "left", "right"},          {"UnaryOp", "op", "operand", NULL},
        {"BoolOp", "op", "values", NULL},          {"AugAssign", "op", "target", "value"},
        {"Compare", "ops", "left", "comparators"},
    };
    struct halstead *halstead = context;
    for (size_t i = 0; i < sizeof(forms) / sizeof(*forms); i++) {
        if (!runtime_is_node(node, forms[i][0])) {
            continue;
        }
        PyObject *op = PyObject_GetAttrString(node, forms[i][1]);
        if (op != NULL && PyList_CheckExact(op)) {
            for (Py_ssize_t k = 0; k < PyList_GET_SIZE(op); k++) {
                note_operator(halstead, PyList_GET_ITEM(op, k), 1);
            }
        } else if (op != NULL) {
            Py_ssize_t values = list_size(node, "values");
            note_operator(halstead, op, values > 1 ? (uint32_t)values - 1 : 1);
        }
        Py_XDECREF(op);
        note_field(halstead, node, forms[i][2]);
        if (forms[i][3] != NULL) {
            note_field(halstead, node, forms[i][3]);
        }
    }
}

static void measure_halstead(struct source_facts *facts, PyObject *tree)
{
    struct halstead halstead = {
        .facts = facts, .operators = PySet_New(NULL), .operands = PySet_New(NULL)};
    if (halstead.operators != NULL && halstead.operands != NULL) {
        runtime_walk(tree, note_expression, &halstead);
        facts->distinct_operators = (uint32_t)PySet_GET_SIZE(halstead.operators);
        facts->distinct_operands = (uint32_t)PySet_GET_SIZE(halstead.operands);
    }
    Py_XDECREF(halstead.operators);
    Py_XDECREF(halstead.operands);
}

// --- the distance of two trees ---

// struct shape is a tree as a sequence: each node's kind, its children, then a closing 0. Names and
// constants leave no trace, so renaming moves nothing.
struct shape {
    uint8_t items[TREE_MAX];
    uint32_t count;
};

static uint8_t kind_of(PyObject *node)
{
    uint32_t hash = 2166136261U;
    for (const char *at = Py_TYPE(node)->tp_name; *at != '\0'; at++) {
        hash = (hash ^ (uint8_t)*at) * 16777619U;
    }
    return (uint8_t)(hash % (KINDS_OF_NODE - 1) + 1);
}

static void put(struct shape *shape, uint8_t item)
{
    if (shape->count < TREE_MAX) {
        shape->items[shape->count++] = item;
    }
}

static bool is_context(PyObject *node)
{
    return runtime_is_node(node, "Load") || runtime_is_node(node, "Store") ||
           runtime_is_node(node, "Del");
}

static void flatten(struct shape *shape, PyObject *node)
{
    if (Py_EnterRecursiveCall(" in a syntax tree") != 0) {
        return;
    }
    if (PyList_CheckExact(node)) {
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(node); i++) {
            flatten(shape, PyList_GET_ITEM(node, i));
        }
    } else if (PyObject_HasAttrString((PyObject *)Py_TYPE(node), "_fields") && !is_context(node)) {
        put(shape, kind_of(node));
        PyObject *fields = PyObject_GetAttrString(node, "_fields");
        for (Py_ssize_t i = 0; fields != NULL && i < PyTuple_GET_SIZE(fields); i++) {
            PyObject *child = PyObject_GetAttr(node, PyTuple_GET_ITEM(fields, i));
            if (child != NULL && child != Py_None && !PyUnicode_CheckExact(child)) {
                flatten(shape, child);
            }
            Py_XDECREF(child);
        }
        Py_XDECREF(fields);
        put(shape, 0);
    }
    PyErr_Clear();
    Py_LeaveRecursiveCall();
}

// The length of the longest common subsequence, 64 places of `a` at once (Hyyrö 2004): a bit of
// `open` is cleared where a match was found.
static uint32_t common(const struct shape *a, const struct shape *b, uint64_t *masks)
{
    uint32_t words = (a->count + 63) / 64;
    uint64_t open[WORDS_MAX];
    memset(open, 0xff, sizeof(open));
    memset(masks, 0, (size_t)KINDS_OF_NODE * WORDS_MAX * sizeof(*masks));
    for (uint32_t i = 0; i < a->count; i++) {
        masks[a->items[i] * WORDS_MAX + i / 64] |= 1ULL << (i % 64);
    }
    for (uint32_t j = 0; j < b->count; j++) {
        const uint64_t *mask = masks + (size_t)b->items[j] * WORDS_MAX;
        unsigned long long carry = 0;
        for (uint32_t w = 0; w < words; w++) {
            uint64_t match = open[w] & mask[w];
            unsigned long long sum = 0;
            unsigned long long out = __builtin_uaddll_overflow(open[w], match, &sum);
            out |= __builtin_uaddll_overflow(sum, carry, &sum);
            carry = out;
            open[w] = sum | (open[w] & ~mask[w]);
        }
    }
    uint32_t found = 0;
    for (uint32_t i = 0; i < a->count; i++) {
        found += (open[i / 64] >> (i % 64) & 1) == 0;
    }
    return found;
}

// 1 - 2·|common| / (|a| + |b|), in millionths.
static uint32_t distance(const struct shape *a, const struct shape *b, uint64_t *masks)
{
    uint32_t both = a->count + b->count;
    return both == 0 ? 0 : 1000000 - (uint32_t)(2000000ULL * common(a, b, masks) / both);
}

// The mean distance to the references: each u32 size and text, one after another.
static void measure_distance(struct source_facts *facts, PyObject *tree, const uint8_t *references,
                             size_t size)
{
    struct shape *own = calloc(2, sizeof(*own));
    uint64_t *masks = calloc((size_t)KINDS_OF_NODE * WORDS_MAX, sizeof(*masks));
    uint64_t sum = 0;
    if (own != NULL && masks != NULL) {
        flatten(&own[0], tree);
    }
    for (size_t at = 0; own != NULL && masks != NULL && size - at > sizeof(uint32_t);) {
        size_t length = bytes_get_u32(references + at);
        at += sizeof(uint32_t);
        if (size - at < length + 1) { // each text has its NUL
            break;
        }
        PyObject *other = runtime_tree((const char *)references + at);
        at += length + 1;
        if (other != NULL) {
            own[1].count = 0;
            flatten(&own[1], other);
            sum += distance(&own[0], &own[1], masks);
            facts->references++;
        }
        PyErr_Clear();
        Py_XDECREF(other);
    }
    facts->distance_ppm = facts->references > 0 ? (uint32_t)(sum / facts->references) : 0;
    free(masks);
    free(own);
}

bool runtime_describe(struct source_facts *facts, const char *text, const uint8_t *references,
                      size_t size)
{
    *facts = (struct source_facts){0};
    PyObject *tree = runtime_tree(text);
    PyObject *body = tree == NULL ? NULL : PyObject_GetAttrString(tree, "body");
    if (body != NULL) {
        facts->cyclomatic = 1;
        visit_blocks(body, &facts->cyclomatic);
        measure_halstead(facts, tree);
        measure_distance(facts, tree, references, size);
    }
    bool done = body != NULL && !PyErr_Occurred();
    PyErr_Clear();
    Py_XDECREF(body);
    Py_XDECREF(tree);
    return done;
}
