// Matrix products. Every one goes through the library of the backend (oneDNN, cuBLASLt): real
// inputs, float sums. The order of a sum depends on the shape only: not on threads, ranks or what
// ran before, but for linear_time.
#ifndef MODEL_OPS_PRODUCT_H
#define MODEL_OPS_PRODUCT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/device.h"
#include "base/gradient.h"

// out[t] = W x[t] + b. out [T, N]; x [T, K]; w [N, K]; b [N] or NULL. Rows of x are ldx elements
// apart, those of out ldo (so that an output may be the columns of a wider tensor). Local.
void linear_forward(real *out, int64_t ldo, const real *x, int64_t ldx, const real *w,
                    const real *b, int64_t T, int64_t N, int64_t K, Stream stream);

// dx = dout W, or += where add_dx (dx NULL: not wanted). Rows of dx are lddx elements apart.
void linear_backward_input(real *dx, int64_t lddx, bool add_dx, const real *dout, int64_t lddo,
                           const real *w, int64_t T, int64_t N, int64_t K, Stream stream);

// dz = (dout W) gelu'(z) (model/ops/pointwise.h), the gradient of z where x = gelu(z) [T, K], as
// one call of the library; dz and z without gaps. false: it is not linear_gelu_fused, a
// matrix or its rows do not start at 16 bytes, or the library has none for this shape; nothing was
// done then. linear_backward_input and gelu_backward give the same but for last bits: the one call
// may multiply gelu' to sums not rounded yet.
bool linear_gelu_backward_input(real *dz, const real *z, const real *dout, int64_t lddo,
                                const real *w, int64_t T, int64_t N, int64_t K, Stream stream);
bool linear_gelu_fused(int64_t N, int64_t K);  // Whether it is worth asking, by device and rows.

// To dw [N, K]: dout^T x; to db [N]: the column sums of dout (at NULL: no bias).
void linear_backward_weight(Gradient dw, Gradient db, const real *dout, int64_t lddo, const real *x,
                            int64_t ldx, int64_t T, int64_t N, int64_t K, Stream stream);

// The same for few rows whose gradients are float (modulation: one row per segment): dout float [S,
// N]. dx [S, K] float += dout W; dw, db as above.
void linear_rows_backward(float *dx, Gradient dw, Gradient db, const float *dout, const real *x,
                          const real *w, int64_t S, int64_t N, int64_t K, Stream stream);

// Makes what later calls of this N and K with any T up to T_max need, so that a step allocates
// nothing: the library's plans, and the scratch that all products share and take turns in. `rows`:
// for linear_forward with linear_rows_backward.
void linear_prepare(int64_t T_max, int64_t N, int64_t K, bool rows);

// The same for linear_gelu_backward_input, after linear_prepare.
void linear_gelu_prepare(int64_t T_max, int64_t N, int64_t K);

// What choosing algorithms by time would bring, for bench/products; training takes the library's
// first proposal, whose bits depend on the shape alone. After linear_prepare and
// linear_gelu_prepare: for about T_max rows the fastest proposal is used from now on. Takes memory
// of the device meanwhile. Local.
void linear_time(int64_t T_max, int64_t N, int64_t K);

// Bytes of the scratch that linear_prepare makes for this product. All products of a process share
// the largest.
int64_t linear_shared_bytes(int64_t T_max, int64_t N, int64_t K, bool rows);

// FLOP/s of one plain library call out [T, N] = x [T, K] w [N, K]^T, the best of a few: what
// benchmarks compare with.
double linear_plain_flops(int64_t T, int64_t N, int64_t K);

#endif
