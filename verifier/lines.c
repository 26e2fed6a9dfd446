// Pipes and terminals are polled; a regular file, which cannot be, is read by an idle handle. The
// front stops reading while open_max requests are in work, so its memory is bounded.
#include "verifier/lines.h"

#include "common/base/json.h"
#include "verifier/bytes.h"
#include "verifier/request_json.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { READ_CHUNK = 1 << 16 };

struct lines {
    uv_loop_t *loop;
    struct judge *judge;
    struct lines_config config;
    lines_end_fn *on_end;
    void *context;
    uv_poll_t poll;
    uv_idle_t idle;
    uv_timer_t end_timer;
    struct error end_error;
    int end_code;
    bool polled; // else read by `idle`
    bool reading;
    bool input_ended;
    bool ended;
    bool taking;
    bool closing;
    int handles;
    int open;
    struct bytes input;
    size_t input_at; // bytes of `input` already taken
    size_t number;   // of the line taken last
};

// The id of a request in work.
struct ticket {
    json_t *id;
};

static void on_end_timer(uv_timer_t *timer)
{
    struct lines *lines = timer->data;
    lines->on_end(lines->context, lines->end_code, &lines->end_error);
}

// The end is told on a later turn: a verdict may be on its way through the judge right now.
static void end(struct lines *lines, int code, const struct error *err)
{
    if (lines->ended) {
        return;
    }
    lines->ended = true;
    lines->end_code = code;
    if (err != NULL) {
        lines->end_error = *err;
    }
    (void)uv_timer_start(&lines->end_timer, on_end_timer, 0, 0);
}

// The output does not block where it is one with the input, a terminal or socket that is polled.
static bool write_all(int descriptor, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t done = write(descriptor, data, size);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done < 0 && errno == EAGAIN) {
            struct pollfd output = {.fd = descriptor, .events = POLLOUT};
            (void)poll(&output, 1, -1);
            continue;
        }
        if (done <= 0) {
            return false;
        }
        data += done;
        size -= (size_t)done;
    }
    return true;
}

static void write_line(struct lines *lines, json_t *object)
{
    CLEANUP(freep) char *text = object == NULL ? NULL : json_dumps(object, JSON_COMPACT);
    struct error err = {0};
    if (lines->ended) {
        return;
    }
    size_t size = text == NULL ? 0 : strlen(text);
    if (text == NULL) {
        int code = error_set(&err, -ENOMEM, "out of memory for a verdict");
        end(lines, code, &err);
        return;
    }
    text[size] = '\n'; // in place of the terminator: one write a line
    if (!write_all(lines->config.output, text, size + 1)) {
        // NOLINTNEXTLINE(concurrency-mt-unsafe): the loop's thread alone
        int code = error_set(&err, -errno, "cannot write a verdict: %s", strerror(errno));
        end(lines, code, &err);
    }
}

static void read_on(struct lines *lines);

static void on_verdict(void *context, uint64_t tag, const Kelvin__Verdict *verdict)
{
    struct lines *lines = context;
    // NOLINTNEXTLINE(performance-no-int-to-ptr): the tag is the ticket's address
    struct ticket *ticket = (struct ticket *)(uintptr_t)tag;
    CLEANUP(json_decrefp) json_t *object = verdict_to_json(ticket->id, verdict);
    json_decref(ticket->id);
    free(ticket);
    lines->open--;
    write_line(lines, object);
    read_on(lines);
}

static void refuse_line(struct lines *lines, const json_t *id, const char *reason)
{
    Kelvin__Verdict verdict = KELVIN__VERDICT__INIT;
    char detail[sizeof(lines->end_error.text) + 32];
    (void)snprintf(detail, sizeof(detail), "line %zu: %s", lines->number, reason);
    verdict.outcome = KELVIN__OUTCOME__MALFORMED;
    verdict.detail = detail;
    CLEANUP(json_decrefp) json_t *object = verdict_to_json(id, &verdict);
    write_line(lines, object);
}

static void take_line(struct lines *lines, const char *text, size_t size)
{
    CLEANUP(json_decrefp) json_t *json = NULL;
    struct error err = {0};
    Kelvin__VerifyRequest request;
    if (strspn(text, " \t\r") >= size) {
        return;
    }
    if (json_parse(&json, text, size, "request", &err) < 0) {
        refuse_line(lines, NULL, err.text);
        return;
    }
    json_t *id = json_object_get(json, "id");
    if (request_from_json(&request, json, &err) < 0) {
        refuse_line(lines, id, err.text);
    } else {
        struct ticket *ticket = calloc(1, sizeof(*ticket));
        if (ticket == NULL) {
            refuse_line(lines, id, "out of memory");
        } else {
            ticket->id = json_incref(id);
            lines->open++;
            judge_submit(lines->judge, &request, on_verdict, lines, (uintptr_t)ticket);
        }
    }
    request_finish(&request);
}

// Takes whole lines as long as there is room for their requests.
static void take_lines(struct lines *lines)
{
    while (!lines->ended && lines->open < lines->config.open_max &&
           lines->input_at < lines->input.size) {
        char *start = (char *)lines->input.data + lines->input_at;
        size_t left = lines->input.size - lines->input_at;
        char *newline = memchr(start, '\n', left);
        if (newline == NULL && !lines->input_ended) {
            break;
        }
        size_t size = newline == NULL ? left : (size_t)(newline - start);
        lines->number++;
        lines->input_at += newline == NULL ? left : size + 1;
        take_line(lines, start, size);
    }
    if (lines->input_at > 0 && lines->input_at * 2 >= lines->input.size) {
        memmove(lines->input.data, lines->input.data + lines->input_at,
                lines->input.size - lines->input_at);
        lines->input.size -= lines->input_at;
        lines->input_at = 0;
    }
}

static void read_some(struct lines *lines)
{
    struct error err = {0};
    if (!bytes_reserve(&lines->input, READ_CHUNK) ||
        lines->input.size - lines->input_at > REQUEST_LINE_MAX + READ_CHUNK) {
        int code =
            error_set(&err, -EMSGSIZE, "a request line is longer than %d bytes", REQUEST_LINE_MAX);
        end(lines, code, &err);
        return;
    }
    ssize_t done = read(lines->config.input, lines->input.data + lines->input.size, READ_CHUNK);
    if (done < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (done < 0) {
        // NOLINTNEXTLINE(concurrency-mt-unsafe): the loop's thread alone
        int code = error_set(&err, -errno, "cannot read requests: %s", strerror(errno));
        end(lines, code, &err);
        return;
    }
    lines->input.size += (size_t)done;
    lines->input_ended = done == 0;
    read_on(lines);
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    read_some(poll->data);
}

static void on_idle(uv_idle_t *idle)
{
    read_some(idle->data);
}

static void set_reading(struct lines *lines, bool reading)
{
    if (lines->reading == reading || lines->closing) {
        return;
    }
    lines->reading = reading;
    if (lines->polled) {
        (void)(reading ? uv_poll_start(&lines->poll, UV_READABLE, on_readable)
                       : uv_poll_stop(&lines->poll));
    } else {
        (void)(reading ? uv_idle_start(&lines->idle, on_idle) : uv_idle_stop(&lines->idle));
    }
}

static void read_on(struct lines *lines)
{
    if (lines->taking) {
        return; // a verdict that came at once calls back from take_lines
    }
    lines->taking = true;
    take_lines(lines);
    lines->taking = false;
    bool done = lines->input_ended && lines->input_at == lines->input.size;
    set_reading(lines,
                !lines->ended && !lines->input_ended && lines->open < lines->config.open_max);
    if (done && lines->open == 0) {
        end(lines, 0, NULL);
    }
}

int lines_open(struct lines **out, uv_loop_t *loop, struct judge *judge,
               const struct lines_config *config, lines_end_fn *on_end, void *context,
               struct error *err)
{
    struct lines *lines = calloc(1, sizeof(*lines));
    if (lines == NULL) {
        return error_set(err, -ENOMEM, "lines: out of memory");
    }
    lines->loop = loop;
    lines->judge = judge;
    lines->config = *config;
    lines->on_end = on_end;
    lines->context = context;
    (void)uv_idle_init(loop, &lines->idle);
    (void)uv_timer_init(loop, &lines->end_timer);
    lines->idle.data = lines->end_timer.data = lines;
    lines->handles = 2;
    lines->polled = uv_poll_init(loop, &lines->poll, config->input) == 0;
    if (lines->polled) {
        lines->poll.data = lines;
        lines->handles = 3;
    }
    set_reading(lines, true);
    *out = lines;
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct lines *lines = handle->data;
    if (--lines->handles == 0) {
        bytes_finish(&lines->input);
        free(lines);
    }
}

void lines_close(struct lines *lines)
{
    if (lines == NULL || lines->closing) {
        return;
    }
    lines->closing = lines->ended = true;
    if (lines->polled) {
        uv_close((uv_handle_t *)&lines->poll, on_closed);
    }
    uv_close((uv_handle_t *)&lines->idle, on_closed);
    uv_close((uv_handle_t *)&lines->end_timer, on_closed);
}
