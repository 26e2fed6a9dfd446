// hub.h: a hub that is played by the test (a file that includes this defines hub_rollout and
// hub_verify): what is asked is kept, and answered when the test says so.
#ifndef TESTS_FAKE_HUB_H
#define TESTS_FAKE_HUB_H

#include "tests/support.h"

#include "common/wire/message.h"
#include "learner/hub.h"

#include <string.h>

enum { ASKED_MAX = 1024 };

struct asked {
    Kelvin__Prompt *prompt;         // or
    Kelvin__VerifyRequest *request; // owned
    hub_rollout_fn *rollout_fn;
    hub_verdict_fn *verdict_fn;
    void *context;
    uint64_t tag;
};

static struct {
    struct asked items[ASKED_MAX];
    int count, taken;
} asked;

int hub_rollout(struct hub *hub, const Kelvin__Prompt *prompt, hub_rollout_fn *rollout_fn,
                void *context, uint64_t tag)
{
    (void)hub;
    assert_true(asked.count < ASKED_MAX);
    asked.items[asked.count++] = (struct asked){.prompt = message_copy(&prompt->base),
                                                .rollout_fn = rollout_fn,
                                                .context = context,
                                                .tag = tag};
    return 0;
}

int hub_verify(struct hub *hub, const Kelvin__VerifyRequest *request, hub_verdict_fn *verdict_fn,
               void *context, uint64_t tag)
{
    (void)hub;
    assert_true(asked.count < ASKED_MAX);
    asked.items[asked.count++] = (struct asked){.request = message_copy(&request->base),
                                                .verdict_fn = verdict_fn,
                                                .context = context,
                                                .tag = tag};
    return 0;
}

static inline struct asked *asked_next(void)
{
    assert_true(asked.taken < asked.count);
    return &asked.items[asked.taken++];
}

// asked_forget frees all that was asked.
static inline void asked_forget(void)
{
    for (int i = 0; i < asked.count; i++) {
        message_free(asked.items[i].prompt);
        message_free(asked.items[i].request);
    }
    asked.count = asked.taken = 0;
}

// The rollout that answers `prompt` with `text`, borrowed: two tokens.
static inline void asked_answer(const struct asked *item, uint32_t sample, char *text)
{
    uint32_t prompt[] = {1}, tokens[] = {2, 3};
    float logprobs[] = {-1.0F, -1.0F};
    Kelvin__Rollout rollout = KELVIN__ROLLOUT__INIT;
    rollout.lease = 1;
    rollout.sample = sample;
    rollout.n_prompt = 1;
    rollout.prompt = prompt;
    rollout.n_tokens = rollout.n_logprobs = 2;
    rollout.tokens = tokens;
    rollout.logprobs = logprobs;
    rollout.text = text;
    item->rollout_fn(item->context, item->tag, &rollout);
}

#endif
