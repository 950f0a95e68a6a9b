// How near the ops that are bound by memory come to a plain copy on this device.
//
//     memory_bound [TOKENS CHANNELS [SEGMENTS [ROUNDS]]]      default 4096 1152 4 7
//
// Prints a JSON line per op: ms (the best round), gb_per_s over the bytes that it must move, and
// its share of what a copy of as many bytes reaches in the same run (read and written, by the
// faster of device_copy and vector_copy_rows). Ops run one after the other as in a step, so sizes
// that caches hold say nothing of memory: take 65536 1792 on a GPU. Threads by OMP_NUM_THREADS.
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/die.h"
#include "base/numbers.h"
#include "base/vector.h"
#include "model/ops/flow.h"
#include "model/ops/norm.h"
#include "model/ops/pointwise.h"
#include "parallel/tree.h"

typedef struct {
    int64_t T, C, S, heads, D;
    int64_t copy_bytes;                            // From wide to wide2.
    real *x, *y, *z, *row, *wide, *wide2, *wide3;  // [T, C], row [S, 6 C], wide [T, 4 C].
    void *scratch;
    float *drow, *stats, *rope, *target, *time;
    double *loss;
    int32_t *segment, *start;
} Buffers;

static void run_device_copy(const Buffers *b) {
    device_copy(b->wide2, b->wide, b->copy_bytes, NULL);
}

static void run_copy_rows(const Buffers *b) {
    const int64_t row = 4096;
    vector_copy_rows(b->wide2, row, b->wide, row, b->copy_bytes / row, row, NULL);
}

static void run_layer_forward(const Buffers *b) {
    norm_modulate_forward(b->y, b->stats, b->x, NULL, b->row, b->row + b->C, 6 * b->C, b->segment,
                          NORM_LAYER, 1e-6f, b->T, b->C, NULL);
}

static NormBackward norm_arguments(const Buffers *b) {
    return (NormBackward){.dx = b->z,
                          .dweight = {.at = b->drow, .type = TYPE_F32},
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
    a.dweight.at = NULL;
    norm_modulate_backward(&a, NORM_LAYER, b->T, b->C, NULL);
}

static void run_rms_backward_add(const Buffers *b) {
    NormBackward a = norm_arguments(b);
    a.add_dx = true;
    norm_modulate_backward(&a, NORM_RMS, b->T, b->C, NULL);
}

static void run_qk_forward(const Buffers *b) {
    qk_norm_rope_forward(b->y, (PeerOrder){1, 1, 0}, b->stats, b->wide, 3 * b->C, b->row, b->rope,
                         1e-6f, b->T, b->heads, b->D, NULL);
}

static void run_qk_backward(const Buffers *b) {
    const Gradient dweight = {.at = b->drow, .type = TYPE_F32};
    qk_norm_rope_backward(b->wide2, 3 * b->C, dweight, b->y, (PeerOrder){1, 1, 0}, b->wide,
                          3 * b->C, b->row, b->rope, b->stats, b->T, b->heads, b->D, b->scratch,
                          NULL);
}

static const PeerOrder TO_PEERS = {.ranks = 4, .tensors = 3, .tensor = 0};

static void run_qk_forward_peers(const Buffers *b) {
    qk_norm_rope_forward(b->wide2, TO_PEERS, b->stats, b->wide, 3 * b->C, b->row, b->rope, 1e-6f,
                         b->T, b->heads, b->D, NULL);
}

static void run_qk_backward_peers(const Buffers *b) {
    const Gradient dweight = {.at = b->drow, .type = TYPE_F32};
    qk_norm_rope_backward(b->wide2, 3 * b->C, dweight, b->wide3, TO_PEERS, b->wide, 3 * b->C,
                          b->row, b->rope, b->stats, b->T, b->heads, b->D, b->scratch, NULL);
}

static void run_gelu_forward(const Buffers *b) {
    gelu_forward(b->wide2, b->wide, b->T * 4 * b->C, NULL);
}

static void run_gelu_backward(const Buffers *b) {
    gelu_backward(b->wide3, b->wide2, b->wide, b->T * 4 * b->C, NULL);
}

static void run_swiglu_forward(const Buffers *b) {
    swiglu_forward(b->wide2, b->wide, b->wide + 2 * b->C, 4 * b->C, b->T, 2 * b->C, NULL);
}

static void run_swiglu_backward(const Buffers *b) {
    swiglu_backward(b->wide3, b->wide3 + 2 * b->C, b->wide2, b->wide, b->wide + 2 * b->C, 4 * b->C,
                    b->T, 2 * b->C, NULL);
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
    flow_loss(b->loss, b->y, b->x, b->target, b->time, b->segment, b->start, b->T, 64, b->S,
              b->scratch, NULL);
}

// What FSDP does with the gradients of 8 packs.
enum { LEAVES = 8 };

static void run_tree(const Buffers *b) {
    Tree tree = {.count = b->T * b->C / 4};
    for (int i = 0; i < tree_buffers(LEAVES); i++) {
        tree.buffer[i] = (float *)b->wide2 + i * tree.count;
    }
    tree_begin(&tree, LEAVES);
    tree_push(&tree, &(Vectors){b->wide, tree.count, REAL_TYPE, LEAVES}, NULL, NULL);
}

// Seconds of one run, the best of `rounds` means over about 2 ms.
static double best_seconds(void (*run)(const Buffers *), const Buffers *b, int64_t rounds) {
    double best = INFINITY;
    int64_t repeats = 1;
    for (int64_t round = -2; round < rounds; round++) {  // -2 warms up, -1 sets the repeats.
        stream_wait(NULL);
        const double start = clock_seconds();
        for (int64_t i = 0; i < repeats; i++) run(b);
        stream_wait(NULL);
        const double took = (clock_seconds() - start) / (double)repeats;
        if (round == -1) repeats = (int64_t)fmax(1.0, fmin(200.0, 2e-3 / took));
        if (round >= 0) best = fmin(best, took);
    }
    return best;
}

static void set_up(Buffers *b) {
    const int64_t T = b->T, C = b->C, S = b->S;
    b->x = random_reals("x", T * C);
    b->y = random_reals("y", T * C);
    b->z = random_reals("z", T * C);
    b->row = random_reals("row", S * 6 * C);
    b->wide = random_reals("wide", T * 4 * C);
    b->wide2 = random_reals("wide2", T * 4 * C);
    b->wide3 = random_reals("wide3", T * 4 * C);
    b->drow = device_allocate("drow", S * 6 * C * 4);
    b->stats = device_allocate("stats", T * 2 * 4);
    b->rope = device_allocate("rope", T * b->D * 4);
    b->target = device_allocate("target", T * 64 * 4);
    b->time = device_allocate("time", S * 4);
    const int64_t scratch[] = {norm_modulate_scratch(T, C, S),
                               qk_norm_rope_scratch(T, b->heads, b->D),
                               gate_residual_scratch(T, S, C), flow_loss_scratch(T)};
    int64_t most = 0;
    for (int i = 0; i < 4; i++) most = max_i64(most, scratch[i]);
    b->scratch = device_allocate("scratch", most);
    b->loss = device_allocate("loss", S * 8);
    b->segment = device_allocate("segment", T * 4);
    b->start = device_allocate("start", (S + 1) * 4);
    int32_t *const segment = host_allocate("segment", T * 4);
    for (int64_t t = 0; t < T; t++) segment[t] = (int32_t)(t * S / T);
    device_copy(b->segment, segment, T * 4, NULL);
    for (int64_t s = 0; s <= S; s++) {
        device_copy(b->start + s, &(int32_t){(int32_t)div_up(s * T, S)}, 4, NULL);
    }
    stream_wait(NULL);
    host_free(segment);
}

int main(int argc, char **argv) {
    const int64_t T = argc > 2 ? strtoll(argv[1], NULL, 10) : 4096;
    const int64_t C = argc > 2 ? strtoll(argv[2], NULL, 10) : 1152;
    const int64_t S = argc > 3 ? strtoll(argv[3], NULL, 10) : 4;
    const int64_t rounds = argc > 4 ? strtoll(argv[4], NULL, 10) : 7;
    CHECK(T >= S && S > 0 && C >= 64 && rounds > 0, "usage: memory_bound T C [S [ROUNDS]]");
    const int64_t D = C % 72 == 0 ? 72 : 64;
    Error error;
    CHECK(device_start(0, &error), "%s", error.text);
    Buffers b = {.T = T, .C = C, .S = S, .D = D, .heads = C / D};
    set_up(&b);
    const double e = (double)(T * C) * (double)sizeof(real);
    const struct {
        const char *name;
        void (*run)(const Buffers *);
        double bytes;
    } cases[] = {
        {"layer norm, modulate", run_layer_forward, 2 * e},
        {"layer norm, modulate: backward", run_layer_backward, 3 * e},
        {"rms norm, modulate: backward, +=", run_rms_backward_add, 4 * e},
        {"query norm, rope", run_qk_forward, 2 * e + (double)(T * D) * 4},
        {"query norm, rope: backward", run_qk_backward, 3 * e + (double)(T * D) * 4},
        {"query norm, rope, to 4 peers", run_qk_forward_peers, 2 * e + (double)(T * D) * 4},
        {"query norm, rope, to 4 peers: backward", run_qk_backward_peers,
         3 * e + (double)(T * D) * 4},
        {"gelu [T, 4 C]", run_gelu_forward, 8 * e},
        {"gelu [T, 4 C]: backward", run_gelu_backward, 12 * e},
        {"swiglu [T, 4 C]", run_swiglu_forward, 6 * e},
        {"swiglu [T, 4 C]: backward", run_swiglu_backward, 10 * e},
        {"gate, residual", run_gate_forward, 3 * e},
        {"gate, residual: backward", run_gate_backward, 3 * e},
        {"residual", run_add, 3 * e},
        {"tree over 8 leaves [T, C / 4]", run_tree, 2 * e + (double)(T * C)},
        {"flow loss [T, 64]", run_loss, (double)(T * 64) * (2 * (double)sizeof(real) + 4)},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        b.copy_bytes = (int64_t)fmin(cases[i].bytes / 2, 4 * e) / 4096 * 4096;
        const double copy = fmin(best_seconds(run_device_copy, &b, rounds),
                                 best_seconds(run_copy_rows, &b, rounds));
        const double copied = 2e-9 * (double)b.copy_bytes / copy;
        const double took = best_seconds(cases[i].run, &b, rounds);
        const double rate = 1e-9 * cases[i].bytes / took;
        printf("{\"kernel\": \"%s\", \"precision\": \"%s\", \"tokens\": %" PRId64
               ", \"channels\": %" PRId64 ", \"segments\": %" PRId64
               ", \"mb\": %.1f, \"ms\": %.4f, \"gb_per_s\": %.1f, \"copy_gb_per_s\": %.1f, "
               "\"share\": %.3f}\n",
               cases[i].name, REAL_NAME, T, C, S, 1e-6 * cases[i].bytes, 1e3 * took, rate, copied,
               rate / copied);
    }
    return 0;
}
