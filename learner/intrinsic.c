#include "learner/intrinsic.h"

#include "common/base/check.h"
#include "learner/statements.h"

#include <math.h>

const char *intrinsic_name(int term)
{
    static const char *const names[INTRINSIC_TERMS] = {"cyclomatic", "halstead", "distance",
                                                       "input",      "output",   "statements"};
    CHECK(term >= 0 && term < INTRINSIC_TERMS);
    return names[term];
}

static double halstead_of(const Kelvin__SourceFacts *facts, double cyclomatic)
{
    double length = (double)facts->operators + (double)facts->operands;
    double vocabulary = (double)facts->distinct_operators + (double)facts->distinct_operands;
    double volume = vocabulary > 0.0 ? length * log2(vocabulary) : 0.0;
    double difficulty = facts->distinct_operands > 0
                            ? (double)facts->distinct_operators / 2.0 * (double)facts->operands /
                                  (double)facts->distinct_operands
                            : 0.0;
    return 0.5 * fmin(difficulty * volume / 10000.0, 1.0) + 0.3 * cyclomatic +
           0.2 * fmin(volume / 500.0, 1.0);
}

static double mean_surprise(const struct counts *counts, char *const *texts, size_t count)
{
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        sum += counts_surprise(counts, texts[i]);
    }
    return count > 0 ? sum / (double)count : NAN;
}

void intrinsic_measure(struct intrinsic *out, const struct tasks *tasks, const Kelvin__Task *task,
                       const Kelvin__SourceFacts *facts)
{
    enum task_kind kind = (enum task_kind)task->kind;
    for (int i = 0; i < INTRINSIC_TERMS; i++) {
        out->value[i] = NAN;
    }
    if (facts != NULL && kind != KIND_INDUCTION) {
        double cyclomatic = fmin((double)facts->cyclomatic / 10.0, 1.0);
        out->value[INTRINSIC_CYCLOMATIC] = cyclomatic;
        out->value[INTRINSIC_HALSTEAD] = halstead_of(facts, cyclomatic);
        if (facts->references > 0) {
            out->value[INTRINSIC_DISTANCE] = (double)facts->distance_ppm / 1e6;
        }
    }
    if (kind != KIND_INDUCTION) {
        out->value[INTRINSIC_STATEMENTS] =
            statements_rarity(tasks_statements(tasks, kind), task->program);
    }
    if (kind == KIND_ABDUCTION || kind == KIND_INDUCTION) {
        out->value[INTRINSIC_INPUT] =
            mean_surprise(tasks_inputs(tasks, kind), task->inputs, task->n_inputs);
    }
    if (kind != KIND_ABDUCTION) {
        out->value[INTRINSIC_OUTPUT] =
            mean_surprise(tasks_outputs(tasks, kind), task->outputs, task->n_outputs);
    }
}

double intrinsic_reward(const struct run_config *config, const struct intrinsic *measured,
                        double learnability)
{
    double sum = 0.0;
    double product = 1.0;
    int terms = 0;
    for (int i = 0; i < INTRINSIC_TERMS; i++) {
        double coefficient = config->intrinsic.coef[i];
        if (coefficient == 0.0 || isnan(measured->value[i])) {
            continue;
        }
        double term = fmin(coefficient * measured->value[i], config->intrinsic.cap[i]);
        sum += term;
        product *= term;
        terms++;
    }
    if (terms == 0) {
        return learnability;
    }
    switch ((enum intrinsic_combine)config->intrinsic.combine) {
    case COMBINE_PRODUCT:
        return learnability * product;
    case COMBINE_SUM_PRODUCT:
        return learnability + product;
    case COMBINE_PRODUCT_SUM:
        return learnability * sum;
    case COMBINE_SUM:
        break;
    }
    return learnability + sum;
}
