// The pointwise ops: PyTorch's numbers in float64, slopes by finite differences, += and = as
// promised, the same bits for any number of threads, values far out, no tokens at all.
// ranks: 1
// backends: all
// orders: up down
// precision: fp32 bf16
// sanitize: bf16
#include "model/ops/pointwise.h"
#include "tests/op_check.h"

static const char PATH[] = "tests/golden/pointwise.safetensors";

static void test_activations(void **state) {
    (void)state;
    Golden g = golden_open(PATH, "gelu");
    const int64_t N = golden_size(&g, "x", 0);
    real *x = golden_reals(&g, "x"), *dout = golden_reals(&g, "dout"), *got = reals_new(N);
    gelu_forward(got, x, N, NULL);
    golden_check_reals(&g, "out", got);
    gelu_backward(got, dout, x, N, NULL);
    golden_check_reals(&g, "dx", got);
    g.name = "silu";
    silu_forward(got, x, N, NULL);
    golden_check_reals(&g, "out", got);
    float *wide = golden_floats(&g, "dout"), *dx = floats_new(N), *want = golden_floats(&g, "dx");
    silu_rows_backward(dx, wide, x, N, NULL);
    golden_check_floats(&g, "dx", dx);
    silu_rows_backward(dx, wide, x, N, NULL);
    for (int64_t i = 0; i < N; i++) want[i] *= 2.0f;
    check_close("dx twice", dx, want, N, 1e-5);
    free_all(x, dout, got, wide, dx, want);
    safetensors_close(&g.file);
}

// Far from zero an activation is 0 or x, its slope 0 or 1; what is not a number stays so.
static void test_activations_far_out(void **state) {
    (void)state;
    const float values[] = {-1e15f, -1e4f, -200.0f, 200.0f, 1e4f, 1e15f, NAN};
    const float ones[] = {1, 1, 1, 1, 1, 1, 1};
    real *x = reals_of(values, 7), *dout = reals_of(ones, 7), *out = reals_new(4 * 7);
    float *wide = floats_new(7), *dx = floats_new(7);
    for (int i = 0; i < 7; i++) wide[i] = 1.0f;
    gelu_forward(out, x, 7, NULL);
    silu_forward(out + 7, x, 7, NULL);
    gelu_backward(out + 14, dout, x, 7, NULL);
    silu_rows_backward(dx, wide, x, 7, NULL);
    stream_wait(NULL);
    for (int i = 0; i < 7; i++) out[21 + i] = to_real(dx[i]);
    for (int which = 0; which < 4; which++) {
        float want[6] = {0};
        for (int i = 3; i < 6; i++) want[i] = which < 2 ? to_float(x[i]) : 1.0f;
        check_close_real(which < 2 ? "out" : "dx", out + 7 * which, want, 6, 1e-6);
        check_that(isnan(to_float(out[7 * which + 6])), "activation %d loses NaN", which);
    }
    free_all(x, dout, out, wide, dx);
}

// A call of swiglu: gate and up are columns of x [T, ld], up first where `up_first`.
typedef struct {
    int64_t T, F, ld, gate, up;  // First columns.
    real *x, *dx, *out, *dout;
} Swiglu;

static Swiglu swiglu_random(int64_t T, int64_t F, int64_t ld, bool up_first) {
    return (Swiglu){.T = T,
                    .F = F,
                    .ld = ld,
                    .gate = up_first ? F : 0,
                    .up = up_first ? 0 : F,
                    .x = reals_random(T * ld, 5, 0.0f, 2.0f),
                    .dx = reals_random(T * ld, 6, 0.0f, 1.0f),  // To be overwritten.
                    .out = reals_new(T * F),
                    .dout = reals_random(T * F, 7, 0.0f, 1.0f)};
}

static void swiglu_free(Swiglu *s) {
    free_all(s->x, s->dx, s->out, s->dout);
}

static void swiglu_run(const Swiglu *s) {
    swiglu_forward(s->out, s->x + s->gate, s->x + s->up, s->ld, s->T, s->F, NULL);
    stream_wait(NULL);
}

static void swiglu_back(const Swiglu *s) {
    swiglu_backward(s->dx + s->gate, s->dx + s->up, s->dout, s->x + s->gate, s->x + s->up, s->ld,
                    s->T, s->F, NULL);
    stream_wait(NULL);
}

// Copies F columns between rows of F and rows of s->ld.
static void columns_copy(real *to, int64_t to_ld, const real *from, int64_t from_ld,
                         const Swiglu *s) {
    for (int64_t t = 0; t < s->T; t++) {
        memcpy(to + t * to_ld, from + t * from_ld, (size_t)s->F * sizeof(real));
    }
}

static void test_swiglu_golden(void **state) {
    (void)state;
    const char *const cases[] = {"swiglu", "swiglu_odd"};
    for (int i = 0; i < 2; i++) {
        Golden golden = golden_open(PATH, cases[i]);
        const int64_t F = golden_size(&golden, "g", 1);
        Swiglu s = swiglu_random(golden_size(&golden, "g", 0), F, 2 * F, false);
        device_free(s.dout);
        s.dout = golden_reals(&golden, "dout");
        real *gate = golden_reals(&golden, "g"), *up = golden_reals(&golden, "u");
        columns_copy(s.x + s.gate, s.ld, gate, F, &s);
        columns_copy(s.x + s.up, s.ld, up, F, &s);
        swiglu_run(&s);
        golden_check_reals(&golden, "out", s.out);
        swiglu_back(&s);
        columns_copy(gate, F, s.dx + s.gate, s.ld, &s);
        columns_copy(up, F, s.dx + s.up, s.ld, &s);
        golden_check_reals(&golden, "dg", gate);
        golden_check_reals(&golden, "du", up);
        free_all(gate, up);
        swiglu_free(&s);
        safetensors_close(&golden.file);
    }
}

// Rows of every width and alignment, both orders, columns beside them that stay, against plain
// loops.
static void test_swiglu_shapes(void **state) {
    (void)state;
    const int64_t cases[][3] = {{1, 1, 2},       {70, 8, 16},     {19, 96, 200},    {5, 1024, 2048},
                                {3, 2056, 4112}, {3, 4097, 8194}, {2, 11008, 22016}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        Swiglu s = swiglu_random(cases[i][0], cases[i][1], cases[i][2], i % 2 != 0);
        float *out = floats_new(s.T * s.F), *dx = floats_of(s.dx, s.T * s.ld);
        for (int64_t j = 0; j < s.T * s.F; j++) {
            const int64_t row = j / s.F * s.ld + j % s.F;
            const double v = (double)to_float(s.x[row + s.gate]), d = (double)to_float(s.dout[j]);
            const double u = (double)to_float(s.x[row + s.up]), p = 1.0 / (1.0 + exp(-v));
            out[j] = (float)(v * p * u);
            dx[row + s.gate] = (float)(d * u * p * (1.0 + v * (1.0 - p)));
            dx[row + s.up] = (float)(d * v * p);
        }
        swiglu_run(&s);
        check_close_real("out", s.out, out, s.T * s.F, REAL_TOLERANCE);
        swiglu_back(&s);
        check_close_real("dx", s.dx, dx, s.T * s.ld, REAL_TOLERANCE);
        free_all(out, dx);
        swiglu_free(&s);
    }
}

// Far from zero the gate is shut or passes `up` times itself; what is not a number stays so.
static void test_swiglu_far_out(void **state) {
    (void)state;
    const float values[] = {-1e15f, -200.0f, 200.0f, 1e15f, NAN};
    Swiglu s = swiglu_random(5, 1, 2, false);
    for (int i = 0; i < 5; i++) {
        s.x[2 * i] = to_real(values[i]);
        s.x[2 * i + 1] = to_real(3.0f);
        s.dout[i] = to_real(1.0f);
    }
    swiglu_run(&s);
    swiglu_back(&s);
    for (int i = 0; i < 4; i++) {
        const float v = i < 2 ? 0.0f : to_float(s.x[2 * i]), out = 3.0f * v;
        const float dx[] = {i < 2 ? 0.0f : 3.0f, v};
        check_close_real("out", s.out + i, &out, 1, REAL_TOLERANCE);
        check_close_real("dx", s.dx + 2 * i, dx, 2, REAL_TOLERANCE);
    }
    check_that(isnan(to_float(s.out[4])) && isnan(to_float(s.dx[8])) && isnan(to_float(s.dx[9])),
               "swiglu loses NaN");
    swiglu_free(&s);
}

// A call of gate_residual with everything it needs; rows of the gate lie ldm = 2 C apart.
typedef struct {
    int64_t T, C, S, ldm;
    real *x, *h, *gate, *out, *dout, *dh;
    float *dgate;
    int32_t *segment;  // NULL: no gate.
} Gate;

static Gate gate_random(int64_t T, int64_t C, int64_t S) {
    return (Gate){.T = T,
                  .C = C,
                  .S = S,
                  .ldm = 2 * C,
                  .x = reals_random(T * C, 1, 0.0f, 1.0f),
                  .h = reals_random(T * C, 2, 0.0f, 1.0f),
                  .gate = reals_random(S * 2 * C, 3, 0.0f, 1.0f),
                  .out = reals_new(T * C),
                  .dout = reals_random(T * C, 4, 0.0f, 1.0f),
                  .dh = reals_new(T * C),
                  .dgate = floats_new(S * 2 * C),
                  .segment = segments_new(T, S)};
}

static void gate_free(Gate *g) {
    free_all(g->x, g->h, g->gate, g->out, g->dout, g->dh, g->dgate, g->segment);
}

static void forward(const Gate *g) {
    gate_residual_forward(g->out, g->x, g->h, g->segment != NULL ? g->gate : NULL, g->ldm,
                          g->segment, g->T, g->C, NULL);
    stream_wait(NULL);
}

static void backward(const Gate *g) {
    void *scratch = scratch_new(gate_residual_scratch(g->T, g->S, g->C));
    gate_residual_backward(g->dh, g->dgate, g->dout, g->h, g->segment != NULL ? g->gate : NULL,
                           g->ldm, g->segment, g->T, g->S, g->C, scratch, NULL);
    stream_wait(NULL);
    device_free(scratch);
}

static void test_gate_golden(void **state) {
    (void)state;
    const char *const cases[] = {"gate_one", "gate", "gate_wide", "gate_many", "bare"};
    for (int i = 0; i < 5; i++) {
        Golden golden = golden_open(PATH, cases[i]);
        const bool gated = golden_find(&golden, "gate") != NULL;
        Gate g = gate_random(golden_size(&golden, "x", 0), golden_size(&golden, "x", 1),
                             gated ? golden_size(&golden, "gate", 0) : 2);
        free_all(g.x, g.h, g.dout, g.segment);
        g.x = golden_reals(&golden, "x");
        g.h = golden_reals(&golden, "h");
        g.dout = golden_reals(&golden, "dout");
        g.segment = golden_integers(&golden, "segment");
        real *gate = golden_reals(&golden, "gate");
        for (int64_t s = 0; gated && s < g.S; s++) {
            memcpy(g.gate + s * g.ldm, gate + s * g.C, (size_t)g.C * sizeof(real));
        }
        forward(&g);
        golden_check_reals(&golden, "out", g.out);
        backward(&g);
        golden_check_reals(&golden, "dh", g.dh);
        float *dgate = floats_new(g.S * g.C);
        for (int64_t s = 0; s < g.S; s++) {
            memcpy(dgate + s * g.C, g.dgate + s * g.ldm, (size_t)g.C * sizeof(float));
        }
        if (gated) golden_check_floats(&golden, "dgate", dgate);
        free_all(gate, dgate);
        gate_free(&g);
        safetensors_close(&golden.file);
    }
}

// Rows of every width and alignment, long segments, short ones and ones without tokens, against
// plain loops.
static void test_gate_shapes(void **state) {
    (void)state;
    const int64_t cases[][3] = {{19, 8192, 2}, {19, 5120, 3}, {20, 3072, 20}, {41, 1792, 2},
                                {45, 75, 6},   {3, 4097, 2},  {300, 8, 299},  {1200, 16, 7}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        Gate g = gate_random(cases[i][0], cases[i][1], cases[i][2]);
        float *out = floats_new(g.T * g.C), *dh = floats_new(g.T * g.C);
        float *dgate = floats_new(g.S * g.ldm);
        double *sums = calloc((size_t)(g.S * g.ldm), sizeof(double));
        segments_empty(g.segment, g.T, g.S);
        for (int64_t t = 0; t < g.T; t++) {
            for (int64_t c = 0; c < g.C; c++) {
                const int64_t at = t * g.C + c, row = g.segment[t] * g.ldm + c;
                const double gate = (double)to_float(g.gate[row]), h = (double)to_float(g.h[at]);
                const double d = (double)to_float(g.dout[at]);
                out[at] = (float)((double)to_float(g.x[at]) + gate * h);
                dh[at] = (float)(d * gate);
                sums[row] += d * h;
            }
        }
        for (int64_t j = 0; j < g.S * g.ldm; j++) dgate[j] = (float)sums[j];
        forward(&g);
        check_close_real("out", g.out, out, g.T * g.C, REAL_TOLERANCE);
        backward(&g);
        check_close_real("dh", g.dh, dh, g.T * g.C, REAL_TOLERANCE);
        check_close("dgate", g.dgate, dgate, g.S * g.ldm, 1e-5);
        free_all(out, dh, dgate);
        free(sums);
        gate_free(&g);
    }
}

static double gate_loss(void *context) {
    const Gate *g = context;
    forward(g);
    return weighted_sum(g->out, g->dout, g->T * g->C);
}

typedef struct {
    const real *x, *weight;
    real *out;
    int64_t N;
    void (*forward)(real *, const real *, int64_t, Stream);
} Activation;

static double activation_loss(void *context) {
    const Activation *a = context;
    a->forward(a->out, a->x, a->N, NULL);
    stream_wait(NULL);
    return weighted_sum(a->out, a->weight, a->N);
}

static double swiglu_loss(void *context) {
    const Swiglu *s = context;
    swiglu_run(s);
    return weighted_sum(s->out, s->dout, s->T * s->F);
}

static void test_slopes(void **state) {
    (void)state;
    if (REAL_TYPE == TYPE_BF16) skip();
    Gate g = gate_random(5, 8, 3);
    backward(&g);
    check_slopes("x", g.x, (const float *)g.dout, g.T * g.C, gate_loss, &g);
    check_slopes("h", g.h, (const float *)g.dh, g.T * g.C, gate_loss, &g);
    check_slopes("gate", g.gate, g.dgate, g.S * g.ldm, gate_loss, &g);
    const int64_t N = 40;
    Activation a = {.x = g.x, .weight = g.dout, .out = g.out, .N = N, .forward = gelu_forward};
    gelu_backward(g.dh, g.dout, g.x, N, NULL);
    check_slopes("gelu", g.x, (const float *)g.dh, N, activation_loss, &a);
    float *dx = floats_new(N);
    a.forward = silu_forward;
    silu_rows_backward(dx, (const float *)g.dout, g.x, N, NULL);
    check_slopes("silu", g.x, dx, N, activation_loss, &a);
    Swiglu s = swiglu_random(3, 8, 16, false);
    swiglu_back(&s);
    check_slopes("swiglu", s.x, (const float *)s.dx, s.T * s.ld, swiglu_loss, &s);
    swiglu_free(&s);
    device_free(dx);
    gate_free(&g);
}

static void test_gate_two_calls(void **state) {
    (void)state;
    Gate g = gate_random(130, 72, 4);
    backward(&g);
    float *dh = floats_of(g.dh, g.T * g.C), *dgate = floats_new(g.S * g.ldm);
    for (int64_t i = 0; i < g.S * g.ldm; i++) dgate[i] = 2.0f * g.dgate[i];
    backward(&g);
    check_close_real("dh", g.dh, dh, g.T * g.C, 0.0);
    check_close("dgate", g.dgate, dgate, g.S * g.ldm, 1e-6);
    free_all(dh, dgate);
    gate_free(&g);
}

static void test_threads(void **state) {
    (void)state;
    const int before = omp_get_max_threads();
    Gate one = {0};
    Swiglu only = {0};
    for (int threads = 1; threads <= 4; threads++) {
        omp_set_num_threads(threads);
        Gate g = gate_random(1000, 96, 9);
        forward(&g);
        backward(&g);
        gelu_forward(g.x, g.out, g.T * g.C, NULL);
        gelu_backward(g.h, g.dout, g.out, g.T * g.C, NULL);
        Swiglu s = swiglu_random(100, 1032, 2064, false);
        swiglu_run(&s);
        swiglu_back(&s);
        if (threads == 1) {
            one = g;
            only = s;
            continue;
        }
        check_equal("out", g.out, one.out, g.T * g.C);
        check_equal("dh", g.dh, one.dh, g.T * g.C);
        check_equal("dgate", g.dgate, one.dgate, g.S * g.ldm);
        check_equal("gelu", g.x, one.x, g.T * g.C);
        check_equal("gelu backward", g.h, one.h, g.T * g.C);
        check_equal("swiglu", s.out, only.out, s.T * s.F);
        check_equal("swiglu backward", s.dx, only.dx, s.T * s.ld);
        gate_free(&g);
        swiglu_free(&s);
    }
    gate_free(&one);
    swiglu_free(&only);
    omp_set_num_threads(before);
}

static void test_no_tokens(void **state) {
    (void)state;
    Gate g = gate_random(0, 72, 2);
    forward(&g);
    backward(&g);
    gelu_forward(g.out, g.x, 0, NULL);
    swiglu_forward(g.out, g.x, g.x, 0, 0, 72, NULL);
    swiglu_backward(g.dh, g.dh, g.dout, g.x, g.x, 0, 0, 72, NULL);
    check_that(g.dgate[0] == 0.0f, "no tokens, but gradients changed");
    gate_free(&g);
}

static void test_timestep_embedding(void **state) {
    (void)state;
    Golden g = golden_open(PATH, "time");
    const int64_t S = golden_size(&g, "time", 0), width = golden_size(&g, "embedding", 1);
    float *time = golden_floats(&g, "time");
    real *out = reals_new(S * width);
    timestep_embedding(out, time, 1000.0f, S, width, NULL);
    golden_check_reals(&g, "embedding", out);
    free_all(time, out);
    safetensors_close(&g.file);
}

int main(void) {
    check_device(0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_activations),    cmocka_unit_test(test_activations_far_out),
        cmocka_unit_test(test_swiglu_golden),  cmocka_unit_test(test_swiglu_shapes),
        cmocka_unit_test(test_swiglu_far_out), cmocka_unit_test(test_gate_golden),
        cmocka_unit_test(test_gate_shapes),    cmocka_unit_test(test_slopes),
        cmocka_unit_test(test_gate_two_calls), cmocka_unit_test(test_threads),
        cmocka_unit_test(test_no_tokens),      cmocka_unit_test(test_timestep_embedding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
