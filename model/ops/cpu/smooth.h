// exp and the logistic function for vectorised loops: no branches, no calls, no division. Relative
// error below 3e-7.
#ifndef MODEL_OPS_CPU_SMOOTH_H
#define MODEL_OPS_CPU_SMOOTH_H

#include <stdint.h>

typedef union {
    float value;
    uint32_t bits;
} FloatBits;

// e^x for |x| <= 80; beyond that e^80 or e^-80. x = n ln 2 + r, |r| <= ln 2 / 2: adding 1.5 * 2^23
// rounds n to a whole number that then sits in the lowest bits; e^r is a polynomial, 2^n an
// exponent.
static inline float exp_smooth(float x) {
    const float clamped = x > 80.0f ? 80.0f : (x < -80.0f ? -80.0f : x);
    FloatBits n, y;
    n.value = clamped * 1.44269504f + 12582912.0f;
    const float whole = n.value - 12582912.0f;
    const float r = (clamped - whole * 0.693359375f) + whole * 2.12194440e-4f;
    float p = 1.98756912e-4f;
    p = p * r + 1.39819994e-3f;
    p = p * r + 8.33345205e-3f;
    p = p * r + 4.16657962e-2f;
    p = p * r + 1.66666657e-1f;
    p = p * r + 0.5f;
    y.value = p * r * r + r + 1.0f;
    y.bits += n.bits << 23;
    return y.value;
}

// 1 / d for d in [1, 2^126]: a first guess from the exponent (within 12 %), then Newton's steps,
// each of which squares the error.
static inline float reciprocal(float d) {
    FloatBits y;
    y.value = d;
    y.bits = 0x7ef311c7u - y.bits;
    float r = y.value;
    r = r * (2.0f - d * r);
    r = r * (2.0f - d * r);
    r = r * (2.0f - d * r);
    return r + r * (1.0f - d * r);
}

// 1 / (1 + e^-x).
static inline float logistic(float x) {
    return reciprocal(1.0f + exp_smooth(-x));
}

#endif
