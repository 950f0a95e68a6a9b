// Speed of attention, forward and backward, in GFLOP/s (4 D and 10 D per query and key: two and
// five products), and as a share of a plain library product 2048 x C x C with all threads, measured
// in the same run. usage: attention [SEGMENTS QUERIES KEYS HEADS D]... (lengths per segment)
#include "model/ops/attention.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/device.h"
#include "model/ops/cpu/onednn.h"

enum { ROUNDS = 5 };

static real *rows_new(int64_t count) {
    real *rows = device_allocate("rows", count * (int64_t)sizeof(real));
    for (int64_t i = 0; i < count; i++) rows[i] = to_real((float)(i * 7 % 509) / 200.0f - 1.2f);
    return rows;
}

static void bench(int64_t S, int64_t queries, int64_t keys, int64_t heads, int64_t D) {
    const int64_t T = S * queries, X = S * keys, C = heads * D;
    int32_t *q_start = device_allocate("starts", (S + 1) * (int64_t)sizeof(int32_t));
    int32_t *k_start = device_allocate("starts", (S + 1) * (int64_t)sizeof(int32_t));
    for (int64_t s = 0; s <= S; s++) {
        q_start[s] = (int32_t)(s * queries);
        k_start[s] = (int32_t)(s * keys);
    }
    const AttentionShape shape = {q_start, k_start, S, heads, D, 1.0f / sqrtf((float)D)};
    real *q = rows_new(T * C), *k = rows_new(X * C), *v = rows_new(X * C), *out = rows_new(T * C);
    real *dout = rows_new(T * C), *dq = rows_new(T * C), *dk = rows_new(X * C);
    real *dv = rows_new(X * C);
    float *lse = device_allocate("lse", heads * T * (int64_t)sizeof(float));
    attention_prepare(D, C, C, C, C);
    const int64_t bytes = attention_scratch(T, X, heads, D);
    void *scratch = device_allocate("scratch", bytes);
    const AttentionBackward arguments = {dq, dk, dv, C, C, C, dout, out, q,
                                         k,  v,  C,  C, C, C, C,    lse};
    double best[2] = {1e9, 1e9}, plain = 0;
    for (int round = 0; round < ROUNDS; round++) {
        for (int kind = 0; kind < 2; kind++) {
            const double start = omp_get_wtime();
            if (kind == 0) {
                attention_forward(out, C, lse, q, C, k, C, v, C, &shape, scratch, NULL);
            } else {
                attention_backward(&arguments, &shape, scratch, NULL);
            }
            const double seconds = omp_get_wtime() - start;
            if (seconds < best[kind]) best[kind] = seconds;
        }
        const double rate = onednn_plain_gflops(2048, C, C);
        if (rate > plain) plain = rate;
    }
    const double pairs = 1e-9 * (double)(S * queries * keys * heads * D);
    printf(
        "%s threads %d: %lld x (%lld, %lld), %lld heads of %lld: plain %.0f GFLOP/s; forward "
        "%.2f ms %.0f (%.2f) backward %.2f ms %.0f (%.2f); scratch %.1f MB\n",
        REAL_NAME, omp_get_max_threads(), (long long)S, (long long)queries, (long long)keys,
        (long long)heads, (long long)D, plain, 1e3 * best[0], 4.0 * pairs / best[0],
        4.0 * pairs / best[0] / plain, 1e3 * best[1], 10.0 * pairs / best[1],
        10.0 * pairs / best[1] / plain, 1e-6 * (double)bytes);
    void *all[] = {q_start, k_start, q, k, v, out, dout, dq, dk, dv, lse, scratch};
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) device_free(all[i]);
}

int main(int argc, char **argv) {
    const int64_t shapes[][5] = {{32, 128, 128, 4, 64},   {32, 128, 16, 4, 64},
                                 {4, 512, 512, 16, 72},   {4, 512, 64, 16, 72},
                                 {1, 4096, 4096, 28, 64}, {1, 4096, 64, 28, 64},
                                 {1, 8192, 8192, 16, 72}};
    for (int i = 1; i + 4 < argc; i += 5) {
        bench(strtoll(argv[i], NULL, 10), strtoll(argv[i + 1], NULL, 10),
              strtoll(argv[i + 2], NULL, 10), strtoll(argv[i + 3], NULL, 10),
              strtoll(argv[i + 4], NULL, 10));
    }
    for (size_t i = 0; argc < 6 && i < sizeof(shapes) / sizeof(*shapes); i++) {
        const int64_t *s = shapes[i];
        bench(s[0], s[1], s[2], s[3], s[4]);
    }
    return 0;
}
