// Linear layers with the GELU beside them, as the two ops that they are: on this backend one call
// would save next to nothing (bench/RESULTS.md).
#include "model/ops/pointwise.h"
#include "model/ops/product.h"

bool linear_gelu_fused(void) {
    return false;
}

void linear_gelu_forward(real *z, real *g, const real *x, int64_t ldx, const real *w, const real *b,
                         int64_t T, int64_t N, int64_t K, Stream stream) {
    linear_forward(z, N, x, ldx, w, b, T, N, K, stream);
    gelu_forward(g, z, T * N, stream);
}

void linear_gelu_backward_input(real *dz, const real *z, const real *dout, int64_t lddo,
                                const real *w, int64_t T, int64_t N, int64_t K, Stream stream) {
    linear_backward_input(dz, K, false, dout, lddo, w, T, N, K, stream);
    gelu_backward(dz, dz, z, T * K, stream);
}

void linear_gelu_prepare(int64_t T_max, int64_t N, int64_t K) {
    (void)T_max, (void)N, (void)K;
}
