#include "base/rng.h"

#include <xxhash.h>

#include "base/philox.h"

uint32_t rng_bits(uint64_t seed, RngPurpose purpose, uint64_t position, uint64_t element) {
    uint32_t out[4];
    philox_block(out, seed, (uint32_t)purpose, position, element / 4);
    return out[element % 4];
}

double rng_uniform(uint64_t seed, RngPurpose purpose, uint64_t position, uint64_t index) {
    uint32_t out[4];
    philox_block(out, seed, (uint32_t)purpose, position, index / 2);
    const uint64_t bits = (uint64_t)out[index % 2 * 2] << 32 | out[index % 2 * 2 + 1];
    return (double)(bits >> 11) * 0x1p-53;
}

void rng_normal(float *out, int64_t count, uint64_t seed, RngPurpose purpose, uint64_t position,
                uint64_t first) {
    int64_t i = 0;
    while (i < count) {
        uint32_t bits[4];
        const uint64_t element = first + (uint64_t)i;
        float normal[4];
        philox_block(bits, seed, (uint32_t)purpose, position, element / 4);
        normals_of_bits(normal, bits);
        for (uint64_t lane = element % 4; lane < 4 && i < count; lane++) out[i++] = normal[lane];
    }
}

uint64_t hash_bytes(const void *data, int64_t bytes) {
    return XXH3_64bits(data, (size_t)bytes);
}
