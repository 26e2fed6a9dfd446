// judge_state.h: the inside of a check, shared by judge.c, which makes its runs, judge_results.c,
// which says what they mean, and judge_verdict.c.
#ifndef VERIFIER_JUDGE_STATE_H
#define VERIFIER_JUDGE_STATE_H

#include "verifier/judge.h"
#include "verifier/judge_parts.h"
#include "verifier/protocol.h"

enum { FLIGHT_MAX = 4 }; // runs of one check at once

// What the images said about one input.
struct pair {
    struct bytes canonical; // of the first result
    char *repr;             // of the lowest variant: sets print in another order elsewhere
    int repr_variant;
    bool known;
    bool right; // equals the gold
    char exception[64];
};

struct flight {
    struct pool_run run;
    struct check *check;
    int input;
    bool busy;
};

struct check {
    struct judge *judge;
    struct check *next; // of all open checks
    struct check **link;
    judge_done_fn *done;
    void *context;
    uint64_t tag;
    uint64_t id;
    struct judge_parts parts;
    struct cache_key verdict_key;
    struct cache_key program_key;
    bool is_fraction;
    bool is_any;
    uint32_t timeout_ms;
    uint32_t cpu_ms;
    uint32_t memory_mb;
    uint32_t output_max;
    uint64_t deadline_ns;
    int images;        // runs per input
    int first_variant; // that took the first run
    int next_run;      // counts input by input, image by image; 0 is the first run
    int in_flight;
    bool settled; // the outcome is known: no more runs start
    enum outcome outcome;
    char exception[64];
    char detail[256];
    struct bytes code; // marshalled
    bool looked;       // the last run, over the text, was started
    bool has_facts;
    struct source_facts facts;
    char *renamed;
    char *normalized;   // NULL: the program is as it came
    struct pair *pairs; // [input_count]
    struct flight flights[FLIGHT_MAX];
    uint64_t wall_us;
    uint64_t cpu_us;
};

struct judge {
    struct pool *pool;
    struct judge_config config;
    struct cache *programs;
    struct cache *verdicts;
    struct check *open;
    struct judge_stats stats;
};

// --- judge_results.c ---

// judge_settle makes the outcome known; the first one stands.
void judge_settle(struct check *check, enum outcome outcome, const char *detail);
void judge_settle_failed_run(struct check *check, const struct image_result *result);

// judge_take_result weighs what an image of `variant` made of input number `input`.
void judge_take_result(struct check *check, int input, int variant,
                       const struct image_result *result);

// judge_conclude: all runs are done and none has settled the check.
void judge_conclude(struct check *check);

// Answers that are compared as they are.
void judge_deduction(struct check *check);
void judge_error(struct check *check);

// --- judge_verdict.c ---

// judge_fill_verdict points into the check; `outputs` has room for one text per input, and NULL.
void judge_fill_verdict(struct check *check, Kelvin__Verdict *verdict, char **outputs);
void judge_fill_facts(Kelvin__SourceFacts *out, const struct source_facts *facts);

#endif
