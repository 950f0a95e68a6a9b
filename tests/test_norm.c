// norm_modulate: PyTorch's numbers in float64, slopes by finite differences, += and = as promised,
// the same bits for any number of threads, odd sizes and no tokens at all.
// ranks: 1
// backends: all
// orders: up down
// precision: fp32 bf16
// sanitize: bf16
#include "model/ops/norm.h"
#include "tests/op_check.h"

static const struct {
    const char *name;
    NormKind kind;
} CASES[] = {
    {"one", NORM_LAYER},    {"goku", NORM_LAYER},   {"wide", NORM_LAYER}, {"many", NORM_LAYER},
    {"plain", NORM_LAYER},  {"affine", NORM_LAYER}, {"rms", NORM_RMS},    {"rms_wide", NORM_RMS},
    {"rms_goku", NORM_RMS}, {"rms_bare", NORM_RMS},
};
enum { CASE_COUNT = sizeof(CASES) / sizeof(*CASES) };

// A call with everything it needs. Modulation rows lie `ldm` = 3 C apart, [unused, shift, scale].
typedef struct {
    int64_t T, C, S, ldm;
    NormKind kind;
    real *x, *weight, *rows, *out, *dout, *dx;
    float *stats, *dweight, *drows;
    int32_t *segment;  // NULL: not modulated.
} Norm;

static Norm norm_new(NormKind kind, int64_t T, int64_t C, int64_t S) {
    return (Norm){.kind = kind,
                  .T = T,
                  .C = C,
                  .S = S,
                  .ldm = 3 * C,
                  .rows = reals_new(S * 3 * C),
                  .out = reals_new(T * C),
                  .dx = reals_new(T * C),
                  .stats = floats_new(2 * T),
                  .dweight = floats_new(C),
                  .drows = floats_new(S * 3 * C)};
}

static void norm_free(Norm *n) {
    free_all(n->x, n->weight, n->rows, n->out, n->dout, n->dx, n->stats, n->dweight, n->drows,
             n->segment);
}

static void forward(const Norm *n) {
    const bool modulated = n->segment != NULL;
    norm_modulate_forward(n->out, n->stats, n->x, n->weight, modulated ? n->rows + n->C : NULL,
                          modulated ? n->rows + 2 * n->C : NULL, n->ldm, n->segment, n->kind, 1e-6f,
                          n->T, n->C, NULL);
    stream_wait(NULL);
}

static void backward_to(Gradient dweight, const Norm *n, bool add_dx) {
    const bool modulated = n->segment != NULL;
    const int64_t S = modulated ? n->S : 0;
    const NormBackward arguments = {.dx = n->dx,
                                    .add_dx = add_dx,
                                    .dweight = dweight,
                                    .dshift = modulated ? n->drows + n->C : NULL,
                                    .dscale = modulated ? n->drows + 2 * n->C : NULL,
                                    .dout = n->dout,
                                    .x = n->x,
                                    .weight = n->weight,
                                    .scale = modulated ? n->rows + 2 * n->C : NULL,
                                    .stats = n->stats,
                                    .ldm = n->ldm,
                                    .segment = n->segment,
                                    .S = S,
                                    .scratch = scratch_new(norm_modulate_scratch(n->T, n->C, S))};
    norm_modulate_backward(&arguments, n->kind, n->T, n->C, NULL);
    stream_wait(NULL);
    device_free(arguments.scratch);
}

static void backward(const Norm *n, bool add_dx) {
    backward_to(added(n->weight != NULL ? n->dweight : NULL), n, add_dx);
}

static Norm norm_random(NormKind kind, int64_t T, int64_t C, int64_t S, bool affine) {
    Norm n = norm_new(kind, T, C, S);
    n.x = reals_random(T * C, 1, 0.5f, 1.0f);
    n.dout = reals_random(T * C, 2, 0.0f, 1.0f);
    n.weight = affine ? reals_random(C, 3, 1.0f, 0.2f) : NULL;
    device_free(n.rows);
    n.rows = reals_random(S * 3 * C, 4, 0.0f, 0.5f);
    n.segment = segments_new(T, S);
    return n;
}

// Copies rows [S, C] into or out of chunk `which` of the modulation rows.
static void chunk_in(const Norm *n, int which, const real *from) {
    for (int64_t s = 0; s < n->S; s++) {
        memcpy(n->rows + s * n->ldm + which * n->C, from + s * n->C, (size_t)n->C * sizeof(real));
    }
}

static float *chunk_out(const Norm *n, int which) {
    float *rows = floats_new(n->S * n->C);
    for (int64_t s = 0; s < n->S; s++) {
        memcpy(rows + s * n->C, n->drows + s * n->ldm + which * n->C, (size_t)n->C * sizeof(float));
    }
    return rows;
}

static void test_golden(void **state) {
    (void)state;
    for (int i = 0; i < CASE_COUNT; i++) {
        Golden g = golden_open("tests/golden/norm.safetensors", CASES[i].name);
        real *shift = golden_reals(&g, "shift"), *scale = golden_reals(&g, "scale");
        Norm n = norm_new(CASES[i].kind, golden_size(&g, "x", 0), golden_size(&g, "x", 1),
                          shift != NULL ? golden_size(&g, "shift", 0) : 1);
        n.x = golden_reals(&g, "x");
        n.dout = golden_reals(&g, "dout");
        n.weight = golden_reals(&g, "weight");
        n.segment = golden_integers(&g, "segment");
        if (shift != NULL) {
            chunk_in(&n, 1, shift);
            chunk_in(&n, 2, scale);
        }
        forward(&n);
        golden_check_reals(&g, "out", n.out);
        backward(&n, false);
        golden_check_reals(&g, "dx", n.dx);
        if (n.weight != NULL) golden_check_floats(&g, "dweight", n.dweight);
        if (shift != NULL) {
            float *dshift = chunk_out(&n, 1), *dscale = chunk_out(&n, 2);
            golden_check_floats(&g, "dshift", dshift);
            golden_check_floats(&g, "dscale", dscale);
            free_all(dshift, dscale);
        }
        free_all(shift, scale);
        norm_free(&n);
        safetensors_close(&g.file);
    }
}

// What plain loops in double make of row t; adds to the sums [C] and [S, C].
static void expect_row(const Norm *n, int64_t t, float *out, float *dx, double *dweight,
                       double *dshift, double *dscale) {
    const real *x = n->x + t * n->C, *dout = n->dout + t * n->C;
    const int64_t s = n->segment[t], row = s * n->ldm;
    double mean = 0.0, square = 0.0, g = 0.0, gn = 0.0;
    for (int64_t c = 0; c < n->C && n->kind == NORM_LAYER; c++) mean += (double)to_float(x[c]);
    mean /= (double)n->C;
    for (int64_t c = 0; c < n->C; c++) {
        square += ((double)to_float(x[c]) - mean) * ((double)to_float(x[c]) - mean);
    }
    const double inverse = 1.0 / sqrt(square / (double)n->C + 1e-6);
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t c = 0; c < n->C; c++) {
            const double y = ((double)to_float(x[c]) - mean) * inverse;
            const double weight = n->weight != NULL ? (double)to_float(n->weight[c]) : 1.0;
            const double scale = 1.0 + (double)to_float(n->rows[row + 2 * n->C + c]);
            const double d = (double)to_float(dout[c]), dn = d * weight * scale;
            if (pass == 0) {
                g += dn;
                gn += dn * y;
                dweight[c] += d * y * scale;
                dshift[s * n->C + c] += d;
                dscale[s * n->C + c] += d * y * weight;
                out[c] = (float)(y * weight * scale + (double)to_float(n->rows[row + n->C + c]));
            } else {
                const double centre = n->kind == NORM_LAYER ? g / (double)n->C : 0.0;
                dx[c] = (float)(inverse * (dn - centre - y * gn / (double)n->C));
            }
        }
    }
}

// Rows of every width and alignment, long segments, short ones and ones without tokens.
static void test_shapes(void **state) {
    (void)state;
    const struct {
        NormKind kind;
        int64_t T, C, S;
        bool affine;
    } cases[] = {{NORM_LAYER, 19, 8192, 2, false}, {NORM_RMS, 19, 5120, 3, true},
                 {NORM_LAYER, 20, 3072, 20, true}, {NORM_LAYER, 41, 1792, 2, false},
                 {NORM_LAYER, 45, 75, 6, true},    {NORM_RMS, 3, 4097, 2, true},
                 {NORM_LAYER, 300, 8, 299, false}, {NORM_LAYER, 1200, 16, 7, true}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        Norm n = norm_random(cases[i].kind, cases[i].T, cases[i].C, cases[i].S, cases[i].affine);
        segments_empty(n.segment, n.T, n.S);
        float *out = floats_new(n.T * n.C), *dx = floats_new(n.T * n.C);
        double *sums = calloc((size_t)((2 * n.S + 1) * n.C), sizeof(double));
        for (int64_t t = 0; t < n.T; t++) {
            expect_row(&n, t, out + t * n.C, dx + t * n.C, sums, sums + n.C,
                       sums + (n.S + 1) * n.C);
        }
        float *want = floats_new((2 * n.S + 1) * n.C);
        for (int64_t j = 0; j < (2 * n.S + 1) * n.C; j++) want[j] = (float)sums[j];
        float *dshift, *dscale;
        forward(&n);
        check_close_real("out", n.out, out, n.T * n.C, REAL_TOLERANCE);
        backward(&n, false);
        check_close_real("dx", n.dx, dx, n.T * n.C, REAL_TOLERANCE);
        if (n.weight != NULL) check_close("dweight", n.dweight, want, n.C, 1e-5);
        dshift = chunk_out(&n, 1), dscale = chunk_out(&n, 2);
        check_close("dshift", dshift, want + n.C, n.S * n.C, 1e-5);
        check_close("dscale", dscale, want + (n.S + 1) * n.C, n.S * n.C, 1e-5);
        for (int64_t j = 0; j < n.T * n.C; j++) dx[j] *= 2.0f;
        backward(&n, true);
        check_close_real("dx +=", n.dx, dx, n.T * n.C, REAL_TOLERANCE);
        free_all(out, dx, want, dshift, dscale);
        free(sums);
        norm_free(&n);
    }
}

static double loss(void *context) {
    const Norm *n = context;
    forward(n);
    return weighted_sum(n->out, n->dout, n->T * n->C);
}

static void test_slopes(void **state) {
    (void)state;
    if (REAL_TYPE == TYPE_BF16) skip();
    for (int kind = NORM_LAYER; kind <= NORM_RMS; kind++) {
        Norm n = norm_random((NormKind)kind, 5, 8, 3, true);
        forward(&n);
        backward(&n, false);
        float *dx = floats_of(n.dx, n.T * n.C);
        check_slopes("x", n.x, dx, n.T * n.C, loss, &n);
        check_slopes("weight", n.weight, n.dweight, n.C, loss, &n);
        check_slopes("rows", n.rows, n.drows, n.S * n.ldm, loss, &n);
        device_free(dx);
        norm_free(&n);
    }
}

// Twice gives twice what is added and the same of what is not.
static void test_two_calls(void **state) {
    (void)state;
    Norm n = norm_random(NORM_LAYER, 130, 72, 4, true);
    forward(&n);
    backward(&n, false);
    float *dx = floats_of(n.dx, n.T * n.C), *dweight = floats_new(n.C);
    float *drows = floats_new(n.S * n.ldm);
    for (int64_t i = 0; i < n.C; i++) dweight[i] = 2.0f * n.dweight[i];
    for (int64_t i = 0; i < n.S * n.ldm; i++) drows[i] = 2.0f * n.drows[i];
    backward(&n, false);
    check_close_real("dx", n.dx, dx, n.T * n.C, 0.0);
    check_close("dweight", n.dweight, dweight, n.C, 1e-6);
    check_close("drows", n.drows, drows, n.S * n.ldm, 1e-6);
    for (int64_t i = 0; i < n.T * n.C; i++) dx[i] *= 2.0f;
    backward(&n, true);
    check_close_real("dx +=", n.dx, dx, n.T * n.C, REAL_TYPE == TYPE_BF16 ? 0x1p-8 : 1e-6);
    free_all(dx, dweight, drows);
    norm_free(&n);
}

static void give_weight(Gradient g, void *context) {
    backward_to(g, context, false);
}

static void test_gradients(void **state) {
    (void)state;
    for (int64_t T = 0; T <= 130; T += 65) {
        Norm n = norm_random(NORM_RMS, T, 72, 4, true);
        forward(&n);
        check_gradient("dweight", n.C, give_weight, &n);
        norm_free(&n);
    }
}

static void test_threads(void **state) {
    (void)state;
    const int before = omp_get_max_threads();
    for (int affine = 0; affine < 2; affine++) {
        Norm one = {0};
        for (int threads = 1; threads <= 4; threads++) {
            omp_set_num_threads(threads);
            Norm n = norm_random(NORM_LAYER, 1000, 96, 9, affine == 1);
            forward(&n);
            backward(&n, false);
            if (threads == 1) {
                one = n;
                continue;
            }
            check_equal("out", n.out, one.out, n.T * n.C);
            check_equal("stats", n.stats, one.stats, 2 * n.T);
            check_equal("dx", n.dx, one.dx, n.T * n.C);
            check_equal("dweight", n.dweight, one.dweight, n.C);
            check_equal("drows", n.drows, one.drows, n.S * n.ldm);
            norm_free(&n);
        }
        norm_free(&one);
    }
    omp_set_num_threads(before);
}

static void test_no_tokens(void **state) {
    (void)state;
    Norm n = norm_random(NORM_LAYER, 0, 72, 2, true);
    n.drows[72] = 3.0f;
    forward(&n);
    backward(&n, false);
    check_that(n.drows[72] == 3.0f && n.dweight[0] == 0.0f, "no tokens, but gradients changed");
    norm_free(&n);
}

int main(void) {
    check_device(0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),    cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_slopes),    cmocka_unit_test(test_two_calls),
        cmocka_unit_test(test_gradients), cmocka_unit_test(test_threads),
        cmocka_unit_test(test_no_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
