// Random numbers without state: Philox 4x32-10 (Salmon et al., SC 2011), key = seed, counter =
// (purpose, position, element). Any rank computes any number of the run; nothing has to be saved.
#ifndef BASE_RNG_H
#define BASE_RNG_H

#include <stdint.h>

// What a number is for. Never renumber: old runs would not repeat.
typedef enum {
    RNG_NOISE = 1,     // x_0 of a sample; element in [C, F, H, W].
    RNG_TIMESTEP = 2,  // u of a sample.
    RNG_STRATA = 3,    // r_s of a step; position = step.
    RNG_CAPTION = 4,   // Caption dropout of a sample.
    RNG_MEDIUM = 5,    // Element 0: image or video; element 1: which source.
    RNG_ORDER = 6,     // Epoch permutations.
    RNG_WEIGHTS = 7,   // Initial weights; position = hash of the tensor's name.
    RNG_VALIDATE_NOISE = 8,
    RNG_SAMPLE_NOISE = 9,  // Grids and `kintoun sample`.
    RNG_DEMO = 10,         // Demo data.
    RNG_TEXT = 11,         // The hashing text encoder.
    RNG_TEST = 12,
} RngPurpose;

// The 32 bits of one element: lane `element % 4` of counter (element / 4, purpose, position).
// The counter's words: low 32 bits of element / 4; next 24 bits of it | purpose << 24; position.
uint32_t rng_bits(uint64_t seed, RngPurpose purpose, uint64_t position, uint64_t element);

// Uniform in [0, 1) with 53 bits, from elements 2 * index and 2 * index + 1.
double rng_uniform(uint64_t seed, RngPurpose purpose, uint64_t position, uint64_t index);

// out[i] = the standard normal number of element first + i, by Box-Muller over the pairs (2k, 2k +
// 1): u1 = (bits + 0.5) / 2^32, u2 alike, sqrt(-2 ln u1) * (cos, sin)(2 pi u2). Own polynomials in
// float (philox.h), so the bits do not depend on a maths library, nor on the backend.
void rng_normal(float *out, int64_t count, uint64_t seed, RngPurpose purpose, uint64_t position,
                uint64_t first);

// 64-bit hash of a name (XXH3), for RNG_WEIGHTS and catalogues.
uint64_t hash_bytes(const void *data, int64_t bytes);

#endif
