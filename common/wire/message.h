// message.h: messages of protobuf-c that are kept beyond the codec's next one.
#ifndef COMMON_WIRE_MESSAGE_H
#define COMMON_WIRE_MESSAGE_H

#include <protobuf-c/protobuf-c.h>

// message_copy is a deep copy, field by field as the message's descriptor says, without the fields
// that the descriptor does not know (the codec lets none in). The caller frees it with
// message_free. A host without memory for it ends the process.
void *message_copy(const ProtobufCMessage *message);

// message_free frees a copy or what protobuf-c unpacked without an allocator; NULL is allowed.
void message_free(void *message);

#endif
