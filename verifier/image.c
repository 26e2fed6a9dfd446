#include "verifier/image.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/base/metrics.h"
#include "verifier/image_state.h"
#include "verifier/rewind.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum {
    START_MS = 60000,      // an image prepares itself within this, even on a loaded host
    CRASH_POLL_MS = 2,     // how soon a run that stopped silently is noticed
    REPLY_CHUNK = 1 << 16, // read at once
    MEMORY_BESIDE_MB = 64, // room for an image's own data and stack, beside what runs can have
};

METRIC(audits, METRIC_COUNTER, "kelvin_verifier_audits_total",
       "full comparisons of an image with its snapshot");
METRIC(audits_failed, METRIC_COUNTER, "kelvin_verifier_audits_failed_total",
       "comparisons that found a difference: state survived a run");

const char *backend_name(enum backend_choice backend)
{
    return backend == BACKEND_REWIND ? "rewind" : "zygote";
}

int image_variant(const struct image *image)
{
    return image->config.variant;
}

uint64_t image_memory_kb(const struct image *image)
{
    return spawn_memory_kb(image->process.pid);
}

uint64_t image_runs(const struct image *image)
{
    return image->runs;
}

// --- states ---

void image_report(struct image *image)
{
    if (image->reported) {
        return;
    }
    image->reported = true;
    struct bytes store = {0};
    // Room for every copy, so that pointers into the store stay good.
    (void)bytes_reserve(&store, image->reply.size + 1024);
    struct image_result result = {.exception = "", .detail = "", .repr = ""};
    bool well_formed = image_read_program(image, &result, &store);
    if (image->result_at == 0) {
        result.outcome = image->timed_out ? OUTCOME_TIMEOUT : OUTCOME_CRASHED;
        result.image_lost = image->state == IMAGE_LOST && !image->timed_out;
    } else if (image->spoilt || !well_formed || !image_read_result(image, &result, &store)) {
        result.outcome = OUTCOME_CRASHED;
        result.detail = "the sandbox sent a malformed result";
        result.exception = result.repr = "";
    }
    result.wall_us = (image->ended_ns - image->started_ns) / 1000;
    result.cpu_us = image->cpu_ns / 1000;
    image->events.ended(image->context, image, &result);
    bytes_finish(&store);
}

void image_restored(struct image *image)
{
    (void)uv_timer_stop(&image->timer);
    image_report(image);
    if (image->closing || image->state == IMAGE_LOST) {
        return;
    }
    image->state = IMAGE_IDLE;
    image->events.idle(image->context, image);
}

void image_rest(struct image *image)
{
    image->state = IMAGE_RESTING;
    image->events.resting(image->context, image);
}

void image_audit(struct image *image, bool all)
{
    CHECK(image->state == IMAGE_RESTING);
    image->backend->audit(image, all);
}

void image_fail(struct image *image, const char *reason)
{
    if (image->state == IMAGE_LOST) {
        return;
    }
    bool running = image->state == IMAGE_RUNNING || image->state == IMAGE_STOPPING;
    image->state = IMAGE_LOST;
    (void)uv_timer_stop(&image->timer);
    (void)uv_poll_stop(&image->reply_poll);
    (void)uv_poll_stop(&image->request_poll);
    (void)uv_poll_stop(&image->control_poll);
    log_warn("verifier", "image lost: %s backend=%s variant=%d runs=%llu", reason,
             backend_name(image->config.backend), image->config.variant,
             (unsigned long long)image->runs);
    if (running) {
        image_report(image);
    }
    if (!image->closing) {
        image->events.lost(image->context, image);
    }
}

static void drain(int pipe)
{
    uint8_t junk[REPLY_CHUNK];
    int bytes = 0;
    while (ioctl(pipe, FIONREAD, &bytes) == 0 && bytes > 0 && read(pipe, junk, sizeof(junk)) > 0) {
    }
}

void image_drain(struct image *image)
{
    drain(image->process.reply);
}

void image_take_back(struct image *image)
{
    drain(image->process.unread);
}

void image_spoil(struct image *image)
{
    image->spoilt = true;
}

bool image_audited(struct image *image, bool fresh)
{
    metric_add(&audits, 1);
    if (!fresh) {
        metric_add(&audits_failed, 1);
        log_error("verifier",
                  "AUDIT FAILED: state survived a rewind backend=%s variant=%d runs=%llu",
                  backend_name(image->config.backend), image->config.variant,
                  (unsigned long long)image->runs);
    }
    return fresh;
}

// Each stop of a poll is a system call, even of one that was not started.
static void stop_sending(struct image *image)
{
    if (uv_is_active((uv_handle_t *)&image->request_poll)) {
        (void)uv_poll_stop(&image->request_poll);
    }
}

// The run is over as far as the asker is concerned.
static void finish_run(struct image *image)
{
    if (image->state != IMAGE_RUNNING) {
        return;
    }
    image->ended_ns = clock_ns();
    image->state = IMAGE_STOPPING;
    (void)uv_timer_stop(&image->timer);
    stop_sending(image);
    image->backend->stop(image);
}

// --- pipes ---

static void send_request(struct image *image)
{
    while (image->request_sent < image->request.size) {
        ssize_t done = write(image->process.request, image->request.data + image->request_sent,
                             image->request.size - image->request_sent);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return; // full: the poll brings us back; broken: the reply pipe says so
        }
        image->request_sent += (size_t)done;
    }
    stop_sending(image);
}

static void on_request_writable(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    send_request(poll->data);
}

// Only of a program that this very run compiles: its code comes before the program has a say.
static bool wants_program(const struct image_job *job)
{
    return (job->flags & IMAGE_WANT_CODE) != 0 && job->source_size > 0;
}

// Takes whole frames. False when the stream breaks the rules.
static bool take_frames(struct image *image)
{
    struct image_frame frame;
    while (image->result_at == 0 && image->reply.size - image->reply_used >= sizeof(frame)) {
        memcpy(&frame, image->reply.data + image->reply_used, sizeof(frame));
        size_t payload = image->reply_used + sizeof(frame);
        if (frame.size > IMAGE_FRAME_MAX) {
            return false;
        }
        if (image->reply.size - payload < frame.size) {
            return true;
        }
        if (frame.kind == FRAME_PROGRAM && image->program_at == 0 && wants_program(&image->job)) {
            image->program_at = payload + 1;
            image->program_size = frame.size;
        } else if (frame.kind == FRAME_RESULT) {
            image->result_at = payload + 1;
            image->result_size = frame.size;
        } else {
            return false;
        }
        image->reply_used = payload + frame.size;
    }
    return true;
}

static void on_ready_frame(struct image *image)
{
    struct image_frame frame;
    if (image->reply.size < sizeof(frame)) {
        return;
    }
    memcpy(&frame, image->reply.data, sizeof(frame));
    struct error err = {0};
    if (frame.size <= REPLY_CHUNK && image->reply.size - sizeof(frame) < frame.size) {
        return;
    }
    if (frame.kind != FRAME_READY || image->reply.size - sizeof(frame) != frame.size) {
        image_fail(image, "it did not say that it is ready");
        return;
    }
    (void)uv_timer_stop(&image->timer);
    if (image->backend->prepare(image, &err) < 0) {
        image_fail(image, err.text);
        return;
    }
    image->state = IMAGE_IDLE;
    image->events.idle(image->context, image);
}

static void on_reply_bytes(struct image *image)
{
    switch (image->state) {
    case IMAGE_STARTING:
        on_ready_frame(image);
        break;
    case IMAGE_RUNNING:
        // With a result, or with a broken stream and so without one: crashed.
        if (!take_frames(image) || image->reply.size > IMAGE_FRAME_MAX + (1 << 20) ||
            image->result_at != 0) {
            finish_run(image);
        }
        break;
    default:
        bytes_clear(&image->reply); // what an ended run still says is of no interest
        break;
    }
}

static void pull(struct image *image)
{
    for (enum image_state state = image->state; image->state == state;) {
        if (!bytes_reserve(&image->reply, REPLY_CHUNK)) {
            image_fail(image, "no memory for its reply");
            return;
        }
        ssize_t done =
            read(image->process.reply, image->reply.data + image->reply.size, REPLY_CHUNK);
        if (done <= 0) {
            if (done == 0) {
                image->ended_ns = clock_ns();
                image_fail(image, "its process ended");
            }
            return;
        }
        image->reply.size += (size_t)done;
        on_reply_bytes(image);
        if (done < REPLY_CHUNK) {
            return; // the pipe is empty, or says more on the next turn
        }
    }
}

static void on_reply_readable(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    struct image *image = poll->data;
    if (image->state == IMAGE_STOPPING) {
        image_drain(image);
    } else {
        pull(image);
    }
}

// Takes a result that is there but was not seen yet. True when it ended the run; another may go on.
static bool take_result(struct image *image)
{
    uint64_t run = image->runs;
    pull(image);
    return image->state != IMAGE_RUNNING || image->runs != run;
}

void image_end_run(struct image *image)
{
    if (!take_result(image)) {
        finish_run(image);
    }
}

// --- time ---

static bool is_out_of_cpu(const struct image *image)
{
    uint64_t limit_ns = (uint64_t)image->job.cpu_ms * 1000000;
    return limit_ns > 0 && image->backend->cpu_ns(image) - image->cpu_start_ns >= limit_ns;
}

// What a run had to wait for a processor is not held against it, within a bound: a program that can
// run, and had no CPU time, was kept from it. One that sleeps is not.
static uint64_t waited_ns(const struct image *image, uint64_t now)
{
    const uint64_t max = (uint64_t)VERIFY_WAITED_MS_MAX * 1000000;
    if (!spawn_is_runnable(image->backend->runner(image))) {
        return 0;
    }
    uint64_t wall = now - image->started_ns;
    uint64_t cpu = image->backend->cpu_ns(image) - image->cpu_start_ns;
    uint64_t waited = wall > cpu ? wall - cpu : 0;
    return waited < max ? waited : max;
}

static uint64_t deadline_of(const struct image *image, uint64_t now)
{
    uint64_t deadline = image->started_ns + (uint64_t)image->job.timeout_ms * 1000000;
    return now < deadline ? deadline : deadline + waited_ns(image, now);
}

// While a run lasts the timer ticks: it is the deadline, and it notices runs that stopped silently.
static void on_timer(uv_timer_t *timer)
{
    struct image *image = timer->data;
    if (image->state == IMAGE_STARTING) {
        image_fail(image, "it did not start in time");
    } else if (image->state == IMAGE_STOPPING) {
        image->backend->impatient(image);
    } else if (image->state == IMAGE_RUNNING && !take_result(image)) {
        uint64_t now = clock_ns();
        uint64_t deadline = deadline_of(image, now);
        if (now >= deadline || is_out_of_cpu(image)) {
            image->timed_out = true;
            finish_run(image);
        } else if (image->backend->stopped_itself(image)) {
            image_end_run(image);
        } else {
            uint64_t left_ms = (deadline - now + 999999) / 1000000;
            (void)uv_timer_start(timer, on_timer, left_ms < CRASH_POLL_MS ? left_ms : CRASH_POLL_MS,
                                 0);
        }
    }
}

void image_wait_ms(struct image *image, uint32_t ms)
{
    (void)uv_timer_start(&image->timer, on_timer, ms, 0);
}

// --- the interface ---

static void fill_start(struct image_start *start, const struct image_config *config,
                       size_t memory_bytes)
{
    uint32_t variant = (uint32_t)config->variant;
    *start = (struct image_start){
        .zygote = config->backend == BACKEND_ZYGOTE,
        .isolation = config->isolation,
        .hash_seed = 1000003 * variant + 1,
        .recursion_limit = 1000 + 150 * (variant % 4),
        .clock_tick_ns = 1000 + 977 * variant,
        .perturbation = variant * 211,
        .clock_base_s = 1600000000 + (86400 * 411 + 3733) * (int64_t)variant,
        .heap_mb = config->memory_mb / 2,
        .arena_mb = config->memory_mb / 2,
        .memory_bytes = memory_bytes,
    };
    if (config->forbidden != NULL) {
        size_t size = strnlen(config->forbidden, sizeof(start->forbidden) - 1);
        memcpy(start->forbidden, config->forbidden, size);
    }
}

static int open_handles(struct image *image, struct error *err)
{
    struct spawned *process = &image->process;
    int code = uv_timer_init(image->loop, &image->timer);
    CHECK(code == 0);
    enum { POLLS = 3 };
    uv_poll_t *polls[POLLS] = {&image->reply_poll, &image->request_poll, &image->control_poll};
    int descriptors[POLLS] = {process->reply, process->request, process->control};
    image->timer.data = image;
    image->handles_open = 1;
    for (int i = 0; i < POLLS && code == 0; i++) {
        code = uv_poll_init(image->loop, polls[i], descriptors[i]);
        polls[i]->data = image;
        image->handles_open += code == 0;
    }
    if (code == 0) {
        code = uv_poll_start(&image->reply_poll, UV_READABLE, on_reply_readable);
    }
    return code < 0 ? error_set(err, code, "image: cannot watch its pipes: %s", uv_strerror(code))
                    : 0;
}

int image_create(struct image **out, uv_loop_t *loop, const struct image_config *config,
                 const struct image_events *events, void *context, struct error *err)
{
    struct image *image = calloc(1, sizeof(*image));
    if (image == NULL) {
        return error_set(err, -ENOMEM, "image: out of memory");
    }
    image->config = *config;
    image->processor = -1;
    image->loop = loop;
    image->events = *events;
    image->context = context;
    bool rewinds = config->backend == BACKEND_REWIND;
    image->backend = rewinds ? &rewind_backend : &zygote_backend;
    size_t memory = ((size_t)config->memory_mb + MEMORY_BESIDE_MB) << 20;
    const struct spawn_config spawn = {.layout = config->variant,
                                       .isolation = config->isolation,
                                       .file_bytes = rewinds ? memory : 0,
                                       .memory_bytes = memory};
    int code = spawn_image(&image->process, &spawn, err);
    if (code < 0) {
        free(image);
        return code;
    }
    struct image_start start;
    fill_start(&start, config, memory);
    image->config.forbidden = NULL;
    code = open_handles(image, err);
    if (code == 0 &&
        write(image->process.request, &start, sizeof(start)) != (ssize_t)sizeof(start)) {
        code = error_set(err, -EIO, "image: it does not take its configuration");
    }
    if (code < 0) {
        image_close(image);
        return code;
    }
    (void)uv_timer_start(&image->timer, on_timer, START_MS, 0);
    *out = image;
    return 0;
}

static void fill_request(struct image *image)
{
    const struct image_job *job = &image->job;
    struct image_request request = {
        .flags = job->flags,
        .sleep_ms = job->timeout_ms,
        .output_max = job->output_max,
        .memory_mb = job->memory_mb,
        .source_size = (uint32_t)job->source_size,
        .code_size = (uint32_t)job->code_size,
        .arguments_size = (uint32_t)job->arguments_size,
    };
    bytes_clear(&image->request);
    bytes_append(&image->request, &request, sizeof(request));
    bytes_append(&image->request, job->source, job->source_size);
    bytes_append(&image->request, job->code, job->code_size);
    bytes_append(&image->request, job->arguments, job->arguments_size);
}

// Where the kernel refuses, the run is only slower.
static void move_to(struct image *image, int processor)
{
    if (processor >= 0 && processor != image->processor) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET((size_t)processor, &one);
        (void)sched_setaffinity(image->process.pid, sizeof(one), &one);
        image->processor = processor;
    }
}

void image_run(struct image *image, const struct image_job *job, int processor)
{
    CHECK(image->state == IMAGE_IDLE);
    move_to(image, processor);
    CHECK((job->source_size == 0) != (job->code_size == 0));
    image->job = *job;
    image->cpu_ns = 0;
    image->cpu_start_ns = image->backend->cpu_ns(image);
    image->state = IMAGE_RUNNING;
    image->runs++;
    image->request_sent = 0;
    bytes_clear(&image->reply);
    image->reply_used = image->program_at = image->result_at = 0;
    image->timed_out = image->reported = image->spoilt = image->child_ended = false;
    fill_request(image);
    image->started_ns = image->ended_ns = clock_ns();
    if (image->request.failed) {
        image_fail(image, "no memory for its request");
        return;
    }
    send_request(image);
    if (image->backend->begin != NULL) {
        image->backend->begin(image);
    }
    if (image->state != IMAGE_RUNNING) {
        return;
    }
    if (image->request_sent < image->request.size) {
        (void)uv_poll_start(&image->request_poll, UV_WRITABLE, on_request_writable);
    }
    uint64_t first = job->timeout_ms < CRASH_POLL_MS ? job->timeout_ms : CRASH_POLL_MS;
    (void)uv_timer_start(&image->timer, on_timer, first, 0);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct image *image = handle->data;
    if (--image->handles_open > 0) {
        return;
    }
    image->backend->destroy(image);
    spawn_end(&image->process);
    bytes_finish(&image->request);
    bytes_finish(&image->reply);
    free(image);
}

void image_close(struct image *image)
{
    if (image == NULL || image->closing) {
        return;
    }
    image->closing = true;
    image->state = IMAGE_LOST;
    uv_handle_t *handles[] = {(uv_handle_t *)&image->timer, (uv_handle_t *)&image->reply_poll,
                              (uv_handle_t *)&image->request_poll,
                              (uv_handle_t *)&image->control_poll};
    int open = image->handles_open;
    for (int i = 0; i < open; i++) { // they were opened in this order
        uv_close(handles[i], on_handle_closed);
    }
}
