// Ops and vectors on arrays beyond 2^32 elements (bf16) and 2^33 bytes, as tests/wide.h has it:
// nothing is counted in 32 bits. In full size on a GPU with enough free memory; small elsewhere.
//   test_wide ROWS [PATTERN]   with arrays of 65 ROWS rows of 8,192 anywhere; tests of that name
// In bf16, 4096 ROWS pass 2^31 elements and take 15 GiB; the full size has 8192.
// ranks: 1
// backends: all
// precision: fp32 bf16
// sanitize: bf16
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "model/ops/attention.h"
#include "model/ops/norm.h"
#include "model/ops/pointwise.h"
#include "model/ops/product.h"
#include "parallel/ulysses.h"
#include "tests/wide.h"

// Sums over many rows, of which some may be missing or others: floats err by less.
static const double SUMS = 5e-3;

static void test_gelu(void **state) {
    const Wide *w = *state;
    const int64_t C = w->C, N = w->T * C;
    const real *x = reals_filled(w, 0, C), *dout = reals_filled(w, 1, C);
    real *out = blank(w, 2);
    gelu_forward(out, x, N, NULL);
    gelu_forward(w->few[2], w->few[0], ROWS * C, NULL);
    check_rows(w, "gelu", out, C, w->few[2], 0);
    blank(w, 2);
    gelu_backward(out, dout, x, N, NULL);
    gelu_backward(w->few[2], w->few[1], w->few[0], ROWS * C, NULL);
    check_rows(w, "dx of gelu", out, C, w->few[2], 0);
}

static void test_swiglu(void **state) {
    const Wide *w = *state;
    const int64_t C = w->C, F = C / 2;
    const real *x = reals_filled(w, 0, C), *dout = reals_filled(w, 1, F), *some = w->few[0];
    real *out = blank(w, 2), *some_out = w->few[2];
    swiglu_forward(out, x, x + F, C, w->T, F, NULL);
    swiglu_forward(some_out, some, some + F, C, ROWS, F, NULL);
    check_rows(w, "swiglu", out, F, some_out, 0);
    blank(w, 2);
    swiglu_backward(out, out + F, dout, x, x + F, C, w->T, F, NULL);
    swiglu_backward(some_out, some_out + F, w->few[1], some, some + F, C, ROWS, F, NULL);
    check_rows(w, "dx of swiglu", out, C, some_out, 0);
}

static void test_gate_residual(void **state) {
    const Wide *w = *state;
    const int64_t C = w->C, T = w->T, part = T / PARTS;
    const Segments s = segments_wide(w);
    real *gate = reals_random(s.S * C, 1, 0.0f, 1.0f), *out = blank(w, 2);
    float *dgate = floats_new(s.S * C), *sums = floats_new(s.S * C), *some = floats_new(s.S * C);
    void *scratch = device_allocate("scratch", gate_residual_scratch(T, s.S, C));
    const real *x = reals_filled(w, 0, C), *h = reals_filled(w, 1, C);
    gate_residual_forward(out, x, h, gate, C, s.all, T, C, NULL);
    gate_residual_forward(w->few[2], w->few[0], w->few[1], gate, C, s.few, ROWS, C, NULL);
    check_rows(w, "gate", out, C, w->few[2], 0);
    for (int64_t t = 0; t < T; t += part) {
        gate_residual_backward(w->half, sums, x + t * C, h + t * C, gate, C, s.all + t, part, s.S,
                               C, scratch, NULL);
    }
    blank(w, 2);
    gate_residual_backward(out, dgate, x, h, gate, C, s.all, T, s.S, C, scratch, NULL);
    gate_residual_backward(w->few[2], some, w->few[0], w->few[1], gate, C, s.few, ROWS, s.S, C,
                           scratch, NULL);
    check_rows(w, "dh", out, C, w->few[2], 0);
    check_close("dgate", dgate, sums, s.S * C, SUMS);
    free_all(s.all, s.few, gate, dgate, sums, some, scratch);
}

// The gradients of norm's parameters, [C] and twice [S, C].
typedef struct {
    float *weight, *shift, *scale;
} NormSums;

static NormSums norm_sums(int64_t S, int64_t C) {
    return (NormSums){floats_new(C), floats_new(S * C), floats_new(S * C)};
}

static void norm_back(NormBackward b, const NormSums *sums, int64_t T, int64_t C) {
    b.dweight = added(sums->weight);
    b.dshift = sums->shift;
    b.dscale = sums->scale;
    norm_modulate_backward(&b, NORM_LAYER, T, C, NULL);
}

static void test_norm(void **state) {
    const Wide *w = *state;
    const int64_t C = w->C, T = w->T, part = T / PARTS;
    const Segments s = segments_wide(w);
    real *weight = reals_random(C, 1, 1.0f, 0.1f), *shift = reals_random(s.S * C, 2, 0.0f, 1.0f),
         *scale = reals_random(s.S * C, 3, 0.0f, 0.3f), *out = blank(w, 2);
    float *stats = device_allocate("stats", 2 * T * FLOAT_BYTES), *few_stats = floats_new(2 * ROWS);
    const NormSums got = norm_sums(s.S, C), want = norm_sums(s.S, C), some = norm_sums(s.S, C);
    NormBackward b = {.dx = out,
                      .add_dx = true,
                      .dout = reals_filled(w, 1, C),
                      .x = reals_filled(w, 0, C),
                      .weight = weight,
                      .scale = scale,
                      .stats = stats,
                      .ldm = C,
                      .segment = s.all,
                      .S = s.S,
                      .scratch = device_allocate("scratch", norm_modulate_scratch(T, C, s.S))};
    norm_modulate_forward(out, stats, b.x, weight, shift, scale, C, s.all, NORM_LAYER, 1e-6f, T, C,
                          NULL);
    norm_modulate_forward(w->few[2], few_stats, w->few[0], weight, shift, scale, C, s.few,
                          NORM_LAYER, 1e-6f, ROWS, C, NULL);
    check_rows(w, "norm", out, C, w->few[2], 0);
    for (int64_t t = 0; t < T; t += part) {
        NormBackward p = b;
        p.dx = w->half;
        p.add_dx = false;
        p.dout += t * C;
        p.x += t * C;
        p.stats += 2 * t;
        p.segment += t;
        norm_back(p, &want, part, C);
    }
    blank(w, 2);
    norm_back(b, &got, T, C);
    b.dx = w->few[2];
    b.dout = w->few[1];
    b.x = w->few[0];
    b.stats = few_stats;
    b.segment = s.few;
    norm_back(b, &some, ROWS, C);
    check_rows(w, "dx of norm", out, C, w->few[2], 0);
    check_close("dweight", got.weight, want.weight, C, SUMS);
    check_close("dshift", got.shift, want.shift, s.S * C, SUMS);
    check_close("dscale", got.scale, want.scale, s.S * C, SUMS);
    free_all(s.all, s.few, weight, shift, scale, stats, few_stats, b.scratch);
    const NormSums all[] = {got, want, some};
    for (int i = 0; i < 3; i++) free_all(all[i].weight, all[i].shift, all[i].scale);
}

// For three peers, whose parts are packed and unpacked.
static void test_qk_norm_rope(void **state) {
    const Wide *w = *state;
    const int64_t C = w->C, T = w->T, D = w->D, heads = C / D, part = T / PARTS;
    const PeerOrder plain = {1, 1, 0}, peers = {3, 1, 0};
    real *weight = reals_random(C, 1, 1.0f, 0.1f), *out = blank(w, 2), *rows = w->slot[1];
    float *rope = device_allocate("turns", T * D * FLOAT_BYTES), *few_rope = floats_new(ROWS * D);
    float *inverse = device_allocate("inverse", T * FLOAT_BYTES), *few_inverse = floats_new(ROWS);
    float *got = floats_new(C), *want = floats_new(C), *some = floats_new(C);
    void *scratch = device_allocate("scratch", qk_norm_rope_scratch(T, heads, D));
    const real *x = reals_filled(w, 0, C);
    fill(w, rope, TYPE_F32, T * D, 9);
    take(few_rope, rope, T, D * FLOAT_BYTES);
    qk_norm_rope_forward(out, peers, inverse, x, C, weight, rope, 1e-6f, T, heads, D, NULL);
    qk_norm_rope_forward(w->few[2], plain, few_inverse, w->few[0], C, weight, few_rope, 1e-6f, ROWS,
                         heads, D, NULL);
    ulysses_unpack(blank(w, 1), C, out, peers, T, heads, D, NULL);
    check_rows(w, "query", rows, C, w->few[2], 0);
    reals_filled(w, 1, C);
    for (int64_t t = 0; t < T; t += part) {
        qk_norm_rope_backward(w->half, C, added(want), rows + t * C, plain, x + t * C, C, weight,
                              rope + t * D, inverse + t, part, heads, D, scratch, NULL);
    }
    blank(w, 2);
    ulysses_pack(out, rows, C, peers, T, heads, D, NULL);
    qk_norm_rope_backward(w->few[2], C, added(some), w->few[1], plain, w->few[0], C, weight,
                          few_rope, few_inverse, ROWS, heads, D, scratch, NULL);
    blank(w, 1);
    qk_norm_rope_backward(rows, C, added(got), out, peers, x, C, weight, rope, inverse, T, heads, D,
                          scratch, NULL);
    check_rows(w, "dx of query", rows, C, w->few[2], 0);
    check_close("dweight", got, want, C, SUMS);
    free_all(weight, rope, few_rope, inverse, few_inverse, got, want, some, scratch);
}

static void test_products(void **state) {
    const Wide *w = *state;
    const int64_t C = w->C, T = w->T, part = T / PARTS;
    const double tolerance = 4 * REAL_TOLERANCE;
    const real *x = reals_filled(w, 0, C), *dout = reals_filled(w, 1, C);
    real *weight = device_allocate("weight", C * C * REAL_BYTES), *out = blank(w, 2),
         *bias = reals_random(C, 1, 0.0f, 1.0f), *some = w->few[2];
    fill(w, weight, REAL_TYPE, C * C, 9);
    linear_prepare(T, C, C, false);
    linear_gelu_prepare(T, C, C);
    linear_forward(out, C, x, C, weight, bias, T, C, C, NULL);
    linear_forward(some, C, w->few[0], C, weight, bias, ROWS, C, C, NULL);
    check_rows(w, "product", out, C, some, tolerance);
    blank(w, 2);
    linear_backward_input(out, C, true, dout, C, weight, T, C, C, NULL);
    linear_backward_input(some, C, true, w->few[1], C, weight, ROWS, C, C, NULL);
    check_rows(w, "dx of product", out, C, some, tolerance);
    blank(w, 2);
    if (linear_gelu_backward_input(out, x, dout, C, weight, T, C, C, NULL)) {
        linear_backward_input(w->few[3], C, false, w->few[1], C, weight, ROWS, C, C, NULL);
        gelu_backward(some, w->few[3], w->few[0], ROWS * C, NULL);
        check_rows(w, "dx of product and gelu", out, C, some, tolerance);
    }
    float *dw = device_allocate_shared("dw", 2 * C * C * FLOAT_BYTES), *db = floats_new(2 * C);
    for (int64_t t = 0; t < T; t += part) {
        linear_backward_weight(added(dw), added(db), dout + t * C, C, x + t * C, C, part, C, C,
                               NULL);
    }
    linear_backward_weight(added(dw + C * C), added(db + C), dout, C, x, C, T, C, C, NULL);
    check_close("dw", dw + C * C, dw, C * C, SUMS);
    check_close("db", db + C, db, C, SUMS);
    free_all(weight, bias, dw, db);
}

// ---- attention: q, k, v in one tensor, a quarter of the rows of the others
enum { PICKS = 6 };  // Segments that are run alone.

typedef struct {
    AttentionShape shape;
    real *qkv, *dqkv, *out, *dout;
    float *lse;
    void *scratch;
} Attention;

static void attend(const Attention *a) {
    const int64_t C = a->shape.heads * a->shape.D, ld = 3 * C;
    attention_forward(a->out, C, a->lse, a->qkv, ld, a->qkv + C, ld, a->qkv + 2 * C, ld, &a->shape,
                      a->scratch, NULL);
    const AttentionBackward b = {.dq = a->dqkv,
                                 .dk = a->dqkv + C,
                                 .dv = a->dqkv + 2 * C,
                                 .lddq = ld,
                                 .lddk = ld,
                                 .lddv = ld,
                                 .dout = a->dout,
                                 .out = a->out,
                                 .q = a->qkv,
                                 .k = a->qkv + C,
                                 .v = a->qkv + 2 * C,
                                 .lddo = C,
                                 .ldo = C,
                                 .ldq = ld,
                                 .ldk = ld,
                                 .ldv = ld,
                                 .lse = a->lse};
    attention_backward(&b, &a->shape, a->scratch, NULL);
}

static AttentionShape shape_of(const Wide *w, const int32_t *start, int64_t S, bool deterministic) {
    return (AttentionShape){.q_start = start,
                            .k_start = start,
                            .q_start_device = start,
                            .k_start_device = start,
                            .S = S,
                            .heads = w->C / w->D,
                            .D = w->D,
                            .scale = 1.0f / sqrtf((float)w->D),
                            .deterministic = deterministic};
}

// Fails unless the last rows of the picked segments are those of the segments run alone.
static void check_picks(const char *name, const real *many, const real *few, int64_t columns,
                        const int32_t *start, const int32_t *few_start, const int64_t *pick) {
    const int64_t n = WINDOW * columns;
    real *got = reals_new(PICKS * n), *alone = reals_new(PICKS * n);
    for (int i = 0; i < PICKS; i++) {
        device_copy(got + i * n, many + start[pick[i] + 1] * columns - n, n * REAL_BYTES, NULL);
        device_copy(alone + i * n, few + few_start[i + 1] * columns - n, n * REAL_BYTES, NULL);
    }
    stream_wait(NULL);
    float *want = floats_of(alone, PICKS * n);
    check_close_real(name, got, want, PICKS * n, 4 * REAL_TOLERANCE);
    free_all(got, alone, want);
}

static void attention(const Wide *w, bool even, bool deterministic) {
    const int64_t C = w->C, T = w->T / 4, S = T / w->length + 1, X = PICKS * (w->length + 4);
    const int64_t pick[PICKS] = {0, S / 3, 5 * S / 9, 2 * S / 3, S - 2, S - 1};
    int32_t *start = integers_new(S + 1), *few_start = integers_new(PICKS + 1);
    for (int64_t s = 1; s < S; s++) start[s] = (int32_t)(s * w->length - (even ? 0 : s % 5));
    start[S] = (int32_t)T;
    Attention all = {.shape = shape_of(w, start, S, deterministic), .qkv = w->slot[0]};
    all.dqkv = all.qkv + T * 3 * C;
    all.out = all.dqkv + T * 3 * C;
    all.dout = all.out + T * C;
    all.lse = (float *)(void *)(all.dout + T * C);
    all.scratch = all.lse + round_up(T * all.shape.heads, 256);
    Attention few = {.shape = shape_of(w, few_start, PICKS, deterministic),
                     .qkv = reals_new(X * 3 * C),
                     .dqkv = reals_new(X * 3 * C),
                     .out = reals_new(X * C),
                     .dout = reals_new(X * C),
                     .lse = floats_new(X * all.shape.heads),
                     .scratch = all.scratch};
    const int64_t lengths[LENGTHS_MAX] = {even ? w->length : 0};
    const AttentionBounds bounds = {T, T, S, all.shape.heads, w->D, false, deterministic, lengths};
    attention_prepare(&bounds, 3 * C, 3 * C, 3 * C, C);
    const int64_t scratch =
        max_i64(attention_scratch(&bounds, false), attention_scratch(&bounds, true));
    const int64_t room = wide_memory(w) - ((char *)all.scratch - (char *)all.qkv);
    check_that(scratch <= room, "%" PRId64 " bytes of scratch, %" PRId64 " are left", scratch,
               room);
    device_zero(all.dqkv, T * 4 * C * REAL_BYTES, NULL);
    fill(w, all.qkv, REAL_TYPE, T * 3 * C, 1);
    fill(w, all.dout, REAL_TYPE, T * C, 2);
    for (int i = 0; i < PICKS; i++) {
        const int64_t first = start[pick[i]], rows = start[pick[i] + 1] - first, to = few_start[i];
        few_start[i + 1] = (int32_t)(to + rows);
        device_copy(few.qkv + to * 3 * C, all.qkv + first * 3 * C, rows * 3 * C * REAL_BYTES, NULL);
        device_copy(few.dout + to * C, all.dout + first * C, rows * C * REAL_BYTES, NULL);
    }
    attend(&all);
    attend(&few);
    check_picks("attention", all.out, few.out, C, start, few_start, pick);
    check_picks("dqkv", all.dqkv, few.dqkv, 3 * C, start, few_start, pick);
    free_all(start, few_start, few.qkv, few.dqkv, few.out, few.dout, few.lse);
}

static void test_attention(void **state) {
    attention(*state, false, false);
}

static void test_attention_even(void **state) {
    attention(*state, true, false);
}

static void test_attention_own(void **state) {
    attention(*state, false, true);
}

// ---- vectors, and the objective's

static void test_casts(void **state) {
    const Wide *w = *state;
    const int64_t C = w->C * REAL_BYTES / FLOAT_BYTES, N = w->T * C, few = ROWS * C;
    const float *x = floats_filled(w, 0, C);
    float *sum = floats_filled(w, 1, C), *wide = blank(w, 2);
    vector_round(w->half, TYPE_BF16, x, N, NULL);
    vector_round(w->few[3], TYPE_BF16, w->few[0], few, NULL);
    vector_widen(wide, w->half, TYPE_BF16, N, NULL);
    vector_widen(w->few[2], w->few[3], TYPE_BF16, few, NULL);
    check_float_rows(w, "rounded and widened", wide, C, w->few[2]);
    vector_add(sum, w->half, TYPE_BF16, N, NULL);
    vector_add(w->few[1], w->few[3], TYPE_BF16, few, NULL);
    vector_add(sum, x, TYPE_F32, N, NULL);
    vector_add(w->few[1], w->few[0], TYPE_F32, few, NULL);
    check_float_rows(w, "sum", sum, C, w->few[1]);
    const Vectors half = {w->half, N, TYPE_BF16, 1};
    vector_sum_stack(&sum, 1, &half, (const uint8_t[]){1}, N, NULL);
    vector_add(w->few[1], w->few[3], TYPE_BF16, few, NULL);
    check_float_rows(w, "ordered sum", sum, C, w->few[1]);
    blank(w, 2);
    vector_round(wide, TYPE_F32, x, N, NULL);
    check_float_rows(w, "copy", wide, C, w->few[0]);
}

// Rows that begin at odd elements, then all bytes as one row.
static void test_copies(void **state) {
    const Wide *w = *state;
    const int64_t C = w->C, ld = C * REAL_BYTES;
    const real *x = reals_filled(w, 0, C);
    real *out = blank(w, 2), *some = w->few[2];
    vector_copy_rows(out + 1, ld, x, ld, w->T, ld - REAL_BYTES, NULL);
    vector_copy_rows(some + 1, ld, w->few[0], ld, ROWS, ld - REAL_BYTES, NULL);
    check_rows(w, "rows", out, C, some, 0);
    blank(w, 2);
    vector_copy_rows(out, 0, x, 0, 1, w->bytes, NULL);
    check_rows(w, "one row", out, C, w->few[0], 0);
}

// Weights are their own gradients and the moments share memory with the EMA, which is written
// last: five arrays would not fit.
static void test_adamw(void **state) {
    const Wide *w = *state;
    const int64_t C = w->C * REAL_BYTES / FLOAT_BYTES, N = w->T * C;
    const int64_t edges[] = {w->T / SLICES * 20 * C, w->T / SLICES * 40 * C};
    const int64_t few_edges[] = {2 * WINDOW * C, 3 * WINDOW * C};
    const AdamW adamw = {1e-2f, 0.9f, 0.99f, 1e-8f, 0.1f, 0.1f, 0.01f, 1.0f, 0.9f};
    const bool rounds = REAL_TYPE == TYPE_BF16;
    float *x = floats_filled(w, 0, C), *m = floats_filled(w, 1, C), *v = blank(w, 2);
    const AdamWState all = {x, m, v, m, rounds ? w->half : NULL};
    const AdamWState few = {w->few[0], w->few[1], w->few[2], w->few[1], rounds ? w->few[3] : NULL};
    vector_adamw(&all, x, N, edges, 2, &adamw, NULL);
    vector_adamw(&few, few.w, ROWS * C, few_edges, 2, &adamw, NULL);
    check_float_rows(w, "weights", x, C, few.w);
    check_float_rows(w, "EMA", m, C, few.ema);
    check_float_rows(w, "second moments", v, C, few.v);
    if (rounds) check_rows(w, "rounded", w->half, C, few.rounded, 0);
}

// The sum does not depend on where it is cut.
static void test_square_sum(void **state) {
    const Wide *w = *state;
    const int64_t N = w->bytes / FLOAT_BYTES, part = N / PARTS;
    ExactSum *sum = device_allocate_shared("sums", 2 * (int64_t)sizeof(*sum));
    fill(w, w->slot[0], TYPE_F32, N, 1);
    const float *x = w->slot[0];
    vector_square_sum(sum, x, N, NULL);
    for (int64_t i = 0; i < N; i += part) vector_square_sum(sum + 1, x + i, part, NULL);
    check_equal("squares", sum[0].limb, sum[1].limb, EXACT_LIMBS);
    check_that(fabs(exact_value(sum) / (double)N - 1) < 0.1, "%g of %" PRId64, exact_value(sum), N);
    device_free(sum);
}

// Of a latent as large as an array; some tokens of it.
static void test_noise(void **state) {
    enum { CHANNELS = 16, HEIGHT = 16, WIDTH = 32, E = 4 * CHANNELS, COUNT = 40 };
    const Wide *w = *state;
    const LatentShape shape = {
        CHANNELS, (int32_t)(w->bytes / FLOAT_BYTES / (CHANNELS * HEIGHT * WIDTH)), HEIGHT, WIDTH};
    const PatchSize patch = {1, 2, 2};
    const NoiseKey key = {5, RNG_TEST, 1};
    const int64_t tokens = latent_tokens(shape, patch);
    float *got = floats_new(COUNT * E), *want = floats_new(COUNT * E);
    for (int i = 0; i < 3; i++) {
        const int64_t first = (tokens - COUNT) * i / 2;
        flow_noise(got, &key, shape, patch, first, COUNT, w->slot[0], NULL);
        for (int64_t n = 0; n < COUNT * E; n++) {
            const int64_t token = first + n / E, c = n % E / 4, row = n % 4 / 2, column = n % 2;
            const int64_t x = token % (WIDTH / 2) * 2 + column, line = token / (WIDTH / 2);
            const int64_t y = line % (HEIGHT / 2) * 2 + row, f = line / (HEIGHT / 2);
            rng_normal(want + n, 1, key.seed, key.purpose, key.position,
                       (uint64_t)(((c * shape.F + f) * HEIGHT + y) * WIDTH + x));
        }
        check_equal("noise", got, want, COUNT * E);
    }
    free_all(got, want);
}

// Where the segments begin among rows [first, first + rows).
static void starts_within(int32_t *start, const Segments *s, int64_t T, int64_t first,
                          int64_t rows) {
    const int64_t begin[] = {0, T / 4, T / 4 * 3, T};
    for (int64_t i = 0; i <= s->S; i++) {
        start[i] = (int32_t)min_i64(max_i64(begin[i] - first, 0), rows);
    }
}

static void test_flow(void **state) {
    const Wide *w = *state;
    const int64_t E = w->C / 2, T = w->T, part = T / PARTS;
    const Segments s = segments_wide(w);
    float *time = floats_new(s.S), *weight = floats_new(s.S), *target = blank(w, 2);
    double *loss = device_allocate_shared("losses", 3 * s.S * (int64_t)sizeof(*loss));
    int32_t *start = integers_new((PARTS + 2) * (s.S + 1)),
            *few_start = starts_of(s.few, ROWS, s.S);
    double *partial = device_allocate("scratch", flow_loss_scratch(T));
    for (int i = 0; i < s.S; i++) time[i] = 0.2f + 0.3f * (float)i, weight[i] = 1.0f + (float)i;
    const float *data = floats_filled(w, 0, E), *noise = floats_filled(w, 1, E);
    flow_mix(w->half, target, data, noise, time, s.all, T, E, NULL);
    flow_mix(w->few[3], w->few[2], w->few[0], w->few[1], time, s.few, ROWS, E, NULL);
    check_rows(w, "x_t", w->half, E, w->few[3], 0);
    check_float_rows(w, "target", target, E, w->few[2]);
    starts_within(start, &s, T, 0, T);
    for (int i = 0; i < PARTS; i++) {
        int32_t *mine = start + (i + 1) * (s.S + 1);
        starts_within(mine, &s, T, i * part, part);
        flow_loss(loss + s.S, NULL, (const real *)w->half + i * part * E, target + i * part * E,
                  NULL, s.all + i * part, mine, part, E, s.S, partial, NULL);
    }
    real *dout = blank(w, 0);
    flow_loss(loss, dout, w->half, target, weight, s.all, start, T, E, s.S, partial, NULL);
    flow_loss(loss + 2 * s.S, w->few[0], w->few[3], w->few[2], weight, s.few, few_start, ROWS, E,
              s.S, partial, NULL);
    check_rows(w, "dout", dout, E, w->few[0], 0);
    for (int64_t i = 0; i < s.S; i++) {
        check_that(fabs(loss[i] - loss[s.S + i]) <= 1e-9 * loss[i], "loss %g, in parts %g", loss[i],
                   loss[s.S + i]);
    }
    free_all(s.all, s.few, time, weight, loss, start, few_start, partial);
}

// ---- the two sizes

static void test_skipped(void **state) {
    (void)state;
    skip();
}

static const struct {
    const char *name, *wide;
    CMUnitTestFunction function;
} table[] = {
#define ROW(name) \
    { #name, "wide " #name, test_##name }
    ROW(gelu),     ROW(swiglu),    ROW(gate_residual),  ROW(norm),          ROW(qk_norm_rope),
    ROW(products), ROW(attention), ROW(attention_even), ROW(attention_own), ROW(casts),
    ROW(copies),   ROW(adamw),     ROW(square_sum),     ROW(noise),         ROW(flow),
};
enum { TESTS = sizeof(table) / sizeof(*table) };

// Rows of the full size; 0 where this is no GPU, or too small a one.
static int64_t wide_rows(void) {
    char text[256];
    const int64_t rows = 16384 / REAL_BYTES;
    const Wide w = wide_of(rows, 8192, 128, 1152, 16000096);
    device_describe(text, sizeof(text));
    const bool gpu = strcmp(device_backend(), "cuda") == 0 && strstr(text, "emulator") == NULL;
    return gpu && device_memory_free(1) >= wide_memory(&w) + ((int64_t)2 << 30) ? rows : 0;
}

int main(int argc, char **argv) {
    check_device(0);
    Wide small = wide_of(8, 256, 64, 17, 4128);
    const int64_t rows = argc > 1                 ? strtoll(argv[1], NULL, 10)
                         : REAL_TYPE == TYPE_BF16 ? wide_rows()
                                                  : 0;
    Wide wide = wide_of(rows, 8192, 128, 1152, 16000096);
    struct CMUnitTest tests[2 * TESTS];
    int count = 0;
    for (int i = 0; i < TESTS; i++) {
        tests[count++] = (struct CMUnitTest){
            .name = table[i].name, .test_func = table[i].function, .initial_state = &small};
    }
    for (int i = 0; i < TESTS && rows > 0; i++) {
        tests[count++] = (struct CMUnitTest){
            .name = table[i].wide, .test_func = table[i].function, .initial_state = &wide};
    }
    if (rows == 0) {
        tests[count++] = (struct CMUnitTest){
            .name = "full size, in bf16 on a GPU with 31 GiB free,", .test_func = test_skipped};
    }
    if (argc > 2) cmocka_set_test_filter(argv[2]);
    wide_create(&small);
    if (rows > 0) wide_create(&wide);
    const int failed = _cmocka_run_group_tests("wide", tests, (size_t)count, NULL, NULL);
    wide_free(&small);
    if (rows > 0) wide_free(&wide);
    return failed;
}
