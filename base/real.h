// `real` is what weights, activations and their gradients are stored in: bfloat16 or float, one per
// build (-DREAL_BF16). Sums are always float. The bits are the same on every backend.
#ifndef BASE_REAL_H
#define BASE_REAL_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __CUDACC__
#define REAL_INLINE static __host__ __device__ inline
#else
#define REAL_INLINE static inline
#endif

// How an element is stored, where one function serves several types.
typedef enum { TYPE_F32, TYPE_BF16 } Type;

REAL_INLINE int64_t type_size(Type type) {
    return type == TYPE_BF16 ? 2 : 4;
}

REAL_INLINE float bf16_to_float(uint16_t x) {
    union {
        uint32_t bits;
        float value;
    } u;
    u.bits = (uint32_t)x << 16;
    return u.value;
}

// To nearest, ties to even; NaN stays NaN.
REAL_INLINE uint16_t float_to_bf16(float x) {
#ifdef __CUDA_ARCH__  // One instruction, where the plain form below takes eight.
    uint16_t result;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result) : "f"(x));
    return result;
#else
    union {
        float value;
        uint32_t bits;
    } u;
    u.value = x;
    const uint32_t rounded = (u.bits + 0x7fffu + ((u.bits >> 16) & 1u)) >> 16;
    const uint32_t nan = (u.bits >> 16) | 0x40u;
    return (uint16_t)(x != x ? nan : rounded);
#endif
}

#ifdef REAL_BF16
typedef uint16_t real;
#define REAL_TYPE TYPE_BF16
#define REAL_NAME "bf16"
REAL_INLINE float to_float(real x) {
    return bf16_to_float(x);
}
REAL_INLINE real to_real(float x) {
    return float_to_bf16(x);
}
#else
typedef float real;
#define REAL_TYPE TYPE_F32
#define REAL_NAME "fp32"
REAL_INLINE float to_float(real x) {
    return x;
}
REAL_INLINE real to_real(float x) {
    return x;
}
#endif

// Integer helpers that sizes need everywhere.
REAL_INLINE int64_t div_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}
REAL_INLINE int64_t round_up(int64_t a, int64_t b) {
    return (a + b - 1) / b * b;
}
REAL_INLINE int64_t min_i64(int64_t a, int64_t b) {
    return a < b ? a : b;
}
REAL_INLINE int64_t max_i64(int64_t a, int64_t b) {
    return a > b ? a : b;
}

#endif
