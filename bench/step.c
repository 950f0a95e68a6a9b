// Times a whole training step (forward, backward without recomputation, clipping, AdamW with EMA)
// of a Goku model with random weights on one rank, and prints one JSON line.
//   bench/step WIDTH HEADS BLOCKS TOKENS SEGMENTS TEXT [REPEATS [PEAK]]
// 16 latent channels, patch 1 x 2 x 2, text as wide as the model, TEXT tokens per segment. gflops
// are model FLOPs: three forwards, attention inside segments only. ceiling_gflops: a plain product
// 2048 x WIDTH x 4 WIDTH in the same run (8192 rows on a GPU). The roofline is products at that
// speed (one of few rows at its bytes'), attention as it runs, all else at the speed of a plain
// copy, all measured in this run.
// "ops" has, for each kind of op, ms in a step with marks around every op, GFLOP, MB moved at
// least, and the floor in ms. mfu: model FLOPs over PEAK TFLOP/s (989 is an H100's or H200's in
// bf16); 0 without PEAK. issue_ms: until the host had started all of forward and backward; as long
// as it is well below ms, a device does not wait for it.
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/die.h"
#include "base/rng.h"
#include "bench/roofline.h"
#include "train/ceiling.h"
#include "train/optimizer.h"

enum { REPEATS = 7, CHANNELS = 16, OPTIMIZER_BYTES = 36 };  // w, m, v, EMA twice and g, floats.

typedef struct {
    Model model;
    Mesh mesh;
    Fsdp *fsdp;
    Optimizer optimizer;
    PackBind bind;
    OpTimes op_times;
    double op_seconds[OP_KINDS], optimizer_seconds;
    double issue_seconds;  // Until the host had started forward and backward.
} Bench;

// out [count] on the device = normal numbers times scale.
static void fill(real *out, int64_t count, uint64_t position, float scale) {
    float values[1024];
    real rounded[1024];
    for (int64_t i = 0; i < count; i += 1024) {
        const int64_t n = min_i64(1024, count - i);
        rng_normal(values, n, 1, RNG_TEST, position, (uint64_t)i);
        for (int64_t j = 0; j < n; j++) rounded[j] = to_real(scale * values[j]);
        device_copy(out + i, rounded, n * (int64_t)sizeof(real), NULL);
    }
}

// Zeros (adaLN, output) would make gradients vanish, and products with zeros are no work.
static void fill_weights(Bench *b, int unit) {
    const int64_t count = fsdp_slice_end(b->fsdp, unit);
    float *const w = malloc((size_t)count * sizeof(*w));
    CHECK(w != NULL, "no memory for %" PRId64 " weights", count);
    const int64_t piece = 1 << 18;
#pragma omp parallel for
    for (int64_t i = 0; i < count; i += piece) {
        param_init(w + i, &b->model.params, unit, i, min_i64(i + piece, count), 1);
    }
    for (int64_t i = 0; i < count; i++) {
        if (w[i] == 0.0f) w[i] = 0.01f * (float)(i % 7 - 3);
    }
    device_copy(fsdp_master(b->fsdp, unit), w, count * (int64_t)sizeof(*w), NULL);
    free(w);
}

static void set_up(Bench *b, Comm *world, const int64_t *n) {
    const ModelConfig config = {.architecture = ARCHITECTURE_GOKU,
                                .layers = n[2],
                                .heads = n[1],
                                .head_dim = n[0] / n[1],
                                .in_channels = CHANNELS,
                                .patch = 2,
                                .patch_t = 1,
                                .text_width = n[0],
                                .mlp_ratio = 4,
                                .rope_theta = 1e4,
                                .time_factor = 1000};
    mesh_init(&b->mesh, world, &(MeshConfig){.sequence = 1, .shard = 1});
    model_record(&b->model, &config, &b->mesh);
    model_plan(&b->model, RECOMPUTE_NONE, (ModelBounds){n[3], n[4] * n[5], n[4]});
    b->fsdp =
        fsdp_create(&b->model.params, &b->mesh, &(FsdpConfig){.wire = REAL_TYPE, .packs_max = 1});
    b->model.lengths[0] = n[3] / n[4];
    model_allocate(&b->model);
    optimizer_create(&b->optimizer, &b->model.params, &b->mesh);
    for (int unit = 0; unit < b->model.units; unit++) fill_weights(b, unit);
    optimizer_start(&b->optimizer, b->fsdp);
    Segment *segments = calloc((size_t)n[4], sizeof(*segments));
    CHECK(segments != NULL, "no memory");
    const int64_t tokens = n[3] / n[4], side = tokens % 8 == 0 ? 8 : 1;
    for (int64_t s = 0; s < n[4]; s++) {
        segments[s] =
            (Segment){{CHANNELS, 1, (int32_t)(2 * side), (int32_t)(2 * tokens / side)}, n[5]};
    }
    const Rope rope = {config.head_dim, config.rope_theta};
    pack_create(&b->bind, n[3], n[4], config.head_dim);
    pack_bind(&b->bind, segments, n[4], model_patch(&config), &rope, 0, 1);
    free(segments);
    const int64_t E = model_token_elements(&config);
    fill(b->model.patches, b->bind.T * E, 1, 1.0f);
    fill(b->model.text, b->bind.X * config.text_width, 2, 1.0f);
    fill(b->model.dout, b->bind.T * E, 3, 1e-4f);
    for (int64_t s = 0; s < b->bind.S; s++) {
        device_copy(b->model.time + s, &(float){0.5f}, sizeof(float), NULL);
    }
}

static void one_step(Bench *b) {
    const TrainConfig config = {.beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .ema_decay = 0.999};
    const double begin = clock_seconds();
    fsdp_begin_step(b->fsdp, 1);
    model_forward(&b->model, b->fsdp, &b->bind, NULL);
    model_backward(&b->model, b->fsdp, &b->bind, 0, NULL);
    fsdp_end_step(b->fsdp);
    b->issue_seconds = clock_seconds() - begin;
    ExactSum sum;
    fsdp_square_sum(b->fsdp, &sum);
    const double start = clock_seconds(), norm = sqrt(exact_value(&sum));
    CHECK(isfinite(norm) && norm > 0, "gradient norm %g", norm);
    optimizer_update(&b->optimizer, b->fsdp, &b->model.params, &config, 1e-5, fmin(1, 1 / norm), 9);
    stream_wait(NULL);
    b->optimizer_seconds += clock_seconds() - start;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double model_flops(const Bench *b) {
    const Cost cost = model_cost(&b->model);
    double flops = 0;
    for (int64_t s = 0; s < b->bind.S; s++) {
        const double N = b->bind.token_start[s + 1] - b->bind.token_start[s];
        const double L = b->bind.text_start[s + 1] - b->bind.text_start[s];
        flops += (double)cost.segment + N * (double)cost.token + L * (double)cost.text +
                 N * N * (double)cost.token_token + N * L * (double)cost.token_text;
    }
    return 3 * flops;
}

static void print_ops(const Bench *b, double product, double copy, double step_ms) {
    Work work[OP_KINDS];
    model_work(work, &b->model, &b->bind, &(Rates){product, copy});
    double roofline = 1e3 * OPTIMIZER_BYTES * (double)param_total(&b->model.params) / copy;
    printf(", \"copy_gb_per_s\": %.1f, \"ops\": {", 1e-9 * copy);
    const char *comma = "";
    for (int op = 0; op < OP_KINDS; op++) {
        if (b->op_seconds[op] == 0) continue;
        const double ms = 1e3 * b->op_seconds[op];
        const double least = op == OP_ATTENTION ? ms : 1e3 * work[op].seconds;
        roofline += least;
        printf("%s\"%s\": [%.3f, %.2f, %.2f, %.3f]", comma, op_table[op].name, ms,
               1e-9 * work[op].flops, 1e-6 * work[op].bytes, least);
        comma = ", ";
    }
    printf("}, \"roofline_ms\": %.2f, \"share_of_roofline\": %.3f", roofline, roofline / step_ms);
}

static void print(const Bench *b, const int64_t *n, const double *times, double whole,
                  double product) {
    const double median = times[n[6] / 2], flops = model_flops(b);
    const double linear = b->op_seconds[OP_LINEAR], attention = b->op_seconds[OP_ATTENTION];
    char device[256];
    device_describe(device, sizeof(device));
    printf(
        "{\"ms\": %.2f, \"ms_min\": %.2f, \"issue_ms\": %.2f, \"tokens_per_s\": %.0f, "
        "\"products\": %.3f, "
        "\"attention\": %.3f, \"optimizer\": %.3f, \"rest\": %.3f, \"gflops\": %.1f, "
        "\"ceiling_gflops\": %.1f, \"share_of_ceiling\": %.3f, \"mfu\": %.3f, "
        "\"precision\": \"%s\", \"device\": \"%s\"",
        1e3 * median, 1e3 * times[0], 1e3 * b->issue_seconds, (double)n[3] / median, linear / whole,
        attention / whole, b->optimizer_seconds / whole,
        (whole - linear - attention - b->optimizer_seconds) / whole, 1e-9 * flops / median,
        1e-9 * product, flops / median / product,
        n[7] > 0 ? flops / median / (1e12 * (double)n[7]) : 0, REAL_NAME, device);
    print_ops(b, product, ceiling_copy(), 1e3 * median);
    printf("}\n");
}

int main(int argc, char **argv) {
    Comm *world = comm_start(&argc, &argv);
    int64_t n[8] = {0, 0, 0, 0, 0, 0, REPEATS, 0};
    for (int i = 0; i < 8 && i + 1 < argc; i++) n[i] = strtoll(argv[i + 1], NULL, 10);
    for (int i = 0; i < 7; i++) {
        CHECK(n[i] > 0, "usage: step WIDTH HEADS BLOCKS TOKENS SEGMENTS TEXT [REPEATS [PEAK]]");
    }
    CHECK(n[0] % n[1] == 0 && n[3] % n[4] == 0, "HEADS must divide WIDTH, SEGMENTS TOKENS");
    Bench *b = calloc(1, sizeof(*b));
    double *times = calloc((size_t)n[6], sizeof(*times));
    CHECK(b != NULL && times != NULL, "no memory");
    Error error;
    CHECK(comm_device_start(world, false, &error) == EXIT_DONE, "%s", error.text);
    set_up(b, world, n);
    for (int i = 0; i < 2; i++) one_step(b);
    double product = ceiling_flops(n[0]), issue = INFINITY;
    for (int64_t i = 0; i < n[6]; i++) {
        const double start = clock_seconds();
        one_step(b);
        times[i] = clock_seconds() - start;
        issue = fmin(issue, b->issue_seconds);
        product = fmax(product, ceiling_flops(n[0]));
    }
    qsort(times, (size_t)n[6], sizeof(*times), ascending);
    b->model.op_times = &b->op_times;  // One more, with marks around every op.
    b->optimizer_seconds = 0;
    const double start = clock_seconds();
    one_step(b);
    op_times_take(&b->op_times, b->op_seconds);
    b->issue_seconds = issue;
    print(b, n, times, clock_seconds() - start, product);
    op_times_free(&b->op_times);
    pack_free(&b->bind);
    optimizer_free(&b->optimizer);
    fsdp_free(b->fsdp);
    model_free(&b->model);
    mesh_free(&b->mesh);
    free(times);
    free(b);
    comm_stop(world);
    return 0;
}
