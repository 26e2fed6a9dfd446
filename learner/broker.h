// broker.h: leases and credits of one kind of worker: pure bookkeeping, told what happened and what
// time it is.
//
// A lease waits until a peer (a worker as the learner sees it) has credit, is leased to it, and
// ends when all its samples have come. It returns to the head of the queue when its peer is lost or
// leaves, when it outlives its deadline, or when the caller sends it back. The id of a lease holds
// the number of its slot, so a result finds its lease at once and an old id finds nothing.
#ifndef LEARNER_BROKER_H
#define LEARNER_BROKER_H

#include "common/base/error.h"
#include "common/base/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PEER_TEXT_MAX = 128, PEER_IDENTITY_MAX = 255 };

struct lease {
    uint64_t id;          // 0: the slot is free
    int32_t samples;      // results it wants, and credits it takes
    int32_t missing;      // results that have not come
    uint64_t *seen;       // [samples/64 + 1] bits
    void *request;        // the caller's, freed by the caller in `release`
    int role;             // the caller's
    void (*answer)(void); // the caller's callback, cast back by it
    void *context;
    uint64_t tag;
    int32_t failures;   // answers sent back (broker_retry)
    int32_t returns;    // times that it came back from a lost peer or past its deadline
    struct peer *peer;  // holder; NULL while it waits
    struct peer *avoid; // failed it last
    uint64_t deadline_ms;
    struct lease *prev, *next; // in the queue, or among the leased ones by deadline
};

struct peer {
    char name[PEER_TEXT_MAX];
    char host[PEER_TEXT_MAX];
    char engine[PEER_TEXT_MAX];
    uint8_t identity[PEER_IDENTITY_MAX]; // its address at the socket
    size_t identity_size;
    int32_t capacity; // credits
    int32_t leased;   // credits in use
    bool draining;    // gets no more work
    uint64_t heard_ms;
    uint64_t told_ms;                   // actors: when it was last told of the newest weights
    uint64_t version, tokens, requests; // as its heartbeats say
    double busy;
    struct peer *next;
};

struct broker_counts {
    int32_t peers, waiting, leased;
    uint64_t results, late, returned, failed, lost;
};

struct broker_events {
    void *context;
    // send gives a lease to a peer: 0; -EHOSTUNREACH when the peer is gone, which lets it go;
    // another error, such as -EAGAIN for a full pipe, lets the lease wait on.
    int (*send)(void *context, const struct peer *peer, const struct lease *lease);
    // give_up is called once for a lease that failed too often; it ends afterwards.
    void (*give_up)(void *context, struct lease *lease);
    // release is called as a lease ends, for its request.
    void (*release)(void *context, struct lease *lease);
    // left is called before a peer is forgotten.
    void (*left)(void *context, const struct peer *peer, const char *why);
};

struct broker;

int broker_create(struct broker **out, int32_t leases_max, uint32_t lease_ms,
                  const struct broker_events *events, struct error *err);
void broker_destroy(struct broker *broker); // releases all leases; NULL is allowed

// broker_submit puts a request in the queue: NULL when leases_max are open. The caller fills
// request, answer, context and tag, and then calls broker_match.
struct lease *broker_submit(struct broker *broker, int32_t samples);

// broker_match leases what waits to peers that have credit.
void broker_match(struct broker *broker, uint64_t now_ms);

// broker_result finds the lease that a result belongs to and notes it: NULL when it came late or
// twice. When its last result is in, the caller ends it with broker_end, after it has used it.
struct lease *broker_result(struct broker *broker, uint64_t id, int32_t sample);
void broker_end(struct broker *broker, struct lease *lease);

// broker_find finds an open lease without noting a result.
struct lease *broker_find(const struct broker *broker, uint64_t id);

// broker_retry sends a leased or waiting lease to another peer, or gives it up after
// LEASE_ATTEMPTS_MAX tries.
void broker_retry(struct broker *broker, struct lease *lease);

// broker_join adds a peer, or takes one of the same name as new: what it held goes back. NULL when
// WORKERS_MAX are there.
struct peer *broker_join(struct broker *broker, const struct peer *peer, uint64_t now_ms);
struct peer *broker_peer(const struct broker *broker, const char *name);
void broker_leave(struct broker *broker, struct peer *peer, const char *why);

// broker_tick lets silent peers go and takes overdue leases back.
void broker_tick(struct broker *broker, uint64_t now_ms);

const struct peer *broker_peers(const struct broker *broker); // linked by `next`
struct peer *broker_first(struct broker *broker);             // the same, to change
struct broker_counts broker_counts(const struct broker *broker);

#endif
