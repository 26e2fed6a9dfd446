// kelvin_cuda.so: cuda_module.h over cudart and NCCL. NCCL runs non-blocking: a call returns at
// once, and poll asks for its state and that of the stream.
#include "learner/cuda_module.h"

#include <cuda_runtime_api.h>
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_OF_(x) #x
#define TEXT_OF(x)  TEXT_OF_(x)

struct cuda_link {
    int device;
    ncclComm_t comm;
    cudaStream_t stream;
    char *send, *receive; // on the device
};

_Static_assert(CUDA_ID_BYTES == NCCL_UNIQUE_ID_BYTES, "an id is NCCL's");

static int cuda_check(cudaError_t code, const char *what, char *text)
{
    if (code == cudaSuccess) {
        return 0;
    }
    (void)snprintf(text, CUDA_TEXT_BYTES, "%s: %s", what, cudaGetErrorString(code));
    return -1;
}

// A non-blocking call that is under way has not failed.
static int nccl_check(ncclResult_t code, ncclComm_t comm, const char *what, char *text)
{
    if (code == ncclSuccess || code == ncclInProgress) {
        return 0;
    }
    const char *last = ncclGetLastError(comm);
    (void)snprintf(text, CUDA_TEXT_BYTES, "NCCL %s: %s%s%s", what, ncclGetErrorString(code),
                   last == NULL || last[0] == '\0' ? "" : ": ", last == NULL ? "" : last);
    return -1;
}

static int module_devices(int *count, char *text)
{
    int found = 0;
    cudaError_t code = cudaGetDeviceCount(&found);
    if (code == cudaSuccess && found == 0) {
        code = cudaErrorNoDevice;
    }
    if (cuda_check(code, "no CUDA device can be used", text) < 0) {
        return -1;
    }
    *count = found;
    return 0;
}

static int module_draw_id(uint8_t *id, char *text)
{
    ncclUniqueId unique;
    if (nccl_check(ncclGetUniqueId(&unique), NULL, "cannot draw an id", text) < 0) {
        return -1;
    }
    memcpy(id, unique.internal, CUDA_ID_BYTES);
    return 0;
}

// leave does not finalize: that would wait for the other ranks, who may be gone. Nothing of theirs
// is lost, since every operation is polled to its end before its results are used.
static void module_leave(struct cuda_link *link)
{
    if (link == NULL) {
        return;
    }
    (void)cudaSetDevice(link->device);
    if (link->comm != NULL) {
        (void)ncclCommAbort(link->comm);
    }
    if (link->stream != NULL) {
        (void)cudaStreamDestroy(link->stream);
    }
    (void)cudaFree(link->send);
    (void)cudaFree(link->receive);
    free(link);
}

static int open_link(struct cuda_link *link, const struct cuda_join *join, char *text)
{
    if (cuda_check(cudaSetDevice(link->device), "cannot use the CUDA device", text) < 0 ||
        cuda_check(cudaStreamCreateWithFlags(&link->stream, cudaStreamNonBlocking),
                   "cannot make a CUDA stream", text) < 0 ||
        cuda_check(cudaMalloc((void **)&link->send, join->staging), "no device memory", text) < 0 ||
        cuda_check(cudaMalloc((void **)&link->receive, join->staging), "no device memory", text) <
            0) {
        return -1;
    }
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId unique;
    config.blocking = 0;
    memcpy(unique.internal, join->id, CUDA_ID_BYTES);
    return nccl_check(ncclCommInitRankConfig(&link->comm, join->ranks, unique, join->rank, &config),
                      link->comm, "cannot join", text);
}

static int module_join(struct cuda_link **out, const struct cuda_join *join, char *text)
{
    struct cuda_link *link = calloc(1, sizeof(*link));
    if (link == NULL) {
        (void)snprintf(text, CUDA_TEXT_BYTES, "no memory");
        return -1;
    }
    link->device = join->device;
    if (open_link(link, join, text) < 0) {
        module_leave(link);
        return -1;
    }
    *out = link;
    return 0;
}

static enum cuda_progress module_poll(struct cuda_link *link, char *text)
{
    ncclResult_t state = ncclSuccess;
    ncclResult_t code = ncclCommGetAsyncError(link->comm, &state);
    if (nccl_check(code, link->comm, "state", text) < 0 ||
        nccl_check(state, link->comm, "failed", text) < 0) {
        return CUDA_FAILED;
    }
    if (state == ncclInProgress) { // what was called is not on the stream yet
        return CUDA_UNDER_WAY;
    }
    cudaError_t done = cudaStreamQuery(link->stream);
    if (done == cudaErrorNotReady) {
        return CUDA_UNDER_WAY;
    }
    return cuda_check(done, "the CUDA stream failed", text) < 0 ? CUDA_FAILED : CUDA_DONE;
}

static int copy(struct cuda_link *link, void *to, const void *from, size_t size,
                enum cudaMemcpyKind kind, char *text)
{
    cudaError_t code = cudaSetDevice(link->device); // the calling thread's, which may be another
    code = code != cudaSuccess ? code : cudaMemcpyAsync(to, from, size, kind, link->stream);
    code = code != cudaSuccess ? code : cudaStreamSynchronize(link->stream);
    return cuda_check(code, "cannot copy to or from the CUDA device", text);
}

static int module_put(struct cuda_link *link, size_t at, const void *data, size_t size, char *text)
{
    return copy(link, link->send + at, data, size, cudaMemcpyHostToDevice, text);
}

static int module_get(struct cuda_link *link, void *data, size_t at, size_t size, char *text)
{
    return copy(link, data, link->receive + at, size, cudaMemcpyDeviceToHost, text);
}

static int use_device(const struct cuda_link *link, char *text)
{
    return cuda_check(cudaSetDevice(link->device), "cannot use the CUDA device", text);
}

static int module_reduce_scatter(struct cuda_link *link, size_t count, char *text)
{
    return use_device(link, text) < 0
               ? -1
               : nccl_check(ncclReduceScatter(link->send, link->receive, count, ncclFloat32,
                                              ncclSum, link->comm, link->stream),
                            link->comm, "reduce-scatter", text);
}

static int module_all_gather(struct cuda_link *link, size_t size, char *text)
{
    return use_device(link, text) < 0
               ? -1
               : nccl_check(ncclAllGather(link->send, link->receive, size, ncclUint8, link->comm,
                                          link->stream),
                            link->comm, "all-gather", text);
}

static int module_broadcast(struct cuda_link *link, size_t size, char *text)
{
    return use_device(link, text) < 0
               ? -1
               : nccl_check(ncclBroadcast(link->send, link->receive, size, ncclUint8, 0, link->comm,
                                          link->stream),
                            link->comm, "broadcast", text);
}

static int module_exchange(struct cuda_link *link, const struct cuda_piece *pieces, int count,
                           char *text)
{
    if (use_device(link, text) < 0 ||
        nccl_check(ncclGroupStart(), link->comm, "exchange", text) < 0) {
        return -1;
    }
    ncclResult_t code = ncclSuccess;
    for (int i = 0; i < count && (code == ncclSuccess || code == ncclInProgress); i++) {
        const struct cuda_piece *piece = &pieces[i];
        code = piece->is_send ? ncclSend(link->send + piece->at, piece->size, ncclUint8,
                                         piece->peer, link->comm, link->stream)
                              : ncclRecv(link->receive + piece->at, piece->size, ncclUint8,
                                         piece->peer, link->comm, link->stream);
    }
    ncclResult_t end = ncclGroupEnd(); // also after a failure, or the group stays open
    code = code == ncclSuccess || code == ncclInProgress ? end : code;
    return nccl_check(code, link->comm, "exchange", text);
}

__attribute__((visibility("default"))) const struct cuda_module *kelvin_cuda_module(void)
{
    static const struct cuda_module module = {
        .version = CUDA_MODULE_VERSION,
        .built_with = "CUDA " TEXT_OF(CUDART_VERSION) ", NCCL " TEXT_OF(NCCL_VERSION_CODE),
        .devices = module_devices,
        .draw_id = module_draw_id,
        .join = module_join,
        .leave = module_leave,
        .poll = module_poll,
        .put = module_put,
        .get = module_get,
        .reduce_scatter = module_reduce_scatter,
        .all_gather = module_all_gather,
        .broadcast = module_broadcast,
        .exchange = module_exchange,
    };
    return &module;
}
