// Any bytes are a queue or are refused with a reason; what a queue holds packs to bytes that hold
// the same again.
#include "learner/queue.h"
#include "common/base/check.h"

#include <stdlib.h>
#include <string.h>

enum { COHORTS = STALENESS_MAX + 1 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// Unpacks, and packs again what came.
static bool round_trip(uint8_t **out, size_t *out_size, const uint8_t *data, size_t size)
{
    struct cohort cohorts[COHORTS] = {0};
    struct replay *replay = NULL;
    struct error err = {0};
    CHECK(replay_create(&replay, STALENESS_MAX, &err) == 0);
    int code = queue_unpack(replay, cohorts, COHORTS, data, size, &err);
    CHECK(code == 0 || err.text[0] != '\0');
    if (code == 0) {
        queue_pack(out, out_size, replay, cohorts, COHORTS);
    }
    replay_destroy(replay);
    return code == 0 && *out != NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *first = NULL;
    uint8_t *second = NULL;
    uint8_t *third = NULL;
    size_t sizes[3] = {0};
    // Groups come back in reverse order, so every second time is the same.
    if (round_trip(&first, &sizes[0], data, size)) {
        CHECK(round_trip(&second, &sizes[1], first, sizes[0]));
        CHECK(round_trip(&third, &sizes[2], second, sizes[1]));
        CHECK(sizes[2] == sizes[0] && memcmp(first, third, sizes[0]) == 0);
    }
    free(first);
    free(second);
    free(third);
    return 0;
}
