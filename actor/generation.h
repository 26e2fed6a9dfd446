// generation.h: what a scheduler is asked for and what it gives back: a prompt with n samples in,
// n completions out, each as soon as it is finished.
#ifndef ACTOR_GENERATION_H
#define ACTOR_GENERATION_H

#include "actor/sampler.h"

#include <stddef.h>
#include <stdint.h>

// struct generation is one prompt and how to continue it. It belongs to the scheduler from submit
// until its last completion.
struct generation {
    int32_t *prompt; // [prompt_count] ids, at least one
    int32_t prompt_count;
    int32_t samples;    // n, at least one
    int32_t first;      // the number of the first one
    int32_t tokens_max; // response tokens at most, at least one
    struct sampling sampling;
    uint64_t seed;        // with (sample, position) the key of every random number
    const char *stop;     // text that ends a response, kept in it; NULL: none. Borrowed
    uint64_t version_min; // do not begin with older weights
    void *tag;            // the asker's

    int32_t missing;          // completions that have not come: the engine's
    struct generation *whole; // that this is a part of, or NULL: the engine's
    struct generation *next;  // in a queue
};

// The first three have the numbers of rollout.proto.
enum finish {
    FINISH_STOPPED,  // a stop token or the stop text was produced
    FINISH_LENGTH,   // the limit on tokens (or text) was reached
    FINISH_REJECTED, // can never run; `note` says why
    FINISH_CANCELLED,
    FINISH_NOT_YET,
};

struct version_run { // `count` consecutive tokens were sampled by `version`
    uint64_t version;
    uint32_t count;
};

// struct completion is one finished sample. One block of memory, which free() ends.
struct completion {
    struct generation *generation;
    uint32_t sample;
    enum finish finish;
    int32_t count;    // response tokens, the stop token included
    int32_t *tokens;  // [count]
    float *logprobs;  // [count] natural, of the untempered distribution
    const char *text; // the response's bytes, cut after the stop text, without stop tokens;
    size_t text_size; //   a NUL follows, and any bytes may stand inside
    const char *note; // REJECTED: why
    struct version_run *versions; // [version_count]
    int32_t version_count;
};

// completion_create makes a completion of sample `first + index` without tokens (REJECTED or
// CANCELLED); `note` is copied.
struct completion *completion_create(struct generation *generation, int32_t index,
                                     enum finish finish, const char *note);

// struct vocabulary is what a response needs to know of the tokenizer.
struct vocabulary {
    // The bytes of a token, or NULL for one without. NULL: responses have no text.
    const char *(*bytes)(const void *context, int32_t id, size_t *size);
    const void *context;
    const int32_t *stops; // [stop_count] tokens that end a response
    int32_t stop_count;
};

// struct response collects one sample's tokens and text. Its buffers are kept from one sample to
// the next, so that a running scheduler allocates nothing per token. Zeroed: empty.
struct response {
    struct generation *generation;
    uint32_t sample;
    int32_t count;
    int32_t *tokens;
    float *logprobs;
    int32_t capacity; // of tokens and logprobs
    char *text;
    size_t text_size, text_capacity;
    struct version_run *versions;
    int32_t version_count, version_capacity;
};

void response_finish(struct response *response);

// response_begin empties it for sample `first + index` of `generation`.
void response_begin(struct response *response, struct generation *generation, int32_t index);

// response_push appends a token and says whether the response has ended. The stop text is found
// wherever it crosses token borders.
enum finish response_push(struct response *response, const struct vocabulary *vocabulary,
                          int32_t token, float logprob, uint64_t version);

// response_complete copies it into a completion.
struct completion *response_complete(const struct response *response, enum finish finish);

#endif
