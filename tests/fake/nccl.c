// A stand-in for cudart and NCCL, linked with learner/cuda_module.c in place of both: device memory
// is the process's, ranks exchange through a file in memory. It is as asynchronous as NCCL: a call
// only begins an operation, which goes on when the stream or the communicator is asked, and ends
// when all ranks have come as far. It is strict: a copy while an operation is under way, an
// operation on another device than the communicator's, and calls that differ between ranks fail.
//
// FAKE_NCCL_DEVICES says how many devices there are (8). FAKE_NCCL_FAIL and FAKE_NCCL_HANG=N let
// this process's Nth operation fail, or never begin.
#include <cuda_runtime_api.h>
#include <nccl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

// nccl.h declares these without a prototype.
ncclResult_t ncclGroupStart(void);
ncclResult_t ncclGroupEnd(void);

enum { RANKS = 8, MESSAGES = 64, AREA_BYTES = 64 << 20, TEXT_BYTES = 64, DEVICES = 8 };

enum operation { REDUCE_SCATTER = 1, ALL_GATHER, BROADCAST, EXCHANGE };

struct message {
    int peer; // who receives
    size_t at, size;
};

// struct seat is what one rank shows the others of its operation `posted`.
struct seat {
    atomic_int joined;
    atomic_uint posted, read; // operations begun; operations whose results this rank has
    enum operation operation;
    size_t count; // bytes a rank
    int message_count;
    struct message messages[MESSAGES];
    char area[AREA_BYTES];
};

struct receipt {
    int peer;
    void *to;
    size_t size;
};

struct ncclComm {
    struct seat *seats;
    int rank, ranks, device;
    unsigned int number; // operations called
    bool under_way, begun;
    enum operation operation;
    const char *send;
    char *receive;
    size_t count;
    int send_count, receipt_count;
    struct receipt sends[MESSAGES], receipts[MESSAGES];
    ncclResult_t state;
    char text[TEXT_BYTES];
};

static ncclComm_t the_comm; // a process has one
static _Thread_local int current_device;
static bool in_group;

static int number_of(const char *name, int otherwise)
{
    const char *text = getenv(name);
    return text == NULL ? otherwise : (int)strtol(text, NULL, 10);
}

static size_t file_size(void)
{
    return RANKS * sizeof(struct seat);
}

// --- going on ---

static ncclResult_t broken(ncclComm_t comm, const char *text)
{
    (void)snprintf(comm->text, sizeof(comm->text), "%s", text);
    comm->state = ncclInvalidUsage;
    return comm->state;
}

static bool all_at(const struct ncclComm *comm, bool read, unsigned int number)
{
    for (int r = 0; r < comm->ranks; r++) {
        const struct seat *seat = &comm->seats[r];
        if ((int)(atomic_load(read ? &seat->read : &seat->posted) - number) < 0) {
            return false;
        }
    }
    return true;
}

// Shows the others what this rank sends.
static void begin(ncclComm_t comm)
{
    struct seat *own = &comm->seats[comm->rank];
    own->operation = comm->operation;
    own->count = comm->count;
    own->message_count = comm->send_count;
    size_t at = 0;
    for (int i = 0; i < comm->send_count; i++) {
        const struct receipt *send = &comm->sends[i];
        own->messages[i] = (struct message){.peer = send->peer, .at = at, .size = send->size};
        memcpy(own->area + at, send->to, send->size);
        at += send->size;
    }
    if (comm->operation != EXCHANGE) {
        size_t all = comm->count * (size_t)(comm->operation == REDUCE_SCATTER ? comm->ranks : 1);
        memcpy(own->area, comm->send, all);
    }
    comm->begun = true;
    atomic_store(&own->posted, comm->number);
}

// Added from the last rank to the first: not the order of anything else.
static void add_up(ncclComm_t comm)
{
    float *sum = (float *)comm->receive;
    for (size_t i = 0; i < comm->count / sizeof(float); i++) {
        float total = 0.0f;
        for (int r = comm->ranks - 1; r >= 0; r--) {
            float addend;
            memcpy(&addend,
                   comm->seats[r].area + comm->count * (size_t)comm->rank + i * sizeof(float),
                   sizeof(addend));
            total += addend;
        }
        sum[i] = total;
    }
}

static ncclResult_t receive_messages(ncclComm_t comm)
{
    int seen[RANKS] = {0}; // messages of each peer looked at
    for (int i = 0; i < comm->receipt_count; i++) {
        const struct receipt *receipt = &comm->receipts[i];
        const struct seat *peer = &comm->seats[receipt->peer];
        int *k = &seen[receipt->peer];
        while (*k < peer->message_count && peer->messages[*k].peer != comm->rank) {
            (*k)++;
        }
        if (*k == peer->message_count || peer->messages[*k].size != receipt->size) {
            return broken(comm, "a message is not sent as it is received");
        }
        memcpy(receipt->to, peer->area + peer->messages[(*k)++].at, receipt->size);
    }
    return ncclSuccess;
}

static ncclResult_t finish(ncclComm_t comm)
{
    for (int r = 0; r < comm->ranks; r++) {
        if (comm->seats[r].operation != comm->operation ||
            (comm->operation != EXCHANGE && comm->seats[r].count != comm->count)) {
            return broken(comm, "the ranks call different things");
        }
    }
    switch (comm->operation) {
    case REDUCE_SCATTER:
        add_up(comm);
        break;
    case ALL_GATHER:
        for (int r = 0; r < comm->ranks; r++) {
            memcpy(comm->receive + comm->count * (size_t)r, comm->seats[r].area, comm->count);
        }
        break;
    case BROADCAST:
        memcpy(comm->receive, comm->seats[0].area, comm->count);
        break;
    case EXCHANGE:
        if (receive_messages(comm) != ncclSuccess) {
            return comm->state;
        }
        break;
    }
    comm->under_way = false;
    atomic_store(&comm->seats[comm->rank].read, comm->number);
    return ncclSuccess;
}

static void go_on(ncclComm_t comm)
{
    bool hangs = comm->number == (unsigned int)number_of("FAKE_NCCL_HANG", -1);
    if (!comm->under_way || comm->state != ncclSuccess || hangs) {
        return;
    }
    if (!comm->begun && all_at(comm, true, comm->number - 1)) { // all have read what came before
        begin(comm);
    }
    if (comm->begun && all_at(comm, false, comm->number)) {
        (void)finish(comm);
    }
}

static ncclResult_t call(ncclComm_t comm, enum operation operation, const void *send, void *receive,
                         size_t bytes)
{
    if (comm->under_way || comm->device != current_device) {
        return broken(comm, "one at a time, on the device of the communicator");
    }
    if (bytes * (size_t)(operation == REDUCE_SCATTER ? comm->ranks : 1) > AREA_BYTES) {
        return broken(comm, "too long for the stand-in");
    }
    comm->number++;
    if (comm->number == (unsigned int)number_of("FAKE_NCCL_FAIL", -1)) {
        (void)snprintf(comm->text, sizeof(comm->text), "as the test wants");
        return ncclSystemError;
    }
    comm->operation = operation;
    comm->send = send;
    comm->receive = receive;
    comm->count = bytes;
    comm->under_way = true;
    comm->begun = false;
    return ncclInProgress;
}

// --- NCCL ---

const char *ncclGetErrorString(ncclResult_t result)
{
    return result == ncclSystemError ? "unhandled system error" : "invalid usage";
}

const char *ncclGetLastError(ncclComm_t comm)
{
    return comm == NULL ? "" : comm->text;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    int fd = memfd_create("fake-nccl", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)file_size()) < 0) {
        return ncclSystemError;
    }
    (void)snprintf(id->internal, sizeof(id->internal), "/proc/%d/fd/%d", getpid(), fd);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    struct ncclComm *comm = calloc(1, sizeof(*comm));
    FILE *file = fopen(id.internal, "r+e");
    if (comm == NULL || file == NULL || config->blocking != 0 || ranks > RANKS) {
        return ncclSystemError;
    }
    comm->seats = mmap(NULL, file_size(), PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
    (void)fclose(file);
    if (comm->seats == MAP_FAILED) {
        return ncclSystemError;
    }
    comm->rank = rank;
    comm->ranks = ranks;
    comm->device = current_device;
    atomic_store(&comm->seats[rank].joined, 1);
    the_comm = *out = comm;
    return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state)
{
    *state = comm->state;
    for (int r = 0; r < comm->ranks && comm->state == ncclSuccess; r++) {
        *state = atomic_load(&comm->seats[r].joined) == 0 ? ncclInProgress : *state;
    }
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    (void)munmap(comm->seats, file_size());
    free(comm);
    the_comm = NULL;
    return ncclSuccess;
}

ncclResult_t ncclReduceScatter(const void *send, void *receive, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    (void)stream;
    return type == ncclFloat32 && op == ncclSum
               ? call(comm, REDUCE_SCATTER, send, receive, count * sizeof(float))
               : broken(comm, "floats, summed");
}

ncclResult_t ncclAllGather(const void *send, void *receive, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream)
{
    (void)stream;
    return type == ncclUint8 ? call(comm, ALL_GATHER, send, receive, count) : broken(comm, "bytes");
}

ncclResult_t ncclBroadcast(const void *send, void *receive, size_t count, ncclDataType_t type,
                           int root, ncclComm_t comm, cudaStream_t stream)
{
    (void)stream;
    return type == ncclUint8 && root == 0 ? call(comm, BROADCAST, send, receive, count)
                                          : broken(comm, "bytes, of rank 0");
}

ncclResult_t ncclGroupStart(void)
{
    in_group = true;
    the_comm->send_count = the_comm->receipt_count = 0;
    return ncclSuccess;
}

static ncclResult_t add(ncclComm_t comm, struct receipt *list, int *count, struct receipt receipt)
{
    if (!in_group || *count == MESSAGES || receipt.peer == comm->rank ||
        receipt.peer >= comm->ranks || receipt.size == 0) {
        return broken(comm, "no such message");
    }
    list[(*count)++] = receipt;
    return ncclSuccess;
}

ncclResult_t ncclSend(const void *send, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream)
{
    (void)stream;
    (void)type;
    union {
        const void *in;
        void *out;
    } from = {.in = send};
    struct receipt receipt = {.peer = peer, .to = from.out, .size = count};
    return add(comm, comm->sends, &comm->send_count, receipt);
}

ncclResult_t ncclRecv(void *receive, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    (void)stream;
    (void)type;
    struct receipt receipt = {.peer = peer, .to = receive, .size = count};
    return add(comm, comm->receipts, &comm->receipt_count, receipt);
}

ncclResult_t ncclGroupEnd(void)
{
    in_group = false;
    return call(the_comm, EXCHANGE, NULL, NULL, 0);
}

// --- cudart ---

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = number_of("FAKE_NCCL_DEVICES", DEVICES);
    return *count == 0 ? cudaErrorInsufficientDriver : cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t error)
{
    return error == cudaErrorInsufficientDriver ? "there is no driver" : "a CUDA error";
}

cudaError_t cudaSetDevice(int device)
{
    current_device = device;
    return device < number_of("FAKE_NCCL_DEVICES", DEVICES) ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags)
{
    (void)flags;
    *stream = malloc(1);
    return *stream == NULL ? cudaErrorMemoryAllocation : cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    free(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    (void)stream;
    go_on(the_comm);
    return the_comm->under_way ? cudaErrorNotReady : cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    (void)stream;
    return cudaSuccess; // copies are done at once
}

cudaError_t cudaMalloc(void **out, size_t size)
{
    *out = malloc(size);
    return *out == NULL ? cudaErrorMemoryAllocation : cudaSuccess;
}

cudaError_t cudaFree(void *memory)
{
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    (void)kind;
    (void)stream;
    if (the_comm->under_way || the_comm->device != current_device) {
        return cudaErrorIllegalState;
    }
    memcpy(to, from, size);
    return cudaSuccess;
}
