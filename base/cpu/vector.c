// Element-wise work on flat buffers (vector.h). Fused multiply-adds are written out, so an
// element's bits do not depend on where in a vector register it is computed.
#include "base/vector.h"

#include <math.h>
#include <string.h>

#include "base/die.h"

enum {
    SERIAL_MAX = 1 << 15,  // Elements below which starting the threads costs more than the work.
    BLOCK = 1024,          // Elements of one double in the sum of squares.
    LANES = 16,            // Partial sums of a block.
};

void vector_round(void *out, Type type, const float *x, int64_t count, Stream stream) {
    (void)stream;
    if (type == TYPE_F32) {
        vector_copy_rows(out, count * 4, x, count * 4, 1, count * 4, stream);
        return;
    }
    uint16_t *const rounded = out;
#pragma omp parallel for simd schedule(static) if (parallel : count > SERIAL_MAX)
    for (int64_t i = 0; i < count; i++) rounded[i] = float_to_bf16(x[i]);
}

void vector_widen(float *out, const void *x, Type type, int64_t count, Stream stream) {
    if (type == TYPE_F32) {
        vector_copy_rows(out, count * 4, x, count * 4, 1, count * 4, stream);
        return;
    }
    const uint16_t *const narrow = x;
#pragma omp parallel for simd schedule(static) if (parallel : count > SERIAL_MAX)
    for (int64_t i = 0; i < count; i++) out[i] = bf16_to_float(narrow[i]);
}

void vector_add(float *sum, const void *x, Type type, int64_t count, Stream stream) {
    (void)stream;
    if (type == TYPE_F32) {
        const float *const wide = x;
#pragma omp parallel for simd schedule(static) if (parallel : count > SERIAL_MAX)
        for (int64_t i = 0; i < count; i++) sum[i] += wide[i];
    } else {
        const uint16_t *const narrow = x;
#pragma omp parallel for simd schedule(static) if (parallel : count > SERIAL_MAX)
        for (int64_t i = 0; i < count; i++) sum[i] += bf16_to_float(narrow[i]);
    }
}

void vector_copy_rows(void *out, int64_t out_stride, const void *in, int64_t in_stride,
                      int64_t rows, int64_t row_bytes, Stream stream) {
    (void)stream;
    if (row_bytes == 0) return;
    if (rows == 1) {  // One long row: let the threads share it.
        const int64_t part = 4 * SERIAL_MAX;
        const int64_t parts = div_up(row_bytes, part);
#pragma omp parallel for schedule(static) if (parts > 1)
        for (int64_t i = 0; i < parts; i++) {
            const size_t bytes = (size_t)min_i64(part, row_bytes - i * part);
            memcpy((char *)out + i * part, (const char *)in + i * part, bytes);
        }
        return;
    }
#pragma omp parallel for schedule(static) if (rows * row_bytes > 4 * SERIAL_MAX)
    for (int64_t i = 0; i < rows; i++) {
        memcpy((char *)out + i * out_stride, (const char *)in + i * in_stride, (size_t)row_bytes);
    }
}

// The square of a float is exact in double, so only the order of the additions matters: lane j adds
// elements j, j + LANES, ..., then the lanes are added in pairs.
static double block_square_sum(const float *x, int64_t count) {
    double lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
#pragma omp simd
        for (int j = 0; j < LANES; j++) lane[j] += (double)x[i + j] * (double)x[i + j];
    }
    for (int j = 0; i + j < count; j++) lane[j] += (double)x[i + j] * (double)x[i + j];
    for (int width = LANES / 2; width > 0; width /= 2) {
        for (int j = 0; j < width; j++) lane[j] += lane[j + width];
    }
    return lane[0];
}

void vector_square_sum(ExactSum *sum, const float *x, int64_t count, Stream stream) {
    (void)stream;
    const int64_t blocks = div_up(count, BLOCK);
#pragma omp parallel if (count > SERIAL_MAX)
    {
        ExactSum mine = {{0}, 0};
#pragma omp for schedule(static)
        for (int64_t b = 0; b < blocks; b++) {
            exact_add(&mine, block_square_sum(x + b * BLOCK, min_i64(BLOCK, count - b * BLOCK)));
        }
#pragma omp critical(vector_square_sum)
        {
            for (int i = 0; i < EXACT_LIMBS; i++) sum->limb[i] += mine.limb[i];
            sum->bad += mine.bad;
        }
    }
}

// arXiv 1711.05101, algorithm 2, with the learning rate times the decay as in PyTorch:
// w -= lr * (m_hat / (sqrt(v_hat) + epsilon) + decay * w).
void vector_adamw(float *w, float *m, float *v, float *ema, const float *g, int64_t count,
                  const AdamW *adamw, Stream stream) {
    (void)stream;
    const AdamW a = *adamw;
    const float beta1_rest = 1.0f - a.beta1, beta2_rest = 1.0f - a.beta2;
    const float ema_rest = 1.0f - a.ema_keep;
    CHECK(a.correction1 > 0.0f && a.correction2 > 0.0f, "bias corrections %g, %g",
          (double)a.correction1, (double)a.correction2);
#pragma omp parallel for simd schedule(static) if (parallel : count > SERIAL_MAX)
    for (int64_t i = 0; i < count; i++) {
        const float gi = g[i] * a.gradient_scale;
        const float mi = fmaf(a.beta1, m[i], beta1_rest * gi);
        const float vi = fmaf(a.beta2, v[i], beta2_rest * gi * gi);
        const float direction = (mi / a.correction1) / (sqrtf(vi / a.correction2) + a.epsilon);
        const float wi = fmaf(-a.lr, fmaf(a.decay, w[i], direction), w[i]);
        m[i] = mi;
        v[i] = vi;
        w[i] = wi;
        ema[i] = fmaf(a.ema_keep, ema[i], ema_rest * wi);
    }
}
