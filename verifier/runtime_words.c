// Which programs the filter must look at as trees. A tree costs as much as the compilation, and
// most programs need none: they hold none of the watched words, or only imports that stand on lines
// of their own and name modules that are allowed. Whatever is written in another way gets a tree.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "verifier/runtime.h"

#include <ctype.h>
#include <string.h>

static const char *const watched_words[] = {"import", "importlib", "__import__", "eval",
                                            "exec",   "compile",   "open",       "input"};

static bool word_char(char c)
{
    return isalnum((unsigned char)c) != 0 || c == '_';
}

static const char *skip_blanks(const char *at)
{
    return at + strspn(at, " \t");
}

// Goes past a word of its own.
static bool take_word(const char **at, const char *word)
{
    size_t length = strlen(word);
    if (strncmp(*at, word, length) != 0 || word_char((*at)[length])) {
        return false;
    }
    *at = skip_blanks(*at + length);
    return true;
}

// Goes past a dotted name whose parts are all allowed.
static bool take_allowed(const char **at, PyObject *forbidden)
{
    for (;;) {
        size_t length = 0;
        while (word_char((*at)[length])) {
            length++;
        }
        PyObject *part = PyUnicode_FromStringAndSize(*at, (Py_ssize_t)length);
        bool allowed = length > 0 && part != NULL && PySet_Contains(forbidden, part) == 0;
        Py_XDECREF(part);
        if (!allowed) {
            PyErr_Clear();
            return false;
        }
        *at += length;
        if (**at != '.') {
            *at = skip_blanks(*at);
            return true;
        }
        (*at)++;
    }
}

// "a.b as c, d", up to the end of the line.
static bool take_names(const char *at, PyObject *forbidden)
{
    do {
        if (!take_allowed(&at, forbidden) ||
            (take_word(&at, "as") && !take_allowed(&at, forbidden))) {
            return false;
        }
    } while (*at == ',' && (at = skip_blanks(at + 1)) != NULL);
    return *at == '\n' || *at == '\0';
}

// Whether the line that holds `at` is one import of what is allowed, and nothing else.
static bool is_plain_import(const char *text, const char *at, PyObject *forbidden)
{
    while (at > text && at[-1] != '\n') {
        at--;
    }
    at = skip_blanks(at);
    bool from = take_word(&at, "from");
    return (!from || take_allowed(&at, forbidden)) && take_word(&at, "import") &&
           take_names(at, forbidden);
}

bool runtime_needs_tree(const char *text, size_t size, PyObject *forbidden)
{
    for (size_t i = 0; i < size; i++) { // other letters may spell a watched word in another way
        if ((unsigned char)text[i] >= 0x80) {
            return true;
        }
    }
    bool joined = strstr(text, "\\\n") != NULL; // a line may begin within a statement
    for (size_t i = 0; i < sizeof(watched_words) / sizeof(*watched_words); i++) {
        const char *word = watched_words[i];
        size_t length = strlen(word);
        for (const char *at = text; (at = strstr(at, word)) != NULL; at += length) {
            bool whole = (at == text || !word_char(at[-1])) && !word_char(at[length]);
            if (whole && (i > 0 || joined || !is_plain_import(text, at, forbidden))) {
                return true;
            }
        }
    }
    return false;
}
