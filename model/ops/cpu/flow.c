#include "model/ops/flow.h"

#include <math.h>
#include <stddef.h>

#include "model/ops/cpu/parts.h"

// Numbers that a thread makes at once; a multiple of 4, which come together.
enum { NORMALS = 4096 };

void flow_noise(float *out, const NoiseKey *key, LatentShape shape, PatchSize patch, int64_t first,
                int64_t count, float *scratch, Stream stream) {
    (void)stream;
    const int64_t elements = latent_elements(shape);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < elements; i += NORMALS) {
        rng_normal(scratch + i, min_i64(NORMALS, elements - i), key->seed, key->purpose,
                   key->position, (uint64_t)i);
    }
    patchify(out, scratch, shape, patch, first, count);
}

void flow_mix(real *x_t, float *target, const float *data, const float *noise, const float *time,
              const int32_t *segment, int64_t T, int64_t E, Stream stream) {
    (void)stream;
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < T; t++) {
        const float share = time[segment[t]];
#pragma omp simd
        for (int64_t i = t * E; i < (t + 1) * E; i++) {
            x_t[i] = to_real(fmaf(share, data[i], (1.0f - share) * noise[i]));
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
               const int32_t *segment, const int32_t *start, int64_t T, int64_t E, int64_t S,
               void *scratch, Stream stream) {
    (void)start;
    (void)S;
    (void)scratch;
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

int64_t flow_loss_scratch(int64_t T) {
    (void)T;
    return 0;
}
