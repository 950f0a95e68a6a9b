// Speed of the products of a training step: forward with bias, input gradient, weight and bias
// gradient in TFLOP/s, and as a share of one plain library product of the same N and K with at
// least 2,048 rows, measured in the same run; the input gradient through a GELU where that is one
// call of the library. On a GPU "by time" is the same once more after linear_time. Random numbers;
// threads by OMP_NUM_THREADS.
//     products [T N K]...
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/die.h"
#include "base/numbers.h"
#include "model/ops/product.h"

enum { ROUNDS = 12 };

typedef struct {
    int64_t T, N, K;
    real *x, *w, *bias, *out, *dz, *dw, *db;
} Layer;

static void forward(const Layer *l) {
    linear_forward(l->out, l->N, l->x, l->K, l->w, l->bias, l->T, l->N, l->K, NULL);
}

static void backward_input(const Layer *l) {
    linear_backward_input(l->x, l->K, false, l->out, l->N, l->w, l->T, l->N, l->K, NULL);
}

static void backward_weight(const Layer *l) {
    linear_backward_weight((Gradient){.at = l->dw, .type = REAL_TYPE},
                           (Gradient){.at = l->db, .type = REAL_TYPE}, l->out, l->N, l->x, l->K,
                           l->T, l->N, l->K, NULL);
}

static void backward_input_gelu(const Layer *l) {
    const bool done =
        linear_gelu_backward_input(l->dz, l->x, l->out, l->N, l->w, l->T, l->N, l->K, NULL);
    CHECK(done, "the library has no input gradient through a GELU for this shape");
}

// Seconds of one call, a mean over about 5 ms.
static double seconds_of(void (*run)(const Layer *), const Layer *l, int64_t *repeats) {
    const double start = clock_seconds();
    for (int64_t i = 0; i < *repeats; i++) run(l);
    stream_wait(NULL);
    const double seconds = (clock_seconds() - start) / (double)*repeats;
    *repeats = (int64_t)fmax(1.0, fmin(1000.0, 5e-3 / seconds));
    return seconds;
}

// Prints the best of a few rounds of the first `runs` products.
static void measure(const Layer *l, int runs, double plain) {
    static void (*const run[4])(const Layer *) = {forward, backward_input, backward_weight,
                                                  backward_input_gelu};
    static const char *const names[4] = {"forward", "input", "weight", "input through gelu"};
    double best[4] = {INFINITY, INFINITY, INFINITY, INFINITY};
    int64_t repeats[4] = {1, 1, 1, 1};
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < runs; i++) {
            const double seconds = seconds_of(run[i], l, &repeats[i]);
            if (round > 0) best[i] = fmin(best[i], seconds);
        }
    }
    const double flops = 2.0 * (double)l->T * (double)l->N * (double)l->K;
    for (int i = 0; i < runs; i++) {
        printf(" %s %7.3f (%.2f)", names[i], 1e-12 * flops / best[i], flops / best[i] / plain);
    }
}

static void bench(int64_t T, int64_t N, int64_t K) {
    Layer l = {.T = T, .N = N, .K = K};
    l.x = random_reals("x", T * K);
    l.w = random_reals("w", N * K);
    l.bias = random_reals("bias", N);
    l.out = device_allocate("out", T * N * (int64_t)sizeof(real));
    l.dz = device_allocate("dz", T * K * (int64_t)sizeof(real));
    l.dw = device_allocate("dw", N * K * (int64_t)sizeof(real));
    l.db = device_allocate("db", N * (int64_t)sizeof(real));
    linear_prepare(T, N, K, false);
    linear_gelu_prepare(T, N, K);
    const int runs = linear_gelu_backward_input(l.dz, l.x, l.out, N, l.w, T, N, K, NULL) ? 4 : 3;
    double plain = 0;
    for (int i = 0; i < 3; i++) plain = fmax(plain, linear_plain_flops(max_i64(T, 2048), N, K));
    printf("%s %s T %6lld N %5lld K %5lld: plain %7.3f TFLOP/s;", device_backend(), REAL_NAME,
           (long long)T, (long long)N, (long long)K, 1e-12 * plain);
    measure(&l, runs, plain);
    if (strcmp(device_backend(), "cpu") != 0) {
        linear_time(T, N, K);
        printf("; by time");
        measure(&l, runs, plain);
    }
    printf("\n");
    void *const all[] = {l.x, l.w, l.bias, l.out, l.dz, l.dw, l.db};
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) device_free(all[i]);
}

int main(int argc, char **argv) {
    // Of the demo, a small DiT and Goku-2B; on a GPU of Goku-2B and Goku-8B.
    static const int64_t cpu[][3] = {{4096, 256, 256},   {4096, 768, 256},   {4096, 1024, 256},
                                     {4096, 256, 1024},  {2048, 1152, 1152}, {2048, 3456, 1152},
                                     {2048, 4608, 1152}, {2048, 1152, 4608}, {4096, 7168, 1792},
                                     {4096, 1792, 7168}, {512, 1152, 1152},  {4, 6912, 1152}};
    static const int64_t gpu[][3] = {{8192, 1792, 1792},  {8192, 5376, 1792},   {8192, 7168, 1792},
                                     {8192, 1792, 7168},  {32768, 1792, 1792},  {32768, 5376, 1792},
                                     {32768, 7168, 1792}, {32768, 1792, 7168},  {8192, 3072, 3072},
                                     {8192, 12288, 3072}, {32768, 12288, 3072}, {16, 10752, 1792}};
    Error error;
    CHECK(device_start(0, &error), "%s", error.text);
    for (int i = 1; i + 2 < argc; i += 3) {
        bench(strtoll(argv[i], NULL, 10), strtoll(argv[i + 1], NULL, 10),
              strtoll(argv[i + 2], NULL, 10));
    }
    if (argc >= 4) return 0;
    const bool small = strcmp(device_backend(), "cpu") == 0;
    const int64_t count = small ? sizeof(cpu) / sizeof(*cpu) : sizeof(gpu) / sizeof(*gpu);
    for (int64_t i = 0; i < count; i++) {
        const int64_t *s = small ? cpu[i] : gpu[i];
        bench(s[0], s[1], s[2]);
    }
    return 0;
}
