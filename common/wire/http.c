#include "common/wire/http.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/base/metrics.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct http {
    struct MHD_Daemon *daemon;
    uv_poll_t poll;   // its epoll descriptor
    uv_timer_t timer; // when its next connection runs out
    int open_handles;
};

static void arm(struct http *http);

static void turn(struct http *http)
{
    (void)MHD_run(http->daemon);
    arm(http);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    turn(poll->data);
}

static void on_timer(uv_timer_t *timer)
{
    turn(timer->data);
}

static void arm(struct http *http)
{
    MHD_UNSIGNED_LONG_LONG wait_ms = 0;
    if (MHD_get_timeout(http->daemon, &wait_ms) == MHD_YES) {
        CHECK(uv_timer_start(&http->timer, on_timer, wait_ms, 0) == 0);
    } else {
        (void)uv_timer_stop(&http->timer);
    }
}

// reply takes `text`, which it frees, or sends a constant when `owned` is false.
static enum MHD_Result reply(struct MHD_Connection *connection, unsigned status, char *text,
                             size_t size, bool owned)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(
        size, text, owned ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (response == NULL) {
        return MHD_NO;
    }
    (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
                                  "text/plain; version=0.0.4; charset=utf-8");
    enum MHD_Result queued = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return queued;
}

static enum MHD_Result reply_constant(struct MHD_Connection *connection, unsigned status,
                                      const char *text)
{
    return reply(connection, status, without_const(text), strlen(text), false);
}

static enum MHD_Result reply_metrics(struct MHD_Connection *connection)
{
    char *text = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&text, &size);
    CHECK(file != NULL);
    metrics_write(file);
    CHECK(fclose(file) == 0 && text != NULL);
    return reply(connection, MHD_HTTP_OK, text, size, true);
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection,
                                  const char *path, const char *method, const char *version,
                                  const char *upload, size_t *upload_size, void **state)
{
    (void)context;
    (void)version;
    (void)upload;
    (void)upload_size;
    static char seen; // the first call of a request shows the headers only
    if (*state == NULL) {
        *state = &seen;
        return MHD_YES;
    }
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0) {
        return reply_constant(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET is answered\n");
    }
    if (strcmp(path, "/metrics") == 0) {
        return reply_metrics(connection);
    }
    if (strcmp(path, "/healthz") == 0) {
        return reply_constant(connection, MHD_HTTP_OK, "ok\n");
    }
    return reply_constant(connection, MHD_HTTP_NOT_FOUND, "there are /metrics and /healthz\n");
}

// parse_address fills one of the two forms; the port stands behind the last colon.
static int parse_address(struct sockaddr_storage *out, const char *address, struct error *err)
{
    char host[INET6_ADDRSTRLEN + 2];
    const char *colon = strrchr(address, ':');
    char *end = NULL;
    long port = colon == NULL ? -1 : strtol(colon + 1, &end, 10);
    size_t size = colon == NULL ? 0 : (size_t)(colon - address);
    bool bad = size == 0 || size >= sizeof(host) || end == colon + 1 || *end != '\0' || port < 0 ||
               port > UINT16_MAX;
    memset(out, 0, sizeof(*out));
    if (!bad && address[0] == '[' && address[size - 1] == ']') {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
        (void)snprintf(host, sizeof(host), "%.*s", (int)size - 2, address + 1);
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        bad = inet_pton(AF_INET6, host, &v6->sin6_addr) != 1;
    } else if (!bad) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)out;
        (void)snprintf(host, sizeof(host), "%.*s", (int)size, address);
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        bad = inet_pton(AF_INET, host, &v4->sin_addr) != 1;
    }
    return bad ? error_set(err, -EINVAL,
                           "http: \"%s\" is no address; write it as 127.0.0.1:9400 or [::1]:9400",
                           address)
               : 0;
}

uint16_t http_port(const struct http *http)
{
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_BIND_PORT);
    CHECK(info != NULL);
    return info->port;
}

int http_create(struct http **out, uv_loop_t *loop, const char *address, struct error *err)
{
    struct sockaddr_storage where;
    if (address[0] == '\0') {
        *out = NULL;
        return 0;
    }
    int code = parse_address(&where, address, err);
    if (code < 0) {
        return code;
    }
    CLEANUP(freep) struct http *http = calloc(1, sizeof(*http));
    if (http == NULL) {
        return error_set(err, -ENOMEM, "http: out of memory");
    }
    unsigned flags = MHD_USE_EPOLL | (where.ss_family == AF_INET6 ? MHD_USE_IPv6 : 0);
    errno = 0;
    http->daemon =
        MHD_start_daemon(flags, 0, NULL, NULL, on_request, NULL, MHD_OPTION_SOCK_ADDR, &where,
                         MHD_OPTION_CONNECTION_LIMIT, (unsigned)HTTP_CONNECTIONS_MAX,
                         MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)HTTP_IDLE_S, MHD_OPTION_END);
    if (http->daemon == NULL) {
        code = errno != 0 ? -errno : -EADDRINUSE;
        return error_set(err, code, "http: cannot listen at %s: %s", address,
                         strerrordesc_np(-code));
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    CHECK(info != NULL);
    CHECK(uv_poll_init(loop, &http->poll, info->epoll_fd) == 0);
    CHECK(uv_timer_init(loop, &http->timer) == 0);
    http->open_handles = 2;
    http->poll.data = http;
    http->timer.data = http;
    CHECK(uv_poll_start(&http->poll, UV_READABLE, on_poll) == 0);
    arm(http);
    log_info("http", "serving /metrics and /healthz port=%d", http_port(http));
    *out = TAKE(http);
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct http *http = handle->data;
    if (--http->open_handles == 0) {
        MHD_stop_daemon(http->daemon);
        free(http);
    }
}

void http_close(struct http *http)
{
    if (http != NULL) {
        (void)uv_poll_stop(&http->poll);
        uv_close((uv_handle_t *)&http->poll, on_closed);
        uv_close((uv_handle_t *)&http->timer, on_closed);
    }
}
