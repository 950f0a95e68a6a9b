// How near the ops that are bound by memory come to a plain copy on this machine.
//
//     memory_bound [TOKENS CHANNELS [SEGMENTS [ROUNDS]]]      default 4096 1152 4 7
//
// Prints per op: milliseconds (the best round), GB/s over the bytes that it must move, and the
// share of what a copy of the same size reaches. Threads by OMP_NUM_THREADS.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/die.h"
#include "base/rng.h"
#include "model/ops/flow.h"
#include "model/ops/norm.h"
#include "model/ops/pointwise.h"

typedef struct {
    int64_t T, C, S, heads, D;
    real *x, *y, *z, *row, *wide, *wide2, *wide3;  // [T, C], row [S, 6 C], wide [T, 4 C].
    void *scratch;
    float *drow, *stats, *rope, *target, *time;
    double *loss;
    int32_t *segment;
} Buffers;

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static real *random_reals(const char *name, int64_t count) {
    real *values = device_allocate(name, count * (int64_t)sizeof(real));
    float chunk[1024];
    for (int64_t i = 0; i < count; i += 1024) {
        const int64_t n = min_i64(1024, count - i);
        rng_normal(chunk, n, 1, RNG_TEST, (uint64_t)count, (uint64_t)(i % 65536));
        for (int64_t j = 0; j < n; j++) values[i + j] = to_real(chunk[j]);
    }
    return values;
}

static void run_copy(const Buffers *b) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < b->T; t++) {
#pragma omp simd
        for (int64_t i = t * b->C; i < (t + 1) * b->C; i++) b->y[i] = b->x[i];
    }
}

static void run_layer_forward(const Buffers *b) {
    norm_modulate_forward(b->y, b->stats, b->x, NULL, b->row, b->row + b->C, 6 * b->C, b->segment,
                          NORM_LAYER, 1e-6f, b->T, b->C, NULL);
}

static NormBackward norm_arguments(const Buffers *b) {
    return (NormBackward){.dx = b->z,
                          .dweight = b->drow,
                          .dshift = b->drow + b->C,
                          .dscale = b->drow + 2 * b->C,
                          .dout = b->y,
                          .x = b->x,
                          .weight = b->row,
                          .scale = b->row + b->C,
                          .stats = b->stats,
                          .ldm = 6 * b->C,
                          .segment = b->segment,
                          .S = b->S,
                          .scratch = b->scratch};
}

static void run_layer_backward(const Buffers *b) {
    NormBackward a = norm_arguments(b);
    a.weight = NULL;
    a.dweight = NULL;
    norm_modulate_backward(&a, NORM_LAYER, b->T, b->C, NULL);
}

static void run_rms_backward_add(const Buffers *b) {
    NormBackward a = norm_arguments(b);
    a.add_dx = true;
    norm_modulate_backward(&a, NORM_RMS, b->T, b->C, NULL);
}

static void run_qk_forward(const Buffers *b) {
    qk_norm_rope_forward(b->y, b->stats, b->wide, 3 * b->C, b->row, b->rope, 1e-6f, b->T, b->heads,
                         b->D, NULL);
}

static void run_qk_backward(const Buffers *b) {
    qk_norm_rope_backward(b->wide2, 3 * b->C, b->drow, b->y, b->wide, 3 * b->C, b->row, b->rope,
                          b->stats, b->T, b->heads, b->D, b->scratch, NULL);
}

static void run_gelu_forward(const Buffers *b) {
    gelu_forward(b->wide2, b->wide, b->T * 4 * b->C, NULL);
}

static void run_gelu_backward(const Buffers *b) {
    gelu_backward(b->wide3, b->wide2, b->wide, b->T * 4 * b->C, NULL);
}

static void run_gate_forward(const Buffers *b) {
    gate_residual_forward(b->z, b->x, b->y, b->row, 6 * b->C, b->segment, b->T, b->C, NULL);
}

static void run_gate_backward(const Buffers *b) {
    gate_residual_backward(b->z, b->drow, b->y, b->x, b->row, 6 * b->C, b->segment, b->T, b->S,
                           b->C, b->scratch, NULL);
}

static void run_add(const Buffers *b) {
    gate_residual_forward(b->z, b->x, b->y, NULL, 0, NULL, b->T, b->C, NULL);
}

static void run_loss(const Buffers *b) {
    flow_loss(b->loss, b->y, b->x, b->target, b->time, b->segment, b->T, 64, b->S, b->scratch,
              NULL);
}

int main(int argc, char **argv) {
    const int64_t T = argc > 2 ? strtoll(argv[1], NULL, 10) : 4096;
    const int64_t C = argc > 2 ? strtoll(argv[2], NULL, 10) : 1152;
    const int64_t S = argc > 3 ? strtoll(argv[3], NULL, 10) : 4;
    const int64_t rounds = argc > 4 ? strtoll(argv[4], NULL, 10) : 7;
    CHECK(T >= S && S > 0 && C >= 64 && rounds > 0, "usage: memory_bound T C [S [ROUNDS]]");
    const int64_t D = C % 72 == 0 ? 72 : 64;
    Buffers b = {.T = T, .C = C, .S = S, .D = D, .heads = C / D};
    b.x = random_reals("x", T * C);
    b.y = random_reals("y", T * C);
    b.z = random_reals("z", T * C);
    b.row = random_reals("row", S * 6 * C);
    b.wide = random_reals("wide", T * 4 * C);
    b.wide2 = random_reals("wide2", T * 4 * C);
    b.wide3 = random_reals("wide3", T * 4 * C);
    b.drow = device_allocate("drow", S * 6 * C * 4);
    b.stats = device_allocate("stats", T * 2 * 4);
    b.rope = device_allocate("rope", T * D * 4);
    b.target = device_allocate("target", T * 64 * 4);
    b.time = device_allocate("time", S * 4);
    const int64_t scratch[] = {norm_modulate_scratch(T, C, S), qk_norm_rope_scratch(T, b.heads, D),
                               gate_residual_scratch(T, S, C), flow_loss_scratch(T)};
    int64_t most = 0;
    for (int i = 0; i < 4; i++) most = max_i64(most, scratch[i]);
    b.scratch = device_allocate("scratch", most);
    b.loss = device_allocate("loss", S * 8);
    b.segment = device_allocate("segment", T * 4);
    for (int64_t t = 0; t < T; t++) b.segment[t] = (int32_t)(t * S / T);
    const double e = (double)(T * C) * (double)sizeof(real);
    const struct {
        const char *name;
        void (*run)(const Buffers *);
        double bytes;
    } cases[] = {
        {"copy", run_copy, 2 * e},
        {"layer norm, modulate", run_layer_forward, 2 * e},
        {"layer norm, modulate: backward", run_layer_backward, 3 * e},
        {"rms norm, modulate: backward, +=", run_rms_backward_add, 4 * e},
        {"query norm, rope", run_qk_forward, 2 * e + (double)(T * D) * 4},
        {"query norm, rope: backward", run_qk_backward, 3 * e + (double)(T * D) * 4},
        {"gelu [T, 4 C]", run_gelu_forward, 8 * e},
        {"gelu [T, 4 C]: backward", run_gelu_backward, 12 * e},
        {"gate, residual", run_gate_forward, 3 * e},
        {"gate, residual: backward", run_gate_backward, 3 * e},
        {"residual", run_add, 3 * e},
        {"flow loss [T, 64]", run_loss, (double)(T * 64) * (2 * (double)sizeof(real) + 4)},
    };
    double copy = 0.0;
    printf("%" PRId64 " tokens, %" PRId64 " channels, %" PRId64 " segments, " REAL_NAME "\n", T, C,
           S);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        double best = 1e9;
        for (int64_t round = 0; round <= rounds; round++) {  // The first warms up.
            const double start = seconds();
            cases[i].run(&b);
            const double took = seconds() - start;
            if (round > 0 && took < best) best = took;
        }
        const double rate = 1e-9 * cases[i].bytes / best;
        if (i == 0) copy = rate;
        printf("%-34s %8.3f ms %7.2f GB/s %5.2f of a copy\n", cases[i].name, 1e3 * best, rate,
               rate / copy);
    }
    return 0;
}
