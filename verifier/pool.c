#include "verifier/pool.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/metrics.h"
#include "verifier/lanes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    VARIANTS = VERIFY_IMAGES_MAX,
    QUEUE_ANY = VARIANTS,   // runs that any image may take
    FIRST_VARIANTS = 2,     // started at once
    START_FAILURES_MAX = 3, // in a row: then the pool gives its runs back
    RETRY_MS = 1000,        // and tries again after this
};

METRIC(runs_total, METRIC_COUNTER, "kelvin_verifier_runs_total", "programs run, once per image");
METRIC(run_seconds, METRIC_HISTOGRAM, "kelvin_verifier_run_seconds", "wall time of a run");
METRIC(lost_total, METRIC_COUNTER, "kelvin_verifier_images_lost_total",
       "images that ended or had to be given up");
METRIC(retired_total, METRIC_COUNTER, "kelvin_verifier_images_retired_total",
       "images replaced after their number of runs");
METRIC(images_now, METRIC_GAUGE, "kelvin_verifier_images", "images that are alive");
METRIC(running_now, METRIC_GAUGE, "kelvin_verifier_running", "images with a run");
METRIC(waiting_now, METRIC_GAUGE, "kelvin_verifier_waiting", "runs that wait for an image");

struct slot {
    struct image *image;
    struct pool *pool;
    struct pool_run *run;
    int variant;
    int lane;   // where it ran last, or -1
    bool ready; // it has been idle at least once
    bool idle;
    bool running; // in its lane: it has a run, or is brought back from one
    bool resting; // in an audit
};

struct pool {
    uv_loop_t *loop;
    struct pool_config config;
    pool_ready_fn *on_ready; // NULL after the call
    void *context;
    uv_timer_t retry;
    uv_idle_t auditor; // active while an image rests and none runs
    int handles_open;
    struct pool_run *queue[VARIANTS + 1];
    int waiting[VARIANTS + 1];
    struct slot **slots; // [slot_count], at most workers * VARIANTS
    int slot_count;
    struct lanes *lanes;
    int start_failures;
    struct error last_failure;
    bool closing;
    struct pool_stats stats;
};

// --- queues: leftist heaps, oldest deadline on top ---

static int rank_of(const struct pool_run *run)
{
    return run == NULL ? 0 : run->rank;
}

static struct pool_run *merge(struct pool_run *a, struct pool_run *b)
{
    if (a == NULL || b == NULL) {
        return a == NULL ? b : a;
    }
    if (b->deadline_ns < a->deadline_ns) {
        struct pool_run *swap = a;
        a = b;
        b = swap;
    }
    a->right = merge(a->right, b); // as deep as the logarithm of the queue
    if (rank_of(a->left) < rank_of(a->right)) {
        struct pool_run *swap = a->left;
        a->left = a->right;
        a->right = swap;
    }
    a->rank = rank_of(a->right) + 1;
    return a;
}

static int queue_of(const struct pool_run *run)
{
    return run->variant == POOL_ANY_VARIANT ? QUEUE_ANY : run->variant;
}

static void push(struct pool *pool, struct pool_run *run)
{
    int queue = queue_of(run);
    run->left = run->right = NULL;
    run->rank = 1;
    pool->queue[queue] = merge(pool->queue[queue], run);
    pool->waiting[queue]++;
}

static struct pool_run *pop(struct pool *pool, int queue)
{
    struct pool_run *run = pool->queue[queue];
    if (run != NULL) {
        pool->queue[queue] = merge(run->left, run->right);
        pool->waiting[queue]--;
    }
    return run;
}

static int count_waiting(const struct pool *pool)
{
    int count = 0;
    for (int queue = 0; queue <= VARIANTS; queue++) {
        count += pool->waiting[queue];
    }
    return count;
}

// The run that an image of `variant` takes next.
static struct pool_run *pop_for(struct pool *pool, int variant)
{
    struct pool_run *own = pool->queue[variant];
    struct pool_run *any = pool->queue[QUEUE_ANY];
    bool take_own = own != NULL && (any == NULL || own->deadline_ns <= any->deadline_ns);
    return pop(pool, take_own ? variant : QUEUE_ANY);
}

// --- images ---

static const struct image_events events;

static void leave_lane(struct slot *slot)
{
    if (slot->running) {
        lanes_leave(slot->pool->lanes, slot->lane);
    }
    slot->running = false;
}

static int count_of(const struct pool *pool, int variant, bool starting)
{
    int count = 0;
    for (int i = 0; i < pool->slot_count; i++) {
        const struct slot *slot = pool->slots[i];
        count += slot->variant == variant && (!starting || !slot->ready);
    }
    return count;
}

static void remove_slot(struct pool *pool, struct slot *slot)
{
    leave_lane(slot);
    for (int i = 0; i < pool->slot_count; i++) {
        if (pool->slots[i] == slot) {
            pool->slots[i] = pool->slots[--pool->slot_count];
            break;
        }
    }
    image_close(slot->image);
    free(slot);
}

static void note_failure(struct pool *pool, const char *text);

static void start_image(struct pool *pool, int variant)
{
    struct slot *slot = calloc(1, sizeof(*slot));
    struct error err = {0};
    CHECK(slot != NULL);
    *slot = (struct slot){.pool = pool, .variant = variant, .lane = -1};
    struct image_config config = {
        .backend = pool->config.backend,
        .isolation = pool->config.isolation,
        .variant = variant,
        .memory_mb = pool->config.memory_mb,
        .forbidden = pool->config.forbidden,
        .audit_every = pool->config.audit_every,
    };
    pool->slots[pool->slot_count++] = slot;
    if (image_create(&slot->image, pool->loop, &config, &events, slot, &err) < 0) {
        remove_slot(pool, slot);
        note_failure(pool, err.text);
    }
}

// Starts images for runs that none can take soon.
static void grow(struct pool *pool)
{
    if (pool->start_failures >= START_FAILURES_MAX) {
        return;
    }
    for (int variant = 0; variant < VARIANTS; variant++) {
        int starting = count_of(pool, variant, true);
        if (pool->waiting[variant] > starting &&
            count_of(pool, variant, false) < pool->config.workers) {
            start_image(pool, variant);
            return; // the next turn looks again
        }
    }
    int starting = 0;
    int best = 0;
    for (int variant = 0; variant < FIRST_VARIANTS; variant++) {
        starting += count_of(pool, variant, true);
        best = count_of(pool, variant, false) < count_of(pool, best, false) ? variant : best;
    }
    if (pool->waiting[QUEUE_ANY] > starting && pool->slot_count < pool->config.workers) {
        start_image(pool, best);
    }
}

static void begin_run(struct slot *slot, struct pool_run *run)
{
    struct lanes *lanes = slot->pool->lanes;
    slot->idle = false;
    slot->run = run;
    slot->running = true;
    slot->lane = lanes_take(lanes, slot->lane);
    image_run(slot->image, &run->job, lanes_processor(lanes, slot->lane));
}

// Gives runs to idle images; `stay`: only to those whose lane is free.
static void dispatch_to(struct pool *pool, bool stay)
{
    for (int i = 0; i < pool->slot_count && lanes_free(pool->lanes) > 0; i++) {
        struct slot *slot = pool->slots[i];
        bool asked = slot->idle && (!stay || lanes_is_free(pool->lanes, slot->lane));
        struct pool_run *run = asked ? pop_for(pool, slot->variant) : NULL;
        if (run != NULL) {
            begin_run(slot, run);
        }
    }
}

// --- audits ---

static struct slot *find_resting(const struct pool *pool)
{
    for (int i = 0; i < pool->slot_count; i++) {
        if (pool->slots[i]->resting) {
            return pool->slots[i];
        }
    }
    return NULL;
}

static void audit_some(struct pool *pool)
{
    struct slot *slot = find_resting(pool);
    if (slot != NULL) {
        image_audit(slot->image, false);
    }
}

static void on_time_to_audit(uv_idle_t *idle)
{
    audit_some(idle->data);
}

// Images that will be idle on this turn of the loop: their runs have ended.
static int count_ending(const struct pool *pool)
{
    int count = 0;
    for (int i = 0; i < pool->slot_count; i++) {
        count += pool->slots[i]->running && pool->slots[i]->run == NULL;
    }
    return count;
}

// Runs that can begin now.
static int count_startable(const struct pool *pool)
{
    int idle = 0;
    for (int i = 0; i < pool->slot_count; i++) {
        idle += pool->slots[i]->idle;
    }
    int lanes = lanes_free(pool->lanes);
    return idle < lanes ? idle : lanes;
}

// Where more runs wait than begin now or soon, a resting image is needed: its audit is brought to
// its end. True when that was so; what came of it has called dispatch.
static bool wake_up(struct pool *pool, int startable)
{
    struct slot *slot = find_resting(pool);
    if (slot == NULL || count_waiting(pool) <= startable + count_ending(pool)) {
        return false;
    }
    image_audit(slot->image, true);
    return true;
}

static void dispatch(struct pool *pool)
{
    if (pool->closing || wake_up(pool, count_startable(pool))) {
        return;
    }
    dispatch_to(pool, true);
    dispatch_to(pool, false);
    if (pool->closing || wake_up(pool, 0)) {
        return;
    }
    if (lanes_free(pool->lanes) > 0) {
        grow(pool);
    }
    bool quiet = find_resting(pool) != NULL && lanes_free(pool->lanes) == pool->config.workers;
    (void)(quiet ? uv_idle_start(&pool->auditor, on_time_to_audit) : uv_idle_stop(&pool->auditor));
}

// --- when nothing can be started ---

static void give_back(struct pool *pool)
{
    struct image_result result = {.outcome = OUTCOME_INFRASTRUCTURE,
                                  .exception = "",
                                  .detail = pool->last_failure.text,
                                  .repr = ""};
    for (int queue = 0; queue <= VARIANTS; queue++) {
        for (struct pool_run *run; !pool->closing && (run = pop(pool, queue)) != NULL;) {
            run->done(run, 0, &result);
        }
    }
}

static void on_retry(uv_timer_t *timer)
{
    struct pool *pool = timer->data;
    pool->start_failures = START_FAILURES_MAX - 1; // one more try
    dispatch(pool);
}

static void tell_ready(struct pool *pool, const struct error *failure)
{
    pool_ready_fn *on_ready = pool->on_ready;
    pool->on_ready = NULL;
    if (on_ready != NULL) {
        on_ready(pool->context, failure);
    }
}

static void note_failure(struct pool *pool, const char *text)
{
    (void)error_set(&pool->last_failure, -EIO, "%s", text);
    if (++pool->start_failures < START_FAILURES_MAX || pool->closing) {
        return;
    }
    log_error("verifier", "no sandbox can be started: %s", text);
    tell_ready(pool, &pool->last_failure);
    give_back(pool);
    if (!pool->closing) {
        (void)uv_timer_start(&pool->retry, on_retry, RETRY_MS, 0);
    }
}

// --- events of images ---

static bool first_are_ready(const struct pool *pool)
{
    bool ready[FIRST_VARIANTS] = {false};
    for (int i = 0; i < pool->slot_count; i++) {
        const struct slot *slot = pool->slots[i];
        if (slot->variant < FIRST_VARIANTS && slot->ready) {
            ready[slot->variant] = true;
        }
    }
    return ready[0] && ready[1];
}

static void on_idle(void *context, struct image *image)
{
    struct slot *slot = context;
    struct pool *pool = slot->pool;
    slot->resting = false;
    leave_lane(slot);
    if (image_runs(image) >= pool->config.retire_runs) {
        pool->stats.retired++;
        metric_add(&retired_total, 1);
        remove_slot(pool, slot);
        dispatch(pool);
        return;
    }
    slot->idle = true;
    slot->ready = true;
    pool->start_failures = 0;
    if (pool->on_ready != NULL && first_are_ready(pool)) {
        lanes_settle(pool->lanes);
        tell_ready(pool, NULL);
    }
    dispatch(pool);
    audit_some(pool);
}

static void on_resting(void *context, struct image *image)
{
    struct slot *slot = context;
    (void)image;
    slot->resting = true;
    leave_lane(slot);
    dispatch(slot->pool);
}

static void count_result(struct pool *pool, const struct image_result *result)
{
    pool->stats.runs++;
    pool->stats.timeouts += result->outcome == OUTCOME_TIMEOUT;
    pool->stats.crashes += result->outcome == OUTCOME_CRASHED;
    metric_add(&runs_total, 1);
    metric_observe(&run_seconds, (double)result->wall_us / 1e6);
    struct pool_stats now = pool_stats(pool);
    metric_set(&images_now, now.images);
    metric_set(&running_now, now.running);
    metric_set(&waiting_now, now.waiting);
}

static void on_ended(void *context, struct image *image, const struct image_result *result)
{
    struct slot *slot = context;
    struct pool *pool = slot->pool;
    struct pool_run *run = slot->run;
    slot->run = NULL;
    if (result->image_lost && run->losses++ == 0) {
        push(pool, run);
        return;
    }
    count_result(pool, result);
    run->done(run, image_variant(image), result);
}

static void on_lost(void *context, struct image *image)
{
    struct slot *slot = context;
    struct pool *pool = slot->pool;
    bool started = slot->ready;
    (void)image;
    pool->stats.lost++;
    metric_add(&lost_total, 1);
    remove_slot(pool, slot);
    if (!started) {
        note_failure(pool, "an image did not become ready; its reason is in the log above");
    }
    if (pool->on_ready != NULL && !pool->closing && pool->start_failures < START_FAILURES_MAX) {
        start_image(pool, count_of(pool, 0, false) == 0 ? 0 : 1);
    }
    dispatch(pool);
}

static const struct image_events events = {
    .idle = on_idle, .resting = on_resting, .ended = on_ended, .lost = on_lost};

// --- the interface ---

int pool_create(struct pool **out, uv_loop_t *loop, const struct pool_config *config,
                pool_ready_fn *on_ready, void *context, struct error *err)
{
    CHECK(config->workers > 0 && config->workers <= VERIFY_WORKERS_MAX);
    struct pool *pool = calloc(1, sizeof(*pool));
    struct slot **slots =
        calloc((size_t)config->workers * VARIANTS + FIRST_VARIANTS, sizeof(struct slot *));
    struct lanes *lanes = NULL;
    if (pool == NULL || slots == NULL ||
        lanes_create(&lanes, config->workers, config->pinned, err) < 0) {
        free(pool);
        free(slots);
        return error_set(err, -ENOMEM, "pool: out of memory");
    }
    pool->lanes = lanes;
    pool->loop = loop;
    pool->config = *config;
    pool->on_ready = on_ready;
    pool->context = context;
    pool->slots = slots;
    CHECK(uv_timer_init(loop, &pool->retry) == 0 && uv_idle_init(loop, &pool->auditor) == 0);
    pool->retry.data = pool->auditor.data = pool;
    pool->handles_open = 2;
    *out = pool;
    for (int variant = 0; variant < FIRST_VARIANTS; variant++) {
        start_image(pool, variant);
    }
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct pool *pool = handle->data;
    if (--pool->handles_open > 0) {
        return;
    }
    free(pool->slots);
    lanes_destroy(pool->lanes);
    free(pool);
}

void pool_close(struct pool *pool)
{
    if (pool == NULL || pool->closing) {
        return;
    }
    pool->closing = true;
    while (pool->slot_count > 0) {
        remove_slot(pool, pool->slots[0]);
    }
    uv_close((uv_handle_t *)&pool->retry, on_closed);
    uv_close((uv_handle_t *)&pool->auditor, on_closed);
}

void pool_submit(struct pool *pool, struct pool_run *run)
{
    CHECK(run->variant >= POOL_ANY_VARIANT && run->variant < VARIANTS);
    run->losses = 0;
    push(pool, run);
    dispatch(pool);
}

struct pool_stats pool_stats(const struct pool *pool)
{
    struct pool_stats stats = pool->stats;
    for (int i = 0; i < pool->slot_count; i++) {
        stats.running += pool->slots[i]->running;
    }
    stats.images = pool->slot_count;
    stats.waiting = count_waiting(pool);
    return stats;
}

uint64_t pool_memory_kb(const struct pool *pool)
{
    uint64_t kb = 0;
    for (int i = 0; i < pool->slot_count; i++) {
        kb += image_memory_kb(pool->slots[i]->image);
    }
    return kb;
}
