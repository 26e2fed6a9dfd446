#include "learner/schedule.h"

#include <math.h>

double schedule_lr(const struct run_config *config, int64_t step)
{
    double lr = config->optimizer.lr;
    int64_t warmup = config->optimizer.warmup_steps;
    if (step <= warmup) {
        return lr * (double)step / (double)warmup;
    }
    if (config->steps <= warmup + 1) {
        return lr;
    }
    double done = (double)(step - warmup - 1) / (double)(config->steps - warmup - 1);
    done = done < 1.0 ? done : 1.0;
    double end = config->optimizer.lr_final;
    switch ((enum lr_schedule)config->optimizer.schedule) {
    case SCHEDULE_LINEAR:
        return lr * (1.0 - (1.0 - end) * done);
    case SCHEDULE_COSINE:
        return lr * (end + (1.0 - end) * 0.5 * (1.0 + cos(done * M_PI)));
    default:
        return lr;
    }
}
