// Rectified flow on the tokens of a pack: x_t = t x_1 + (1 - t) x_0, target v = x_1 - x_0, with x_1
// data (t = 1), x_0 noise (t = 0). Goku (arXiv 2502.04896), section 2.3. Tokens hold a patch as (c,
// pt, ph, pw), c slowest; E = C pt ph pw.
#ifndef MODEL_OPS_FLOW_H
#define MODEL_OPS_FLOW_H

#include <stdint.h>

#include "base/device.h"
#include "base/media.h"
#include "base/real.h"
#include "base/rng.h"

// Where in the latent [C, F, H, W] the run (c, i, j, 0 .. pw) of a token's patch row is. Tokens are
// ordered (f, h, w), w fastest; a sample has fewer than 2^31.
REAL_INLINE int64_t patch_run(LatentShape shape, PatchSize patch, int32_t token, int32_t c,
                              int32_t i, int32_t j) {
    const int32_t columns = shape.W / patch.w, rows = shape.H / patch.h, line = token / columns;
    const int32_t w = token % columns * patch.w, h = line % rows * patch.h + j;
    const int32_t f = line / rows * patch.t + i;
    return (((int64_t)c * shape.F + f) * shape.H + h) * shape.W + w;
}

// Patch rows of tokens [first, first + count) of one sample's latent: out [count, E] (float),
// latent [C, F, H, W]. On the host (data arrives there).
void patchify(float *out, const float *latent, LatentShape shape, PatchSize patch, int64_t first,
              int64_t count);

// The inverse: writes the patches of these tokens into latent. On the host.
void unpatchify(float *latent, const float *tokens, LatentShape shape, PatchSize patch,
                int64_t first, int64_t count);

// Whose noise (rng.h).
typedef struct {
    uint64_t seed;
    RngPurpose purpose;
    uint64_t position;
} NoiseKey;

// The noise of tokens [first, first + count) of one sample: out [count, E] holds the patch rows of
// normal numbers, element in [C, F, H, W]: what rng_normal and patchify give, bit for bit.
// scratch: latent_elements(shape) floats.
void flow_noise(float *out, const NoiseKey *key, LatentShape shape, PatchSize patch, int64_t first,
                int64_t count, float *scratch, Stream stream);

// x_t [T, E] (real) and target [T, E] (float) from data and noise rows (float [T, E]) and time [S];
// segment [T], ascending. The same bits on every backend.
void flow_mix(real *x_t, float *target, const float *data, const float *noise, const float *time,
              const int32_t *segment, int64_t T, int64_t E, Stream stream);

// loss[s] += sum over the segment's tokens and elements of (out - target)^2 in double, in a fixed
// order; dout = 2 (out - target) * weight[s] (real), weight = the sample's share of the step's
// mean. dout NULL: loss only, without weight. segment [T], start [S + 1]: where the tokens of each
// segment begin. scratch: flow_loss_scratch bytes for at most T rows.
void flow_loss(double *loss, real *dout, const real *out, const float *target, const float *weight,
               const int32_t *segment, const int32_t *start, int64_t T, int64_t E, int64_t S,
               void *scratch, Stream stream);
int64_t flow_loss_scratch(int64_t T);

#endif
