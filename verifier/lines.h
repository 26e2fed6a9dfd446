// lines.h: the front that reads requests as JSON lines and writes verdicts as JSON lines.
//
// A line of input has `id` (any JSON value, given back), `kind` and what the kind needs:
//   validate   program, and input or inputs (several: an induction task)
//   deduction  gold, answer
//   abduction  program, gold, answer
//   induction  answer (a program), inputs, outputs; `score`: binary, fraction or any
//   error      gold, answer (the name of an exception, or NoError)
//   run        program, and input or inputs
// and may have `timeout_ms` (wall time of one run), `cpu_ms`, `memory_mb`, `output_bytes`. A line
// of output has `id`, `verdict`, and where they exist `output` or `outputs`, `program` (as
// normalized), `exception`, `score`, `detail`, `wall_us`, `cpu_us`. Verdicts come in the order in
// which they are reached.
#ifndef VERIFIER_LINES_H
#define VERIFIER_LINES_H

#include "verifier/judge.h"

#include <uv.h>

struct lines;

struct lines_config {
    int input;    // descriptor
    int output;   // descriptor
    int open_max; // requests in work at once
};

// lines_open begins to read. `on_end` is called once: when the input has ended and every verdict is
// written (code 0), or with the reason why input or output failed. lines_close frees the front on a
// later turn of the loop.
typedef void lines_end_fn(void *context, int code, const struct error *err);
int lines_open(struct lines **out, uv_loop_t *loop, struct judge *judge,
               const struct lines_config *config, lines_end_fn *on_end, void *context,
               struct error *err);
void lines_close(struct lines *lines);

#endif
