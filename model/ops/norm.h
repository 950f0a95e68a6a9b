// Norms over the channels of a token, with what usually follows fused: modulation, rotary
// positions. At most 8,192 channels: rows are held on the stack or in registers.
#ifndef MODEL_OPS_NORM_H
#define MODEL_OPS_NORM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/device.h"
#include "base/gradient.h"
#include "parallel/ulysses.h"

typedef enum { NORM_LAYER, NORM_RMS } NormKind;

// out[t] = n(x[t]) * (1 + scale[s]) + shift[s] for token t of segment s = segment[t], where
//   NORM_LAYER: n(x) = (x - mean) / sqrt(var + epsilon) [* weight],  NORM_RMS: x / sqrt(mean(x^2) +
//   epsilon) [* weight].
// out, x [T, C]; weight [C] or NULL; shift, scale [S, C] with rows ldm elements apart, or both
// NULL: no modulation; segment [T], ascending; stats [T, 2] = mean (0 for RMS) and 1 / sqrt(..),
// kept for the backward. Everything between load and store is float: rounded once. DiT (arXiv
// 2212.09748), section 3.2; the "1 +" is in the released code. Local.
void norm_modulate_forward(real *out, float *stats, const real *x, const real *weight,
                           const real *shift, const real *scale, int64_t ldm,
                           const int32_t *segment, NormKind kind, float epsilon, int64_t T,
                           int64_t C, Stream stream);

typedef struct {
    real *dx;  // [T, C]  =, or += where add_dx.
    bool add_dx;
    Gradient dweight;        // [C]     (where weight is not NULL)
    float *dshift, *dscale;  // [S, C]  +=, rows ldm apart (NULL without modulation)
    const real *dout, *x, *weight, *scale;
    const float *stats;
    int64_t ldm;
    const int32_t *segment;
    int64_t S;      // 0 without modulation.
    void *scratch;  // norm_modulate_scratch bytes.
} NormBackward;
void norm_modulate_backward(const NormBackward *arguments, NormKind kind, int64_t T, int64_t C,
                            Stream stream);

// Bytes of scratch for the backward of at most T rows and S segments.
int64_t norm_modulate_scratch(int64_t T, int64_t C, int64_t S);

// Query or key normalisation and rotary positions in one pass (Goku's released block; RoFormer,
// arXiv 2104.09864):
//   y = x / sqrt(mean(x^2 over all heads) + epsilon) * weight, then each pair (2i, 2i + 1) of each
//   head turns: (y0 cos - y1 sin, y0 sin + y1 cos) with cos, sin = rope[t][i][0..1].
// C = heads * D; out in `order`, ready to be sent or, of 1 rank and tensor, [T, C] dense; x [T, C]
// with rows ldx apart; weight [C]; rope [T, D / 2, 2] or NULL: no turn; inverse [T] = 1 / sqrt(..),
// kept. Float between load and store.
void qk_norm_rope_forward(real *out, PeerOrder order, float *inverse, const real *x, int64_t ldx,
                          const real *weight, const float *rope, float epsilon, int64_t T,
                          int64_t heads, int64_t D, Stream stream);

// dx [T, C], rows lddx apart, =; dweight [C]; dout in `order`; scratch: qk_norm_rope_scratch bytes
// for at most T rows.
void qk_norm_rope_backward(real *dx, int64_t lddx, Gradient dweight, const real *dout,
                           PeerOrder order, const real *x, int64_t ldx, const real *weight,
                           const float *rope, const float *inverse, int64_t T, int64_t heads,
                           int64_t D, void *scratch, Stream stream);
int64_t qk_norm_rope_scratch(int64_t T, int64_t heads, int64_t D);

#endif
