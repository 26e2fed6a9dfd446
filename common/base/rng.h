// rng.h: counter-based random numbers (Philox 4x32-10, Salmon et al., SC 2011).
//
// A number is a pure function of (key, stream, counter): whoever knows the three has it, in any
// order, on any thread. Rollouts use key = run seed, stream = (task, sample), counter = position.
#ifndef COMMON_BASE_RNG_H
#define COMMON_BASE_RNG_H

#include <stdint.h>

// rng_at is the 64-bit number at `counter` of `stream` under `key`.
uint64_t rng_at(uint64_t key, uint64_t stream, uint64_t counter);

// rng_mix folds `b` into `a`: a stream id from parts, for example rng_mix(task, sample).
uint64_t rng_mix(uint64_t a, uint64_t b);

// struct rng walks one stream in order, for callers that do not need random access.
struct rng {
    uint64_t key;
    uint64_t stream;
    uint64_t counter;
};

uint64_t rng_next(struct rng *rng);

// rng_below is uniform in 0 .. bound-1, without bias; bound > 0.
uint64_t rng_below(struct rng *rng, uint64_t bound);

// rng_uniform is uniform in [0, 1), with 53 bits.
double rng_uniform(struct rng *rng);

// rng_to_uniform maps a number of rng_at to [0, 1), with 53 bits.
static inline double rng_to_uniform(uint64_t number)
{
    return (double)(number >> 11) * 0x1.0p-53;
}

// rng_normal is a standard normal number (Box-Muller; uses two numbers of the stream).
double rng_normal(struct rng *rng);

#endif
