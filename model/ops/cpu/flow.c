#include "model/ops/flow.h"

#include <stddef.h>
#include <string.h>

#include "model/ops/cpu/parts.h"

// The element of the latent that token (f, h, w) holds first, as its patch row's (c, i, j, 0).
static int64_t patch_run(LatentShape shape, PatchSize patch, int64_t token, int64_t c, int64_t i,
                         int64_t j) {
    const int64_t columns = shape.W / patch.w, rows = shape.H / patch.h;
    const int64_t w = token % columns * patch.w, h = token / columns % rows * patch.h + j;
    const int64_t f = token / columns / rows * patch.t + i;
    return ((c * shape.F + f) * shape.H + h) * shape.W + w;
}

void patchify(float *out, const float *latent, LatentShape shape, PatchSize patch, int64_t first,
              int64_t count) {
    for (int64_t token = first; token < first + count; token++) {
        for (int64_t c = 0; c < shape.C; c++) {
            for (int64_t i = 0; i < patch.t; i++) {
                for (int64_t j = 0; j < patch.h; j++) {
                    memcpy(out, latent + patch_run(shape, patch, token, c, i, j),
                           (size_t)patch.w * sizeof(float));
                    out += patch.w;
                }
            }
        }
    }
}

void unpatchify(float *latent, const float *tokens, LatentShape shape, PatchSize patch,
                int64_t first, int64_t count) {
    for (int64_t token = first; token < first + count; token++) {
        for (int64_t c = 0; c < shape.C; c++) {
            for (int64_t i = 0; i < patch.t; i++) {
                for (int64_t j = 0; j < patch.h; j++) {
                    memcpy(latent + patch_run(shape, patch, token, c, i, j), tokens,
                           (size_t)patch.w * sizeof(float));
                    tokens += patch.w;
                }
            }
        }
    }
}

void flow_mix(real *x_t, float *target, const float *data, const float *noise, const float *time,
              const int32_t *segment, int64_t T, int64_t E, Stream stream) {
    (void)stream;
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < T; t++) {
        const float share = time[segment[t]];
#pragma omp simd
        for (int64_t i = t * E; i < (t + 1) * E; i++) {
            x_t[i] = to_real(share * data[i] + (1.0f - share) * noise[i]);
            target[i] = data[i] - noise[i];
        }
    }
}

// Rows [first, last), all of one segment; returns their sum of squares.
static double loss_run(real *dout, const real *out, const float *target, float weight,
                       int64_t first, int64_t last, int64_t E) {
    double sum = 0.0;
    for (int64_t t = first; t < last; t++) {
        double row = 0.0;
#pragma omp simd reduction(+ : row)
        for (int64_t i = t * E; i < (t + 1) * E; i++) {
            const float error = to_float(out[i]) - target[i];
            row += (double)error * (double)error;
        }
        sum += row;
        if (dout == NULL) continue;
#pragma omp simd
        for (int64_t i = t * E; i < (t + 1) * E; i++) {
            dout[i] = to_real(2.0f * weight * (to_float(out[i]) - target[i]));
        }
    }
    return sum;
}

void flow_loss(double *loss, real *dout, const real *out, const float *target, const float *weight,
               const int32_t *segment, int64_t T, int64_t E, int64_t S, Stream stream) {
    (void)S;
    (void)stream;
    double sums[PARTS];
#pragma omp parallel for schedule(static)
    for (int64_t part = 0; part < part_count(T); part++) {
        const int64_t begin = part * part_rows(T), end = min_i64(T, begin + part_rows(T));
        const int64_t shared = run_end(segment, begin, end);
        for (int64_t first = shared, last; first < end; first = last) {
            const int32_t s = segment[first];
            last = run_end(segment, first, end);
            loss[s] += loss_run(dout, out, target, dout != NULL ? weight[s] : 0.0f, first, last, E);
        }
        const float share = dout != NULL ? weight[segment[begin]] : 0.0f;
        sums[part] = loss_run(dout, out, target, share, begin, shared, E);
    }
    for (int64_t part = 0; part < part_count(T); part++) {
        loss[segment[part * part_rows(T)]] += sums[part];
    }
}
