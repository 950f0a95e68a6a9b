// 2^x and the logistic function for vectorised loops: no branches, no calls, no division.
#ifndef MODEL_OPS_CPU_SMOOTH_H
#define MODEL_OPS_CPU_SMOOTH_H

#include <stdint.h>

typedef union {
    float value;
    uint32_t bits;
} FloatBits;

#define LOG2_E 1.44269504f

// x where |x| <= 120, else (and for NaN) 120 or -120. The limit is put on the bits: as floats, gcc
// makes branches of it and computes all their sides.
static inline float limit120(float x) {
    const uint32_t most = 0x42f00000u;
    FloatBits y;
    y.value = x;
    const uint32_t magnitude = y.bits & 0x7fffffffu;
    y.bits = (y.bits & 0x80000000u) | (magnitude < most ? magnitude : most);
    return y.value;
}

// 2^x within 2e-7 for |x| <= 120. x = n + f, |f| <= 1 / 2: adding 1.5 * 2^23 rounds x to a whole
// number n, which then sits in the lowest bits. 2^f is a polynomial fitted to the relative error
// (7.5e-8), 2^n an exponent.
static inline float exp2_smooth(float x) {
    FloatBits n, y;
    n.value = x + 12582912.0f;
    const float f = x - (n.value - 12582912.0f);
    float p = 1.3276472e-3f;
    p = p * f + 9.675542e-3f;
    p = p * f + 5.550713e-2f;
    p = p * f + 2.402212e-1f;
    p = p * f + 6.9314694e-1f;
    y.value = p * f + 1.0000001f;
    y.bits += n.bits << 23;
    return y.value;
}

// 1 / d within 1e-7 for d in [1, 2^125]: a first guess from the exponent (within 5.1 %), a step
// that squares the error and one that cubes it.
static inline float reciprocal(float d) {
    FloatBits guess;
    guess.value = d;
    guess.bits = 0x7ef31000u - guess.bits;
    const float r = guess.value + guess.value * (1.0f - d * guess.value);
    const float error = 1.0f - d * r;
    return r + r * (error + error * error);
}

// 1 / (1 + 2^-x), the logistic function of x ln 2, for |x| <= 120.
static inline float logistic2(float x) {
    return reciprocal(1.0f + exp2_smooth(-x));
}

#endif
