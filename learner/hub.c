#include "learner/hub.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/wire/codec.h"
#include "common/wire/message.h"
#include "common/wire/zsock.h"
#include "learner/asker.h"
#include "learner/broker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

enum {
    WORKER_KINDS = 2,
    TICK_MS = 250,
    ANNOUNCE_AGAIN_MS = 10000, // an actor with older weights is told of the newest this often
};

struct hub {
    struct zsock *sock;
    struct codec *codec;
    uv_timer_t timer;
    struct broker *brokers[WORKER_KINDS]; // by Kelvin__WorkerKind
    char style[PEER_TEXT_MAX];
    uint64_t incarnation;
    uint64_t sequence;
    Kelvin__WeightsManifest *manifest; // newest announced; owned
    char drain_reason[PEER_TEXT_MAX];  // empty: not draining
    bool closed;
};

static const char *kind_name(Kelvin__WorkerKind kind)
{
    return kind == KELVIN__WORKER_KIND__ACTOR ? "actor" : "verifier";
}

static void copy_text(char out[PEER_TEXT_MAX], const char *text)
{
    (void)snprintf(out, PEER_TEXT_MAX, "%s", text);
}

static int send_to(struct hub *hub, const void *identity, size_t identity_size,
                   Kelvin__Envelope *envelope)
{
    envelope->sender = without_const("learner");
    envelope->sequence = hub->sequence + 1;
    envelope->incarnation = hub->incarnation;
    struct zframes frames = {.identity = {.data = identity, .size = identity_size}};
    struct error err = {0};
    int code = codec_encode(hub->codec, &frames.body, envelope, &err);
    if (code < 0) {
        log_error("hub", "cannot send %s: %s", codec_body_name(envelope->body_case), err.text);
        return code;
    }
    code = zsock_send(hub->sock, &frames);
    hub->sequence += code == 0;
    return code;
}

static int send_peer(struct hub *hub, const struct peer *peer, Kelvin__Envelope *envelope)
{
    return send_to(hub, peer->identity, peer->identity_size, envelope);
}

static int send_lease(void *context, const struct peer *peer, const struct lease *lease)
{
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    if (lease->role == KELVIN__WORKER_KIND__ACTOR) {
        envelope.body_case = KELVIN__ENVELOPE__BODY_PROMPT;
        envelope.prompt = lease->request;
    } else {
        envelope.body_case = KELVIN__ENVELOPE__BODY_VERIFY_REQUEST;
        envelope.verify_request = lease->request;
    }
    return send_peer(context, peer, &envelope);
}

static void give_up(void *context, struct lease *lease)
{
    (void)context;
    asker_give_up(lease);
}

static void release(void *context, struct lease *lease)
{
    (void)context;
    message_free(lease->request);
}

static void peer_left(void *context, const struct peer *peer, const char *why)
{
    (void)context;
    log_info("hub", "worker left: %s name=%s leased=%d", why, peer->name, peer->leased);
}

static void match(struct hub *hub)
{
    for (int kind = 0; kind < WORKER_KINDS && !hub->closed; kind++) {
        broker_match(hub->brokers[kind], clock_ms());
    }
}

static struct peer *find_peer(const struct hub *hub, const char *name)
{
    struct peer *peer = broker_peer(hub->brokers[KELVIN__WORKER_KIND__ACTOR], name);
    return peer != NULL ? peer : broker_peer(hub->brokers[KELVIN__WORKER_KIND__VERIFIER], name);
}

static bool is_actor(const struct hub *hub, const struct peer *peer)
{
    return broker_peer(hub->brokers[KELVIN__WORKER_KIND__ACTOR], peer->name) == peer;
}

static struct broker *broker_of(const struct hub *hub, const struct peer *peer)
{
    return hub
        ->brokers[is_actor(hub, peer) ? KELVIN__WORKER_KIND__ACTOR : KELVIN__WORKER_KIND__VERIFIER];
}

static void send_manifest(struct hub *hub, struct peer *peer)
{
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_WEIGHTS_MANIFEST;
    envelope.weights_manifest = hub->manifest;
    peer->told_ms = clock_ms();
    int code = send_peer(hub, peer, &envelope);
    if (code < 0) {
        log_warn("hub", "cannot announce the weights name=%s: %s", peer->name, uv_strerror(code));
    }
}

static void send_drain(struct hub *hub, const struct peer *peer)
{
    Kelvin__Drain drain = KELVIN__DRAIN__INIT;
    drain.reason = hub->drain_reason;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_DRAIN;
    envelope.drain = &drain;
    (void)send_peer(hub, peer, &envelope);
}

static void refuse(struct hub *hub, const struct zframe *identity, const char *reason, bool rejoin)
{
    char text[PEER_TEXT_MAX];
    copy_text(text, reason);
    Kelvin__Refuse body = KELVIN__REFUSE__INIT;
    body.reason = text;
    body.rejoin = rejoin;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_REFUSE;
    envelope.refuse = &body;
    (void)send_to(hub, identity->data, identity->size, &envelope);
}

static void welcome(struct hub *hub, struct peer *peer, Kelvin__WorkerKind kind)
{
    Kelvin__Welcome body = KELVIN__WELCOME__INIT;
    body.incarnation = hub->incarnation;
    body.heartbeat_ms = HEARTBEAT_MS;
    body.style = hub->style;
    body.version = hub->manifest == NULL ? 0 : hub->manifest->version;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_WELCOME;
    envelope.welcome = &body;
    (void)send_peer(hub, peer, &envelope);
    if (kind == KELVIN__WORKER_KIND__ACTOR && hub->manifest != NULL) {
        send_manifest(hub, peer);
    }
    if (hub->drain_reason[0] != '\0') {
        peer->draining = true;
        send_drain(hub, peer);
    }
}

static void on_hello(struct hub *hub, const struct zframe *identity, const Kelvin__Hello *hello)
{
    if (hello->name[0] == '\0' || strlen(hello->name) >= PEER_TEXT_MAX || hello->capacity == 0 ||
        hello->capacity > CREDITS_MAX || identity->size > PEER_IDENTITY_MAX) {
        refuse(hub, identity, "a hello has a name and a capacity", false);
        return;
    }
    struct peer peer = {.capacity = (int32_t)hello->capacity, .identity_size = identity->size};
    memcpy(peer.identity, identity->data, identity->size);
    copy_text(peer.name, hello->name);
    copy_text(peer.host, hello->host);
    copy_text(peer.engine, hello->engine);
    struct peer *joined = broker_join(hub->brokers[hello->kind], &peer, clock_ms());
    if (joined == NULL) {
        refuse(hub, identity, "the learner has all the workers that it can take", false);
        return;
    }
    log_info("hub", "worker joined kind=%s name=%s capacity=%d engine=%s", kind_name(hello->kind),
             joined->name, joined->capacity, joined->engine);
    welcome(hub, joined, hello->kind);
}

// A heartbeat is answered, so that the worker knows that its learner lives. An actor that stays
// behind has missed a manifest or given a transfer up: it is told again.
static void on_heartbeat(struct hub *hub, struct peer *peer, const Kelvin__Heartbeat *heartbeat)
{
    peer->version = heartbeat->version;
    peer->tokens = heartbeat->tokens;
    peer->requests = heartbeat->requests;
    peer->busy = heartbeat->busy;
    Kelvin__Heartbeat answer = KELVIN__HEARTBEAT__INIT;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_HEARTBEAT;
    envelope.heartbeat = &answer;
    (void)send_peer(hub, peer, &envelope);
    if (is_actor(hub, peer) && hub->manifest != NULL && peer->version != hub->manifest->version &&
        clock_ms() - peer->told_ms >= ANNOUNCE_AGAIN_MS) {
        send_manifest(hub, peer);
    }
}

// The worker closes its socket once it knows that all it sent is read.
static void on_goodbye(struct hub *hub, struct peer *peer, const char *reason)
{
    Kelvin__Goodbye answer = KELVIN__GOODBYE__INIT;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_GOODBYE;
    envelope.goodbye = &answer;
    (void)send_peer(hub, peer, &envelope);
    broker_leave(broker_of(hub, peer), peer, reason);
}

static void send_ack(struct hub *hub, const struct zframe *identity, const Kelvin__Rollout *rollout)
{
    Kelvin__RolloutAck ack = KELVIN__ROLLOUT_ACK__INIT;
    ack.lease = rollout->lease;
    ack.sample = rollout->sample;
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.body_case = KELVIN__ENVELOPE__BODY_ROLLOUT_ACK;
    envelope.rollout_ack = &ack;
    (void)send_to(hub, identity->data, identity->size, &envelope);
}

static void on_rollout(struct hub *hub, const Kelvin__Rollout *rollout)
{
    struct broker *broker = hub->brokers[KELVIN__WORKER_KIND__ACTOR];
    int32_t sample = rollout->sample < SAMPLES_MAX ? (int32_t)rollout->sample : -1;
    struct lease *lease = broker_find(broker, rollout->lease);
    if (lease != NULL && rollout->finish == KELVIN__FINISH__REJECTED) {
        log_info("hub", "an actor rejected a prompt: %s", rollout->note);
        asker_reject(lease, rollout->lease, rollout->note);
        if (!hub->closed) {
            broker_end(broker, lease);
        }
        return;
    }
    lease = broker_result(broker, rollout->lease, sample);
    if (lease == NULL) {
        return;
    }
    struct asker asker = asker_of(lease);
    if (lease->missing == 0) {
        broker_end(broker, lease);
    }
    asker_rollout(&asker, rollout);
}

static void on_verdict(struct hub *hub, const Kelvin__Verdict *verdict)
{
    struct broker *broker = hub->brokers[KELVIN__WORKER_KIND__VERIFIER];
    struct lease *lease = broker_find(broker, verdict->id);
    if (lease != NULL && verdict->outcome == KELVIN__OUTCOME__INFRASTRUCTURE) {
        log_warn("hub", "a verifier failed to check: %s", verdict->detail);
        broker_retry(broker, lease);
        return;
    }
    lease = broker_result(broker, verdict->id, 0);
    if (lease == NULL) {
        return;
    }
    struct asker asker = asker_of(lease);
    broker_end(broker, lease);
    asker_verdict(&asker, verdict);
}

// A result of a former learner's lease is acknowledged, so that its sender forgets it, and dropped.
static void on_result(struct hub *hub, const struct zframe *identity,
                      const Kelvin__Envelope *envelope)
{
    bool ours = envelope->incarnation == hub->incarnation;
    if (envelope->body_case == KELVIN__ENVELOPE__BODY_ROLLOUT) {
        send_ack(hub, identity, envelope->rollout);
        if (ours) {
            on_rollout(hub, envelope->rollout);
        }
    } else if (ours) {
        on_verdict(hub, envelope->verdict);
    }
}

static void on_envelope(struct hub *hub, const struct zframe *identity,
                        const Kelvin__Envelope *envelope)
{
    if (envelope->body_case == KELVIN__ENVELOPE__BODY_HELLO) {
        on_hello(hub, identity, envelope->hello);
        return;
    }
    struct peer *peer = find_peer(hub, envelope->sender);
    if (peer != NULL && (peer->identity_size != identity->size ||
                         memcmp(peer->identity, identity->data, identity->size) != 0)) {
        // What was sent over its old connection may be lost.
        broker_leave(broker_of(hub, peer), peer, "connected anew");
        peer = NULL;
    }
    if (peer == NULL) {
        // It fell silent for too long, or its learner died: it must introduce itself again.
        refuse(hub, identity, "say hello first", true);
    } else {
        peer->heard_ms = clock_ms();
    }
    switch (envelope->body_case) {
    case KELVIN__ENVELOPE__BODY_HEARTBEAT:
        if (peer != NULL) {
            on_heartbeat(hub, peer, envelope->heartbeat);
        }
        break;
    case KELVIN__ENVELOPE__BODY_GOODBYE:
        if (peer != NULL) {
            on_goodbye(hub, peer, envelope->goodbye->reason);
        }
        break;
    case KELVIN__ENVELOPE__BODY_ROLLOUT:
    case KELVIN__ENVELOPE__BODY_VERDICT:
        on_result(hub, identity, envelope);
        break;
    default:
        log_warn("hub", "unexpected %s from=%s", codec_body_name(envelope->body_case),
                 envelope->sender);
        break;
    }
}

static void on_message(struct zsock *sock, const struct zframes *frames, void *context)
{
    (void)sock;
    struct hub *hub = context;
    const Kelvin__Envelope *envelope = NULL;
    struct error err = {0};
    int code = codec_decode(hub->codec, &envelope, frames->body, &err);
    if (code < 0) {
        log_warn("hub", "a message was refused: %s", err.text);
        if (code == -EPROTONOSUPPORT) {
            refuse(hub, &frames->identity, err.text, false);
        }
        return;
    }
    on_envelope(hub, &frames->identity, envelope);
    match(hub);
}

static void on_tick(uv_timer_t *timer)
{
    struct hub *hub = timer->data;
    for (int kind = 0; kind < WORKER_KINDS && !hub->closed; kind++) {
        broker_tick(hub->brokers[kind], clock_ms());
    }
    match(hub);
}

static void hub_free(struct hub *hub)
{
    for (int kind = 0; kind < WORKER_KINDS; kind++) {
        broker_destroy(hub->brokers[kind]);
    }
    codec_destroy(hub->codec);
    message_free(hub->manifest);
    free(hub);
}

static void on_timer_closed(uv_handle_t *timer)
{
    hub_free(timer->data);
}

void hub_close(struct hub *hub)
{
    if (hub == NULL || hub->closed) {
        return;
    }
    hub->closed = true;
    zsock_close(hub->sock);
    uv_close((uv_handle_t *)&hub->timer, on_timer_closed); // later: a callback may be running
}

static int open_parts(struct hub *hub, const struct hub_config *config, struct error *err)
{
    struct broker_events events = {.context = hub,
                                   .send = send_lease,
                                   .give_up = give_up,
                                   .release = release,
                                   .left = peer_left};
    int code = codec_create(&hub->codec, err);
    for (int kind = 0; kind < WORKER_KINDS && code == 0; kind++) {
        code = broker_create(&hub->brokers[kind], config->requests_max, config->lease_ms, &events,
                             err);
    }
    return code;
}

int hub_create(struct hub **out, uv_loop_t *loop, void *zmq, const struct hub_config *config,
               struct error *err)
{
    struct hub *hub = calloc(1, sizeof(*hub));
    if (hub == NULL) {
        return error_set(err, -ENOMEM, "hub: out of memory");
    }
    copy_text(hub->style, config->style);
    hub->incarnation = config->incarnation;
    int code = open_parts(hub, config, err);
    code = code < 0 ? code : zsock_create(&hub->sock, loop, zmq, ZMQ_ROUTER, on_message, hub, err);
    code = code < 0 ? code : zsock_bind(hub->sock, config->endpoint, err);
    if (code < 0) {
        zsock_close(hub->sock);
        hub_free(hub);
        return code;
    }
    CHECK(uv_timer_init(loop, &hub->timer) == 0);
    hub->timer.data = hub;
    CHECK(uv_timer_start(&hub->timer, on_tick, TICK_MS, TICK_MS) == 0);
    *out = hub;
    return 0;
}

int hub_verify(struct hub *hub, const Kelvin__VerifyRequest *request, hub_verdict_fn *verdict_fn,
               void *context, uint64_t tag)
{
    struct lease *lease = broker_submit(hub->brokers[KELVIN__WORKER_KIND__VERIFIER], 1);
    if (lease == NULL) {
        return -EAGAIN;
    }
    Kelvin__VerifyRequest *copy = message_copy(&request->base);
    copy->id = lease->id;
    lease->role = KELVIN__WORKER_KIND__VERIFIER;
    lease->request = copy;
    lease->answer = (void (*)(void))verdict_fn;
    lease->context = context;
    lease->tag = tag;
    broker_match(hub->brokers[KELVIN__WORKER_KIND__VERIFIER], clock_ms());
    return 0;
}

int hub_rollout(struct hub *hub, const Kelvin__Prompt *prompt, hub_rollout_fn *rollout_fn,
                void *context, uint64_t tag)
{
    CHECK(prompt->samples > 0 && prompt->samples <= SAMPLES_MAX);
    struct lease *lease =
        broker_submit(hub->brokers[KELVIN__WORKER_KIND__ACTOR], (int32_t)prompt->samples);
    if (lease == NULL) {
        return -EAGAIN;
    }
    Kelvin__Prompt *copy = message_copy(&prompt->base);
    copy->lease = lease->id;
    lease->role = KELVIN__WORKER_KIND__ACTOR;
    lease->request = copy;
    lease->answer = (void (*)(void))rollout_fn;
    lease->context = context;
    lease->tag = tag;
    broker_match(hub->brokers[KELVIN__WORKER_KIND__ACTOR], clock_ms());
    return 0;
}

void hub_announce(struct hub *hub, const Kelvin__WeightsManifest *manifest)
{
    Kelvin__WeightsManifest *copy = message_copy(&manifest->base);
    message_free(hub->manifest);
    hub->manifest = copy;
    struct peer *peer = broker_first(hub->brokers[KELVIN__WORKER_KIND__ACTOR]);
    for (; peer != NULL; peer = peer->next) {
        send_manifest(hub, peer);
    }
}

void hub_drain(struct hub *hub, const char *reason)
{
    copy_text(hub->drain_reason, reason);
    for (int kind = 0; kind < WORKER_KINDS; kind++) {
        for (struct peer *peer = broker_first(hub->brokers[kind]); peer != NULL;
             peer = peer->next) {
            peer->draining = true;
            send_drain(hub, peer);
        }
    }
}

struct hub_stats hub_stats(const struct hub *hub, Kelvin__WorkerKind kind)
{
    struct broker_counts counts = broker_counts(hub->brokers[kind]);
    struct hub_stats stats = {.workers = counts.peers,
                              .waiting = counts.waiting,
                              .leased = counts.leased,
                              .results = counts.results,
                              .late = counts.late,
                              .returned = counts.returned,
                              .failed = counts.failed,
                              .lost = counts.lost};
    const struct peer *peer = broker_peers(hub->brokers[kind]);
    for (; peer != NULL; peer = peer->next) {
        stats.capacity += peer->capacity;
        stats.tokens += peer->tokens;
        stats.busy += peer->busy / counts.peers;
        if (stats.version_min == 0 || peer->version < stats.version_min) {
            stats.version_min = peer->version;
        }
    }
    return stats;
}

void hub_workers(const struct hub *hub,
                 void (*each)(void *context, const struct hub_worker_info *info), void *context)
{
    uint64_t now = clock_ms();
    for (int kind = 0; kind < WORKER_KINDS; kind++) {
        const struct peer *peer = broker_peers(hub->brokers[kind]);
        for (; peer != NULL; peer = peer->next) {
            struct hub_worker_info info = {.name = peer->name,
                                           .host = peer->host,
                                           .engine = peer->engine,
                                           .kind = (Kelvin__WorkerKind)kind,
                                           .capacity = peer->capacity,
                                           .leased = peer->leased,
                                           .version = peer->version,
                                           .tokens = peer->tokens,
                                           .requests = peer->requests,
                                           .busy = peer->busy,
                                           .silent_ms = now - peer->heard_ms};
            each(context, &info);
        }
    }
}
