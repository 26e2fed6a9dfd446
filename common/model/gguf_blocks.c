// A block is a few scales and then small integers. Numbers are little-endian; a nibble pair's low
// half belongs to the first half of its block.
#include "common/model/gguf_blocks.h"

#include "common/base/check.h"
#include "common/tensor/tensor.h"

#include <stdbool.h>
#include <string.h>

enum { SMALL = 32, SUPER = 256 }; // elements of a block of the old formats, and of the K formats

static float half_at(const uint8_t *bytes)
{
    return half_to_float((uint16_t)(bytes[0] | bytes[1] << 8));
}

static uint32_t word_at(const uint8_t *bytes)
{
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static void widen_f32(float *out, const uint8_t *block)
{
    memcpy(out, block, sizeof(*out));
}

static void widen_f16(float *out, const uint8_t *block)
{
    *out = half_at(block);
}

static void widen_bf16(float *out, const uint8_t *block)
{
    *out = bf16_to_float((uint16_t)(block[0] | block[1] << 8));
}

// Nibble `i` of a block of 32.
static int nibble(const uint8_t *packed, int i)
{
    return i < SMALL / 2 ? packed[i] & 15 : packed[i - SMALL / 2] >> 4;
}

// The fifth bit of element `i` of a block of 32, in its place.
static int fifth_bit(const uint8_t *bits, int i)
{
    return (int)(word_at(bits) >> i & 1) << 4;
}

static void widen_q4_0(float *out, const uint8_t *block) // scale, nibbles
{
    float scale = half_at(block);
    for (int i = 0; i < SMALL; i++) {
        out[i] = (float)(nibble(block + 2, i) - 8) * scale;
    }
}

static void widen_q4_1(float *out, const uint8_t *block) // scale, minimum, nibbles
{
    float scale = half_at(block), minimum = half_at(block + 2);
    for (int i = 0; i < SMALL; i++) {
        out[i] = (float)nibble(block + 4, i) * scale + minimum;
    }
}

static void widen_q5_0(float *out, const uint8_t *block) // scale, fifth bits, nibbles
{
    float scale = half_at(block);
    for (int i = 0; i < SMALL; i++) {
        out[i] = (float)((nibble(block + 6, i) | fifth_bit(block + 2, i)) - 16) * scale;
    }
}

static void widen_q5_1(float *out, const uint8_t *block) // scale, minimum, fifth bits, nibbles
{
    float scale = half_at(block), minimum = half_at(block + 2);
    for (int i = 0; i < SMALL; i++) {
        out[i] = (float)(nibble(block + 8, i) | fifth_bit(block + 4, i)) * scale + minimum;
    }
}

static void widen_q8_0(float *out, const uint8_t *block) // scale, signed bytes
{
    float scale = half_at(block);
    for (int i = 0; i < SMALL; i++) {
        out[i] = (float)(int8_t)block[2 + i] * scale;
    }
}

// The 6-bit scale and minimum of group `j` of 8: the first four groups' low bits stand in bytes
// 0-7, the others' in the nibbles of bytes 8-11 with their upper bits above the first ones'.
static void scale_and_minimum(int *scale, int *minimum, const uint8_t *packed, int j)
{
    if (j < 4) {
        *scale = packed[j] & 63;
        *minimum = packed[j + 4] & 63;
    } else {
        *scale = (packed[j + 4] & 15) | packed[j - 4] >> 6 << 4;
        *minimum = packed[j + 4] >> 4 | packed[j] >> 6 << 4;
    }
}

// Q4_K and Q5_K: scale, scale of the minimums, 12 bytes of group scales, [32 bytes of fifth bits,]
// nibbles. Groups 2k and 2k+1 are the low and high nibbles of the same 32 bytes.
static void widen_groups(float *out, const uint8_t *block, const uint8_t *fifth,
                         const uint8_t *nibbles)
{
    float scale = half_at(block), scale_of_minimums = half_at(block + 2);
    for (int j = 0; j < SUPER / SMALL; j++) {
        int group_scale = 0, group_minimum = 0;
        scale_and_minimum(&group_scale, &group_minimum, block + 4, j);
        float d = scale * (float)group_scale, m = scale_of_minimums * (float)group_minimum;
        for (int i = 0; i < SMALL; i++) {
            int q = nibbles[j / 2 * SMALL + i] >> (j % 2 * 4) & 15;
            q |= fifth == NULL ? 0 : (fifth[i] >> j & 1) << 4;
            out[j * SMALL + i] = d * (float)q - m;
        }
    }
}

static void widen_q4_k(float *out, const uint8_t *block)
{
    widen_groups(out, block, NULL, block + 16);
}

static void widen_q5_k(float *out, const uint8_t *block)
{
    widen_groups(out, block, block + 16, block + 48);
}

// Q6_K: 128 bytes of nibbles, 64 of upper bit pairs, 16 signed group scales, scale. Each half of
// the block is four runs of 32: run r has nibbles of bytes 32·(r mod 2).. , low for r < 2, and bit
// pair r.
static void widen_q6_k(float *out, const uint8_t *block)
{
    float scale = half_at(block + 208);
    for (int i = 0; i < SUPER; i++) {
        int half = i / 128, run = i % 128 / SMALL, at = i % SMALL;
        int low = block[half * 64 + run % 2 * SMALL + at] >> (run / 2 * 4) & 15;
        int high = block[128 + half * SMALL + at] >> (run * 2) & 3;
        float d = scale * (float)(int8_t)block[192 + i / 16];
        out[i] = d * (float)((low | high << 4) - 32);
    }
}

static const struct gguf_format formats[] = {
    {"F32", 0, 1, 4, widen_f32},          {"F16", 1, 1, 2, widen_f16},
    {"Q4_0", 2, SMALL, 18, widen_q4_0},   {"Q4_1", 3, SMALL, 20, widen_q4_1},
    {"Q5_0", 6, SMALL, 22, widen_q5_0},   {"Q5_1", 7, SMALL, 24, widen_q5_1},
    {"Q8_0", 8, SMALL, 34, widen_q8_0},   {"Q4_K", 12, SUPER, 144, widen_q4_k},
    {"Q5_K", 13, SUPER, 176, widen_q5_k}, {"Q6_K", 14, SUPER, 210, widen_q6_k},
    {"BF16", 30, 1, 2, widen_bf16},
};

const struct gguf_format *gguf_format_of(uint32_t number)
{
    for (size_t i = 0; i < sizeof(formats) / sizeof(*formats); i++) {
        if (formats[i].number == number) {
            return &formats[i];
        }
    }
    return NULL;
}

const char *gguf_format_name(uint32_t number)
{
    static const char *const names[] = {
        "F32",      "F16",      "Q4_0",    "Q4_1",  "Q4_2",   "Q4_3",  "Q5_0",  "Q5_1",
        "Q8_0",     "Q8_1",     "Q2_K",    "Q3_K",  "Q4_K",   "Q5_K",  "Q6_K",  "Q8_K",
        "IQ2_XXS",  "IQ2_XS",   "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS",
        "I8",       "I16",      "I32",     "I64",   "F64",    "IQ1_M", "BF16",  "Q4_0_4_4",
        "Q4_0_4_8", "Q4_0_8_8", "TQ1_0",   "TQ2_0"};
    return number < sizeof(names) / sizeof(*names) ? names[number] : "unknown";
}

void gguf_widen(float *out, const struct gguf_format *format, const void *blocks, int64_t count)
{
    const uint8_t *block = blocks;
    CHECK(count % format->elements == 0);
    for (int64_t i = 0; i < count; i += format->elements) {
        format->widen(out + i, block);
        block += format->bytes;
    }
}
