// Any frame decodes to an envelope or is refused with a reason; a decoded envelope encodes to bytes
// that decode to the same.
#include "common/wire/codec.h"
#include "common/base/check.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct zframe copy_of(struct zframe frame)
{
    void *data = malloc(frame.size + 1);
    CHECK(data != NULL);
    memcpy(data, frame.data, frame.size);
    return (struct zframe){.data = data, .size = frame.size};
}

static void check_round(const Kelvin__Envelope *envelope)
{
    static struct codec *second;
    struct error err = {0};
    struct zframe packed;
    struct zframe again;
    const Kelvin__Envelope *back = NULL;
    CHECK(second != NULL || codec_create(&second, &err) == 0);
    CHECK(codec_encode(second, &packed, envelope, &err) == 0);
    union {
        const void *in;
        void *out;
    } cast;
    struct zframe first = copy_of(packed);
    CHECK(codec_decode(second, &back, first, &err) == 0);
    CHECK(back->body_case == envelope->body_case);
    CHECK(codec_encode(second, &again, back, &err) == 0);
    CHECK(again.size == first.size && memcmp(again.data, first.data, first.size) == 0);
    cast.in = first.data;
    free(cast.out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct codec *codec;
    struct error err = {0};
    const Kelvin__Envelope *envelope = NULL;
    CHECK(codec != NULL || codec_create(&codec, &err) == 0);
    if (codec_decode(codec, &envelope, (struct zframe){.data = data, .size = size}, &err) < 0) {
        CHECK(err.text[0] != '\0');
        return 0;
    }
    check_round(envelope);
    return 0;
}
