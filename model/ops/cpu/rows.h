// The inner loops of products and attention over rows, by hand for AVX-512 and plainly elsewhere.
// Measured: rounding 65,536 sums to bf16 takes 20 us as the compiler does it, 13 by hand.
#ifndef MODEL_OPS_CPU_ROWS_H
#define MODEL_OPS_CPU_ROWS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/real.h"

// Rows that lie far apart are asked for this many rows before they are needed: the processor does
// not foresee them.
enum { AHEAD = 8 };
static inline void row_fetch(const real *row, int64_t columns) {
    const int64_t line = 64 / (int64_t)sizeof(real);
    for (int64_t c = 0; c < columns; c += line) __builtin_prefetch(row + c);
}

// to [rows_full, columns_full], dense = from [rows, columns], rows ld apart, and zeros.
static inline void rows_copy(real *to, int64_t rows_full, int64_t columns_full, const real *from,
                             int64_t ld, int64_t rows, int64_t columns) {
    const size_t bytes = (size_t)columns * sizeof(real);
    const size_t rest = (size_t)(columns_full - columns) * sizeof(real);
    for (int64_t r = 0; r < rows; r++, to += columns_full) {
        if (r + AHEAD < rows) row_fetch(from + (r + AHEAD) * ld, columns);
        memcpy(to, from + r * ld, bytes);
        if (rest) memset(to + columns, 0, rest);
    }
    memset(to, 0, (size_t)((rows_full - rows) * columns_full) * sizeof(real));
}

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && \
    (defined(__AVX512BF16__) || !defined(REAL_BF16))
#include <immintrin.h>
#define ROWS_AVX512

static inline void store_16(real *to, __m512 x) {
#ifdef REAL_BF16
    _mm256_storeu_si256((__m256i *)(void *)to, (__m256i)_mm512_cvtneps_pbh(x));
#else
    _mm512_storeu_ps(to, x);
#endif
}

static inline __m512 load_16(const real *from) {
#ifdef REAL_BF16
    const __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)from);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
#else
    return _mm512_loadu_ps(from);
#endif
}

// out = sum, + bias (may be NULL), + out where `add`.
static inline void row_store(real *out, const float *sum, const real *bias, bool add, int64_t n) {
    int64_t j = 0;
    for (; j + 16 <= n; j += 16) {
        __m512 x = _mm512_loadu_ps(sum + j);
        if (bias != NULL) x = _mm512_add_ps(x, load_16(bias + j));
        if (add) x = _mm512_add_ps(x, load_16(out + j));
        store_16(out + j, x);
    }
    for (; j < n; j++) {
        const float x = sum[j] + (bias != NULL ? to_float(bias[j]) : 0.0f);
        out[j] = to_real(x + (add ? to_float(out[j]) : 0.0f));
    }
}

// sums [n] += the rows of dense x [rows, n], in order.
static inline void rows_sum(float *sums, const real *x, int64_t rows, int64_t n) {
    int64_t j = 0;
    for (; j + 32 <= n; j += 32) {
        __m512 a = _mm512_loadu_ps(sums + j), b = _mm512_loadu_ps(sums + j + 16);
        for (int64_t r = 0; r < rows; r++) {
            a = _mm512_add_ps(a, load_16(x + r * n + j));
            b = _mm512_add_ps(b, load_16(x + r * n + j + 16));
        }
        _mm512_storeu_ps(sums + j, a);
        _mm512_storeu_ps(sums + j + 16, b);
    }
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = j; i < n; i++) sums[i] += to_float(x[r * n + i]);
    }
}

static inline float row_dot(const real *a, const real *b, int64_t n) {
    __m512 sum = _mm512_setzero_ps();
    int64_t j = 0;
    for (; j + 16 <= n; j += 16) sum = _mm512_fmadd_ps(load_16(a + j), load_16(b + j), sum);
    float result = _mm512_reduce_add_ps(sum);
    for (; j < n; j++) result += to_float(a[j]) * to_float(b[j]);
    return result;
}

#else

static inline void row_store(real *out, const float *sum, const real *bias, bool add, int64_t n) {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        const float x = sum[j] + (bias != NULL ? to_float(bias[j]) : 0.0f);
        out[j] = to_real(x + (add ? to_float(out[j]) : 0.0f));
    }
}

static inline void rows_sum(float *sums, const real *x, int64_t rows, int64_t n) {
    for (int64_t r = 0; r < rows; r++) {
#pragma omp simd
        for (int64_t j = 0; j < n; j++) sums[j] += to_float(x[r * n + j]);
    }
}

static inline float row_dot(const real *a, const real *b, int64_t n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < n; j++) sum += to_float(a[j]) * to_float(b[j]);
    return sum;
}

#endif

#endif
