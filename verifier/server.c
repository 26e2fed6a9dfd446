#include "verifier/server.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/log.h"
#include "common/wire/worker.h"

#include <errno.h>
#include <stdlib.h>

// The request that a verdict belongs to.
struct ticket {
    uint64_t id;
    uint64_t era;
    struct ticket *next, **place; // among those in work
};

struct server {
    struct ticket *tickets; // of the requests in work; the judge forgets them without a word
    struct worker *worker;
    struct judge *judge;
    server_end_fn *on_end;
    void *context;
    uint32_t capacity;
    uint64_t era;  // counts the learner's forgets: verdicts on requests of before are dropped
    uint32_t open; // requests of any era in work
    uint64_t answered;
    bool draining;
};

static struct ticket *ticket_create(struct server *server, uint64_t id)
{
    struct ticket *ticket = malloc(sizeof(*ticket));
    CHECK(ticket != NULL);
    *ticket = (struct ticket){
        .id = id, .era = server->era, .next = server->tickets, .place = &server->tickets};
    if (ticket->next != NULL) {
        ticket->next->place = &ticket->next;
    }
    server->tickets = ticket;
    return ticket;
}

static void ticket_destroy(struct ticket *ticket)
{
    *ticket->place = ticket->next;
    if (ticket->next != NULL) {
        ticket->next->place = ticket->place;
    }
    free(ticket);
}

CLEANUP_FUNCTION(struct ticket, ticket_destroy)

static void leave_when_idle(struct server *server)
{
    if (server->draining && server->open == 0) {
        worker_leave(server->worker, "drained");
    }
}

static void on_verdict(void *context, uint64_t tag, const Kelvin__Verdict *verdict)
{
    struct server *server = context;
    // NOLINTNEXTLINE(performance-no-int-to-ptr): the tag is the ticket's address
    CLEANUP(ticket_destroyp) struct ticket *ticket = (struct ticket *)(uintptr_t)tag;
    server->open--;
    if (ticket->era == server->era) {
        struct error err = {0};
        Kelvin__Verdict answer = *verdict;
        answer.id = ticket->id;
        server->answered++;
        if (worker_send_verdict(server->worker, &answer, &err) < 0) {
            log_warn("server", "a verdict is lost, its lease will run out: %s", err.text);
        }
    }
    leave_when_idle(server);
}

static void on_request(void *context, const Kelvin__VerifyRequest *request)
{
    struct server *server = context;
    server->open++;
    judge_submit(server->judge, request, on_verdict, server,
                 (uintptr_t)ticket_create(server, request->id));
}

static void on_welcome(void *context, const Kelvin__Welcome *welcome)
{
    (void)context;
    log_info("server", "joined the learner incarnation=%llu",
             (unsigned long long)welcome->incarnation);
}

static void on_forget(void *context)
{
    struct server *server = context;
    server->era++;
}

static void on_drain(void *context, const char *reason)
{
    struct server *server = context;
    log_info("server", "draining: %s", reason);
    server->draining = true;
    leave_when_idle(server);
}

static void on_beat(void *context, Kelvin__Heartbeat *beat)
{
    const struct server *server = context;
    beat->free = server->capacity > server->open ? server->capacity - server->open : 0;
    beat->requests = server->answered;
    beat->busy = server->capacity > 0 ? (double)server->open / server->capacity : 0.0;
}

static void on_end(void *context, int code, const char *sentence)
{
    struct server *server = context;
    server->on_end(server->context, code, sentence);
}

int server_open(struct server **out, uv_loop_t *loop, void *zmq, struct judge *judge,
                const struct server_config *config, server_end_fn *on_end_fn, void *context,
                struct error *err)
{
    CLEANUP(freep) struct server *server = calloc(1, sizeof(*server));
    if (server == NULL) {
        return error_set(err, -ENOMEM, "server: out of memory");
    }
    server->judge = judge;
    server->on_end = on_end_fn;
    server->context = context;
    server->capacity = config->capacity;
    const struct worker_config worker = {.endpoint = config->endpoint,
                                         .kind = KELVIN__WORKER_KIND__VERIFIER,
                                         .capacity = config->capacity,
                                         .engine = config->engine,
                                         .connect_timeout_ms = config->connect_timeout_ms};
    const struct worker_events events = {.context = server,
                                         .on_welcome = on_welcome,
                                         .on_forget = on_forget,
                                         .on_request = on_request,
                                         .on_drain = on_drain,
                                         .on_beat = on_beat,
                                         .on_end = on_end};
    int code = worker_create(&server->worker, loop, zmq, &worker, &events, err);
    if (code == 0) {
        *out = TAKE(server);
    }
    return code;
}

void server_leave(struct server *server, const char *reason)
{
    worker_leave(server->worker, reason);
}

void server_close(struct server *server)
{
    if (server != NULL) {
        worker_close(server->worker);
        while (server->tickets != NULL) {
            ticket_destroy(server->tickets);
        }
        free(server);
    }
}
