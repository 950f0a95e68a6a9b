// Speed of the products of a training step: forward, input gradient, weight gradient in GFLOP/s,
// and as a share of a plain library product 2048 x N x K with all threads, measured in the same
// run. usage: products [T N K]...
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/device.h"
#include "model/ops/cpu/onednn.h"
#include "model/ops/product.h"

enum { ROUNDS = 12 };

static void bench(int64_t T, int64_t N, int64_t K) {
    real *x = device_allocate("x", T * K * (int64_t)sizeof(real));
    real *w = device_allocate("w", N * K * (int64_t)sizeof(real));
    real *out = device_allocate("out", T * N * (int64_t)sizeof(real));
    real *bias = device_allocate("bias", N * (int64_t)sizeof(real));
    float *dw = device_allocate("dw", N * K * (int64_t)sizeof(float));
    float *db = device_allocate("db", N * (int64_t)sizeof(float));
    for (int64_t i = 0; i < T * K; i++) x[i] = to_real((float)(i % 511) / 511.0f - 0.5f);
    for (int64_t i = 0; i < N * K; i++) w[i] = to_real((float)(i % 509) / 509.0f - 0.5f);
    linear_prepare(T, N, K, false);
    double best[3] = {1e9, 1e9, 1e9}, plain = 0;
    for (int round = 0; round < ROUNDS; round++) {
        for (int kind = 0; kind < 3; kind++) {
            const double start = omp_get_wtime();
            if (kind == 0) linear_forward(out, N, x, K, w, bias, T, N, K, NULL);
            if (kind == 1) linear_backward_input(x, K, false, out, N, w, T, N, K, NULL);
            if (kind == 2) linear_backward_weight(dw, db, out, N, x, K, T, N, K, NULL);
            const double seconds = omp_get_wtime() - start;
            if (seconds < best[kind]) best[kind] = seconds;
        }
        if (round % 4 == 0) {
            const double rate = onednn_plain_gflops(2048, N, K);
            if (rate > plain) plain = rate;
        }
    }
    const double flops = 2e-9 * (double)T * (double)N * (double)K;
    printf("%s threads %d T %6lld N %5lld K %5lld: plain %5.0f GFLOP/s;", REAL_NAME,
           omp_get_max_threads(), (long long)T, (long long)N, (long long)K, plain);
    const char *names[] = {"forward", "input", "weight"};
    for (int kind = 0; kind < 3; kind++) {
        printf(" %s %5.0f (%.2f)", names[kind], flops / best[kind], flops / best[kind] / plain);
    }
    printf("\n");
    device_free(x);
    device_free(w);
    device_free(out);
    device_free(bias);
    device_free(dw);
    device_free(db);
}

int main(int argc, char **argv) {
    const int64_t shapes[][3] = {{4096, 256, 256},   {4096, 768, 256},   {4096, 1024, 256},
                                 {4096, 256, 1024},  {2048, 1152, 1152}, {2048, 3456, 1152},
                                 {2048, 4608, 1152}, {2048, 1152, 4608}, {4096, 7168, 1792},
                                 {4096, 1792, 7168}, {512, 1152, 1152},  {4, 6912, 1152}};
    for (int i = 1; i + 2 < argc; i += 3) {
        bench(strtoll(argv[i], NULL, 10), strtoll(argv[i + 1], NULL, 10),
              strtoll(argv[i + 2], NULL, 10));
    }
    for (size_t i = 0; argc < 4 && i < sizeof(shapes) / sizeof(*shapes); i++) {
        bench(shapes[i][0], shapes[i][1], shapes[i][2]);
    }
    return 0;
}
