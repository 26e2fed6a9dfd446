#include "common/base/rng.h"

#include "common/base/check.h"

#include <math.h>

uint64_t rng_at(uint64_t key, uint64_t stream, uint64_t counter)
{
    uint32_t c0 = (uint32_t)counter;
    uint32_t c1 = (uint32_t)(counter >> 32);
    uint32_t c2 = (uint32_t)stream;
    uint32_t c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)key;
    uint32_t k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (uint64_t)c1 << 32 | c0;
}

uint64_t rng_mix(uint64_t a, uint64_t b)
{
    return rng_at(a, b, 0);
}

uint64_t rng_next(struct rng *rng)
{
    return rng_at(rng->key, rng->stream, rng->counter++);
}

uint64_t rng_below(struct rng *rng, uint64_t bound)
{
    CHECK(bound > 0);
    uint64_t reject = (0 - bound) % bound; // numbers below it would make small results likelier
    uint64_t number = rng_next(rng);
    while (number < reject) {
        number = rng_next(rng);
    }
    return number % bound;
}

double rng_uniform(struct rng *rng)
{
    return rng_to_uniform(rng_next(rng));
}

double rng_normal(struct rng *rng)
{
    double radius = sqrt(-2.0 * log(1.0 - rng_uniform(rng)));
    return radius * cos(6.283185307179586 * rng_uniform(rng));
}
