// The portable back-end. The image's process forks a child per request (runtime_main.c) and tells
// over the control socket how each child ended. A child that is out of time, or does not end by
// itself after its result, is killed there. The image is idle again when the child is gone and the
// pipes are empty.
#include "common/base/clock.h"
#include "verifier/image_state.h"

#include <errno.h>
#include <unistd.h>

enum {
    GRACE_MS = 20,      // from a result to the end of its child
    PATIENCE_MS = 5000, // from a kill to its end
};

static void bring_back(struct image *image)
{
    image_drain(image); // the zygote has emptied the request pipe (runtime_main.c)
    image_restored(image);
}

static void on_control(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    struct image *image = poll->data;
    struct control_ended ended;
    ssize_t size = read(image->process.control, &ended, sizeof(ended));
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    bool running = image->state == IMAGE_RUNNING || image->state == IMAGE_STOPPING;
    if (size != (ssize_t)sizeof(ended) || !running) {
        image->ended_ns = clock_ns();
        image_fail(image, "its zygote broke off");
        return;
    }
    image->child_ended = true;
    image->cpu_ns = (uint64_t)ended.cpu_us * 1000;
    if (image->state == IMAGE_RUNNING) {
        image_end_run(image); // the result may still lie in the pipe
    } else {
        bring_back(image);
    }
}

static int zygote_prepare(struct image *image, struct error *err)
{
    int code = uv_poll_start(&image->control_poll, UV_READABLE, on_control);
    return code < 0 ? error_set(err, code, "cannot watch its control socket") : 0;
}

static void kill_child(struct image *image)
{
    struct control_kill order = {.run = image->runs};
    image->kill_sent = true;
    if (write(image->process.control, &order, sizeof(order)) != (ssize_t)sizeof(order)) {
        image_fail(image, "its zygote does not listen");
        return;
    }
    image_wait_ms(image, PATIENCE_MS);
}

static void zygote_stop(struct image *image)
{
    image->kill_sent = false;
    if (image->child_ended) {
        bring_back(image);
    } else if (image->result_at == 0) {
        kill_child(image);
    } else {
        image_wait_ms(image, GRACE_MS);
    }
}

static void zygote_impatient(struct image *image)
{
    if (image->kill_sent) {
        image_fail(image, "a killed child does not end");
    } else {
        kill_child(image);
    }
}

static bool zygote_stopped_itself(struct image *image)
{
    (void)image;
    return false; // the control socket tells
}

// The zygote itself when it has yet to fork, or the host does not tell.
static pid_t zygote_runner(const struct image *image)
{
    pid_t child = spawn_child(image->process.pid);
    return child > 0 ? child : image->process.pid;
}

// While a child runs: its time, where the host tells. At its end the control socket tells, so the
// run's total is what stands in the image.
static uint64_t zygote_cpu_ns(const struct image *image)
{
    pid_t child = image->state == IMAGE_RUNNING ? spawn_child(image->process.pid) : 0;
    return child > 0 ? spawn_cpu_ns(child) : image->cpu_ns;
}

static void zygote_destroy(struct image *image)
{
    (void)image;
}

const struct image_backend zygote_backend = {
    .prepare = zygote_prepare,
    .stop = zygote_stop,
    .stopped_itself = zygote_stopped_itself,
    .impatient = zygote_impatient,
    .cpu_ns = zygote_cpu_ns,
    .runner = zygote_runner,
    .destroy = zygote_destroy,
};
