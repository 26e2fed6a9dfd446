#include "common/text/utf8.h"

#include "common/base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

// The length of the valid character at the start of the text, or 0.
static size_t character_size(const unsigned char *text, size_t size)
{
    unsigned char lead = text[0];
    if (lead < 0x80) {
        return 1;
    }
    size_t wanted = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || size < wanted) {
        return 0;
    }
    return utf8_broken_prefix((const char *)text, wanted) == wanted ? wanted : 0;
}

// The longest beginning of a valid character is found by the bounds of the second byte (they keep
// out overlong forms, surrogates and numbers beyond U+10FFFF); the others are any continuation.
size_t utf8_broken_prefix(const char *text, size_t size)
{
    const unsigned char *bytes = (const unsigned char *)text;
    unsigned char lead = bytes[0];
    if (lead < 0xc2 || lead > 0xf4) {
        return 1;
    }
    size_t wanted = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    size_t length = 1;
    while (length < wanted && length < size && bytes[length] >= low && bytes[length] <= high) {
        low = 0x80;
        high = 0xbf;
        length++;
    }
    return length;
}

size_t utf8_valid_prefix(const char *text, size_t size)
{
    size_t at = 0;
    while (at < size) {
        uint64_t block;
        if (size - at >= sizeof(block)) {
            memcpy(&block, text + at, sizeof(block));
            if ((block & 0x8080808080808080u) == 0) {
                at += sizeof(block);
                continue;
            }
        }
        size_t length = character_size((const unsigned char *)text + at, size - at);
        if (length == 0) {
            break;
        }
        at += length;
    }
    return at;
}

uint32_t utf8_next(const char *text, size_t *at)
{
    const unsigned char *bytes = (const unsigned char *)text + *at;
    if (bytes[0] < 0x80) {
        *at += 1;
        return bytes[0];
    }
    if (bytes[0] < 0xe0) {
        *at += 2;
        return (uint32_t)(bytes[0] & 0x1f) << 6 | (bytes[1] & 0x3f);
    }
    if (bytes[0] < 0xf0) {
        *at += 3;
        return (uint32_t)(bytes[0] & 0x0f) << 12 | (uint32_t)(bytes[1] & 0x3f) << 6 |
               (bytes[2] & 0x3f);
    }
    *at += 4;
    return (uint32_t)(bytes[0] & 0x07) << 18 | (uint32_t)(bytes[1] & 0x3f) << 12 |
           (uint32_t)(bytes[2] & 0x3f) << 6 | (bytes[3] & 0x3f);
}

size_t utf8_put(char out[4], uint32_t character)
{
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)character, (utf8proc_uint8_t *)out);
}

void utf8_add_lossy(struct words *out, const char *bytes, size_t size)
{
    size_t at = 0;
    while (at < size) {
        size_t valid = utf8_valid_prefix(bytes + at, size - at);
        words_add_bytes(out, bytes + at, valid);
        at += valid;
        if (at < size) {
            at += utf8_broken_prefix(bytes + at, size - at);
            words_add(out, "\xef\xbf\xbd");
        }
    }
}

// Characters that normal form C never changes and that never join the one before them: everything
// below the combining marks, and the blocks that make up most other text (Cyrillic, kana, the
// unified ideographs, Hangul syllables, emoji). The test holds this list against utf8proc.
static bool is_inert(uint32_t c)
{
    return c < 0x300 || (c >= 0x400 && c <= 0x482) || (c >= 0x2010 && c <= 0x2027) ||
           (c >= 0x2500 && c <= 0x27bf) || (c >= 0x3041 && c <= 0x3096) ||
           (c >= 0x30a1 && c <= 0x30fa) || (c >= 0x4e00 && c <= 0x9fff) ||
           (c >= 0xac00 && c <= 0xd7a3) || (c >= 0xff01 && c <= 0xff9d) ||
           (c >= 0x1f300 && c <= 0x1faff);
}

bool utf8_is_nfc(const char *text, size_t size)
{
    size_t at = 0;
    while (at < size) {
        if ((unsigned char)text[at] < 0x80) {
            at++;
        } else if (!is_inert(utf8_next(text, &at))) {
            return false;
        }
    }
    return true;
}

// Hugging Face normalizes by the tables of Unicode 9. These are the marks that Unicode has gained
// since, as far as our library's newer tables order or join them; there they stand where they are,
// as letters do. Found by comparing the two over all characters.
static bool is_newer_mark(uint32_t c)
{
    static const uint32_t ranges[][2] = {
        {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},
        {0xc3c, 0xc3c},     {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},
        {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},   {0xa82c, 0xa82c},   {0x10d24, 0x10d27},
        {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85},
        {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x11839, 0x1183a},
        {0x11930, 0x11930}, {0x1193d, 0x1193e}, {0x11943, 0x11943}, {0x119e0, 0x119e0},
        {0x11a34, 0x11a34}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11d42, 0x11d42},
        {0x11d44, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42}, {0x16ff0, 0x16ff1},
        {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef},
        {0x1e4ec, 0x1e4ef}};
    for (size_t i = 0; i < sizeof(ranges) / sizeof(*ranges); i++) {
        if (c <= ranges[i][1]) {
            return c >= ranges[i][0];
        }
    }
    return false;
}

// Adds a text without newer marks in normal form.
static void add_nfc(struct words *out, const char *text, size_t size)
{
    utf8proc_uint8_t *nfc = NULL;
    utf8proc_ssize_t length = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)size,
                                           &nfc, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (length < 0) {
        out->failed = true; // of valid text, only for want of memory
        return;
    }
    words_add_bytes(out, (const char *)nfc, (size_t)length);
    free(nfc);
}

char *utf8_to_nfc(size_t *out_size, const char *text, size_t size, struct error *err)
{
    CLEANUP(words_finish) struct words out = {0};
    size_t begin = 0;
    for (size_t at = 0; at < size;) {
        size_t here = at;
        if (is_newer_mark(utf8_next(text, &at))) {
            add_nfc(&out, text + begin, here - begin);
            words_add_bytes(&out, text + here, at - here);
            begin = at;
        }
    }
    add_nfc(&out, text + begin, size - begin);
    *out_size = out.size;
    char *nfc = words_take(&out);
    if (nfc == NULL) {
        (void)error_set(err, -ENOMEM, "cannot normalize text: out of memory");
    }
    return nfc;
}

// Printable bytes of Latin-1 spell themselves; the others are numbered from U+0100 on.
static bool spells_itself(uint32_t byte)
{
    return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) ||
           (byte >= 0xae && byte <= 0xff);
}

uint32_t byte_character(uint8_t byte)
{
    if (spells_itself(byte)) {
        return byte;
    }
    uint32_t before = 0;
    for (uint32_t other = 0; other < byte; other++) {
        before += !spells_itself(other);
    }
    return 0x100 + before;
}

int character_byte(uint32_t character)
{
    if (character < 0x100) {
        return spells_itself(character) ? (int)character : -1;
    }
    if (character <= 0x120) { // 33 bytes: 0-32
        return (int)(character - 0x100);
    }
    if (character <= 0x142) { // 34 bytes: 127-160
        return (int)(character - 0x121 + 0x7f);
    }
    return character == 0x143 ? 0xad : -1;
}
