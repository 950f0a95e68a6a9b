// Speed of attention, forward and backward, in GFLOP/s (4 D and 10 D per query and key: two and
// five products), and as a share of a plain library product 2048 x C x C, measured in the same run;
// on CUDA also with run.deterministic. usage: attention [SEGMENTS QUERIES KEYS HEADS D]... (lengths
// per segment)
#include "model/ops/attention.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/device.h"
#include "base/die.h"
#include "base/numbers.h"
#include "model/ops/product.h"

enum { ROUNDS = 5 };

// Where S segments of `length` begin, on the host and on the device.
static int32_t *starts_new(int64_t S, int64_t length, int32_t **device) {
    const int64_t bytes = (S + 1) * (int64_t)sizeof(int32_t);
    int32_t *start = host_allocate("starts", bytes);
    for (int64_t s = 0; s <= S; s++) start[s] = (int32_t)(s * length);
    *device = device_allocate("starts", bytes);
    device_copy(*device, start, bytes, NULL);
    return start;
}

static void bench(int64_t S, int64_t queries, int64_t keys, int64_t heads, int64_t D,
                  bool deterministic) {
    const int64_t T = S * queries, X = S * keys, C = heads * D;
    AttentionShape shape = {.S = S, .heads = heads, .D = D, .deterministic = deterministic};
    int32_t *q_device, *k_device;
    int32_t *const q_start = starts_new(S, queries, &q_device);
    int32_t *const k_start = starts_new(S, keys, &k_device);
    shape.q_start = q_start;
    shape.k_start = k_start;
    shape.q_start_device = q_device;
    shape.k_start_device = k_device;
    shape.scale = 1.0f / sqrtf((float)D);
    real *q = random_reals("rows", T * C), *k = random_reals("rows", X * C),
         *v = random_reals("rows", X * C), *out = random_reals("rows", T * C);
    real *dout = random_reals("rows", T * C), *dq = random_reals("rows", T * C),
         *dk = random_reals("rows", X * C);
    real *dv = random_reals("rows", X * C);
    float *lse = device_allocate("lse", heads * T * (int64_t)sizeof(float));
    const int64_t lengths[LENGTHS_MAX] = {queries};
    const AttentionBounds bounds = {T, X, S, heads, D, queries != keys, deterministic, lengths};
    attention_prepare(&bounds, C, C, C, C);
    const int64_t bytes =
        max_i64(attention_scratch(&bounds, false), attention_scratch(&bounds, true));
    void *scratch = device_allocate("scratch", bytes);
    const AttentionBackward arguments = {dq, dk, dv, C, C, C, dout, out, q,
                                         k,  v,  C,  C, C, C, C,    lse};
    double best[2] = {1e9, 1e9};
    for (int round = 0; round < ROUNDS; round++) {
        for (int kind = 0; kind < 2; kind++) {
            stream_wait(NULL);
            const double start = clock_seconds();
            if (kind == 0) {
                attention_forward(out, C, lse, q, C, k, C, v, C, &shape, scratch, NULL);
            } else {
                attention_backward(&arguments, &shape, scratch, NULL);
            }
            stream_wait(NULL);
            const double seconds = clock_seconds() - start;
            if (seconds < best[kind]) best[kind] = seconds;
        }
    }
    const double plain = 1e-9 * linear_plain_flops(2048, C, C);
    const double pairs = 1e-9 * (double)(S * queries * keys * heads * D);
    printf(
        "%s %s%s: %lld x (%lld, %lld), %lld heads of %lld: plain %.0f GFLOP/s; forward "
        "%.3f ms %.0f (%.2f) backward %.3f ms %.0f (%.2f); scratch %.1f MB\n",
        device_backend(), REAL_NAME, deterministic ? " deterministic" : "", (long long)S,
        (long long)queries, (long long)keys, (long long)heads, (long long)D, plain, 1e3 * best[0],
        4.0 * pairs / best[0], 4.0 * pairs / best[0] / plain, 1e3 * best[1], 10.0 * pairs / best[1],
        10.0 * pairs / best[1] / plain, 1e-6 * (double)bytes);
    void *all[] = {q_device, k_device, q, k, v, out, dout, dq, dk, dv, lse, scratch};
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) device_free(all[i]);
    host_free(q_start);
    host_free(k_start);
}

static void bench_all(const int64_t *s) {
    const bool cuda = strcmp(device_backend(), "cuda") == 0;
    bench(s[0], s[1], s[2], s[3], s[4], false);
    if (cuda && REAL_TYPE == TYPE_BF16) bench(s[0], s[1], s[2], s[3], s[4], true);
}

int main(int argc, char **argv) {
    const int64_t shapes[][5] = {{32, 128, 128, 4, 64},   {32, 128, 16, 4, 64},
                                 {4, 512, 512, 16, 72},   {4, 512, 64, 16, 72},
                                 {1, 4096, 4096, 28, 64}, {1, 4096, 64, 28, 64},
                                 {1, 8192, 8192, 16, 72}};
    Error error;
    setvbuf(stdout, NULL, _IOLBF, 0);  // What is done counts, where time runs out.
    CHECK(device_start(0, &error), "%s", error.text);
    for (int i = 1; i + 4 < argc; i += 5) {
        int64_t shape[5];
        for (int j = 0; j < 5; j++) shape[j] = strtoll(argv[i + j], NULL, 10);
        bench_all(shape);
    }
    for (size_t i = 0; argc < 6 && i < sizeof(shapes) / sizeof(*shapes); i++) bench_all(shapes[i]);
    return 0;
}
