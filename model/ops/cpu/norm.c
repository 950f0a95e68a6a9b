#include "model/ops/norm.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "base/die.h"
#include "model/ops/cpu/parts.h"
#include "model/ops/cpu/rows.h"

// One row after the other: a row is read from memory once, the passes over it find it in the first
// cache. bf16 moves 4 bytes per element forward, 6 backward (8 with add_dx).

// y = x as floats; returns their mean.
static float widen_row(float *y, const real *x, int64_t C) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < C; c++) {
        y[c] = to_float(x[c]);
        sum += y[c];
    }
    return sum / (float)C;
}

// Four sums side by side, or each addition would wait for the one before.
static float row_inverse(const float *y, float mean, float epsilon, int64_t C) {
    const int64_t Q = C / 4;
    float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f, s3 = 0.0f;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (int64_t c = 0; c < Q; c++) {
        s0 += (y[c] - mean) * (y[c] - mean);
        s1 += (y[c + Q] - mean) * (y[c + Q] - mean);
        s2 += (y[c + 2 * Q] - mean) * (y[c + 2 * Q] - mean);
        s3 += (y[c + 3 * Q] - mean) * (y[c + 3 * Q] - mean);
    }
    for (int64_t c = 4 * Q; c < C; c++) s0 += (y[c] - mean) * (y[c] - mean);
    return 1.0f / sqrtf(((s0 + s1) + (s2 + s3)) / (float)C + epsilon);
}

// The row's factor and summand, out = n(x) * factor + shift, as floats that all rows of a run of
// one segment share.
static void fill_factor(float *factor, const real *weight, const real *scale, int64_t C) {
    if (weight != NULL && scale != NULL) {
#pragma omp simd
        for (int64_t c = 0; c < C; c++) {
            factor[c] = to_float(weight[c]) * (1.0f + to_float(scale[c]));
        }
    } else {
#pragma omp simd
        for (int64_t c = 0; c < C; c++) {
            factor[c] = weight != NULL  ? to_float(weight[c])
                        : scale != NULL ? 1.0f + to_float(scale[c])
                                        : 1.0f;
        }
    }
}

// Sums wait on the stack.
int64_t norm_modulate_scratch(int64_t T, int64_t C, int64_t S) {
    (void)T;
    (void)C;
    (void)S;
    return 0;
}

static void check_channels(int64_t C) {
    CHECK(C > 0 && C <= CHANNELS_MAX, "%" PRId64 " channels; norms hold at most %d", C,
          CHANNELS_MAX);
}

void norm_modulate_forward(real *out, float *stats, const real *x, const real *weight,
                           const real *shift, const real *scale, int64_t ldm,
                           const int32_t *segment, NormKind kind, float epsilon, int64_t T,
                           int64_t C, Stream stream) {
    (void)stream;
    check_channels(C);
#pragma omp parallel for schedule(static)
    for (int64_t part = 0; part < part_count(T); part++) {
        float factor[CHANNELS_MAX], summand[CHANNELS_MAX];
        const int64_t begin = part * part_rows(T), end = min_i64(T, begin + part_rows(T));
        for (int64_t first = begin, last; first < end; first = last) {
            const int64_t row = scale != NULL ? segment[first] * ldm : 0;
            last = scale != NULL ? run_end(segment, first, end) : end;
            fill_factor(factor, weight, scale != NULL ? scale + row : NULL, C);
#pragma omp simd
            for (int64_t c = 0; c < C; c++) {
                summand[c] = shift != NULL ? to_float(shift[row + c]) : 0.0f;
            }
            for (int64_t t = first; t < last; t++) {
                float y[CHANNELS_MAX];
                const float average = widen_row(y, x + t * C, C);
                const float mean = kind == NORM_LAYER ? average : 0.0f;
                const float inverse = row_inverse(y, mean, epsilon, C);
                stats[2 * t] = mean;
                stats[2 * t + 1] = inverse;
#pragma omp simd
                for (int64_t c = 0; c < C; c++) {
                    y[c] = (y[c] - mean) * inverse * factor[c] + summand[c];
                }
                row_store(out + t * C, y, NULL, false, C);
            }
        }
    }
}

// The sums of a part: over all its rows, and over the rows of its present run of one segment.
typedef struct {
    float weight[CHANNELS_MAX];
    float shift[CHANNELS_MAX], product[CHANNELS_MAX];  // Of dout, of dout * n.
} NormSums;

// With g = dout * factor, the gradient of n: dx = inverse (g - mean(g) - n mean(g n)), where the
// layer norm alone subtracts mean(g).
static inline void backward_row(const NormBackward *a, NormSums *sums, const float *factor,
                                NormKind kind, int64_t t, int64_t C) {
    const real *x = a->x + t * C, *dout = a->dout + t * C;
    const float mean = a->stats[2 * t], inverse = a->stats[2 * t + 1];
    float d[CHANNELS_MAX], n[CHANNELS_MAX], sum_g = 0.0f, sum_gn = 0.0f;
#pragma omp simd reduction(+ : sum_g, sum_gn)
    for (int64_t c = 0; c < C; c++) {
        d[c] = to_float(dout[c]);
        n[c] = (to_float(x[c]) - mean) * inverse;
        sum_g += d[c] * factor[c];
        sum_gn += d[c] * factor[c] * n[c];
    }
    const float mean_g = kind == NORM_LAYER ? sum_g / (float)C : 0.0f;
    const float mean_gn = sum_gn / (float)C;
#pragma omp simd
    for (int64_t c = 0; c < C; c++) {
        sums->shift[c] += d[c];
        sums->product[c] += d[c] * n[c];
        d[c] = inverse * (d[c] * factor[c] - mean_g - n[c] * mean_gn);
    }
    row_store(a->dx + t * C, d, NULL, a->add_dx, C);
}

// Rows [first, last), all of one segment. Leaves the run's sums in `sums`.
static void backward_run(const NormBackward *a, NormSums *sums, NormKind kind, int64_t first,
                         int64_t last, int64_t C) {
    float factor[CHANNELS_MAX];
    const real *scale = a->scale != NULL ? a->scale + a->segment[first] * a->ldm : NULL;
    fill_factor(factor, a->weight, scale, C);
    memset(sums->shift, 0, (size_t)C * sizeof(float));
    memset(sums->product, 0, (size_t)C * sizeof(float));
    for (int64_t t = first; t < last; t++) backward_row(a, sums, factor, kind, t, C);
    if (a->weight == NULL) return;
#pragma omp simd
    for (int64_t c = 0; c < C; c++) {
        sums->weight[c] += sums->product[c] * (scale != NULL ? 1.0f + to_float(scale[c]) : 1.0f);
    }
}

// Adds the run's sums to its segment's rows of dshift and dscale.
static void add_run(const NormBackward *a, const NormSums *sums, int64_t t, int64_t C) {
    if (a->scale == NULL) return;
    float *dshift = a->dshift + a->segment[t] * a->ldm, *dscale = a->dscale + (dshift - a->dshift);
    add_row(dshift, sums->shift, C);
#pragma omp simd
    for (int64_t c = 0; c < C; c++) {
        dscale[c] += sums->product[c] * (a->weight != NULL ? to_float(a->weight[c]) : 1.0f);
    }
}

void norm_modulate_backward(const NormBackward *arguments, NormKind kind, int64_t T, int64_t C,
                            Stream stream) {
    (void)stream;
    check_channels(C);
    const NormBackward *a = arguments;
    const int32_t *segment = a->scale != NULL ? a->segment : NULL;
    NormSums sums[PARTS];
#pragma omp parallel for schedule(static)
    for (int64_t part = 0; part < part_count(T); part++) {
        const int64_t begin = part * part_rows(T), end = min_i64(T, begin + part_rows(T));
        const int64_t shared = run_end(segment, begin, end);
        memset(sums[part].weight, 0, (size_t)C * sizeof(float));
        for (int64_t first = shared, last; first < end; first = last) {
            last = run_end(segment, first, end);
            backward_run(a, &sums[part], kind, first, last, C);
            add_run(a, &sums[part], first, C);
        }
        backward_run(a, &sums[part], kind, begin, shared, C);
    }
    for (int64_t part = 0; part < part_count(T); part++) {
        add_run(a, &sums[part], part * part_rows(T), C);
        if (part > 0) add_row(sums[0].weight, sums[part].weight, C);
    }
    if (T == 0) memset(sums[0].weight, 0, (size_t)C * sizeof(float));
    if (a->weight != NULL) gradient_row(a->dweight, sums[0].weight, C);
}
