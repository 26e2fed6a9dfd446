// judge.h: from a request to a verdict. The rules of AZR.md section 3 stand here, on the trusted
// side: images only run programs and describe values; what is valid, equal and deterministic is
// decided here, and a gold value never goes to an image.
//
// A check makes one run after another (a few at a time), and stops at the first that settles the
// verdict. The program is compiled once: later runs get the code that the first image compiled, and
// so do later requests for the same text.
#ifndef VERIFIER_JUDGE_H
#define VERIFIER_JUDGE_H

#include "proto/verdict.pb-c.h"
#include "verifier/cache.h"
#include "verifier/pool.h"

struct judge;

struct judge_config {
    int images;              // k: how many must agree on a proposal
    int images_risky;        // k for a text that looks as if it depended on what differs
    uint32_t timeout_ms;     // of one run, when the request has no own
    bool allow_none;         // accept programs that return None
    bool multiple_functions; // accept proposals with helpers and classes
    size_t cache_bytes;      // programs; as much again for verdicts; 0: no cache
};

int judge_create(struct judge **out, struct pool *pool, const struct judge_config *config,
                 struct error *err);

// judge_destroy forgets the checks that are going on, without calling back; close the pool first.
void judge_destroy(struct judge *judge);

// judge_submit works on one request, which it copies. `done` is called once, perhaps before
// judge_submit returns (from the cache, or where nothing has to run); the verdict is valid during
// the call.
typedef void judge_done_fn(void *context, uint64_t tag, const Kelvin__Verdict *verdict);
void judge_submit(struct judge *judge, const Kelvin__VerifyRequest *request, judge_done_fn *done,
                  void *context, uint64_t tag);

struct judge_stats {
    int open; // checks going on
    uint64_t verdicts[OUTCOMES];
    struct cache_stats programs;
    struct cache_stats verdict_cache;
};
struct judge_stats judge_stats(const struct judge *judge);

#endif
