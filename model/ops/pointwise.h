// Ops that treat every element alone: activations, gated residual, the timestep embedding.
#ifndef MODEL_OPS_POINTWISE_H
#define MODEL_OPS_POINTWISE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/device.h"
#include "base/real.h"

// out = gelu(x), tanh form: x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))). N elements. Local,
// as all here.
void gelu_forward(real *out, const real *x, int64_t N, Stream stream);
// dx = dout gelu'(x); dx may be dout.
void gelu_backward(real *dx, const real *dout, const real *x, int64_t N, Stream stream);

// out = x sigmoid(x). For rows of one value per segment, whose gradients are float: dx +=.
void silu_forward(real *out, const real *x, int64_t N, Stream stream);
void silu_rows_backward(float *dx, const float *dout, const real *x, int64_t N, Stream stream);

// out = gate sigmoid(gate) * up: the gated linear unit of SwiGLU (arXiv 2002.05202), and what flows
// back (=). out, dout [T, F] dense; gate, up, dgate, dup [T, F] with rows ld apart, since both are
// columns of one product and models differ in which comes first. Rounded once.
void swiglu_forward(real *out, const real *gate, const real *up, int64_t ld, int64_t T, int64_t F,
                    Stream stream);
void swiglu_backward(real *dgate, real *dup, const real *dout, const real *gate, const real *up,
                     int64_t ld, int64_t T, int64_t F, Stream stream);

// out[t] = x[t] + gate[s] * h[t], s = segment[t]; gate NULL: x + h. out, x, h [T, C]; gate [S, C]
// with rows ldm elements apart. The gradient of x is dout itself.
void gate_residual_forward(real *out, const real *x, const real *h, const real *gate, int64_t ldm,
                           const int32_t *segment, int64_t T, int64_t C, Stream stream);

// dh = dout * gate (=), C at most 8,192; dgate += sum over the segment's tokens of dout * h (float
// [S, C], rows ldm apart); scratch: gate_residual_scratch bytes for at most T tokens, S segments.
void gate_residual_backward(real *dh, float *dgate, const real *dout, const real *h,
                            const real *gate, int64_t ldm, const int32_t *segment, int64_t T,
                            int64_t S, int64_t C, void *scratch, Stream stream);
int64_t gate_residual_scratch(int64_t T, int64_t S, int64_t C);

// out[s] = [cos(a) | sin(a)], a_i = time[s] * 1000 * 10000^(-i / (width / 2)). out [S, width].
// DiT's timestep_embedding with Goku's t in [0, 1] times `factor` (1000). No gradient.
void timestep_embedding(real *out, const float *time, float factor, int64_t S, int64_t width,
                        Stream stream);

#endif
