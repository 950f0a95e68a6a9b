// Rectified flow on the tokens of a pack: x_t = t x_1 + (1 - t) x_0, target v = x_1 - x_0, with x_1
// data (t = 1), x_0 noise (t = 0). Goku (arXiv 2502.04896), section 2.3. Tokens hold a patch as (c,
// pt, ph, pw), c slowest.
#ifndef MODEL_OPS_FLOW_H
#define MODEL_OPS_FLOW_H

#include <stdint.h>

#include "base/device.h"
#include "base/media.h"
#include "base/real.h"

// Patch rows of tokens [first, first + count) of one sample's latent: out [count, C pt ph pw]
// (float), latent [C, F, H, W]. Tokens are ordered (f, h, w), w fastest. On the host (data arrives
// there).
void patchify(float *out, const float *latent, LatentShape shape, PatchSize patch, int64_t first,
              int64_t count);

// The inverse: writes the patches of these tokens into latent.
void unpatchify(float *latent, const float *tokens, LatentShape shape, PatchSize patch,
                int64_t first, int64_t count);

// x_t [T, E] (real) and target [T, E] (float) from data and noise rows (float [T, E]) and time [S].
void flow_mix(real *x_t, float *target, const float *data, const float *noise, const float *time,
              const int32_t *segment, int64_t T, int64_t E, Stream stream);

// loss[s] += sum over the segment's tokens and elements of (out - target)^2 in double, in a fixed
// order; dout = 2 (out - target) * weight[s] (real), weight = the sample's share of the step's
// mean. dout NULL: loss only. `loss` is on the host and there when the call returns.
void flow_loss(double *loss, real *dout, const real *out, const float *target, const float *weight,
               const int32_t *segment, int64_t T, int64_t E, int64_t S, Stream stream);

#endif
