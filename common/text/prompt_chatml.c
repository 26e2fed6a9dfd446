// The chatml style: turns of a conversation in the template of Qwen and SmolLM2. The task is put in
// a few words and shown by worked turns, which a small instruct model follows better than a page of
// rules.
//
// A proposal's references are its worked turns: the model sees requests for a function of some type
// of argument, each answered by a program whose last line calls it once inside print (the form in
// which small models keep program and input consistent); extract.c takes that line off as the
// input. Every answer has a short thinking part, and the prompt ends inside the next one.
#include "common/text/prompt_styles.h"

#include <string.h>

static void open_turn(struct words *words, const char *who)
{
    words_addf(words, "<|im_start|>%s\n", who);
}

static void close_turn(struct words *words)
{
    words_add(words, "<|im_end|>\n");
}

static void open_answer(struct words *words)
{
    open_turn(words, "assistant");
    words_add(words, "<think>");
}

// What the first argument of an argument list is, in words, as far as its first character tells.
static const char *argument_type(const char *input)
{
    size_t brace = strcspn(input, "})]");
    switch (input[0]) {
    case '\'':
    case '"':
        return "a string";
    case '[':
        return "a list";
    case '(':
        return "a tuple";
    case '{':
        return memchr(input, ':', brace) != NULL ? "a dictionary" : "a set";
    case 'T':
    case 'F':
        return "a truth value";
    default:
        return memchr(input, '.', strcspn(input, ",")) != NULL ? "a float" : "an integer";
    }
}

static void ask_for_program(struct words *words, const struct prompt_request *request,
                            const char *type)
{
    open_turn(words, "user");
    words_addf(words,
               "Write a short Python function named f that takes %s and returns a value. %s On "
               "the last line call it once inside print. Think in <think> </think>, then reply "
               "in <answer> </answer> with one ```python block only.",
               type,
               request->kind == KIND_ABDUCTION
                   ? "It should be hard to find the argument from the result."
                   : "It should be hard to predict the result.");
}

// The type to ask for next. It walks with the last reference, so that it varies from prompt to
// prompt and yet is a function of the request alone.
static const char *next_type(const struct prompt_request *request)
{
    static const char *const types[] = {"a string", "a list", "an integer"};
    unsigned sum = (unsigned)request->kind;
    for (int i = 0; i < request->reference_count; i++) {
        for (const char *c = request->references[i].inputs[0]; *c != '\0'; c++) {
            sum = sum * 31 + (unsigned char)*c;
        }
    }
    return types[sum % (sizeof(types) / sizeof(*types))];
}

static void add_worked_proposal(struct words *words, const struct prompt_request *request,
                                const char *program, const char *input)
{
    ask_for_program(words, request, argument_type(input));
    close_turn(words);
    open_answer(words);
    words_addf(words,
               "f takes %s, so I call it with %s.</think>\n"
               "<answer>\n```python\n%s\n\nprint(f(%s))\n```\n</answer>",
               argument_type(input), argument_type(input), program, input);
    close_turn(words);
}

static void add_proposal(struct words *words, const struct prompt_request *request)
{
    if (request->reference_count == 0) {
        add_worked_proposal(words, request, "def f(s):\n    return s[::-1].upper()", "'hello'");
    }
    for (int i = 0; i < request->reference_count; i++) {
        add_worked_proposal(words, request, request->references[i].program,
                            request->references[i].inputs[0]);
    }
    ask_for_program(words, request, next_type(request));
    prompt_composites(words, request);
    close_turn(words);
}

static void ask_for_inputs(struct words *words, const char *program, int count)
{
    open_turn(words, "user");
    words_addf(words,
               "Write %d different inputs for this function, each in its own ```input block, and "
               "in a ```message block one sentence that says what the function does, without its "
               "code. Think in <think> </think>, then reply in <answer> </answer>.\n",
               count);
    prompt_fence(words, "python", program);
    close_turn(words);
}

static void add_induction_proposal(struct words *words, const struct prompt_request *request)
{
    static const char *const samples[] = {"'hello', 1", "'abc', 2", "'', 3", "'x y', 0"};
    ask_for_inputs(words, "def f(s, n):\n    return s.upper() * n", 4);
    open_answer(words);
    words_add(words, "f takes a string and an integer.</think>\n<answer>\n");
    for (size_t i = 0; i < sizeof(samples) / sizeof(*samples); i++) {
        prompt_fence(words, "input", samples[i]);
    }
    prompt_fence(words, "message", "A text in capital letters, repeated a number of times.");
    words_add(words, "</answer>");
    close_turn(words);
    ask_for_inputs(words, request->task->program, request->inputs_count);
}

static const char *const questions[KINDS] = {
    [KIND_DEDUCTION] = "What does f return for this input? Think in <think> </think>, then reply "
                       "in <answer> </answer> with the value only, as a Python literal.",
    [KIND_ABDUCTION] = "For which arguments does f return this output? Think in <think> </think>, "
                       "then reply in <answer> </answer> with one argument list only.",
    [KIND_INDUCTION] =
        "Which Python function named f gives these outputs? It must hold for further inputs as "
        "well. Think in <think> </think>, then reply in <answer> </answer> with one ```python "
        "block only.",
    [KIND_ERROR] = "Which error does f end with for this input? Think in <think> </think>, then "
                   "reply in <answer> </answer> with the type of the error only, or NoError.",
};

static void ask_question(struct words *words, enum task_kind kind, const struct prompt_task *task)
{
    open_turn(words, "user");
    words_addf(words, "%s\n", questions[kind]);
    if (kind == KIND_INDUCTION) {
        prompt_pairs(words, task);
    } else {
        prompt_fence(words, "python", task->program);
        prompt_fence(words, kind == KIND_ABDUCTION ? "output" : "input",
                     kind == KIND_ABDUCTION ? task->outputs[0] : task->inputs[0]);
    }
    close_turn(words);
}

static const char *const worked_answers[KINDS] = {
    [KIND_DEDUCTION] = "x is [3, 1, 2]. Sorted it is [1, 2, 3], and its last item is 3.</think>\n"
                       "<answer>3</answer>",
    [KIND_ABDUCTION] = "f returns the largest item, so a list whose largest item is 3 will "
                       "do.</think>\n<answer>[3, 1, 2]</answer>",
    [KIND_INDUCTION] = "The output is the largest item of the list.</think>\n"
                       "<answer>\n```python\ndef f(x):\n    return sorted(x)[-1]\n```\n</answer>",
    [KIND_ERROR] = "x is [3, 1, 2]. It can be sorted, and it has a last item.</think>\n"
                   "<answer>NoError</answer>",
};

static void add_question(struct words *words, const struct prompt_request *request)
{
    static const char *const inputs[] = {"[3, 1, 2]", "[5, 9]", "[0, 4, 4]", "[7]"};
    static const char *const outputs[] = {"3", "9", "4", "7"};
    const struct prompt_task example = {.program = "def f(x):\n    return sorted(x)[-1]",
                                        .inputs = inputs,
                                        .outputs = outputs,
                                        .pairs = 4};
    ask_question(words, request->kind, &example);
    open_answer(words);
    words_add(words, worked_answers[request->kind]);
    close_turn(words);
    ask_question(words, request->kind, request->task);
}

int prompt_chatml(struct words *words, const struct prompt_request *request, struct error *err)
{
    (void)err; // every kind has a form
    if (request->role == ROLE_SOLVE) {
        add_question(words, request);
    } else if (request->kind == KIND_INDUCTION) {
        add_induction_proposal(words, request);
    } else {
        add_proposal(words, request);
    }
    open_answer(words);
    return 0;
}
