// The azr style: a full statement of the task, in the wrapper of a base model or in Llama 3's chat
// template. Both open the thinking part, so the response begins inside it.
//
// Contents: what is asked, what a program must hold to, how to write the answer, what makes a good
// one, then the references or the task. The parts are those that the paper's prompts have; the
// words are our own.
#include "common/text/prompt_styles.h"

static const char program_rules[] =
    "Rules for the program:\n"
    "- The entry point is a function named `f` with at least one parameter, and it returns a "
    "value. Helper functions may be defined inside `f`.\n"
    "- Imports and class definitions stand at the very top. The program ends with the return of "
    "`f`; do not call it.\n"
    "- The same arguments always give the same result. No randomness, no clock or date, no files, "
    "no network, no printing, no logging, no state outside the call.\n"
    "- It finishes within 10 seconds.\n"
    "- Do not use these modules, not even in comments: logging, random, multiprocessing, pebble, "
    "subprocess, threading, datetime, time, hashlib, hmac, bcrypt, os, sys, shutil, socket, "
    "ctypes, calendar.\n";

static const char proposal_format[] =
    "Write the program in a ```python block and its arguments in an ```input block: the bare "
    "argument list, separated by commas, with strings in quotes. For example:\n"
    "```python\n"
    "def f(name, info):\n"
    "    return name + ', ' + str(info['age'] + 1)\n"
    "```\n"
    "```input\n"
    "'Ada', {'age': 36, 'city': 'London'}\n"
    "```\n\n";

// What the subject of each kind of task is given and has to find, and so what makes it hard.
static const char *const subject[KINDS] = {
    [KIND_DEDUCTION] =
        "The subject will see the program and the input, and has to work out the output.",
    [KIND_ABDUCTION] = "The subject will see the program and its output, and has to find an input "
                       "that gives this output.",
    [KIND_ERROR] = "The subject will see the program and the input, and has to name the type of "
                   "the error that the run ends with, or say that there is none.",
};

static const char *const difficulty[KINDS] = {
    [KIND_DEDUCTION] = "predicting the output takes many steps of exact reasoning",
    [KIND_ABDUCTION] = "working back from the output to an input takes many steps of exact "
                       "reasoning",
    [KIND_ERROR] = "seeing whether and where the run fails takes many steps of exact reasoning",
};

static void add_references(struct words *words, const struct prompt_request *request)
{
    if (request->reference_count == 0) {
        return;
    }
    words_add(words, "\nReference programs:\n");
    for (int i = 0; i < request->reference_count; i++) {
        const struct prompt_task *task = &request->references[i];
        words_addf(words, "<snippet_%d>\n", i);
        prompt_fence(words, "python", task->program);
        prompt_fence(words, "input", task->inputs[0]);
        prompt_fence(words, request->kind == KIND_ERROR ? "error" : "output", task->outputs[0]);
        words_addf(words, "</snippet_%d>\n", i);
    }
}

static void add_proposal(struct words *words, const struct prompt_request *request)
{
    words_addf(words,
               "Task: write a new Python program and one input for it, as a question of an "
               "intelligence test.\n\n"
               "%s The correct result comes from running your program, so you need not give it. "
               "Look at the reference programs, if any, and design something that is unlike "
               "them and asks for deep algorithmic reasoning.\n\n",
               subject[request->kind]);
    words_add(words, program_rules);
    words_add(words, "- It keeps state and transforms data in several stages, so that following "
                     "it needs several steps of thought.\n");
    if (request->kind == KIND_ERROR) {
        words_add(words, "- It may define its own exception types, and it may also raise nothing "
                         "at all.\n");
    }
    words_add(words, "\nRules for the input: exactly one set of arguments that `f` accepts, "
                     "written as literals, and nowhere repeated in the program.\n\n");
    words_add(words, proposal_format);
    words_addf(words,
               "What counts: the program runs with the input; %s (data structures such as "
               "trees, heaps and stacks, intricate control flow, dynamic programming, recursion, "
               "divide and conquer, greedy choice, backtracking); and it is new compared with "
               "the references.\n\n"
               "First plan: what makes it hard, and how it differs from the references. Then "
               "give the final program and input.\n",
               difficulty[request->kind]);
    add_references(words, request);
    prompt_composites(words, request);
}

static void add_induction_proposal(struct words *words, const struct prompt_request *request)
{
    int count = request->inputs_count;
    words_addf(words,
               "Task: write %d inputs for the Python program below, and a message.\n\n"
               "Some of the inputs and their outputs will be shown to a subject together with "
               "the message. From them the subject has to find the function; it is a question of "
               "an intelligence test, and is checked on the inputs that were not shown.\n\n"
               "Rules for the inputs: each is an argument list that `f` accepts, written as "
               "literals, separated by commas, with strings in quotes. Each stands in an ```input "
               "block of its own; give %d blocks. For example:\n"
               "```input\n'Ada', {'age': 36, 'city': 'London'}\n```\n"
               "```input\n'Kurt', {'age': 25, 'city': 'Vienna'}\n```\n\n"
               "Rules for the message: it stands in a ```message block and helps to find the "
               "function, as a coding question or as a description. It must not contain the "
               "program.\n\n"
               "What counts: every input runs; the inputs differ and their outputs vary, so that "
               "together they determine the function; inputs and message are a challenge, but "
               "not a hopeless one.\n\n"
               "First plan the inputs and the message, then give them.\n\n"
               "The program:\n```python\n%s\nf(...)  # called with each of your inputs\n```\n",
               count, count, request->task->program);
}

static void add_solution_task(struct words *words, const struct prompt_request *request)
{
    const struct prompt_task *task = request->task;
    switch (request->kind) {
    case KIND_DEDUCTION:
        words_add(words,
                  "Task: give the output of this Python program for this input.\n\n"
                  "Think step by step. Write the output as a Python literal in an ```output "
                  "block: strings in quotes, several returned values as a tuple. For example:\n"
                  "```output\n{'age': 36, 'city': 'London'}\n```\n\n");
        prompt_fence(words, "python", task->program);
        prompt_fence(words, "input", task->inputs[0]);
        break;
    case KIND_ABDUCTION:
        words_add(words,
                  "Task: find an input for which this Python program gives this output.\n\n"
                  "Think step by step. There may be several such inputs; give one. Write it as "
                  "the bare argument list in an ```input block: literals separated by commas, "
                  "strings in quotes. For example:\n"
                  "```input\n'Ada', {'age': 36, 'city': 'London'}\n```\n\n");
        prompt_fence(words, "python", task->program);
        prompt_fence(words, "output", task->outputs[0]);
        break;
    case KIND_ERROR:
        words_add(words,
                  "Task: name the error that this Python program ends with for this input.\n\n"
                  "Think step by step. Write the type of the error in an ```output block, or "
                  "`NoError` when the run ends well. For example:\n"
                  "```output\nValueError\n```\n\n");
        prompt_fence(words, "python", task->program);
        prompt_fence(words, "input", task->inputs[0]);
        break;
    default:
        words_add(words,
                  "Task: find the function that these inputs and outputs come from.\n\n"
                  "Think step by step. Write the program in a ```python block. It is tested on "
                  "further inputs that are not shown here, so check it against every pair below "
                  "and correct it where they disagree. For example, the function that returns "
                  "its argument:\n"
                  "```python\ndef f(x):\n    return x\n```\n\n");
        words_add(words, program_rules);
        words_add(words, "\nThe pairs:\n");
        prompt_pairs(words, task);
    }
}

static void add_task(struct words *words, const struct prompt_request *request)
{
    if (request->role == ROLE_SOLVE) {
        add_solution_task(words, request);
    } else if (request->kind == KIND_INDUCTION) {
        add_induction_proposal(words, request);
    } else {
        add_proposal(words, request);
    }
}

int prompt_azr(struct words *words, const struct prompt_request *request, struct error *err)
{
    (void)err; // every kind has a form
    words_add(words,
              "A conversation between User and Assistant. The User sets a task, and the Assistant "
              "completes it. The Assistant first thinks the task through, unseen, and then answers "
              "the User. The thinking stands in <think> </think> and the answer in <answer> "
              "</answer>, like this: <think> the thinking </think> <answer> the answer "
              "</answer>.\nUser: ");
    add_task(words, request);
    words_add(words, "\nAssistant: <think>");
    return 0;
}

int prompt_llama3(struct words *words, const struct prompt_request *request, struct error *err)
{
    (void)err; // every kind has a form
    words_add(words,
              "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
              "You first think a task through and then answer it. The thinking stands in <think> "
              "</think> and the answer in <answer> </answer>, like this: <think> the thinking "
              "</think> <answer> the answer </answer>.<|eot_id|>"
              "<|start_header_id|>user<|end_header_id|>\n\n");
    add_task(words, request);
    words_add(words, "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n<think>");
    return 0;
}
