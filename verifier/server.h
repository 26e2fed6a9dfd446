// server.h: the front that takes requests from a run's learner and answers with verdicts, by
// credit.
#ifndef VERIFIER_SERVER_H
#define VERIFIER_SERVER_H

#include "verifier/judge.h"

#include <uv.h>

struct server;

struct server_config {
    const char *endpoint;        // the learner's control socket
    const char *engine;          // back-end and isolation, as said in Hello
    uint32_t capacity;           // requests in work at once
    uint32_t connect_timeout_ms; // without a learner for so long the front ends
};

// server_open joins the learner. `on_end_fn` is called once: code 0 after the learner drained this
// worker or server_leave, else why no learner took it. server_close frees the front on a later turn
// of the loop; NULL is allowed. Close it before the judge.
typedef void server_end_fn(void *context, int code, const char *sentence);
int server_open(struct server **out, uv_loop_t *loop, void *zmq, struct judge *judge,
                const struct server_config *config, server_end_fn *on_end_fn, void *context,
                struct error *err);
void server_leave(struct server *server, const char *reason);
void server_close(struct server *server);

#endif
