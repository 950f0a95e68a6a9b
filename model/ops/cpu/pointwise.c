#include "model/ops/pointwise.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "base/die.h"
#include "model/ops/cpu/parts.h"
#include "model/ops/cpu/rows.h"
#include "model/ops/cpu/smooth.h"

// gelu(x) = x logistic(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3), since (1 + tanh u) / 2 =
// logistic(2 u): no cancellation for x < 0. As a power of two: t = 2 u log2(e) = x (A + B x^2).
// gelu'(x) = p + x p (1 - p) 2 u', p = logistic(2 u), where 2 x u' = (3 t - 2 A x) ln 2. 1 - p
// loses its digits where p is near 1, but there the term is far below p itself.
#define GELU_A (2.0f * 0.79788456f * LOG2_E)
#define GELU_B (GELU_A * 0.044715f)
#define LOG_2 0.69314718f

// Elements that a thread treats between two fetches.
enum { CHUNK = 1024 };

void gelu_forward(real *out, const real *x, int64_t N, Stream stream) {
    (void)stream;
#pragma omp parallel for schedule(static)
    for (int64_t begin = 0; begin < N; begin += CHUNK) {
        const int64_t end = min_i64(N, begin + CHUNK);
        if (end + CHUNK <= N) {
            fetch(x + end, CHUNK);
            fetch(out + end, CHUNK);
        }
        float y[CHUNK];
#pragma omp simd
        for (int64_t i = 0; i < end - begin; i++) {
            const float v = to_float(x[begin + i]);
            y[i] = v * logistic2(limit120(v * (GELU_A + GELU_B * v * v)));
        }
        row_store(out + begin, y, NULL, false, end - begin);
    }
}

void gelu_backward(real *dx, const real *dout, const real *x, int64_t N, Stream stream) {
    (void)stream;
#pragma omp parallel for schedule(static)
    for (int64_t begin = 0; begin < N; begin += CHUNK) {
        const int64_t end = min_i64(N, begin + CHUNK);
        if (end + CHUNK <= N) {
            fetch(x + end, CHUNK);
            fetch(dout + end, CHUNK);
            fetch(dx + end, CHUNK);
        }
        float y[CHUNK];
#pragma omp simd
        for (int64_t i = 0; i < end - begin; i++) {
            const float v = to_float(x[begin + i]);
            const float t = limit120(v * (GELU_A + GELU_B * v * v)), p = logistic2(t);
            const float slope = LOG_2 * 3.0f * t - LOG_2 * 2.0f * GELU_A * v;
            y[i] = to_float(dout[begin + i]) * (p + p * (1.0f - p) * slope);
        }
        row_store(dx + begin, y, NULL, false, end - begin);
    }
}

void silu_forward(real *out, const real *x, int64_t N, Stream stream) {
    (void)stream;
#pragma omp simd
    for (int64_t i = 0; i < N; i++) {
        const float v = to_float(x[i]);
        out[i] = to_real(v * logistic2(limit120(v * LOG2_E)));
    }
}

void silu_rows_backward(float *dx, const float *dout, const real *x, int64_t N, Stream stream) {
    (void)stream;
#pragma omp simd
    for (int64_t i = 0; i < N; i++) {
        const float v = to_float(x[i]), p = logistic2(limit120(v * LOG2_E));
        dx[i] += dout[i] * p * (1.0f + v * (1.0f - p));
    }
}

void swiglu_forward(real *out, const real *gate, const real *up, int64_t ld, int64_t T, int64_t F,
                    Stream stream) {
    (void)stream;
    const int64_t ahead = rows_ahead(F);
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t t = 0; t < T; t++) {
        for (int64_t begin = 0; begin < F; begin += CHUNK) {
            const int64_t n = min_i64(F - begin, CHUNK);
            const real *g = gate + t * ld + begin, *u = up + t * ld + begin;
            if (t + ahead < T) {
                fetch(g + ahead * ld, n);
                fetch(u + ahead * ld, n);
                fetch(out + (t + ahead) * F + begin, n);
            }
            float y[CHUNK];
#pragma omp simd
            for (int64_t i = 0; i < n; i++) {
                const float v = to_float(g[i]);
                y[i] = v * logistic2(limit120(v * LOG2_E)) * to_float(u[i]);
            }
            row_store(out + t * F + begin, y, NULL, false, n);
        }
    }
}

// With p = sigmoid(g): (g p)' = p + g p (1 - p).
void swiglu_backward(real *dgate, real *dup, const real *dout, const real *gate, const real *up,
                     int64_t ld, int64_t T, int64_t F, Stream stream) {
    (void)stream;
    const int64_t ahead = rows_ahead(F);
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t t = 0; t < T; t++) {
        for (int64_t begin = 0; begin < F; begin += CHUNK) {
            const int64_t n = min_i64(F - begin, CHUNK), at = t * ld + begin;
            const real *d = dout + t * F + begin, *g = gate + at, *u = up + at;
            if (t + ahead < T) {
                fetch(d + ahead * F, n);
                fetch(g + ahead * ld, n);
                fetch(u + ahead * ld, n);
                fetch(dgate + at + ahead * ld, n);
                fetch(dup + at + ahead * ld, n);
            }
            float dg[CHUNK], du[CHUNK];
#pragma omp simd
            for (int64_t i = 0; i < n; i++) {
                const float v = to_float(g[i]), p = logistic2(limit120(v * LOG2_E));
                dg[i] = to_float(d[i]) * to_float(u[i]) * p * (1.0f + v * (1.0f - p));
                du[i] = to_float(d[i]) * v * p;
            }
            row_store(dgate + at, dg, NULL, false, n);
            row_store(dup + at, du, NULL, false, n);
        }
    }
}

void gate_residual_forward(real *out, const real *x, const real *h, const real *gate, int64_t ldm,
                           const int32_t *segment, int64_t T, int64_t C, Stream stream) {
    (void)stream;
    if (gate == NULL) {
#pragma omp parallel for simd schedule(static)
        for (int64_t i = 0; i < T * C; i++) out[i] = to_real(to_float(x[i]) + to_float(h[i]));
        return;
    }
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < T; t++) {
        const real *g = gate + segment[t] * ldm;
#pragma omp simd
        for (int64_t i = t * C; i < (t + 1) * C; i++) {
            out[i] = to_real(to_float(x[i]) + to_float(g[i - t * C]) * to_float(h[i]));
        }
    }
}

// Sums wait on the stack.
int64_t gate_residual_scratch(int64_t T, int64_t S, int64_t C) {
    (void)T;
    (void)S;
    (void)C;
    return 0;
}

// Rows [first, last), all of one segment; sums = what they add to its row of dgate.
static void gate_run(real *dh, float *sums, const real *dout, const real *h, const real *gate,
                     int64_t first, int64_t last, int64_t C) {
    memset(sums, 0, (size_t)C * sizeof(float));
    for (int64_t t = first; t < last; t++) {
        const real *dt = dout + t * C, *ht = h + t * C;
        real *dht = dh + t * C;
#pragma omp simd
        for (int64_t c = 0; c < C; c++) {
            const float d = to_float(dt[c]);
            sums[c] += d * to_float(ht[c]);
            dht[c] = to_real(d * to_float(gate[c]));
        }
    }
}

void gate_residual_backward(real *dh, float *dgate, const real *dout, const real *h,
                            const real *gate, int64_t ldm, const int32_t *segment, int64_t T,
                            int64_t S, int64_t C, void *scratch, Stream stream) {
    (void)S;
    (void)scratch;
    if (gate == NULL) {
        device_copy(dh, dout, T * C * (int64_t)sizeof(real), stream);
        return;
    }
    CHECK(C <= CHANNELS_MAX, "%" PRId64 " channels; the gate holds at most %d", C, CHANNELS_MAX);
    float sums[PARTS][CHANNELS_MAX];
#pragma omp parallel for schedule(static)
    for (int64_t part = 0; part < part_count(T); part++) {
        const int64_t begin = part * part_rows(T), end = min_i64(T, begin + part_rows(T));
        const int64_t shared = run_end(segment, begin, end);
        for (int64_t first = shared, last; first < end; first = last) {
            last = run_end(segment, first, end);
            const int64_t row = segment[first] * ldm;
            gate_run(dh, sums[part], dout, h, gate + row, first, last, C);
            add_row(dgate + row, sums[part], C);
        }
        gate_run(dh, sums[part], dout, h, gate + segment[begin] * ldm, begin, shared, C);
    }
    for (int64_t part = 0; part < part_count(T); part++) {
        add_row(dgate + segment[part * part_rows(T)] * ldm, sums[part], C);
    }
}

void timestep_embedding(real *out, const float *time, float factor, int64_t S, int64_t width,
                        Stream stream) {
    (void)stream;
    const int64_t half = width / 2;
    for (int64_t s = 0; s < S; s++) {
        for (int64_t i = 0; i < half; i++) {
            const double frequency = exp(-log(1e4) * (double)i / (double)half);
            const double angle = (double)time[s] * (double)factor * frequency;
            out[s * width + i] = to_real((float)cos(angle));
            out[s * width + half + i] = to_real((float)sin(angle));
        }
    }
}
