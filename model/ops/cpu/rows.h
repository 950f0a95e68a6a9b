// The inner loops of attention over one row, by hand for AVX-512 and plainly elsewhere: powers of
// two are what attention spends its time on (measured for 65,536 scores: 26 us as the compiler does
// it, 12 by hand).
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

// 2^x for x <= 127; below -126 it goes to 0. Relative error 2e-7: the polynomial of degree 5 on
// [-1/2, 1/2].
static inline __m512 exp2_16(__m512 x) {
    const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 r = _mm512_sub_ps(x, whole);
    __m512 y = _mm512_set1_ps(0.00133908174f);
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(0.00961834751f));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(0.0555035711f));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(0.240226462f));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(0.693147182f));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, whole);
}

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

static inline float row_max(const float *s, int64_t n) {
    __m512 most = _mm512_set1_ps(-3e38f);
    int64_t j = 0;
    for (; j + 16 <= n; j += 16) most = _mm512_max_ps(most, _mm512_loadu_ps(s + j));
    const __mmask16 rest = (__mmask16)((1u << (n - j)) - 1);
    most = _mm512_mask_max_ps(most, rest, most, _mm512_maskz_loadu_ps(rest, s + j));
    return _mm512_reduce_max_ps(most);
}

// w[j] = 2^(s[j] c - top) for j < n and 0 up to `full` (a multiple of 16); returns their sum.
static inline float row_exp2(real *w, const float *s, float c, float top, int64_t n, int64_t full) {
    const __m512 scale = _mm512_set1_ps(c), minus = _mm512_set1_ps(-top);
    __m512 sum = _mm512_setzero_ps();
    int64_t j = 0;
    for (; j + 16 <= n; j += 16) {
        const __m512 e = exp2_16(_mm512_fmadd_ps(_mm512_loadu_ps(s + j), scale, minus));
        sum = _mm512_add_ps(sum, e);
        store_16(w + j, e);
    }
    const __mmask16 rest = (__mmask16)((1u << (n - j)) - 1);
    for (; j < full; j += 16) {
        const __mmask16 mask = j < n ? rest : 0;
        const __m512 x = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, s + j), scale, minus);
        const __m512 e = _mm512_maskz_mov_ps(mask, exp2_16(x));
        sum = _mm512_add_ps(sum, e);
        store_16(w + j, e);
    }
    return _mm512_reduce_add_ps(sum);
}

// p[j] = 2^(s[j] c - lse[j]), ds[j] = p[j] (dp[j] - delta[j]) scale; n a multiple of 16.
static inline void row_gradient(real *p, real *ds, const float *s, const float *dp,
                                const float *lse, const float *delta, float c, float scale,
                                int64_t n) {
    const __m512 factor = _mm512_set1_ps(c), last = _mm512_set1_ps(scale);
    for (int64_t j = 0; j < n; j += 16) {
        const __m512 e =
            exp2_16(_mm512_fmsub_ps(_mm512_loadu_ps(s + j), factor, _mm512_loadu_ps(lse + j)));
        const __m512 d = _mm512_sub_ps(_mm512_loadu_ps(dp + j), _mm512_loadu_ps(delta + j));
        store_16(p + j, e);
        store_16(ds + j, _mm512_mul_ps(_mm512_mul_ps(e, last), d));
    }
}

#else

// 2^x for x <= 127 (below -126: about 1e-38): the same polynomial; adding 1.5 * 2^23 rounds to a
// whole number that then stands in the low bits.
static inline float exp2_1(float x) {
    typedef union {
        float value;
        uint32_t bits;
    } Bits;
    const float clamped = x < -126.0f ? -126.0f : x;
    const Bits z = {.value = clamped + 12582912.0f};
    const float r = clamped - (z.value - 12582912.0f);
    Bits y;
    y.value =
        1.0f +
        r * (0.693147182f +
             r * (0.240226462f + r * (0.0555035711f + r * (0.00961834751f + r * 0.00133908174f))));
    y.bits += z.bits << 23;
    return y.value;
}

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

static inline float row_max(const float *s, int64_t n) {
    float most = -3e38f;
#pragma omp simd reduction(max : most)
    for (int64_t j = 0; j < n; j++) most = s[j] > most ? s[j] : most;
    return most;
}

static inline float row_exp2(real *w, const float *s, float c, float top, int64_t n, int64_t full) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < n; j++) {
        const float e = exp2_1(s[j] * c - top);
        sum += e;
        w[j] = to_real(e);
    }
    for (int64_t j = n; j < full; j++) w[j] = 0;
    return sum;
}

static inline void row_gradient(real *p, real *ds, const float *s, const float *dp,
                                const float *lse, const float *delta, float c, float scale,
                                int64_t n) {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        const float e = exp2_1(s[j] * c - lse[j]);
        p[j] = to_real(e);
        ds[j] = to_real(e * scale * (dp[j] - delta[j]));
    }
}

#endif

#endif
