#include "actor/generation.h"

#include "common/base/check.h"
#include "common/base/limits.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

// Memory runs out here only when the plan of the process was wrong: the sizes are bounded by the
// request's own limits. So it is a CHECK.
static void *resize(void *memory, size_t count, size_t size)
{
    void *grown = realloc(memory, count * size);
    CHECK(grown != NULL);
    return grown;
}

void response_finish(struct response *response)
{
    free(response->tokens);
    free(response->logprobs);
    free(response->text);
    free(response->versions);
    *response = (struct response){0};
}

void response_begin(struct response *response, struct generation *generation, int32_t index)
{
    CHECK(generation->tokens_max > 0 && generation->tokens_max <= RESPONSE_TOKENS_MAX);
    if (response->capacity < generation->tokens_max) {
        size_t capacity = (size_t)generation->tokens_max;
        response->tokens = resize(response->tokens, capacity, sizeof(*response->tokens));
        response->logprobs = resize(response->logprobs, capacity, sizeof(*response->logprobs));
        response->capacity = generation->tokens_max;
    }
    response->generation = generation;
    response->sample = (uint32_t)(generation->first + index);
    response->count = 0;
    response->text_size = 0;
    response->version_count = 0;
}

static void note_version(struct response *response, uint64_t version)
{
    int32_t last = response->version_count - 1;
    if (last >= 0 && response->versions[last].version == version) {
        response->versions[last].count++;
        return;
    }
    if (response->version_count == response->version_capacity) {
        response->version_capacity = response->version_capacity * 2 + 4;
        response->versions = resize(response->versions, (size_t)response->version_capacity,
                                    sizeof(*response->versions));
    }
    response->versions[response->version_count++] =
        (struct version_run){.version = version, .count = 1};
}

// add_text appends `size` bytes and looks for the stop text in what they may have completed.
static enum finish add_text(struct response *response, const char *bytes, size_t size)
{
    if (response->text_size + size > RESPONSE_BYTES_MAX) {
        return FINISH_LENGTH;
    }
    if (response->text_size + size > response->text_capacity) {
        response->text_capacity = 2 * response->text_capacity + size + 256;
        response->text = resize(response->text, response->text_capacity, 1);
    }
    memcpy(response->text + response->text_size, bytes, size);
    size_t before = response->text_size;
    response->text_size += size;
    const char *stop = response->generation->stop;
    if (stop == NULL || size == 0) {
        return FINISH_NOT_YET;
    }
    size_t stop_size = strlen(stop);
    size_t from = before + 1 > stop_size ? before + 1 - stop_size : 0;
    const char *found = memmem(response->text + from, response->text_size - from, stop, stop_size);
    if (found == NULL) {
        return FINISH_NOT_YET;
    }
    response->text_size = (size_t)(found - response->text) + stop_size;
    return FINISH_STOPPED;
}

static bool is_stop(const struct vocabulary *vocabulary, int32_t token)
{
    for (int32_t i = 0; i < vocabulary->stop_count; i++) {
        if (vocabulary->stops[i] == token) {
            return true;
        }
    }
    return false;
}

enum finish response_push(struct response *response, const struct vocabulary *vocabulary,
                          int32_t token, float logprob, uint64_t version)
{
    CHECK(response->count < response->generation->tokens_max);
    response->tokens[response->count] = token;
    response->logprobs[response->count] = logprob;
    response->count++;
    note_version(response, version);
    if (is_stop(vocabulary, token)) {
        return FINISH_STOPPED;
    }
    enum finish finish = FINISH_NOT_YET;
    size_t size = 0;
    const char *bytes =
        vocabulary->bytes == NULL ? NULL : vocabulary->bytes(vocabulary->context, token, &size);
    if (bytes != NULL) {
        finish = add_text(response, bytes, size);
    }
    bool full = response->count == response->generation->tokens_max;
    return finish == FINISH_NOT_YET && full ? FINISH_LENGTH : finish;
}

struct completion *response_complete(const struct response *response, enum finish finish)
{
    size_t count = (size_t)response->count, versions = (size_t)response->version_count;
    size_t size = sizeof(struct completion) + versions * sizeof(struct version_run) +
                  count * (sizeof(int32_t) + sizeof(float)) + response->text_size + 1;
    struct completion *completion = resize(NULL, 1, size);
    *completion = (struct completion){.generation = response->generation,
                                      .sample = response->sample,
                                      .finish = finish,
                                      .count = response->count,
                                      .text_size = response->text_size,
                                      .version_count = response->version_count};
    completion->versions = (struct version_run *)(completion + 1); // the widest parts come first
    completion->tokens = (int32_t *)(completion->versions + versions);
    completion->logprobs = (float *)(completion->tokens + count);
    char *text = (char *)(completion->logprobs + count);
    if (count > 0) {
        memcpy(completion->versions, response->versions, versions * sizeof(struct version_run));
        memcpy(completion->tokens, response->tokens, count * sizeof(int32_t));
        memcpy(completion->logprobs, response->logprobs, count * sizeof(float));
    }
    if (response->text_size > 0) {
        memcpy(text, response->text, response->text_size);
    }
    text[response->text_size] = '\0';
    completion->text = text;
    return completion;
}

struct completion *completion_create(struct generation *generation, int32_t index,
                                     enum finish finish, const char *note)
{
    size_t size = strlen(note) + 1;
    struct completion *completion = resize(NULL, 1, sizeof(*completion) + size);
    *completion = (struct completion){.generation = generation,
                                      .sample = (uint32_t)(generation->first + index),
                                      .finish = finish};
    char *copy = (char *)(completion + 1);
    memcpy(copy, note, size);
    completion->note = copy;
    completion->text = copy + size - 1; // empty
    return completion;
}
