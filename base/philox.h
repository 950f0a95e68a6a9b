// The arithmetic of rng.h, inline, for the host and for kernels: Philox's rounds and the normal
// numbers, with the same bits on both. Wherever a compiler could join a product and a sum into one
// rounding, fmaf says that it must; nothing else is left to join.
#ifndef BASE_PHILOX_H
#define BASE_PHILOX_H

#include <math.h>
#include <stdint.h>

#include "base/real.h"

// The ten rounds. out may be counter.
REAL_INLINE void philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        const uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

// The bits of elements 4 block .. 4 block + 3; rng.h says what the counter's words hold.
REAL_INLINE void philox_block(uint32_t out[4], uint64_t seed, uint32_t purpose, uint64_t position,
                              uint64_t block) {
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    const uint32_t counter[4] = {(uint32_t)block,
                                 ((uint32_t)(block >> 32) & 0xffffffu) | purpose << 24,
                                 (uint32_t)position, (uint32_t)(position >> 32)};
    philox(out, counter, key);
}

// ln x for x in (0, 1]: exponent apart, the mantissa m in [sqrt(1/2), sqrt(2)) by the series of
// atanh((m - 1) / (m + 1)). Relative error below 3e-7.
REAL_INLINE float log_float(float x) {
    union {
        float value;
        uint32_t bits;
    } u;
    u.value = x;
    const int32_t shifted = (int32_t)(u.bits - 0x3f3504f3u) >> 23;
    u.bits -= (uint32_t)shifted << 23;
    const float s = (u.value - 1.0f) / (u.value + 1.0f), z = s * s;
    float series = fmaf(z, 0.1818182f, 0.22222222f);
    series = fmaf(z, series, 0.28571429f);
    series = fmaf(z, series, 0.4f);
    series = fmaf(z, series, 0.66666667f);
    series = fmaf(z, series, 2.0f);
    return fmaf((float)shifted, 0.69314718f, s * series);
}

// cos and sin of 2 pi u for u in [0, 1): the quarter apart, the rest in [-pi/4, pi/4] by Taylor.
REAL_INLINE void turn_cos_sin(float u, float *cosine, float *sine) {
    const int quarter = (int)fmaf(u, 4.0f, 0.5f);
    const float a = fmaf(-0.25f, (float)quarter, u) * 6.2831853f, z = a * a;
    float s = fmaf(z, -1.9841270e-4f, 8.3333333e-3f);
    s = fmaf(z, s, -0.16666667f);
    s = a * fmaf(z, s, 1.0f);
    float c = fmaf(z, 2.4801587e-5f, -1.3888889e-3f);
    c = fmaf(z, c, 4.1666667e-2f);
    c = fmaf(z, c, -0.5f);
    c = fmaf(z, c, 1.0f);
    const float cs = (quarter & 1) ? -s : c, sn = (quarter & 1) ? c : s;
    *cosine = (quarter & 2) ? -cs : cs;
    *sine = (quarter & 2) ? -sn : sn;
}

// The normal numbers of four elements from their bits. To be stored as they are: a sum right after
// could be joined with the last product.
REAL_INLINE void normals_of_bits(float normal[4], const uint32_t bits[4]) {
    for (int pair = 0; pair < 4; pair += 2) {
        const float u1 = ((float)bits[pair] + 0.5f) * 0x1p-32f;
        const float u2 = (float)(bits[pair + 1] >> 8) * 0x1p-24f;
        const float radius = sqrtf(-2.0f * log_float(u1 > 1.0f ? 1.0f : u1));
        float c, s;
        turn_cos_sin(u2, &c, &s);
        normal[pair] = radius * c;
        normal[pair + 1] = radius * s;
    }
}

#endif
