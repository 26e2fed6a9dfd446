#include "common/wire/worker.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/wire/codec.h"
#include "common/wire/loop.h"
#include "common/wire/outbox.h"
#include "common/wire/zsock.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include <zmq.h>

enum { JOIN_TICK_MS = 50 }; // while no learner has answered; a connection takes a moment

enum worker_state {
    STATE_JOINING, // says Hello until a Welcome comes
    STATE_JOINED,
    STATE_LEAVING, // sends what waits, then Goodbye
    STATE_PARTING, // Goodbye is said, the learner's is awaited
    STATE_ENDED,   // on_end was called
};

struct worker {
    struct worker_events events;
    struct zsock *sock;
    struct codec *codec;
    struct loop_timer *tick;
    struct outbox outbox;
    enum worker_state state;
    Kelvin__WorkerKind kind;
    uint32_t capacity;
    uint32_t connect_timeout_ms;
    char *endpoint;
    char *engine;
    char host[NAME_BYTES_MAX + 1];
    char name[NAME_BYTES_MAX + 1];
    char reason[128];        // of leaving
    uint64_t sequence;       // messages made
    uint64_t incarnation;    // of the learner; 0 before the first Welcome
    uint64_t heard_ms;       // the learner's last message, or when it was first asked for
    uint64_t hello_ms;       // when the last Hello went out; 0: none did since the last try
    uint64_t leave_until_ms; // STATE_LEAVING and STATE_PARTING
    uint32_t beat_ms;
    bool closing;
    int calls; // callbacks in progress: memory stays until they return
};

static void worker_free(struct worker *worker)
{
    outbox_clear(&worker->outbox);
    codec_destroy(worker->codec);
    free(worker->endpoint);
    free(worker->engine);
    free(worker);
}

static Kelvin__Envelope envelope_of(struct worker *worker, Kelvin__Envelope__BodyCase body)
{
    Kelvin__Envelope envelope = KELVIN__ENVELOPE__INIT;
    envelope.sender = worker->name;
    envelope.sequence = ++worker->sequence;
    envelope.incarnation = worker->incarnation;
    envelope.body_case = body;
    return envelope;
}

// send_now sends what need not be kept: the next tick says it again.
static int send_now(struct worker *worker, const Kelvin__Envelope *envelope)
{
    struct error err = {0};
    struct zframes frames = {0};
    int code = codec_encode(worker->codec, &frames.body, envelope, &err);
    if (code < 0) {
        log_error("worker", "%s", err.text);
        return code;
    }
    return zsock_send(worker->sock, &frames);
}

static int say_hello(struct worker *worker)
{
    Kelvin__Hello hello = KELVIN__HELLO__INIT;
    hello.kind = worker->kind;
    hello.name = worker->name;
    hello.host = worker->host;
    hello.pid = (uint64_t)getpid();
    hello.capacity = worker->capacity;
    hello.engine = worker->engine;
    Kelvin__Envelope envelope = envelope_of(worker, KELVIN__ENVELOPE__BODY_HELLO);
    envelope.hello = &hello;
    return send_now(worker, &envelope);
}

static void say_beat(struct worker *worker)
{
    Kelvin__Heartbeat beat = KELVIN__HEARTBEAT__INIT;
    if (worker->events.on_beat != NULL) {
        worker->events.on_beat(worker->events.context, &beat);
    }
    Kelvin__Envelope envelope = envelope_of(worker, KELVIN__ENVELOPE__BODY_HEARTBEAT);
    envelope.heartbeat = &beat;
    (void)send_now(worker, &envelope); // a full queue has other messages that show life
}

static int say_goodbye(struct worker *worker)
{
    Kelvin__Goodbye goodbye = KELVIN__GOODBYE__INIT;
    goodbye.reason = worker->reason;
    Kelvin__Envelope envelope = envelope_of(worker, KELVIN__ENVELOPE__BODY_GOODBYE);
    envelope.goodbye = &goodbye;
    return send_now(worker, &envelope);
}

static void end(struct worker *worker, int code, const char *sentence)
{
    worker->state = STATE_ENDED;
    loop_timer_stop(worker->tick);
    worker->events.on_end(worker->events.context, code, sentence);
}

// join begins to say Hello, over a new connection if one was there: the old one may be half open.
static void join(struct worker *worker, bool reconnect)
{
    if (reconnect) {
        struct error err = {0};
        zsock_disconnect(worker->sock, worker->endpoint);
        if (zsock_connect(worker->sock, worker->endpoint, &err) < 0) {
            log_warn("worker", "%s", err.text); // it worked before; the deadline goes on
        }
    }
    if (worker->state == STATE_JOINED) {
        worker->state = STATE_JOINING;
        worker->heard_ms = clock_ms();
    }
    worker->hello_ms = 0;
    loop_timer_start(worker->tick, 0, JOIN_TICK_MS);
}

static void tick_joining(struct worker *worker, uint64_t now_ms)
{
    uint64_t silent_ms = now_ms - worker->heard_ms;
    if (silent_ms >= worker->connect_timeout_ms) {
        char sentence[ENDPOINT_BYTES_MAX + 200];
        (void)snprintf(sentence, sizeof(sentence),
                       "no learner answered at %s for %u s; is it running, and is this its "
                       "endpoint? (connect_timeout_s sets how long a worker waits)",
                       worker->endpoint, worker->connect_timeout_ms / 1000);
        end(worker, -ETIMEDOUT, sentence);
        return;
    }
    if (worker->hello_ms == 0 || now_ms - worker->hello_ms >= HEARTBEAT_MS) {
        worker->hello_ms = say_hello(worker) == 0 ? now_ms : 0;
    }
}

static void tick_joined(struct worker *worker, uint64_t now_ms)
{
    if (now_ms - worker->heard_ms >= HEARTBEAT_LOST_MS) {
        log_warn("worker", "the learner at %s is silent; saying hello again", worker->endpoint);
        join(worker, true);
        return;
    }
    outbox_flush(&worker->outbox, worker->sock, now_ms);
    say_beat(worker);
}

static void tick_leaving(struct worker *worker, uint64_t now_ms)
{
    outbox_flush(&worker->outbox, worker->sock, now_ms);
    bool late = now_ms >= worker->leave_until_ms;
    if (worker->state == STATE_LEAVING && (worker->outbox.count == 0 || late) &&
        say_goodbye(worker) == 0) {
        worker->state = STATE_PARTING;
    }
    if (late) {
        end(worker, 0, "left without the learner's goodbye");
    }
}

// called guards the memory while callbacks run, since they may close the worker.
static void call_begin(struct worker *worker)
{
    worker->calls++;
}

static void call_end(struct worker *worker)
{
    if (--worker->calls == 0 && worker->closing) {
        worker_free(worker);
    }
}

static void on_tick(void *context)
{
    struct worker *worker = context;
    uint64_t now_ms = clock_ms();
    call_begin(worker);
    switch (worker->state) {
    case STATE_JOINING:
        tick_joining(worker, now_ms);
        break;
    case STATE_JOINED:
        tick_joined(worker, now_ms);
        break;
    case STATE_LEAVING:
    case STATE_PARTING:
        tick_leaving(worker, now_ms);
        break;
    case STATE_ENDED:
        break;
    }
    call_end(worker);
}

static void on_welcome(struct worker *worker, const Kelvin__Welcome *welcome)
{
    if (worker->state != STATE_JOINING && worker->state != STATE_JOINED) {
        return;
    }
    bool first = worker->incarnation == 0;
    if (worker->incarnation != welcome->incarnation) {
        outbox_clear(&worker->outbox); // of leases that this learner never gave
    }
    worker->incarnation = welcome->incarnation;
    worker->state = STATE_JOINED;
    worker->beat_ms = welcome->heartbeat_ms > 0 && welcome->heartbeat_ms < HEARTBEAT_LOST_MS
                          ? welcome->heartbeat_ms
                          : HEARTBEAT_MS;
    loop_timer_start(worker->tick, worker->beat_ms, worker->beat_ms);
    outbox_resend(&worker->outbox);
    outbox_flush(&worker->outbox, worker->sock, clock_ms());
    log_info("worker", "joined the learner at %s name=%s incarnation=%llu", worker->endpoint,
             worker->name, (unsigned long long)welcome->incarnation);
    if (!first) {
        worker->events.on_forget(worker->events.context);
    }
    if (!worker->closing) {
        worker->events.on_welcome(worker->events.context, welcome);
    }
}

static void on_refuse(struct worker *worker, const Kelvin__Refuse *refuse)
{
    if (!refuse->rejoin) {
        char sentence[256];
        (void)snprintf(sentence, sizeof(sentence), "the learner refuses this worker: %.200s",
                       refuse->reason);
        end(worker, -EPERM, sentence);
    } else if (worker->state == STATE_JOINED) {
        log_info("worker", "the learner asks to join again: %.200s", refuse->reason);
        join(worker, false);
    } else if (worker->state != STATE_JOINING) {
        end(worker, 0, "left a learner that knows nothing of this worker");
    }
}

static void on_goodbye(struct worker *worker)
{
    if (worker->state == STATE_PARTING) {
        end(worker, 0, "left");
    }
}

static void on_ack(struct worker *worker, const Kelvin__RolloutAck *ack)
{
    outbox_ack(&worker->outbox, ack->lease, ack->sample);
    if (worker->state == STATE_LEAVING && worker->outbox.count == 0) {
        tick_leaving(worker, clock_ms());
    }
}

static bool known(struct worker *worker, const Kelvin__Envelope *envelope)
{
    if (envelope->incarnation == worker->incarnation && worker->state != STATE_JOINING) {
        return true;
    }
    if (worker->state == STATE_JOINED) {
        log_info("worker", "the learner at %s is a new one", worker->endpoint);
        join(worker, false);
    }
    return false;
}

// on_work hands over what only a learner that we have joined may send.
static void on_work(struct worker *worker, const Kelvin__Envelope *envelope)
{
    const struct worker_events *events = &worker->events;
    if (!known(worker, envelope)) {
        return;
    }
    switch (envelope->body_case) {
    case KELVIN__ENVELOPE__BODY_PROMPT:
        if (events->on_prompt != NULL) {
            events->on_prompt(events->context, envelope->prompt);
        }
        break;
    case KELVIN__ENVELOPE__BODY_VERIFY_REQUEST:
        if (events->on_request != NULL) {
            events->on_request(events->context, envelope->verify_request);
        }
        break;
    case KELVIN__ENVELOPE__BODY_WEIGHTS_MANIFEST:
        if (events->on_manifest != NULL) {
            events->on_manifest(events->context, envelope->weights_manifest);
        }
        break;
    case KELVIN__ENVELOPE__BODY_DRAIN:
        events->on_drain(events->context, envelope->drain->reason);
        break;
    case KELVIN__ENVELOPE__BODY_ROLLOUT_ACK:
        on_ack(worker, envelope->rollout_ack);
        break;
    case KELVIN__ENVELOPE__BODY_GOODBYE:
        on_goodbye(worker);
        break;
    default:
        break; // a heartbeat has done its work by being heard
    }
}

static void on_message(struct zsock *sock, const struct zframes *frames, void *context)
{
    (void)sock;
    struct worker *worker = context;
    const Kelvin__Envelope *envelope = NULL;
    struct error err = {0};
    int code = codec_decode(worker->codec, &envelope, frames->body, &err);
    call_begin(worker);
    if (worker->state == STATE_ENDED) {
        // Nothing is wanted any more.
    } else if (code == -EPROTONOSUPPORT) {
        end(worker, code, err.text);
    } else if (code < 0) {
        log_warn("worker", "from the learner: %s", err.text);
    } else if (envelope->body_case == KELVIN__ENVELOPE__BODY_WELCOME) {
        worker->heard_ms = clock_ms();
        on_welcome(worker, envelope->welcome);
    } else if (envelope->body_case == KELVIN__ENVELOPE__BODY_REFUSE) {
        on_refuse(worker, envelope->refuse);
    } else {
        if (worker->state != STATE_JOINING) {
            worker->heard_ms = clock_ms();
        }
        on_work(worker, envelope);
    }
    call_end(worker);
}

static void choose_name(struct worker *worker)
{
    uint32_t random = 0;
    CHECK(getrandom(&random, sizeof(random), 0) == (ssize_t)sizeof(random));
    if (gethostname(worker->host, sizeof(worker->host) - 1) < 0) {
        strcpy(worker->host, "host"); // NOLINT(clang-analyzer-security.insecureAPI.strcpy)
    }
    (void)snprintf(worker->name, sizeof(worker->name), "%.90s-%d-%08x", worker->host, (int)getpid(),
                   random);
}

static int open_parts(struct worker *worker, uv_loop_t *loop, void *zmq, struct error *err)
{
    if (worker->endpoint == NULL || worker->engine == NULL) {
        return error_set(err, -ENOMEM, "worker: out of memory");
    }
    int code = codec_create(&worker->codec, err);
    if (code == 0) {
        code = loop_timer_create(&worker->tick, loop, on_tick, worker, err);
    }
    if (code == 0) {
        code = zsock_create(&worker->sock, loop, zmq, ZMQ_DEALER, on_message, worker, err);
    }
    if (code == 0) {
        code = zsock_connect(worker->sock, worker->endpoint, err);
    }
    return code;
}

int worker_create(struct worker **out, uv_loop_t *loop, void *zmq,
                  const struct worker_config *config, const struct worker_events *events,
                  struct error *err)
{
    CHECK(events->on_welcome != NULL && events->on_forget != NULL && events->on_drain != NULL &&
          events->on_end != NULL);
    struct worker *worker = calloc(1, sizeof(*worker));
    if (worker == NULL) {
        return error_set(err, -ENOMEM, "worker: out of memory");
    }
    worker->events = *events;
    worker->kind = config->kind;
    worker->capacity = config->capacity;
    worker->connect_timeout_ms = config->connect_timeout_ms;
    worker->endpoint = strdup(config->endpoint);
    worker->engine = strdup(config->engine);
    worker->heard_ms = clock_ms();
    choose_name(worker);
    int code = open_parts(worker, loop, zmq, err);
    if (code < 0) {
        worker_close(worker);
        return code;
    }
    join(worker, false);
    *out = worker;
    return 0;
}

// send_result keeps a result until it is sent; it goes out at once when a learner is there.
static int send_result(struct worker *worker, const Kelvin__Envelope *envelope, bool wants_ack,
                       uint64_t lease, uint32_t sample, struct error *err)
{
    struct zframe packed;
    int code = codec_encode(worker->codec, &packed, envelope, err);
    if (code == 0) {
        code = outbox_push(&worker->outbox, packed, wants_ack, lease, sample, err);
    }
    if (code == 0 && (worker->state == STATE_JOINED || worker->state == STATE_LEAVING)) {
        outbox_flush(&worker->outbox, worker->sock, clock_ms());
    }
    return code;
}

int worker_send_rollout(struct worker *worker, const Kelvin__Rollout *rollout, struct error *err)
{
    Kelvin__Envelope envelope = envelope_of(worker, KELVIN__ENVELOPE__BODY_ROLLOUT);
    Kelvin__Rollout copy = *rollout; // shallow: the envelope wants a pointer that is not const
    envelope.rollout = &copy;
    return send_result(worker, &envelope, true, rollout->lease, rollout->sample, err);
}

int worker_send_verdict(struct worker *worker, const Kelvin__Verdict *verdict, struct error *err)
{
    Kelvin__Envelope envelope = envelope_of(worker, KELVIN__ENVELOPE__BODY_VERDICT);
    Kelvin__Verdict copy = *verdict;
    envelope.verdict = &copy;
    return send_result(worker, &envelope, false, verdict->id, 0, err);
}

void worker_leave(struct worker *worker, const char *reason)
{
    if (worker->state != STATE_JOINING && worker->state != STATE_JOINED) {
        return; // it is on its way
    }
    (void)snprintf(worker->reason, sizeof(worker->reason), "%s", reason);
    bool joined = worker->state == STATE_JOINED;
    worker->state = STATE_LEAVING;
    // Without a learner there is nobody to part from; the tick ends it.
    worker->leave_until_ms = joined ? clock_ms() + LEAVE_MS : 0;
    loop_timer_start(worker->tick, 0, JOIN_TICK_MS);
}

void worker_close(struct worker *worker)
{
    if (worker == NULL || worker->closing) {
        return;
    }
    worker->closing = true;
    worker->state = STATE_ENDED;
    loop_timer_close(worker->tick);
    zsock_close(worker->sock);
    if (worker->calls == 0) {
        worker_free(worker);
    }
}

const char *worker_name(const struct worker *worker)
{
    return worker->name;
}
