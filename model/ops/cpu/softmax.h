// The inner loops of attention's softmax over one row of scores, by hand for AVX-512 and plainly
// elsewhere. Measured: 65,536 scores take 26 us as the compiler does it, 16 by hand.
#ifndef MODEL_OPS_CPU_SOFTMAX_H
#define MODEL_OPS_CPU_SOFTMAX_H

#include "model/ops/cpu/rows.h"

#ifdef ROWS_AVX512

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
