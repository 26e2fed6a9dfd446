// queue.h: the work that is on its way, as bytes in a checkpoint (proto/queue.proto).
//
// With azr.staleness above 0 a batch takes what is finished first, so the end of a step leaves some
// of its own work untrained and has trained some of the next steps'. A run that goes on from there
// finds every group as it was: finished ones are not sampled again, and of those under way only
// the answers that had not all come are asked for again. So each group is trained on once.
#ifndef LEARNER_QUEUE_H
#define LEARNER_QUEUE_H

#include "learner/replay.h"

// struct cohort is the work of one step until its solves are opened.
struct cohort {
    int64_t step;             // 0: free
    struct group **proposals; // [proposal_count], by kind and slot; used with staleness 0 only
    int32_t proposal_count;
    int32_t unvalidated; // proposals whose validity is open
    int32_t unclosed;    // proposals under way
    int32_t estimated[KINDS];
};

// queue_pack writes what the replay and the cohorts [count] hold; *out is NULL when that is
// nothing, else the caller frees it.
void queue_pack(uint8_t **out, size_t *size, const struct replay *replay,
                const struct cohort *cohorts, int count);

// queue_unpack puts it back into an empty replay and free cohorts. -EINVAL when the bytes are no
// queue.
int queue_unpack(struct replay *replay, struct cohort *cohorts, int count, const uint8_t *bytes,
                 size_t size, struct error *err);

#endif
