// outbox.h: results on their way to the learner: packed messages in the order they were made, each
// kept until it is sent and, where it asks for one, acknowledged.
#ifndef COMMON_WIRE_OUTBOX_H
#define COMMON_WIRE_OUTBOX_H

#include "common/wire/zsock.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct outbox_item;

// The items that were sent stand first, in the order of their sending, then the others.
struct outbox {
    struct outbox_item *first, *last;
    struct outbox_item *unsent; // the first that was not sent; NULL: all were
    size_t count;
};

// outbox_push copies a packed message. With `wants_ack` it stays until outbox_ack(lease, sample).
// -ENOBUFS when OUTBOX_MAX wait.
int outbox_push(struct outbox *outbox, struct zframe packed, bool wants_ack, uint64_t lease,
                uint32_t sample, struct error *err);

// outbox_flush sends again what was sent ACK_LOST_MS ago, and then, in order, what was not sent
// yet. It stops at the first that the socket does not take.
void outbox_flush(struct outbox *outbox, struct zsock *sock, uint64_t now_ms);

// outbox_resend makes the next flush send everything again.
void outbox_resend(struct outbox *outbox);

void outbox_ack(struct outbox *outbox, uint64_t lease, uint32_t sample);
void outbox_clear(struct outbox *outbox);

#endif
