// codec.h: Envelope ↔ bytes. Foreign bytes are checked here and trusted afterwards.
//
// A decoded envelope has PROTOCOL_VERSION, a body, valid UTF-8 without NUL in every string, known
// fields and enum values, finite numbers, and every text and list within the limits of limits.h.
// Inside a body these hold too:
//   - a Prompt to solve, or to propose induction, has a task; so has each list no NULL items;
//   - a Rollout has as many logprobs as tokens, and its version runs add up to them;
//   - a Task has no more outputs than inputs;
//   - a WeightsManifest is whole: chunks cover `size`, tensors and files lie inside it, hashes have
//     WEIGHTS_HASH_BYTES bytes.
// Message fields of other bodies that were not sent are NULL.
//
// One codec serves one thread. It owns a message arena, which is also the limit of what foreign
// bytes can make us allocate, and a buffer for packing.
#ifndef COMMON_WIRE_CODEC_H
#define COMMON_WIRE_CODEC_H

#include "common/base/cleanup.h"
#include "common/base/error.h"
#include "common/wire/zsock.h"

#include "proto/envelope.pb-c.h"

#include <stddef.h>

enum { PROTOCOL_VERSION = 1, WEIGHTS_HASH_BYTES = 32 };

struct codec;

int codec_create(struct codec **out, struct error *err);
void codec_destroy(struct codec *codec); // NULL is allowed
CLEANUP_FUNCTION(struct codec, codec_destroy)

// codec_decode reads one envelope into the arena; *out is valid until the next codec_decode.
// -EPROTONOSUPPORT for another protocol version, -EMSGSIZE when too large, -EBADMSG otherwise.
int codec_decode(struct codec *codec, const Kelvin__Envelope **out, struct zframe frame,
                 struct error *err);

// codec_encode packs an envelope; *out is valid until the next codec_encode. `protocol` is filled
// in. What codec_decode would refuse is refused here, with the same errors.
int codec_encode(struct codec *codec, struct zframe *out, const Kelvin__Envelope *envelope,
                 struct error *err);

// codec_check says whether an envelope is what codec_decode promises above.
int codec_check(const Kelvin__Envelope *envelope, struct error *err);

// codec_body_name is the name of an envelope's body in the log: "rollout", "hello", ...
const char *codec_body_name(Kelvin__Envelope__BodyCase body);

#endif
