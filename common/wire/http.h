// http.h: a small HTTP server on the loop, by libmicrohttpd: GET /metrics (Prometheus text of the
// process's registry) and GET /healthz ("ok": the loop turns).
//
// It speaks plain HTTP, so it listens where it is told to and nowhere by default. Connections are
// bounded (HTTP_CONNECTIONS_MAX, HTTP_IDLE_S), a request has no body, and nothing in it is used but
// method and path. Loop thread.
#ifndef COMMON_WIRE_HTTP_H
#define COMMON_WIRE_HTTP_H

#include "common/base/error.h"

#include <stdint.h>
#include <uv.h>

struct http;

// http_create listens at `address`: "127.0.0.1:9400", or "[::1]:9400"; port 0 takes a free one,
// which the log names. With an empty address there is no server and *out is NULL. An address that
// is malformed is -EINVAL, one that is taken -EADDRINUSE; both are named.
int http_create(struct http **out, uv_loop_t *loop, const char *address, struct error *err);

// http_port is the port that it listens at.
uint16_t http_port(const struct http *http);

// http_close drops all connections and frees the server on a later turn of the loop; NULL is
// allowed.
void http_close(struct http *http);

#endif
