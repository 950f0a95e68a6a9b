// What products need besides the library: sums over rows for bias gradients, rounding of few rows.
#ifndef MODEL_OPS_CUDA_PRODUCT_ROWS_H
#define MODEL_OPS_CUDA_PRODUCT_ROWS_H

#include <stdint.h>

#include "base/device.h"
#include "base/gradient.h"

// To db [N]: the sums over the rows of x [T, N], ld apart. `partial` has room for
// column_sums_partials floats. The order of the sums depends on T alone.
void column_sums(Gradient db, float *partial, const real *x, int64_t ld, int64_t T, int64_t N,
                 Stream stream);
int64_t column_sums_partials(int64_t T, int64_t N);  // For at most T rows.

// out [S, N] = x, rounded; to db [N]: the sums over its rows before rounding (at NULL: not wanted).
void rows_round(real *out, Gradient db, const float *x, int64_t S, int64_t N, Stream stream);

#endif
