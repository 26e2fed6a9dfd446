#include "common/wire/outbox.h"

#include "common/base/limits.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct outbox_item {
    struct outbox_item *prev, *next;
    uint64_t lease;
    uint32_t sample;
    bool wants_ack;
    uint64_t sent_ms;
    size_t size;
    char bytes[];
};

// Puts an item before another one (NULL: at the end).
static void insert(struct outbox *outbox, struct outbox_item *item, struct outbox_item *next)
{
    item->next = next;
    item->prev = next == NULL ? outbox->last : next->prev;
    *(item->prev == NULL ? &outbox->first : &item->prev->next) = item;
    *(next == NULL ? &outbox->last : &next->prev) = item;
}

static void take_out(struct outbox *outbox, struct outbox_item *item)
{
    outbox->unsent = outbox->unsent == item ? item->next : outbox->unsent;
    *(item->prev == NULL ? &outbox->first : &item->prev->next) = item->next;
    *(item->next == NULL ? &outbox->last : &item->next->prev) = item->prev;
}

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
    insert(outbox, item, NULL);
    outbox->unsent = outbox->unsent == NULL ? item : outbox->unsent;
    outbox->count++;
    return 0;
}

static void drop(struct outbox *outbox, struct outbox_item *item)
{
    take_out(outbox, item);
    outbox->count--;
    free(item);
}

static int send_item(const struct outbox_item *item, struct zsock *sock)
{
    struct zframes frames = {.body = {item->bytes, item->size}};
    return zsock_send(sock, &frames);
}

void outbox_flush(struct outbox *outbox, struct zsock *sock, uint64_t now_ms)
{
    while (outbox->first != outbox->unsent && now_ms - outbox->first->sent_ms >= ACK_LOST_MS) {
        struct outbox_item *item = outbox->first;
        if (send_item(item, sock) < 0) {
            return; // the next flush goes on here
        }
        item->sent_ms = now_ms;
        take_out(outbox, item);
        insert(outbox, item, outbox->unsent);
    }
    while (outbox->unsent != NULL) {
        struct outbox_item *item = outbox->unsent;
        if (send_item(item, sock) < 0) {
            return;
        }
        item->sent_ms = now_ms;
        outbox->unsent = item->next;
        if (!item->wants_ack) {
            drop(outbox, item);
        }
    }
}

void outbox_resend(struct outbox *outbox)
{
    outbox->unsent = outbox->first;
}

void outbox_ack(struct outbox *outbox, uint64_t lease, uint32_t sample)
{
    // The learner answers in the order it reads, so the item is found near the front.
    for (struct outbox_item *item = outbox->first; item != NULL; item = item->next) {
        if (item->lease == lease && item->sample == sample) {
            drop(outbox, item);
            return;
        }
    }
}

void outbox_clear(struct outbox *outbox)
{
    while (outbox->first != NULL) {
        drop(outbox, outbox->first);
    }
}
