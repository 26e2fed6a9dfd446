// worker.h: a worker's end of the star around the learner, the same for actors and verifiers.
//
// It says Hello until a learner answers, sends heartbeats, hands work to the callbacks and results
// to the learner. When the learner falls silent for HEARTBEAT_LOST_MS, answers `rejoin` or is a new
// one (another incarnation), the worker connects and says Hello again; on_forget then says that
// the leases of before are void. A rollout is kept until the learner has acknowledged it: it is
// sent again after a rejoin with the same learner, and after ACK_LOST_MS without an answer.
//
// Everything happens on the loop's thread. What a callback is given is valid during the call only.
// A callback may call any function here, worker_close included.
#ifndef COMMON_WIRE_WORKER_H
#define COMMON_WIRE_WORKER_H

#include "common/base/error.h"

#include "proto/envelope.pb-c.h"

#include <stdint.h>
#include <uv.h>

struct worker;

struct worker_events {
    void *context;
    // on_welcome: a learner has taken this worker; comes at each (re)join, after on_forget.
    void (*on_welcome)(void *context, const Kelvin__Welcome *welcome);
    // on_forget: drop all work leased so far; answers to it are not wanted.
    void (*on_forget)(void *context);
    // Work: an actor gets prompts, a verifier requests. NULL where the kind gets none.
    void (*on_prompt)(void *context, const Kelvin__Prompt *prompt);
    void (*on_request)(void *context, const Kelvin__VerifyRequest *request);
    void (*on_manifest)(void *context, const Kelvin__WeightsManifest *manifest);
    // on_drain: finish what you have, take no more, then call worker_leave.
    void (*on_drain)(void *context, const char *reason);
    // on_beat fills in what this worker says of itself, before each heartbeat.
    void (*on_beat)(void *context, Kelvin__Heartbeat *beat);
    // on_end is the last call: 0 after worker_leave; otherwise nobody answered (-ETIMEDOUT) or the
    // learner refused this worker (-EPERM, -EPROTONOSUPPORT), and `sentence` says so for a person.
    // The owner then calls worker_close.
    void (*on_end)(void *context, int code, const char *sentence);
};

struct worker_config {
    const char *endpoint; // the learner's control socket
    Kelvin__WorkerKind kind;
    uint32_t capacity;           // credits at most, as in Hello
    const char *engine;          // as in Hello
    uint32_t connect_timeout_ms; // without a learner for so long the worker ends
};

// worker_create connects and begins to say Hello. The strings of `config` are copied. -EINVAL and
// its like name an endpoint that cannot work.
int worker_create(struct worker **out, uv_loop_t *loop, void *zmq,
                  const struct worker_config *config, const struct worker_events *events,
                  struct error *err);

// worker_send_rollout and worker_send_verdict hand a result over; it is copied. While no learner is
// there it waits. -ENOBUFS when OUTBOX_MAX results wait: the lease will run out. Errors of
// codec_encode when it is not a message that a learner would accept.
int worker_send_rollout(struct worker *worker, const Kelvin__Rollout *rollout, struct error *err);
int worker_send_verdict(struct worker *worker, const Kelvin__Verdict *verdict, struct error *err);

// worker_leave says goodbye once every result is acknowledged (for at most LEAVE_MS) and then calls
// on_end. Leases that are still held go back to the learner's queue.
void worker_leave(struct worker *worker, const char *reason);

// worker_close ends at once, without a goodbye or a further call. Frees on a later turn of the
// loop; NULL is allowed.
void worker_close(struct worker *worker);

// worker_name is the name said in Hello: host-pid-random.
const char *worker_name(const struct worker *worker);

#endif
