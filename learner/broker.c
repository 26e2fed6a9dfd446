#include "learner/broker.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

// A peer is chosen among so many, so that thousands of them do not make a lease slow.
enum { PEERS_TRIED = 64 };

struct lease_list {
    struct lease *first, *last;
};

struct broker {
    struct lease *leases; // [leases_max]
    int32_t leases_max;
    int32_t *free_slots; // a stack
    int32_t free_count;
    uint64_t generation; // of the next id
    uint32_t lease_ms;
    struct lease_list queue;  // waiting, next first
    struct lease_list leased; // by deadline: all leases last equally long
    struct peer *peers;
    struct peer *turn; // where the next choice begins
    struct broker_counts counts;
    struct broker_events events;
};

static void list_remove(struct lease_list *list, struct lease *lease)
{
    *(lease->prev != NULL ? &lease->prev->next : &list->first) = lease->next;
    *(lease->next != NULL ? &lease->next->prev : &list->last) = lease->prev;
    lease->prev = lease->next = NULL;
}

static void list_append(struct lease_list *list, struct lease *lease)
{
    lease->prev = list->last;
    lease->next = NULL;
    *(list->last != NULL ? &list->last->next : &list->first) = lease;
    list->last = lease;
}

static void list_prepend(struct lease_list *list, struct lease *lease)
{
    lease->next = list->first;
    lease->prev = NULL;
    *(list->first != NULL ? &list->first->prev : &list->last) = lease;
    list->first = lease;
}

int broker_create(struct broker **out, int32_t leases_max, uint32_t lease_ms,
                  const struct broker_events *events, struct error *err)
{
    CHECK(leases_max > 0);
    CLEANUP(freep) struct broker *broker = calloc(1, sizeof(*broker));
    if (broker == NULL) {
        return error_set(err, -ENOMEM, "broker: out of memory");
    }
    broker->leases = calloc((size_t)leases_max, sizeof(*broker->leases));
    broker->free_slots = calloc((size_t)leases_max, sizeof(*broker->free_slots));
    if (broker->leases == NULL || broker->free_slots == NULL) {
        free(broker->leases);
        free(broker->free_slots);
        return error_set(err, -ENOMEM, "broker: no memory for %d leases", leases_max);
    }
    for (int32_t i = 0; i < leases_max; i++) {
        broker->free_slots[i] = leases_max - 1 - i;
    }
    broker->free_count = leases_max;
    broker->leases_max = leases_max;
    broker->generation = 1;
    broker->lease_ms = lease_ms;
    broker->events = *events;
    *out = TAKE(broker);
    return 0;
}

struct lease *broker_submit(struct broker *broker, int32_t samples)
{
    CHECK(samples > 0);
    if (broker->free_count == 0) {
        return NULL;
    }
    uint64_t *seen = calloc((size_t)samples / 64 + 1, sizeof(*seen));
    CHECK(seen != NULL);
    int32_t slot = broker->free_slots[--broker->free_count];
    struct lease *lease = &broker->leases[slot];
    *lease = (struct lease){
        .id = broker->generation++ * (uint64_t)broker->leases_max + (uint64_t)slot,
        .samples = samples,
        .missing = samples,
        .seen = seen,
    };
    list_append(&broker->queue, lease);
    broker->counts.waiting += samples;
    return lease;
}

struct lease *broker_find(const struct broker *broker, uint64_t id)
{
    struct lease *lease = &broker->leases[id % (uint64_t)broker->leases_max];
    return id != 0 && lease->id == id ? lease : NULL;
}

// Takes a lease out of the queue or from its peer.
static void detach(struct broker *broker, struct lease *lease)
{
    if (lease->peer == NULL) {
        list_remove(&broker->queue, lease);
        broker->counts.waiting -= lease->samples;
        return;
    }
    list_remove(&broker->leased, lease);
    lease->peer->leased -= lease->samples;
    broker->counts.leased -= lease->samples;
    lease->peer = NULL;
}

void broker_end(struct broker *broker, struct lease *lease)
{
    detach(broker, lease);
    broker->events.release(broker->events.context, lease);
    free(lease->seen);
    broker->free_slots[broker->free_count++] = (int32_t)(lease - broker->leases);
    *lease = (struct lease){0};
}

struct lease *broker_result(struct broker *broker, uint64_t id, int32_t sample)
{
    struct lease *lease = broker_find(broker, id);
    if (lease == NULL || sample < 0 || sample >= lease->samples) {
        broker->counts.late++;
        return NULL;
    }
    uint64_t bit = 1ULL << (sample % 64);
    if ((lease->seen[sample / 64] & bit) != 0) {
        broker->counts.late++;
        return NULL;
    }
    lease->seen[sample / 64] |= bit;
    lease->missing--;
    broker->counts.results++;
    return lease;
}

static void give_up(struct broker *broker, struct lease *lease)
{
    broker->counts.failed++;
    broker->events.give_up(broker->events.context, lease);
    broker_end(broker, lease);
}

static void requeue(struct broker *broker, struct lease *lease)
{
    detach(broker, lease);
    list_prepend(&broker->queue, lease);
    broker->counts.waiting += lease->samples;
}

// A lease comes back through no fault that we know of; a request that is fatal for every peer must
// still come to an end.
static void take_back(struct broker *broker, struct lease *lease)
{
    broker->counts.returned++;
    lease->avoid = lease->peer;
    if (++lease->returns >= LEASE_RETURNS_MAX) {
        give_up(broker, lease);
        return;
    }
    requeue(broker, lease);
}

void broker_retry(struct broker *broker, struct lease *lease)
{
    lease->avoid = lease->peer;
    if (++lease->failures >= LEASE_ATTEMPTS_MAX) {
        give_up(broker, lease);
        return;
    }
    requeue(broker, lease);
}

struct peer *broker_peer(const struct broker *broker, const char *name)
{
    struct peer *peer = broker->peers;
    while (peer != NULL && strcmp(peer->name, name) != 0) {
        peer = peer->next;
    }
    return peer;
}

// Leases of a peer in reverse order of leasing, so that the oldest ends at the head of the queue.
static void take_all_back(struct broker *broker, const struct peer *peer)
{
    struct lease *lease = broker->leased.last;
    while (lease != NULL) {
        struct lease *before = lease->prev;
        if (lease->peer == peer) {
            take_back(broker, lease);
        }
        lease = before;
    }
}

void broker_leave(struct broker *broker, struct peer *peer, const char *why)
{
    take_all_back(broker, peer);
    for (int32_t i = 0; i < broker->leases_max; i++) {
        if (broker->leases[i].avoid == peer) {
            broker->leases[i].avoid = NULL;
        }
    }
    broker->events.left(broker->events.context, peer, why);
    struct peer **link = &broker->peers;
    while (*link != peer) {
        link = &(*link)->next;
    }
    *link = peer->next;
    if (broker->turn == peer) {
        broker->turn = peer->next;
    }
    broker->counts.peers--;
    free(peer);
}

struct peer *broker_join(struct broker *broker, const struct peer *peer, uint64_t now_ms)
{
    struct peer *old = broker_peer(broker, peer->name);
    if (old != NULL) {
        broker_leave(broker, old, "began anew");
    }
    if (broker->counts.peers >= WORKERS_MAX) {
        return NULL;
    }
    struct peer *joined = malloc(sizeof(*joined));
    CHECK(joined != NULL);
    *joined = *peer;
    joined->leased = 0;
    joined->heard_ms = now_ms;
    joined->next = broker->peers;
    broker->peers = joined;
    broker->counts.peers++;
    return joined;
}

// The share of its credits that a peer would have in use; above 1 when the lease does not fit. A
// lease larger than all its credits goes to a peer that holds nothing else.
static double load_with(const struct peer *peer, const struct lease *lease)
{
    if (peer->draining || (peer->leased > 0 && peer->leased + lease->samples > peer->capacity)) {
        return 2.0;
    }
    return (double)peer->leased / (double)peer->capacity;
}

// The least loaded of the next peers in turn, or NULL. The peer that failed the lease is the last
// choice.
static struct peer *choose(struct broker *broker, const struct lease *lease)
{
    struct peer *best = NULL;
    double least = 2.0;
    struct peer *peer = broker->turn;
    int32_t tried = broker->counts.peers < PEERS_TRIED ? broker->counts.peers : PEERS_TRIED;
    for (int32_t i = 0; i < tried || (best == NULL && i < broker->counts.peers); i++) {
        peer = peer == NULL ? broker->peers : peer;
        double load = load_with(peer, lease);
        if (peer == lease->avoid && load < 2.0) {
            load = 1.5;
        }
        if (load < least) {
            best = peer;
            least = load;
        }
        peer = peer->next;
    }
    broker->turn = best == NULL ? broker->turn : best->next;
    return best;
}

void broker_match(struct broker *broker, uint64_t now_ms)
{
    struct lease *lease = broker->queue.first;
    while (lease != NULL) {
        struct peer *peer = choose(broker, lease);
        int code =
            peer == NULL ? -EAGAIN : broker->events.send(broker->events.context, peer, lease);
        if (code == -EHOSTUNREACH) {
            broker_leave(broker, peer, "is gone");
            lease = broker->queue.first; // what it held may stand before
            continue;
        }
        if (code < 0) {
            return; // in order: a large request is not overtaken for ever by small ones
        }
        struct lease *next = lease->next;
        list_remove(&broker->queue, lease);
        broker->counts.waiting -= lease->samples;
        lease->peer = peer;
        lease->deadline_ms = now_ms + broker->lease_ms;
        list_append(&broker->leased, lease);
        peer->leased += lease->samples;
        broker->counts.leased += lease->samples;
        lease = next;
    }
}

void broker_tick(struct broker *broker, uint64_t now_ms)
{
    struct peer *peer = broker->peers;
    while (peer != NULL) {
        struct peer *next = peer->next;
        if (now_ms - peer->heard_ms > HEARTBEAT_LOST_MS) {
            broker->counts.lost++;
            broker_leave(broker, peer, "fell silent");
        }
        peer = next;
    }
    while (broker->leased.first != NULL && broker->leased.first->deadline_ms <= now_ms) {
        take_back(broker, broker->leased.first);
    }
}

const struct peer *broker_peers(const struct broker *broker)
{
    return broker->peers;
}

struct peer *broker_first(struct broker *broker)
{
    return broker->peers;
}

struct broker_counts broker_counts(const struct broker *broker)
{
    return broker->counts;
}

void broker_destroy(struct broker *broker)
{
    if (broker == NULL) {
        return;
    }
    for (int32_t i = 0; i < broker->leases_max; i++) {
        if (broker->leases[i].id != 0) {
            broker->events.release(broker->events.context, &broker->leases[i]);
            free(broker->leases[i].seen);
        }
    }
    while (broker->peers != NULL) {
        struct peer *peer = broker->peers;
        broker->peers = peer->next;
        free(peer);
    }
    free(broker->leases);
    free(broker->free_slots);
    free(broker);
}
