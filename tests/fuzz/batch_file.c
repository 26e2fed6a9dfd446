// Any bytes are a batch or an error with a sentence; a batch's weights are finite and its ids are
// ids.
#include "learner/batch_file.h"
#include "common/base/check.h"
#include "common/base/limits.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    int fd = memfd_create("batch", MFD_CLOEXEC);
    CHECK(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    struct batch_file file = {0};
    struct error err = {0};
    int code = batch_file_read(&file, path, &err);
    (void)close(fd);
    CHECK(code == 0 || err.text[0] != '\0');
    for (int32_t k = 0; code == 0 && k < file.count; k++) {
        for (int32_t i = 0; i < file.sequences[k].count; i++) {
            CHECK(file.sequences[k].ids[i] >= 0 && file.sequences[k].ids[i] < VOCAB_MAX);
            CHECK(isfinite(file.sequences[k].weight[i]) && file.sequences[k].weight[i] >= 0.0f);
        }
        CHECK(file.block[k] >= 0 && file.block[k] < file.blocks);
    }
    batch_file_finish(&file);
    return 0;
}
