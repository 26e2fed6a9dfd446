#include "common/wire/outbox.h"

#include "common/base/limits.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct outbox_item {
    struct outbox_item *next;
    uint64_t lease;
    uint32_t sample;
    bool wants_ack;
    bool sent;
    uint64_t sent_ms;
    size_t size;
    char bytes[];
};

int outbox_push(struct outbox *outbox, struct zframe packed, bool wants_ack, uint64_t lease,
                uint32_t sample, struct error *err)
{
    if (outbox->count == OUTBOX_MAX) {
        return error_set(err, -ENOBUFS, "%d results wait for the learner; this one is dropped",
                         OUTBOX_MAX);
    }
    struct outbox_item *item = calloc(1, sizeof(*item) + packed.size);
    if (item == NULL) {
        return error_set(err, -ENOMEM, "no memory for a result of %zu bytes", packed.size);
    }
    item->lease = lease;
    item->sample = sample;
    item->wants_ack = wants_ack;
    item->size = packed.size;
    memcpy(item->bytes, packed.data, packed.size);
    if (outbox->last == NULL) {
        outbox->first = item;
    } else {
        outbox->last->next = item;
    }
    outbox->last = item;
    outbox->count++;
    return 0;
}

// remove_after takes the item that follows `before` (NULL: the first) out and frees it.
static void remove_after(struct outbox *outbox, struct outbox_item *before)
{
    struct outbox_item **link = before == NULL ? &outbox->first : &before->next;
    struct outbox_item *item = *link;
    *link = item->next;
    if (outbox->last == item) {
        outbox->last = before;
    }
    outbox->count--;
    free(item);
}

void outbox_flush(struct outbox *outbox, struct zsock *sock, uint64_t now_ms)
{
    struct outbox_item *before = NULL;
    struct outbox_item *item = outbox->first;
    while (item != NULL) {
        struct outbox_item *next = item->next;
        if (!item->sent || now_ms - item->sent_ms >= ACK_LOST_MS) {
            struct zframes frames = {.body = {item->bytes, item->size}};
            if (zsock_send(sock, &frames) < 0) {
                return; // the next flush goes on here
            }
            item->sent = true;
            item->sent_ms = now_ms;
        }
        if (item->wants_ack) {
            before = item;
        } else {
            remove_after(outbox, before);
        }
        item = next;
    }
}

void outbox_resend(struct outbox *outbox)
{
    for (struct outbox_item *item = outbox->first; item != NULL; item = item->next) {
        item->sent = false;
    }
}

void outbox_ack(struct outbox *outbox, uint64_t lease, uint32_t sample)
{
    // The learner answers in the order it reads, so the item is found near the front.
    struct outbox_item *before = NULL;
    for (struct outbox_item *item = outbox->first; item != NULL; item = item->next) {
        if (item->lease == lease && item->sample == sample) {
            remove_after(outbox, before);
            return;
        }
        before = item;
    }
}

void outbox_clear(struct outbox *outbox)
{
    while (outbox->first != NULL) {
        remove_after(outbox, NULL);
    }
}
