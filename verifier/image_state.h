// image_state.h: the inside of an image, shared by image.c and the two back-ends.
#ifndef VERIFIER_IMAGE_STATE_H
#define VERIFIER_IMAGE_STATE_H

#include "verifier/image.h"
#include "verifier/protocol.h"
#include "verifier/spawn.h"

enum image_state {
    IMAGE_STARTING, // preparing its interpreter
    IMAGE_IDLE,
    IMAGE_RUNNING,  // a request is with it
    IMAGE_STOPPING, // the run is over or out of time; the back-end brings the fresh state back
    IMAGE_RESTING,  // the fresh state is back, and is being compared with the snapshot
    IMAGE_LOST,     // of no use any more
};

// How a back-end brings an image back. `stop` ends in image_restored, image_rest or image_fail, at
// once or on a later turn of the loop.
struct image_backend {
    int (*prepare)(struct image *image, struct error *err); // ready: take it over
    void (*begin)(struct image *image);                     // the request is on its way; or NULL
    void (*stop)(struct image *image);
    bool (*stopped_itself)(struct image *image); // the run crashed without closing its pipe
    uint64_t (*cpu_ns)(const struct image *image);
    pid_t (*runner)(const struct image *image); // the process that has the run
    void (*impatient)(struct image *image);     // the timer that stop() started has run out
    // Goes on with the audit of a resting image, which ends in image_restored or image_fail. NULL:
    // its images never rest.
    void (*audit)(struct image *image, bool all);
    void (*destroy)(struct image *image); // of backend_data, which may be NULL
};

extern const struct image_backend zygote_backend;

struct image {
    enum image_state state;
    struct image_config config;
    const struct image_backend *backend;
    void *backend_data;
    struct spawned process;
    int processor; // that it is bound to, or -1
    uv_loop_t *loop;
    uv_poll_t reply_poll;
    uv_poll_t request_poll;
    uv_poll_t control_poll;
    uv_timer_t timer; // start-up, the run's deadline, the back-end's patience
    int handles_open;
    bool closing;
    struct image_events events;
    void *context;
    // The run.
    struct image_job job;
    struct bytes request;
    size_t request_sent;
    struct bytes reply;
    size_t reply_used; // bytes of frames already taken
    size_t program_at; // offset of the program frame's payload + 1; 0: none came
    size_t program_size;
    size_t result_at; // offset of the result frame's payload + 1
    size_t result_size;
    bool timed_out;
    bool reported;
    bool spoilt;      // what it said breaks the rules
    bool kill_sent;   // a zygote: it was told to end this run's child
    bool child_ended; // a zygote's: it has reported this run's child
    uint64_t started_ns;
    uint64_t ended_ns;
    uint64_t cpu_start_ns;
    uint64_t cpu_ns; // of the run
    uint64_t runs;
};

// What the program frame, if one came, and the result frame say (image_result.c); copies go to
// `store`. False when they break the rules.
bool image_read_program(struct image *image, struct image_result *result, struct bytes *store);
bool image_read_result(struct image *image, struct image_result *result, struct bytes *store);

// image_end_run ends the run that is going on, after a look into the reply pipe for its result.
void image_end_run(struct image *image);

// image_wait_ms lets `impatient` be called after so long, unless the image is restored before.
void image_wait_ms(struct image *image, uint32_t ms);

// image_report hands the result to the asker, once.
void image_report(struct image *image);

// image_restored makes the image idle, image_rest lets it rest in an audit; image_fail makes it
// lost, with a reason for the log.
void image_restored(struct image *image);
void image_rest(struct image *image);
void image_fail(struct image *image, const char *reason);

// image_drain throws away what is left in the reply pipe, image_take_back what a run has left
// unread in the request pipe.
void image_drain(struct image *image);
void image_take_back(struct image *image);

// image_spoil makes the run that is going on a crash, whatever it said.
void image_spoil(struct image *image);

// image_audited counts a full comparison and gives its result back; a failed one is an alarm.
bool image_audited(struct image *image, bool fresh);

#endif
