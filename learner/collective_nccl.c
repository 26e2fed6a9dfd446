// The table over NCCL. An operation on an array longer than the staging buffers runs in turns; each
// is put, start, wait, get. Ranks ask for the same operations in the same order, so they agree on
// the turns without a word.
//
// scatter sends each slice's pieces as they are, and the caller adds them in the slices' order: the
// result is that of one rank, bit for bit. reduce lets NCCL add, which moves fewer bytes where a
// rank owns several slices, in an order that is NCCL's.
#include "learner/collective_nccl.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/tensor/memory.h"
#include "learner/cuda_module.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    PATH_BYTES = 4096,
    POLLS = 2000, // in a row before the first nap
    NAP_US = 50,
    LOOK_MS = 250,        // between two looks whether the others live
    CALL_JOIN = 0x6e6363, // what rank 0 tells the others for it
    ALIGN_BYTES = 64,
};

struct nccl {
    struct collective base;
    struct collective *host;
    const struct cuda_module *module;
    struct cuda_link *link; // NULL: ended after a failure
    size_t staging;
    uint64_t limit_ms;
};

static struct nccl *nccl_of(struct collective *collective)
{
    return (struct nccl *)collective;
}

// --- the module ---

static int beside_program(char *out, struct error *err)
{
    ssize_t size = readlink("/proc/self/exe", out, PATH_BYTES - 1);
    if (size < 0) {
        return error_set(err, -errno, "cannot read /proc/self/exe: %s", strerrordesc_np(errno));
    }
    out[size] = '\0';
    char *name = strrchr(out, '/') + 1;
    size_t room = PATH_BYTES - (size_t)(name - out);
    return (size_t)snprintf(name, room, "kelvin_cuda.so") < room
               ? 0
               : error_set(err, -ENAMETOOLONG, "the program's folder has too long a name");
}

// Loads the module once for the process: NCCL's threads do not bear its unloading.
static int load(const struct cuda_module **out, const char *path, struct error *err)
{
    char beside[PATH_BYTES];
    int code = path == NULL ? beside_program(beside, err) : 0;
    path = path == NULL ? beside : path;
    if (code == 0 && access(path, F_OK) != 0) {
        code = error_set(err, -ENOENT,
                         "learner.collective: nccl needs %s, which is built where the CUDA toolkit "
                         "and NCCL are found; build with them, or set learner.collective=host",
                         path);
    }
    if (code < 0) {
        return code;
    }
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        return error_set(err, -ENOENT, "learner.collective: nccl cannot load %s",
                         dlerror()); // NOLINT(concurrency-mt-unsafe): glibc's is of the thread
    }
    const struct cuda_module *(*get)(void) = NULL;
    *(void **)&get = dlsym(library, CUDA_MODULE_SYMBOL);
    const struct cuda_module *module = get == NULL ? NULL : get();
    if (module == NULL || module->version != CUDA_MODULE_VERSION) {
        (void)dlclose(library);
        return error_set(err, -EINVAL, "%s is not of this version of Kelvin; build both together",
                         path);
    }
    *out = module;
    return 0;
}

static int check_devices(const struct cuda_module *module, int32_t ranks, struct error *err)
{
    char text[CUDA_TEXT_BYTES] = "";
    int count = 0;
    CHECK(module != NULL); // or it would have been refused
    if (module->devices(&count, text) < 0) {
        return error_set(err, -ENODEV, "learner.collective: nccl: %s; set learner.collective=host",
                         text);
    }
    if (count < ranks) {
        return error_set(err, -ENODEV,
                         "learner.collective: nccl needs a CUDA device for each of %d ranks, and "
                         "%d can be used; lower learner.ranks or set learner.collective=host",
                         ranks, count);
    }
    return 0;
}

int collective_nccl_check(const char *module, int32_t ranks, struct error *err)
{
    const struct cuda_module *loaded = NULL;
    int code = load(&loaded, module, err);
    return code < 0 ? code : check_devices(loaded, ranks, err);
}

// --- waiting ---

// Ends the link, so that no other rank waits for this one inside NCCL.
static int fail(struct nccl *nccl, int code, const char *text, struct error *err)
{
    nccl->module->leave(nccl->link);
    nccl->link = NULL;
    return error_set(err, code, "%s", text);
}

static int await(struct nccl *nccl, const char *where, struct error *err)
{
    static const struct timespec nap = {.tv_nsec = NAP_US * 1000L};
    char text[CUDA_TEXT_BYTES] = "";
    struct error reason = {0};
    uint64_t since_ms = clock_ms();
    uint64_t looked_ms = since_ms;
    for (int polls = 0;; polls++) {
        enum cuda_progress progress = nccl->module->poll(nccl->link, text);
        if (progress == CUDA_DONE) {
            return 0;
        }
        if (progress == CUDA_FAILED) {
            return fail(nccl, -EIO, text, err);
        }
        if (polls < POLLS) {
            continue;
        }
        (void)nanosleep(&nap, NULL);
        uint64_t now_ms = clock_ms();
        int code = 0;
        if (now_ms - looked_ms >= LOOK_MS) {
            looked_ms = now_ms;
            code = nccl->host->ops->check(nccl->host, &reason);
        }
        if (code == 0 && now_ms - since_ms > nccl->limit_ms) {
            code = error_set(&reason, -ETIMEDOUT, "NCCL has not ended %s within %llu s", where,
                             (unsigned long long)(nccl->limit_ms / 1000));
        }
        if (code < 0) {
            return fail(nccl, code, reason.text, err);
        }
    }
}

// --- turns ---

// struct run is the bytes [from, to) of an array that a rank owns.
struct run {
    size_t from, to;
};

static struct run run_of(const struct nccl *nccl, int32_t rank, size_t size, size_t item,
                         int32_t items)
{
    const struct collective as = {.rank = rank, .ranks = nccl->base.ranks};
    size_t from = (size_t)collective_from(&as, items) * item;
    size_t to = (size_t)collective_to(&as, items) * item;
    return (struct run){.from = from < size ? from : size, .to = to < size ? to : size};
}

// turn_of is what of a run comes in the turn that begins at byte `at` of all runs.
static struct run turn_of(struct run run, size_t at, size_t piece)
{
    size_t from = run.from + at < run.to ? run.from + at : run.to;
    return (struct run){.from = from, .to = run.to - from > piece ? from + piece : run.to};
}

static size_t longest_run(const struct nccl *nccl, size_t size, size_t item, int32_t items)
{
    size_t longest = 0;
    for (int32_t r = 0; r < nccl->base.ranks; r++) {
        struct run run = run_of(nccl, r, size, item, items);
        longest = run.to - run.from > longest ? run.to - run.from : longest;
    }
    return longest;
}

// The staging buffer cut into `count` pieces.
static size_t piece_size(const struct nccl *nccl, int32_t count)
{
    size_t piece = nccl->staging / (size_t)count / ALIGN_BYTES * ALIGN_BYTES;
    CHECK(piece > 0);
    return piece;
}

static int put(struct nccl *nccl, size_t at, const void *data, struct run part, struct error *err)
{
    char text[CUDA_TEXT_BYTES] = "";
    if (part.to > part.from && nccl->module->put(nccl->link, at, (const char *)data + part.from,
                                                 part.to - part.from, text) < 0) {
        return fail(nccl, -EIO, text, err);
    }
    return 0;
}

static int get(struct nccl *nccl, void *data, struct run part, size_t at, struct error *err)
{
    char text[CUDA_TEXT_BYTES] = "";
    if (part.to > part.from && nccl->module->get(nccl->link, (char *)data + part.from, at,
                                                 part.to - part.from, text) < 0) {
        return fail(nccl, -EIO, text, err);
    }
    return 0;
}

// Whether the link still stands; the first failure has said why it does not.
static int check_link(struct nccl *nccl, struct error *err)
{
    int code = nccl->host->ops->check(nccl->host, err);
    if (code == 0 && nccl->link == NULL) {
        code = error_set(err, -EPIPE, "rank %d has left NCCL", nccl->base.rank);
    }
    return code;
}

// --- the table ---

static void *nccl_alloc(struct collective *collective, size_t size)
{
    (void)collective;
    return floats_alloc((size + sizeof(float) - 1) / sizeof(float));
}

static void nccl_release(struct collective *collective, void *data, size_t size)
{
    (void)collective;
    (void)size;
    floats_free(data);
}

// struct exchange is a scatter under way.
struct exchange {
    struct nccl *nccl;
    void *const *slices;
    int32_t count; // slices
    size_t size, item, piece;
    int32_t items;
    size_t at;
    struct cuda_piece *pieces;
    int piece_count;
};

static int32_t owner_of(const struct exchange *exchange, int32_t slice)
{
    struct collective as = {.ranks = exchange->nccl->base.ranks};
    while (slice >= collective_to(&as, exchange->count)) {
        as.rank++;
    }
    return as.rank;
}

static struct run part_of(const struct exchange *exchange, int32_t rank)
{
    struct run run = run_of(exchange->nccl, rank, exchange->size, exchange->item, exchange->items);
    return turn_of(run, exchange->at, exchange->piece);
}

// Adds the message of `slice` from its owner to `peer`, seen from this rank, at piece `n`.
static void add_piece(struct exchange *exchange, int32_t peer, bool is_send, int32_t n,
                      struct run part)
{
    if (part.to > part.from) {
        exchange->pieces[exchange->piece_count++] =
            (struct cuda_piece){.peer = peer,
                                .is_send = is_send,
                                .at = (size_t)n * exchange->piece,
                                .size = part.to - part.from};
    }
}

// Lists a turn's messages, slice by slice, and puts what is sent: piece slice·N + peer of the send
// buffer; slice s comes into piece s of the receive buffer.
static int list_pieces(struct exchange *exchange, struct error *err)
{
    const int32_t own = exchange->nccl->base.rank;
    const int32_t ranks = exchange->nccl->base.ranks;
    int code = 0;
    exchange->piece_count = 0;
    for (int32_t s = 0; s < exchange->count; s++) {
        int32_t owner = owner_of(exchange, s);
        if (owner != own) {
            add_piece(exchange, owner, false, s, part_of(exchange, own));
            continue;
        }
        for (int32_t r = 0; code == 0 && r < ranks; r++) {
            if (r != own) {
                struct run part = part_of(exchange, r);
                add_piece(exchange, r, true, s * ranks + r, part);
                code = put(exchange->nccl, (size_t)(s * ranks + r) * exchange->piece,
                           exchange->slices[s], part, err);
            }
        }
    }
    return code;
}

static int take_pieces(const struct exchange *exchange, struct error *err)
{
    const int32_t own = exchange->nccl->base.rank;
    int code = 0;
    for (int32_t s = 0; code == 0 && s < exchange->count; s++) {
        if (owner_of(exchange, s) != own) {
            code = get(exchange->nccl, exchange->slices[s], part_of(exchange, own),
                       (size_t)s * exchange->piece, err);
        }
    }
    return code;
}

static int nccl_scatter(struct collective *collective, void *const *slices, int32_t count,
                        size_t size, size_t item, int32_t items, struct error *err)
{
    struct nccl *nccl = nccl_of(collective);
    const int32_t ranks = collective->ranks;
    char text[CUDA_TEXT_BYTES] = "";
    int code = check_link(nccl, err);
    CLEANUP(freep)
    struct cuda_piece *pieces = calloc((size_t)count * (size_t)ranks, sizeof(*pieces));
    CHECK(pieces != NULL);
    struct exchange exchange = {.nccl = nccl,
                                .slices = slices,
                                .count = count,
                                .size = size,
                                .item = item,
                                .items = items,
                                .piece = piece_size(nccl, count * ranks),
                                .pieces = pieces};
    size_t longest = longest_run(nccl, size, item, items);
    for (; code == 0 && exchange.at < longest; exchange.at += exchange.piece) {
        code = list_pieces(&exchange, err);
        if (code == 0 &&
            nccl->module->exchange(nccl->link, pieces, exchange.piece_count, text) < 0) {
            code = fail(nccl, -EIO, text, err);
        }
        code = code < 0 ? code : await(nccl, "the exchange of gradients", err);
        code = code < 0 ? code : take_pieces(&exchange, err);
    }
    return code;
}

static int nccl_reduce(struct collective *collective, float *data, size_t size, size_t item,
                       int32_t items, struct error *err)
{
    struct nccl *nccl = nccl_of(collective);
    const size_t piece = piece_size(nccl, collective->ranks);
    const size_t longest = longest_run(nccl, size, item, items);
    const struct run own = run_of(nccl, collective->rank, size, item, items);
    char text[CUDA_TEXT_BYTES] = "";
    int code = check_link(nccl, err);
    for (size_t at = 0; code == 0 && at < longest; at += piece) {
        // What lies behind a shorter run's end is added too, and read by nobody.
        size_t width = longest - at < piece ? longest - at : piece;
        for (int32_t r = 0; code == 0 && r < collective->ranks; r++) {
            struct run part = turn_of(run_of(nccl, r, size, item, items), at, piece);
            code = put(nccl, (size_t)r * width, data, part, err);
        }
        if (code == 0 &&
            nccl->module->reduce_scatter(nccl->link, width / sizeof(float), text) < 0) {
            code = fail(nccl, -EIO, text, err);
        }
        code = code < 0 ? code : await(nccl, "the sum of the gradients", err);
        code = code < 0 ? code : get(nccl, data, turn_of(own, at, piece), 0, err);
    }
    return code;
}

static int nccl_gather(struct collective *collective, void *data, size_t size, size_t item,
                       int32_t items, struct error *err)
{
    struct nccl *nccl = nccl_of(collective);
    const size_t piece = piece_size(nccl, collective->ranks);
    const size_t longest = longest_run(nccl, size, item, items);
    char text[CUDA_TEXT_BYTES] = "";
    int code = check_link(nccl, err);
    for (size_t at = 0; code == 0 && at < longest; at += piece) {
        size_t width = longest - at < piece ? longest - at : piece;
        struct run own = run_of(nccl, collective->rank, size, item, items);
        code = put(nccl, 0, data, turn_of(own, at, piece), err);
        if (code == 0 && nccl->module->all_gather(nccl->link, width, text) < 0) {
            code = fail(nccl, -EIO, text, err);
        }
        code = code < 0 ? code : await(nccl, "the exchange of results", err);
        for (int32_t r = 0; code == 0 && r < collective->ranks; r++) {
            if (r != collective->rank) {
                struct run part = turn_of(run_of(nccl, r, size, item, items), at, piece);
                code = get(nccl, data, part, (size_t)r * width, err);
            }
        }
    }
    return code;
}

static int nccl_spread(struct collective *collective, void *data, size_t size, struct error *err)
{
    struct nccl *nccl = nccl_of(collective);
    const struct run all = {.from = 0, .to = size};
    char text[CUDA_TEXT_BYTES] = "";
    int code = check_link(nccl, err);
    for (size_t at = 0; code == 0 && at < size; at += nccl->staging) {
        struct run part = turn_of(all, at, nccl->staging);
        code = collective->rank == 0 ? put(nccl, 0, data, part, err) : 0;
        if (code == 0 && nccl->module->broadcast(nccl->link, part.to - part.from, text) < 0) {
            code = fail(nccl, -EIO, text, err);
        }
        code = code < 0 ? code : await(nccl, "the spreading of weights", err);
        if (code == 0 && collective->rank != 0) {
            code = get(nccl, data, part, 0, err);
        }
    }
    return code;
}

// What is small or waits for long goes over the host's memory.

static void *nccl_block(struct collective *collective, size_t size)
{
    struct collective *host = nccl_of(collective)->host;
    return host->ops->block(host, size);
}

static int nccl_tell(struct collective *collective, uint32_t kind, struct error *err)
{
    struct collective *host = nccl_of(collective)->host;
    return host->ops->tell(host, kind, err);
}

static int nccl_hear(struct collective *collective, struct collective_call *call, struct error *err)
{
    struct collective *host = nccl_of(collective)->host;
    return host->ops->hear(host, call, err);
}

static int nccl_end(struct collective *collective, struct error *err)
{
    struct collective *host = nccl_of(collective)->host;
    return host->ops->end(host, err);
}

static int nccl_check(struct collective *collective, struct error *err)
{
    return check_link(nccl_of(collective), err);
}

static void nccl_give_up(struct collective *collective, const char *text)
{
    struct collective *host = nccl_of(collective)->host;
    host->ops->give_up(host, text);
}

static void nccl_close(struct collective *collective)
{
    struct nccl *nccl = nccl_of(collective);
    nccl->module->leave(nccl->link);
    collective_close(nccl->host);
    free(nccl);
}

static const struct collective_ops nccl_ops = {
    .name = "nccl",
    .alloc = nccl_alloc,
    .release = nccl_release,
    .scatter = nccl_scatter,
    .reduce = nccl_reduce,
    .gather = nccl_gather,
    .spread = nccl_spread,
    .block = nccl_block,
    .tell = nccl_tell,
    .hear = nccl_hear,
    .end = nccl_end,
    .check = nccl_check,
    .give_up = nccl_give_up,
    .close = nccl_close,
};

// --- making it ---

// Draws the id on rank 0 and hands it to the others.
static int agree(struct nccl *nccl, struct cuda_join *join, struct error *err)
{
    struct collective *host = nccl->host;
    struct collective_call call = {0};
    char text[CUDA_TEXT_BYTES] = "";
    int code = 0;
    if (host->rank == 0) {
        void *block = host->ops->block(host, CUDA_ID_BYTES);
        CHECK(block != NULL);
        if (nccl->module->draw_id(join->id, text) < 0) {
            return error_set(err, -EIO, "%s", text);
        }
        memcpy(block, join->id, CUDA_ID_BYTES);
        code = host->ops->tell(host, CALL_JOIN, err);
    } else {
        code = host->ops->hear(host, &call, err);
        CHECK(code < 0 || (call.kind == CALL_JOIN && call.size == CUDA_ID_BYTES));
        if (code == 0) {
            memcpy(join->id, call.block, CUDA_ID_BYTES);
        }
    }
    return code < 0 ? code : host->ops->end(host, err);
}

static int join_ranks(struct nccl *nccl, struct error *err)
{
    struct cuda_join join = {.device = nccl->base.rank,
                             .rank = nccl->base.rank,
                             .ranks = nccl->base.ranks,
                             .staging = nccl->staging};
    char text[CUDA_TEXT_BYTES] = "";
    int code = agree(nccl, &join, err);
    if (code == 0 && nccl->module->join(&nccl->link, &join, text) < 0) {
        code = error_set(err, -EIO, "%s", text);
    }
    return code < 0 ? code : await(nccl, "the meeting of the ranks", err);
}

int collective_nccl_create(struct collective **out, struct collective *host,
                           const struct nccl_options *options, struct error *err)
{
    CLEANUP(freep) struct nccl *nccl = calloc(1, sizeof(*nccl));
    CHECK(nccl != NULL && options->staging % 4096 == 0);
    nccl->base = (struct collective){.ops = &nccl_ops, .rank = host->rank, .ranks = host->ranks};
    nccl->host = host;
    nccl->staging = options->staging == 0 ? NCCL_STAGING_BYTES : options->staging;
    nccl->limit_ms = (uint64_t)options->limit_s * 1000;
    int code = load(&nccl->module, options->module, err);
    code = code < 0 ? code : check_devices(nccl->module, host->ranks, err);
    code = code < 0 ? code : join_ranks(nccl, err);
    if (code < 0) {
        return code;
    }
    if (host->rank == 0) {
        log_info("rank", "NCCL joins the ranks ranks=%d built_with=\"%s\"", host->ranks,
                 nccl->module->built_with);
    }
    *out = &TAKE(nccl)->base;
    return 0;
}
