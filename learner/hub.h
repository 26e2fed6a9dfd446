// hub.h: the learner's end of the star. Workers connect to it, say what they can do, get work by
// credit and return results; it knows who lives, who holds which lease, and gives each result to
// the part that asked, once.
//
// A lease is one request with an id, a deadline and an owner. It waits in a bounded queue until a
// worker of its kind has credit, and goes back to the head of the queue when the worker dies
// (silent for HEARTBEAT_LOST_MS), says goodbye, or lets the deadline pass. The first result counts;
// late and repeated ones are acknowledged and dropped. A request that failed at LEASE_ATTEMPTS_MAX
// workers is answered by the hub itself: a verdict `infrastructure`, or a rollout REJECTED whose
// lease is 0. A prompt that an actor rejects is answered so for all its samples. Every accepted
// request is therefore answered exactly once, or the hub is closed.
//
// Everything happens on the loop's thread.
#ifndef LEARNER_HUB_H
#define LEARNER_HUB_H

#include "common/base/error.h"
#include "common/base/limits.h"

#include "proto/envelope.pb-c.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct hub;

struct hub_config {
    const char *endpoint; // where workers connect; borrowed for the call
    const char *style;    // prompt style of the run, said to each worker
    uint64_t incarnation; // of this learner: results under another one are dropped
    uint32_t lease_ms;    // a lease returns to the queue after so long
    int32_t requests_max; // of each kind, waiting or leased; then -EAGAIN
};

// hub_create opens the socket on `loop` and begins to answer workers. -EADDRINUSE and its like name
// the endpoint. hub_close says goodbye to nobody (see hub_drain), drops all leases without calling
// back and frees the hub on a later turn of the loop; NULL is allowed.
int hub_create(struct hub **out, uv_loop_t *loop, void *zmq, const struct hub_config *config,
               struct error *err);
void hub_close(struct hub *hub);

// The verdict or rollout is valid during the call only. `context` and `tag` are the asker's. A
// callback may ask the hub for more work.
typedef void hub_verdict_fn(void *context, uint64_t tag, const Kelvin__Verdict *verdict);
typedef void hub_rollout_fn(void *context, uint64_t tag, const Kelvin__Rollout *rollout);

// hub_verify asks the verifier pool. The request is copied; its id is chosen by the hub. The
// callback comes on a later turn, once. -EAGAIN: requests_max are open, ask again after a callback.
int hub_verify(struct hub *hub, const Kelvin__VerifyRequest *request, hub_verdict_fn *verdict_fn,
               void *context, uint64_t tag);

// hub_rollout asks the actors for prompt->samples rollouts; the callback comes once per sample, in
// any order. The prompt is copied; its lease is chosen by the hub.
int hub_rollout(struct hub *hub, const Kelvin__Prompt *prompt, hub_rollout_fn *rollout_fn,
                void *context, uint64_t tag);

// hub_announce tells every actor, and each that joins later, of the newest weights. The manifest is
// copied. Its version is what Welcome says.
void hub_announce(struct hub *hub, const Kelvin__WeightsManifest *manifest);

// hub_drain tells all workers to finish what they have and go; those that join later are told so
// too.
void hub_drain(struct hub *hub, const char *reason);

// What the metrics and the dashboard show of one kind of worker.
struct hub_stats {
    int32_t workers;      // alive
    int32_t capacity;     // credits of the living
    int32_t waiting;      // requests (actors: samples) not yet leased
    int32_t leased;       // credits in use
    uint64_t results;     // that counted
    uint64_t late;        // that came late or twice and were dropped
    uint64_t returned;    // leases that went back: death, goodbye, deadline
    uint64_t failed;      // requests that the hub gave up
    uint64_t lost;        // workers that fell silent
    uint64_t tokens;      // actors: sampled, as the living report it
    double busy;          // mean of the living
    uint64_t version_min; // actors: oldest weights in use; 0 without actors
};
struct hub_stats hub_stats(const struct hub *hub, Kelvin__WorkerKind kind);

// hub_workers calls `each` for every living worker.
struct hub_worker_info {
    const char *name;
    const char *host;
    const char *engine;
    Kelvin__WorkerKind kind;
    int32_t capacity;
    int32_t leased;
    uint64_t version;
    uint64_t tokens;
    uint64_t requests;
    double busy;
    uint64_t silent_ms; // since it was last heard
};
void hub_workers(const struct hub *hub,
                 void (*each)(void *context, const struct hub_worker_info *info), void *context);

#endif
