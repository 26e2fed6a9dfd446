#include "tests/support.h"

#include "common/base/error.h"
#include "common/base/metrics.h"
#include "common/wire/http.h"
#include "common/wire/loop.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

METRIC(visits, METRIC_COUNTER, "kelvin_test_visits_total", "Visits.");

static struct loop *loop;
static struct http *http;

// struct visit is one client: what it sends, what it got. It runs on a thread of its own.
struct visit {
    uint16_t port;
    const char *request;
    char answer[16384];
};

static void *client(void *context)
{
    struct visit *visit = context;
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons(visit->port)};
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&where, sizeof(where)) == 0 &&
        write(fd, visit->request, strlen(visit->request)) > 0) {
        size_t size = 0;
        ssize_t more = 0;
        while ((more = read(fd, visit->answer + size, sizeof(visit->answer) - 1 - size)) > 0) {
            size += (size_t)more;
        }
        visit->answer[size] = '\0';
    }
    (void)close(fd);
    return NULL;
}

static void on_visited(uv_work_t *work, int status)
{
    (void)work;
    (void)status;
    http_close(http);
    loop_stop(loop);
}

static void visit_work(uv_work_t *work)
{
    (void)client(work->data);
}

// Serves one request and closes.
static void serve(struct visit *visit)
{
    const struct loop_events events = {0};
    struct error err = {0};
    assert_int_equal(loop_create(&loop, &events, &err), 0);
    assert_int_equal(http_create(&http, loop_uv(loop), "127.0.0.1:0", &err), 0);
    visit->port = http_port(http);
    uv_work_t work = {.data = visit};
    assert_int_equal(uv_queue_work(loop_uv(loop), &work, visit_work, on_visited), 0);
    loop_run(loop);
    loop_destroy(loop);
}

// /metrics shows the registry as Prometheus text.
static void test_metrics(void **state)
{
    (void)state;
    struct visit visit = {.request = "GET /metrics HTTP/1.0\r\n\r\n"};
    metric_add(&visits, 3);
    serve(&visit);
    assert_non_null(strstr(visit.answer, " 200 OK\r\n"));
    assert_non_null(strstr(visit.answer, "\nkelvin_test_visits_total 3\n"));
}

// Other paths, other methods and bytes that are no HTTP are refused, and the server lives on.
static void test_refusals(void **state)
{
    (void)state;
    struct visit health = {.request = "GET /healthz HTTP/1.0\r\n\r\n"};
    struct visit path = {.request = "GET /etc/passwd HTTP/1.0\r\n\r\n"};
    struct visit method = {.request = "DELETE /metrics HTTP/1.0\r\n\r\n"};
    struct visit noise = {.request = "\x01\x02\x03\r\n\r\n"};
    serve(&health);
    assert_non_null(strstr(health.answer, "\r\n\r\nok\n"));
    serve(&path);
    assert_non_null(strstr(path.answer, " 404 "));
    serve(&method);
    assert_non_null(strstr(method.answer, " 405 "));
    serve(&noise);
    assert_null(strstr(noise.answer, " 200 "));
}

// An address that is none, or is taken, is named; an empty one makes no server.
static void test_addresses(void **state)
{
    (void)state;
    const struct loop_events events = {0};
    static const char *const bad[] = {"9400",     "localhost:9400", "127.0.0.1:", "127.0.0.1:70000",
                                      "1.2.3:80", "[::1:80",        ":80",        "127.0.0.1:80x"};
    struct error err = {0};
    char taken[32];
    assert_int_equal(loop_create(&loop, &events, &err), 0);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert_int_equal(http_create(&http, loop_uv(loop), bad[i], &err), -EINVAL);
    }
    assert_int_equal(http_create(&http, loop_uv(loop), "", &err), 0);
    assert_null(http);
    assert_int_equal(http_create(&http, loop_uv(loop), "127.0.0.1:0", &err), 0);
    (void)snprintf(taken, sizeof(taken), "127.0.0.1:%d", http_port(http));
    struct http *second = NULL;
    assert_int_equal(http_create(&second, loop_uv(loop), taken, &err), -EADDRINUSE);
    assert_non_null(strstr(err.text, taken));
    http_close(http);
    loop_stop(loop);
    loop_run(loop);
    loop_destroy(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_metrics),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
