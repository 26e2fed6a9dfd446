// Values cross the wall by exact type: a type pointer that is not one of CPython's own built-in
// types is unsupported, so no method that a program wrote is ever called here.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "verifier/runtime.h"
#include "verifier/value.h"

#include <string.h>

struct encoder {
    struct bytes *out;
    size_t size_max;
    int depth;
    size_t nodes;
};

static enum encode_status encode(struct encoder *encoder, PyObject *value);

static void put_tag(struct encoder *encoder, uint8_t tag)
{
    bytes_append_u8(encoder->out, tag);
}

static enum encode_status encode_int(struct encoder *encoder, PyObject *value)
{
    int overflow = 0;
    int64_t small = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow == 0) {
        put_tag(encoder, VALUE_INT);
        bytes_append(encoder->out, &small, sizeof(small));
        return ENCODE_DONE;
    }
    size_t size = _PyLong_NumBits(value) / 8 + 1;
    if (size > encoder->size_max || !bytes_reserve(encoder->out, size + 8)) {
        return ENCODE_TOO_LARGE;
    }
    put_tag(encoder, VALUE_BIG_INT);
    bytes_append_u32(encoder->out, (uint32_t)size);
    uint8_t *at = encoder->out->data + encoder->out->size;
    if (_PyLong_AsByteArray((PyLongObject *)value, at, size, 1, 1) < 0) {
        PyErr_Clear();
        return ENCODE_TOO_LARGE;
    }
    encoder->out->size += size;
    return ENCODE_DONE;
}

static void put_code_point(struct bytes *out, Py_UCS4 code)
{
    if (code < 0x80) {
        bytes_append_u8(out, (uint8_t)code);
    } else if (code < 0x800) {
        bytes_append_u8(out, (uint8_t)(0xc0 | code >> 6));
        bytes_append_u8(out, (uint8_t)(0x80 | (code & 0x3f)));
    } else if (code < 0x10000) {
        bytes_append_u8(out, (uint8_t)(0xe0 | code >> 12));
        bytes_append_u8(out, (uint8_t)(0x80 | (code >> 6 & 0x3f)));
        bytes_append_u8(out, (uint8_t)(0x80 | (code & 0x3f)));
    } else {
        bytes_append_u8(out, (uint8_t)(0xf0 | code >> 18));
        bytes_append_u8(out, (uint8_t)(0x80 | (code >> 12 & 0x3f)));
        bytes_append_u8(out, (uint8_t)(0x80 | (code >> 6 & 0x3f)));
        bytes_append_u8(out, (uint8_t)(0x80 | (code & 0x3f)));
    }
}

static enum encode_status encode_string(struct encoder *encoder, PyObject *value)
{
    if (PyUnicode_READY(value) < 0) {
        PyErr_Clear();
        return ENCODE_UNSUPPORTED;
    }
    size_t length = (size_t)PyUnicode_GET_LENGTH(value);
    if (length > encoder->size_max) {
        return ENCODE_TOO_LARGE;
    }
    put_tag(encoder, VALUE_STRING);
    size_t size_at = encoder->out->size;
    bytes_append_u32(encoder->out, 0);
    if (PyUnicode_IS_ASCII(value)) {
        bytes_append(encoder->out, PyUnicode_1BYTE_DATA(value), length);
    } else {
        for (size_t i = 0; i < length; i++) {
            put_code_point(encoder->out, PyUnicode_READ_CHAR(value, (Py_ssize_t)i));
        }
    }
    uint32_t size = (uint32_t)(encoder->out->size - size_at - sizeof(size));
    if (!encoder->out->failed) {
        memcpy(encoder->out->data + size_at, &size, sizeof(size));
    }
    return ENCODE_DONE;
}

static enum encode_status encode_run(struct encoder *encoder, uint8_t tag, const char *data,
                                     Py_ssize_t size)
{
    if ((size_t)size > encoder->size_max) {
        return ENCODE_TOO_LARGE;
    }
    put_tag(encoder, tag);
    bytes_append_u32(encoder->out, (uint32_t)size);
    bytes_append(encoder->out, data, (size_t)size);
    return ENCODE_DONE;
}

static enum encode_status encode_sequence(struct encoder *encoder, uint8_t tag, PyObject *value)
{
    Py_ssize_t count = PySequence_Fast_GET_SIZE(value);
    if ((size_t)count > encoder->size_max) {
        return ENCODE_TOO_LARGE;
    }
    put_tag(encoder, tag);
    bytes_append_u32(encoder->out, (uint32_t)count);
    enum encode_status status = ENCODE_DONE;
    for (Py_ssize_t i = 0; i < count && status == ENCODE_DONE; i++) {
        status = encode(encoder, PySequence_Fast_GET_ITEM(value, i));
    }
    return status;
}

static enum encode_status encode_dict(struct encoder *encoder, PyObject *value)
{
    put_tag(encoder, VALUE_DICT);
    bytes_append_u32(encoder->out, (uint32_t)PyDict_GET_SIZE(value));
    PyObject *key = NULL;
    PyObject *item = NULL;
    Py_ssize_t at = 0;
    enum encode_status status = ENCODE_DONE;
    while (status == ENCODE_DONE && PyDict_Next(value, &at, &key, &item)) {
        status = encode(encoder, key);
        status = status == ENCODE_DONE ? encode(encoder, item) : status;
    }
    return status;
}

static enum encode_status encode_set(struct encoder *encoder, uint8_t tag, PyObject *value)
{
    put_tag(encoder, tag);
    bytes_append_u32(encoder->out, (uint32_t)PySet_GET_SIZE(value));
    PyObject *key = NULL;
    Py_hash_t hash = 0;
    Py_ssize_t at = 0;
    enum encode_status status = ENCODE_DONE;
    while (status == ENCODE_DONE && _PySet_NextEntry(value, &at, &key, &hash)) {
        status = encode(encoder, key);
    }
    return status;
}

static enum encode_status encode_range(struct encoder *encoder, PyObject *value)
{
    static const char *const names[] = {"start", "stop", "step"};
    int64_t part[3] = {0};
    for (int i = 0; i < 3; i++) {
        PyObject *number = PyObject_GetAttrString(value, names[i]); // of the exact type: C getters
        int overflow = 1;
        if (number != NULL && PyLong_CheckExact(number)) {
            part[i] = PyLong_AsLongLongAndOverflow(number, &overflow);
        }
        Py_XDECREF(number);
        if (overflow != 0) {
            PyErr_Clear();
            return ENCODE_UNSUPPORTED;
        }
    }
    put_tag(encoder, VALUE_RANGE);
    bytes_append(encoder->out, part, sizeof(part));
    return ENCODE_DONE;
}

static enum encode_status encode_scalar(struct encoder *encoder, PyObject *value)
{
    PyTypeObject *type = Py_TYPE(value);
    if (value == Py_None || value == Py_True || value == Py_False || value == Py_Ellipsis) {
        put_tag(encoder, value == Py_None    ? VALUE_NONE
                         : value == Py_True  ? VALUE_TRUE
                         : value == Py_False ? VALUE_FALSE
                                             : VALUE_ELLIPSIS);
        return ENCODE_DONE;
    }
    if (type == &PyFloat_Type) {
        double real = PyFloat_AS_DOUBLE(value);
        put_tag(encoder, VALUE_FLOAT);
        bytes_append(encoder->out, &real, sizeof(real));
        return ENCODE_DONE;
    }
    if (type == &PyComplex_Type) {
        Py_complex number = ((PyComplexObject *)value)->cval;
        put_tag(encoder, VALUE_COMPLEX);
        bytes_append(encoder->out, &number.real, sizeof(number.real));
        bytes_append(encoder->out, &number.imag, sizeof(number.imag));
        return ENCODE_DONE;
    }
    if (type == &PyBytes_Type) {
        return encode_run(encoder, VALUE_BYTES, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value));
    }
    if (type == &PyByteArray_Type) {
        return encode_run(encoder, VALUE_BYTE_ARRAY, PyByteArray_AS_STRING(value),
                          PyByteArray_GET_SIZE(value));
    }
    return type == &PyRange_Type ? encode_range(encoder, value) : ENCODE_UNSUPPORTED;
}

static enum encode_status encode_container(struct encoder *encoder, PyObject *value)
{
    PyTypeObject *type = Py_TYPE(value);
    if (encoder->depth == VALUE_DEPTH_MAX) {
        return ENCODE_UNSUPPORTED;
    }
    encoder->depth++;
    enum encode_status status = ENCODE_UNSUPPORTED;
    if (type == &PyList_Type) {
        status = encode_sequence(encoder, VALUE_LIST, value);
    } else if (type == &PyTuple_Type) {
        status = encode_sequence(encoder, VALUE_TUPLE, value);
    } else if (type == &PyDict_Type) {
        status = encode_dict(encoder, value);
    } else if (type == &PySet_Type) {
        status = encode_set(encoder, VALUE_SET, value);
    } else if (type == &PyFrozenSet_Type) {
        status = encode_set(encoder, VALUE_FROZEN_SET, value);
    } else {
        status = encode_scalar(encoder, value);
    }
    encoder->depth--;
    return status;
}

static enum encode_status encode(struct encoder *encoder, PyObject *value)
{
    if (++encoder->nodes > VALUE_NODES_MAX || encoder->out->size > encoder->size_max) {
        return ENCODE_TOO_LARGE;
    }
    if (Py_TYPE(value) == &PyLong_Type) {
        return encode_int(encoder, value);
    }
    if (Py_TYPE(value) == &PyUnicode_Type) {
        return encode_string(encoder, value);
    }
    return encode_container(encoder, value);
}

enum encode_status runtime_encode(struct bytes *out, PyObject *value, size_t size_max)
{
    struct encoder encoder = {.out = out, .size_max = size_max};
    enum encode_status status = encode(&encoder, value);
    bool large = status == ENCODE_DONE && (out->failed || out->size > size_max);
    return large ? ENCODE_TOO_LARGE : status;
}

// --- typed form → Python ---

struct decoder {
    const uint8_t *at;
    const uint8_t *end;
};

static PyObject *decode(struct decoder *decoder);

static PyObject *broken(void)
{
    PyErr_SetString(PyExc_SystemError, "malformed arguments");
    return NULL;
}

static bool take(struct decoder *decoder, void *out, size_t size)
{
    if ((size_t)(decoder->end - decoder->at) < size) {
        return false;
    }
    memcpy(out, decoder->at, size);
    decoder->at += size;
    return true;
}

static PyObject *decode_run(struct decoder *decoder, uint8_t tag)
{
    uint32_t size = 0;
    if (!take(decoder, &size, sizeof(size)) || (size_t)(decoder->end - decoder->at) < size) {
        return broken();
    }
    const char *data = (const char *)decoder->at;
    decoder->at += size;
    switch (tag) {
    case VALUE_STRING:
        return PyUnicode_DecodeUTF8(data, size, "surrogatepass");
    case VALUE_BYTES:
        return PyBytes_FromStringAndSize(data, size);
    case VALUE_BYTE_ARRAY:
        return PyByteArray_FromStringAndSize(data, size);
    default:
        return _PyLong_FromByteArray((const unsigned char *)data, size, 1, 1);
    }
}

// give_up lets go of a half-built object.
static void give_up(PyObject **object)
{
    Py_CLEAR(*object);
}

static PyObject *decode_sequence(struct decoder *decoder, uint8_t tag)
{
    uint32_t count = 0;
    if (!take(decoder, &count, sizeof(count)) || count > (size_t)(decoder->end - decoder->at)) {
        return broken();
    }
    PyObject *out = tag == VALUE_LIST ? PyList_New(count) : PyTuple_New(count);
    for (uint32_t i = 0; out != NULL && i < count; i++) {
        PyObject *item = decode(decoder);
        if (item == NULL) {
            give_up(&out);
        } else if (tag == VALUE_LIST) {
            PyList_SET_ITEM(out, i, item);
        } else {
            PyTuple_SET_ITEM(out, i, item);
        }
    }
    return out;
}

static PyObject *decode_unordered(struct decoder *decoder, uint8_t tag)
{
    uint32_t count = 0;
    if (!take(decoder, &count, sizeof(count))) {
        return broken();
    }
    PyObject *out = tag == VALUE_DICT  ? PyDict_New()
                    : tag == VALUE_SET ? PySet_New(NULL)
                                       : PyFrozenSet_New(NULL);
    for (uint32_t i = 0; out != NULL && i < count; i++) {
        PyObject *key = decode(decoder);
        PyObject *item = key != NULL && tag == VALUE_DICT ? decode(decoder) : NULL;
        int code = key == NULL || (tag == VALUE_DICT && item == NULL) ? -1
                   : tag == VALUE_DICT ? PyDict_SetItem(out, key, item)
                                       : PySet_Add(out, key);
        Py_XDECREF(key);
        Py_XDECREF(item);
        if (code < 0) {
            give_up(&out);
        }
    }
    return out;
}

static PyObject *decode_number(struct decoder *decoder, uint8_t tag)
{
    int64_t small = 0;
    double part[2] = {0};
    int64_t bound[3] = {0};
    switch (tag) {
    case VALUE_INT:
        return take(decoder, &small, sizeof(small)) ? PyLong_FromLongLong(small) : broken();
    case VALUE_FLOAT:
        return take(decoder, part, sizeof(*part)) ? PyFloat_FromDouble(part[0]) : broken();
    case VALUE_COMPLEX:
        return take(decoder, part, sizeof(part)) ? PyComplex_FromDoubles(part[0], part[1])
                                                 : broken();
    default:
        return take(decoder, bound, sizeof(bound))
                   ? PyObject_CallFunction((PyObject *)&PyRange_Type, "LLL", bound[0], bound[1],
                                           bound[2])
                   : broken();
    }
}

static PyObject *decode(struct decoder *decoder)
{
    uint8_t tag = 0;
    if (!take(decoder, &tag, sizeof(tag))) {
        return broken();
    }
    switch (tag) {
    case VALUE_NONE:
        return Py_NewRef(Py_None);
    case VALUE_TRUE:
        return Py_NewRef(Py_True);
    case VALUE_FALSE:
        return Py_NewRef(Py_False);
    case VALUE_ELLIPSIS:
        return Py_NewRef(Py_Ellipsis);
    case VALUE_INT:
    case VALUE_FLOAT:
    case VALUE_COMPLEX:
    case VALUE_RANGE:
        return decode_number(decoder, tag);
    case VALUE_STRING:
    case VALUE_BYTES:
    case VALUE_BYTE_ARRAY:
    case VALUE_BIG_INT:
        return decode_run(decoder, tag);
    case VALUE_TUPLE:
    case VALUE_LIST:
        return decode_sequence(decoder, tag);
    case VALUE_DICT:
    case VALUE_SET:
    case VALUE_FROZEN_SET:
        return decode_unordered(decoder, tag);
    default:
        return broken();
    }
}

static PyObject *decode_keywords(struct decoder *decoder)
{
    uint32_t count = 0;
    if (!take(decoder, &count, sizeof(count))) {
        return broken();
    }
    PyObject *out = PyDict_New();
    for (uint32_t i = 0; out != NULL && i < count; i++) {
        PyObject *name = decode(decoder);
        PyObject *item = name == NULL ? NULL : decode(decoder);
        if (item == NULL || PyDict_SetItem(out, name, item) < 0) {
            give_up(&out);
        }
        Py_XDECREF(name);
        Py_XDECREF(item);
    }
    return out;
}

bool runtime_decode_arguments(PyObject **arguments, PyObject **keywords, const uint8_t *typed,
                              size_t size)
{
    struct decoder decoder = {.at = typed, .end = typed + size};
    *keywords = NULL;
    *arguments = decode_sequence(&decoder, VALUE_TUPLE);
    if (*arguments == NULL) {
        return false;
    }
    *keywords = decode_keywords(&decoder);
    if (*keywords == NULL || decoder.at != decoder.end) {
        Py_CLEAR(*arguments);
        Py_CLEAR(*keywords);
        (void)broken();
        return false;
    }
    if (PyDict_GET_SIZE(*keywords) == 0) {
        Py_CLEAR(*keywords);
    }
    return true;
}
