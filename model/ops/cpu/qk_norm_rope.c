#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "base/die.h"
#include "model/ops/cpu/parts.h"
#include "model/ops/cpu/rows.h"
#include "model/ops/norm.h"

// A row is read from memory once and held as floats on the stack while it is normalised and turned.
// bf16 moves 4 bytes per element forward, 6 backward, and the table of positions once.

// Sums wait on the stack.
int64_t qk_norm_rope_scratch(int64_t T, int64_t heads, int64_t D) {
    (void)T;
    (void)heads;
    (void)D;
    return 0;
}

// out or dout in the order of peers.
typedef struct {
    int ranks;
    PeerPart part[ULYSSES_RANKS_MAX];
} Ordered;

static void ordered_fetch(const Ordered *o, const real *x, int64_t t) {
    for (int i = 0; i < o->ranks; i++) {
        fetch(x + o->part[i].begin + t * o->part[i].stride, o->part[i].columns);
    }
}

static void ordered_store(const Ordered *o, real *out, const float *y, int64_t t) {
    for (int i = 0; i < o->ranks; i++) {
        const PeerPart *p = &o->part[i];
        row_store(out + p->begin + t * p->stride, y + p->column, NULL, false, p->columns);
    }
}

static void ordered_load(const Ordered *o, float *y, const real *x, int64_t t) {
    for (int i = 0; i < o->ranks; i++) {
        const PeerPart *p = &o->part[i];
        const real *const from = x + p->begin + t * p->stride;
        float *const to = y + p->column;
#pragma omp simd
        for (int64_t c = 0; c < p->columns; c++) to[c] = to_float(from[c]);
    }
}

static void check_heads(int64_t heads, int64_t D) {
    CHECK(heads >= 0 && heads * D <= CHANNELS_MAX && D % 2 == 0,
          "%" PRId64 " heads of %" PRId64 "; at most %d channels, heads of even size", heads, D,
          CHANNELS_MAX);
}

void qk_norm_rope_forward(real *out, PeerOrder order, float *inverse, const real *x, int64_t ldx,
                          const real *weight, const float *rope, float epsilon, int64_t T,
                          int64_t heads, int64_t D, Stream stream) {
    (void)stream;
    check_heads(heads, D);
    const int64_t C = heads * D, ahead = rows_ahead(C);
    Ordered ordered = {.ranks = order.ranks};
    ulysses_parts(ordered.part, order, T, heads, D);
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < T; t++) {
        float y[CHANNELS_MAX];
        const real *xt = x + t * ldx;
        if (t + ahead < T) {
            fetch(xt + ahead * ldx, C);
            ordered_fetch(&ordered, out, t + ahead);
        }
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < C; c++) {
            y[c] = to_float(xt[c]);
            sum += y[c] * y[c];
        }
        const float scale = 1.0f / sqrtf(sum / (float)C + epsilon);
        inverse[t] = scale;
#pragma omp simd
        for (int64_t c = 0; c < C; c++) y[c] *= scale * to_float(weight[c]);
        for (int64_t h = 0; h < heads && rope != NULL; h++) {
            const float *turn = rope + t * D;
            float *yh = y + h * D;
#pragma omp simd
            for (int64_t i = 0; i < D / 2; i++) {
                const float y0 = yh[2 * i], y1 = yh[2 * i + 1];
                yh[2 * i] = y0 * turn[2 * i] - y1 * turn[2 * i + 1];
                yh[2 * i + 1] = y0 * turn[2 * i + 1] + y1 * turn[2 * i];
            }
        }
        ordered_store(&ordered, out, y, t);
    }
}

// d = dout; turned back it is the gradient of y. With g = d * weight and n = x * inverse: dx =
// inverse (g - n mean(g n)).
static void backward_row(real *dx, float *dweight, float *d, const real *x, const real *weight,
                         const float *turn, float inverse, int64_t heads, int64_t D) {
    const int64_t C = heads * D;
    for (int64_t h = 0; h < heads && turn != NULL; h++) {
        float *dh = d + h * D;
#pragma omp simd
        for (int64_t i = 0; i < D / 2; i++) {
            const float d0 = dh[2 * i], d1 = dh[2 * i + 1];
            dh[2 * i] = d0 * turn[2 * i] + d1 * turn[2 * i + 1];
            dh[2 * i + 1] = d1 * turn[2 * i] - d0 * turn[2 * i + 1];
        }
    }
    float n[CHANNELS_MAX], sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < C; c++) {
        n[c] = to_float(x[c]) * inverse;
        sum += d[c] * to_float(weight[c]) * n[c];
    }
    const float mean = sum / (float)C;
#pragma omp simd
    for (int64_t c = 0; c < C; c++) {
        dweight[c] += d[c] * n[c];
        d[c] = inverse * (d[c] * to_float(weight[c]) - n[c] * mean);
    }
    row_store(dx, d, NULL, false, C);
}

void qk_norm_rope_backward(real *dx, int64_t lddx, Gradient dweight, const real *dout,
                           PeerOrder order, const real *x, int64_t ldx, const real *weight,
                           const float *rope, const float *inverse, int64_t T, int64_t heads,
                           int64_t D, void *scratch, Stream stream) {
    (void)scratch;
    (void)stream;
    check_heads(heads, D);
    const int64_t C = heads * D, ahead = rows_ahead(C);
    Ordered ordered = {.ranks = order.ranks};
    ulysses_parts(ordered.part, order, T, heads, D);
    float sums[PARTS][CHANNELS_MAX];
#pragma omp parallel for schedule(static)
    for (int64_t part = 0; part < part_count(T); part++) {
        const int64_t begin = part * part_rows(T), end = min_i64(T, begin + part_rows(T));
        memset(sums[part], 0, (size_t)C * sizeof(float));
        for (int64_t t = begin; t < end; t++) {
            if (t + ahead < T) {
                fetch(x + (t + ahead) * ldx, C);
                ordered_fetch(&ordered, dout, t + ahead);
                fetch(dx + (t + ahead) * lddx, C);
            }
            float d[CHANNELS_MAX];
            ordered_load(&ordered, d, dout, t);
            backward_row(dx + t * lddx, sums[part], d, x + t * ldx, weight,
                         rope != NULL ? rope + t * D : NULL, inverse[t], heads, D);
        }
    }
    for (int64_t part = 1; part < part_count(T); part++) add_row(sums[0], sums[part], C);
    if (T == 0) memset(sums[0], 0, (size_t)C * sizeof(float));
    gradient_row(dweight, sums[0], C);
}
