// What the tests of ops share: random inputs, finite differences, segments. Arrays are shared with
// the device; the host reads what an op wrote there after stream_wait, with which a test's own
// forward() and backward() end, and the check_* begin.
#ifndef TESTS_OP_CHECK_H
#define TESTS_OP_CHECK_H

#include <math.h>
#include <omp.h>

#include "base/gradient.h"
#include "base/rng.h"
#include "tests/golden_file.h"

// Standard normal numbers times `deviation` plus `mean`; another `stream`, other numbers.
static inline real *reals_random(int64_t n, uint64_t stream, float mean, float deviation) {
    float *values = floats_new(n);
    rng_normal(values, n, 1, RNG_TEST, stream, 0);
    for (int64_t i = 0; i < n; i++) values[i] = mean + deviation * values[i];
    real *result = reals_of(values, n);
    device_free(values);
    return result;
}

// Fails unless gradient[i] is the slope of loss(context) in input[i], for all n. Only in fp32,
// where steps of 1e-2 leave more than rounding; the error of central differences is about 1e-4
// here.
static inline void check_slopes(const char *name, real *input, const float *gradient, int64_t n,
                                double (*loss)(void *context), void *context) {
    const float step = 1e-2f;
    stream_wait(NULL);
    float *slope = floats_new(n);
    for (int64_t i = 0; i < n; i++) {
        const real before = input[i];
        input[i] = to_real(to_float(before) + step);
        const double above = loss(context);
        input[i] = to_real(to_float(before) - step);
        slope[i] = (float)((above - loss(context)) / (2.0 * (double)step));
        input[i] = before;
    }
    check_close(name, gradient, slope, n, 2e-3);
    device_free(slope);
}

// Leaves segments 1 and S - 1 without tokens where S > 3.
static inline void segments_empty(int32_t *segment, int64_t T, int64_t S) {
    for (int64_t t = 0; t < T && S > 3; t++) {
        segment[t] += segment[t] == S - 1 ? -1 : segment[t] > 0 && segment[t] < S - 2 ? 1 : 0;
    }
}

// Scratch as ops find it: with whatever was there before, here NaN.
static inline void *scratch_new(int64_t bytes) {
    void *scratch = device_allocate_shared("scratch", bytes);
    memset(scratch, 0xff, (size_t)bytes);
    return scratch;
}

// sum of out * weight in double: a loss whose gradient with respect to out is weight.
static inline double weighted_sum(const real *out, const real *weight, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)to_float(out[i]) * (double)to_float(weight[i]);
    return sum;
}

// How near reals come to sums that are right, as a share of the largest: bf16 rounds once.
static const double REAL_TOLERANCE = REAL_TYPE == TYPE_BF16 ? 0x1p-8 : 1e-5;

static inline float *floats_of(const real *values, int64_t n) {
    float *result = floats_new(n);
    for (int64_t i = 0; i < n; i++) result[i] = to_float(values[i]);
    return result;
}

// Where each of S segments begins: [S + 1].
static inline int32_t *starts_of(const int32_t *segment, int64_t T, int64_t S) {
    int32_t *start = integers_new(S + 1);
    for (int64_t t = 0; t < T; t++) start[segment[t] + 1]++;
    for (int64_t s = 0; s < S; s++) start[s + 1] += start[s];
    return start;
}

// The gradient of a parameter, added up in float.
static inline Gradient added(float *at) {
    return (Gradient){.at = at, .type = TYPE_F32, .add = true};
}

// Fails unless an op that puts `count` elements into a gradient, by give(gradient, context),
// writes over what is there and adds to it, in float and in bf16.
static inline void check_gradient(const char *name, int64_t count,
                                  void (*give)(Gradient g, void *context), void *context) {
    float *sums = floats_new(count), *want = floats_new(count), *got = floats_new(count);
    give(added(sums), context);
    stream_wait(NULL);
    for (int kind = 0; kind < 4; kind++) {
        Gradient g = {.type = kind / 2 ? TYPE_BF16 : TYPE_F32, .add = kind % 2};
        const int64_t bytes = count * type_size(g.type);
        g.at = scratch_new(bytes);  // NaN.
        for (int64_t i = 0; i < count; i++) {
            const float before = g.add ? (float)(i % 7 - 3) : 0.0f;
            want[i] = sums[i] + before;
            if (g.add) gradient_put((Gradient){.at = g.at, .type = g.type}, i, before);
        }
        give(g, context);
        stream_wait(NULL);
        for (int64_t i = 0; i < count; i++) {
            got[i] = g.type == TYPE_F32 ? ((float *)g.at)[i] : bf16_to_float(((uint16_t *)g.at)[i]);
        }
        check_close(name, got, want, count, g.type == TYPE_F32 ? 1e-6 : 0x1p-8);
        device_free(g.at);
    }
    free_all(sums, want, got);
}

// S >= 2 segments over T tokens, the first of one token.
static inline int32_t *segments_new(int64_t T, int64_t S) {
    int32_t *segment = integers_new(T);
    for (int64_t t = 0; t < T; t++) segment[t] = (int32_t)min_i64(t, 1 + t * (S - 1) / T);
    return segment;
}

#endif
