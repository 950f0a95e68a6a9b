// Matrix products: PyTorch's numbers in float64 and, for shapes of several tiles, a plain loop in
// double; strided rows; slopes by finite differences; += and = as promised; the same bits for any
// number of threads; input gradients through a GELU, in one call or two; algorithms by time; no
// tokens at all.
// ranks: 1
// backends: all
// orders: up down
// precision: fp32 bf16
// sanitize: bf16
#include "model/ops/pointwise.h"
#include "model/ops/product.h"
#include "tests/op_check.h"

// One layer with rows of x, out and their gradients `gap` elements further apart than they need be.
typedef struct {
    int64_t T, N, K, ldx, ldo;
    real *x, *w, *b, *out, *dout, *dx;
    float *dw, *db;
} Layer;

static real *rows_new(int64_t T, int64_t columns, int64_t ld, const real *from) {
    real *rows = reals_new(T * ld);
    for (int64_t i = 0; i < T * ld; i++) rows[i] = to_real(7.0f);
    for (int64_t t = 0; t < T; t++) {
        memcpy(rows + t * ld, from + t * columns, (size_t)columns * sizeof(real));
    }
    return rows;
}

// Takes x [T, K], w, b (or NULL), dout [T, N].
static Layer layer_new(int64_t T, int64_t N, int64_t K, int64_t gap, real *x, real *w, real *b,
                       real *dout) {
    Layer l = {.T = T, .N = N, .K = K, .ldx = K + gap, .ldo = N + gap, .w = w, .b = b};
    l.x = rows_new(T, K, l.ldx, x);
    l.dout = rows_new(T, N, l.ldo, dout);
    l.out = reals_new(T * l.ldo);
    l.dx = reals_new(T * l.ldx);
    l.dw = floats_new(N * K);
    l.db = floats_new(N);
    free_all(x, dout);
    linear_prepare(T, N, K, true);
    return l;
}

static Layer layer_random(int64_t T, int64_t N, int64_t K, int64_t gap) {
    return layer_new(T, N, K, gap, reals_random(T * K, 1, 0.5f, 1.0f),
                     reals_random(N * K, 2, 0.0f, 0.1f), reals_random(N, 3, 0.0f, 1.0f),
                     reals_random(T * N, 4, 0.0f, 1.0f));
}

static void layer_free(Layer *l) {
    free_all(l->x, l->w, l->b, l->out, l->dout, l->dx, l->dw, l->db);
}

static void forward(const Layer *l) {
    linear_forward(l->out, l->ldo, l->x, l->ldx, l->w, l->b, l->T, l->N, l->K, NULL);
    stream_wait(NULL);
}

static void backward(const Layer *l, bool add_dx) {
    linear_backward_input(l->dx, l->ldx, add_dx, l->dout, l->ldo, l->w, l->T, l->N, l->K, NULL);
    linear_backward_weight(added(l->dw), added(l->b != NULL ? l->db : NULL), l->dout, l->ldo, l->x,
                           l->ldx, l->T, l->N, l->K, NULL);
    stream_wait(NULL);
}

// The columns of strided rows.
static real *columns_of(const real *rows, int64_t T, int64_t columns, int64_t ld) {
    real *result = reals_new(T * columns);
    for (int64_t t = 0; t < T; t++) {
        memcpy(result + t * columns, rows + t * ld, (size_t)columns * sizeof(real));
    }
    return result;
}

static Layer layer_golden(const Golden *g, int64_t gap) {
    return layer_new(golden_size(g, "x", 0), golden_size(g, "w", 0), golden_size(g, "w", 1), gap,
                     golden_reals(g, "x"), golden_reals(g, "w"), golden_reals(g, "b"),
                     golden_reals(g, "dout"));
}

static void test_golden(void **state) {
    (void)state;
    const char *cases[] = {"one", "odd", "plain", "deep", "long"};
    for (int i = 0; i < 5; i++) {
        for (int64_t gap = 0; gap < 2; gap++) {
            Golden g = golden_open("tests/golden/product.safetensors", cases[i]);
            Layer l = layer_golden(&g, 24 * gap);
            forward(&l);
            backward(&l, false);
            real *out = columns_of(l.out, l.T, l.N, l.ldo);
            real *dx = columns_of(l.dx, l.T, l.K, l.ldx);
            golden_check_reals(&g, "out", out);
            golden_check_reals(&g, "dx", dx);
            golden_check_floats(&g, "dw", l.dw);
            if (l.b != NULL) golden_check_floats(&g, "db", l.db);
            free_all(out, dx);
            layer_free(&l);
            safetensors_close(&g.file);
        }
    }
}

static void test_golden_rows(void **state) {
    (void)state;
    const char *cases[] = {"rows_few", "rows_many"};
    for (int i = 0; i < 2; i++) {
        Golden g = golden_open("tests/golden/product.safetensors", cases[i]);
        Layer l = layer_golden(&g, 0);
        float *dout = golden_floats(&g, "dout"), *dx = floats_new(l.T * l.K);
        float *want = golden_floats(&g, "dx");
        for (int call = 1; call <= 2; call++) {  // Everything is +=.
            linear_rows_backward(dx, added(l.dw), added(l.db), dout, l.x, l.w, l.T, l.N, l.K, NULL);
            if (call == 1) {
                check_close("dx", dx, want, l.T * l.K, 1e-5);
                golden_check_floats(&g, "dw", l.dw);
                golden_check_floats(&g, "db", l.db);
            }
        }
        for (int64_t j = 0; j < l.T * l.K; j++) want[j] *= 2.0f;
        check_close("dx twice", dx, want, l.T * l.K, 1e-5);
        free_all(dout, dx, want);
        layer_free(&l);
        safetensors_close(&g.file);
    }
}

static double at(const real *rows, int64_t i) {
    return (double)to_float(rows[i]);
}

// Against plain sums in double. bf16 results carry one rounding, 2^-9 of the largest element.
static void check_plain(const Layer *l) {
    const int64_t T = l->T, N = l->N, K = l->K;
    const double tolerance = REAL_TYPE == TYPE_BF16 ? 0x1p-8 : 1e-5;
    float *out = floats_new(T * N), *dx = floats_new(T * K), *dw = floats_new(N * K);
    float *db = floats_new(N);
#pragma omp parallel for
    for (int64_t t = 0; t < T; t++) {
        for (int64_t n = 0; n < N; n++) {
            double sum = at(l->b, n);
            for (int64_t k = 0; k < K; k++) sum += at(l->x, t * l->ldx + k) * at(l->w, n * K + k);
            out[t * N + n] = (float)sum;
        }
        for (int64_t k = 0; k < K; k++) {
            double sum = 0.0;
            for (int64_t n = 0; n < N; n++) {
                sum += at(l->dout, t * l->ldo + n) * at(l->w, n * K + k);
            }
            dx[t * K + k] = (float)sum;
        }
    }
#pragma omp parallel for
    for (int64_t n = 0; n < N; n++) {
        double bias = 0.0;
        for (int64_t t = 0; t < T; t++) bias += at(l->dout, t * l->ldo + n);
        db[n] = (float)bias;
        for (int64_t k = 0; k < K; k++) {
            double sum = 0.0;
            for (int64_t t = 0; t < T; t++) {
                sum += at(l->dout, t * l->ldo + n) * at(l->x, t * l->ldx + k);
            }
            dw[n * K + k] = (float)sum;
        }
    }
    real *got = columns_of(l->out, T, N, l->ldo);
    check_close_real("out", got, out, T * N, tolerance);
    device_free(got);
    got = columns_of(l->dx, T, K, l->ldx);
    check_close_real("dx", got, dx, T * K, tolerance);
    device_free(got);
    check_close("dw", l->dw, dw, N * K, 1e-5);
    check_close("db", l->db, db, N, 1e-5);
    free_all(out, dx, dw);
    device_free(db);
}

static void test_tiles(void **state) {
    (void)state;
    const int64_t shapes[][3] = {
        {300, 450, 700}, {257, 64, 576}, {17, 1200, 130}, {1100, 33, 65}, {1100, 40, 700}};
    for (int i = 0; i < 5; i++) {
        Layer l = layer_random(shapes[i][0], shapes[i][1], shapes[i][2], i == 0 ? 8 : 0);
        forward(&l);
        backward(&l, false);
        check_plain(&l);
        layer_free(&l);
    }
}

// Columns of wider tensors, from where no 16-byte access may start.
static void test_columns(void **state) {
    (void)state;
    Layer whole = layer_random(130, 72, 40, 8), l = whole;
    l.x += 3;
    l.dx += 3;
    l.out += 1;
    l.dout += 1;
    forward(&l);
    backward(&l, false);
    check_plain(&l);
    layer_free(&whole);
}

static double loss(void *context) {
    const Layer *l = context;
    forward(l);
    return weighted_sum(l->out, l->dout, l->T * l->N);
}

static void test_slopes(void **state) {
    (void)state;
    if (REAL_TYPE == TYPE_BF16) skip();
    Layer l = layer_random(5, 7, 6, 0);
    backward(&l, false);
    float *dx = floats_of(l.dx, l.T * l.K);
    check_slopes("x", l.x, dx, l.T * l.K, loss, &l);
    check_slopes("w", l.w, l.dw, l.N * l.K, loss, &l);
    check_slopes("b", l.b, l.db, l.N, loss, &l);
    device_free(dx);
    layer_free(&l);
}

// Twice gives twice what is added and the same of what is not; between strided rows nothing moves.
static void test_two_calls(void **state) {
    (void)state;
    Layer l = layer_random(300, 72, 130, 5);
    for (int64_t t = 0; t < l.T; t++) l.dx[t * l.ldx + l.K + 2] = to_real(3.0f);
    forward(&l);
    backward(&l, false);
    float *dx = floats_of(l.dx, l.T * l.ldx), *dw = floats_new(l.N * l.K), *db = floats_new(l.N);
    for (int64_t t = 0; t < l.T; t++) {
        check_that(to_float(l.dx[t * l.ldx + l.K + 2]) == 3.0f, "row %d: wrote too far", (int)t);
    }
    for (int64_t i = 0; i < l.N * l.K; i++) dw[i] = 2.0f * l.dw[i];
    for (int64_t i = 0; i < l.N; i++) db[i] = 2.0f * l.db[i];
    backward(&l, false);
    check_close_real("dx", l.dx, dx, l.T * l.ldx, 0.0);
    check_close("dw", l.dw, dw, l.N * l.K, 1e-6);
    check_close("db", l.db, db, l.N, 1e-6);
    backward(&l, true);
    for (int64_t t = 0; t < l.T; t++) {
        for (int64_t k = 0; k < l.K; k++) dx[t * l.ldx + k] *= 2.0f;
    }
    check_close_real("dx +=", l.dx, dx, l.T * l.ldx, REAL_TYPE == TYPE_BF16 ? 0x1p-8 : 1e-6);
    free_all(dx, dw, db);
    layer_free(&l);
}

static void give_weight(Gradient g, void *context) {
    const Layer *l = context;
    linear_backward_weight(g, (Gradient){0}, l->dout, l->ldo, l->x, l->ldx, l->T, l->N, l->K, NULL);
}

static void give_bias(Gradient g, void *context) {
    const Layer *l = context;
    linear_backward_weight(added(l->dw), g, l->dout, l->ldo, l->x, l->ldx, l->T, l->N, l->K, NULL);
}

static void give_rows_weight(Gradient g, void *context) {
    const Layer *l = context;
    float *dout = floats_of(l->dout, l->T * l->N);
    linear_rows_backward(NULL, g, (Gradient){0}, dout, l->x, l->w, l->T, l->N, l->K, NULL);
    stream_wait(NULL);
    device_free(dout);
}

static void give_rows_bias(Gradient g, void *context) {
    const Layer *l = context;
    float *dout = floats_of(l->dout, l->T * l->N);
    linear_rows_backward(NULL, added(l->dw), g, dout, l->x, l->w, l->T, l->N, l->K, NULL);
    stream_wait(NULL);
    device_free(dout);
}

static void test_gradients(void **state) {
    (void)state;
    // On the CPU: in tiles, in packed x, with a lower last block, in two turns.
    const int64_t shapes[][4] = {{0, 40, 24, 0},    {3, 72, 130, 5},    {600, 40, 1700, 0},
                                 {33, 1792, 64, 0}, {600, 450, 700, 8}, {4200, 64, 32, 0}};
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        const int64_t *n = shapes[i];
        Layer l = layer_random(n[0], n[1], n[2], n[3]);
        check_gradient("dw", l.N * l.K, give_weight, &l);
        check_gradient("db", l.N, give_bias, &l);
        if (n[3] == 0) {
            check_gradient("dw of rows", l.N * l.K, give_rows_weight, &l);
            check_gradient("db of rows", l.N, give_rows_bias, &l);
        }
        layer_free(&l);
    }
}

// Fewer tokens never need more scratch, though they may be cut into more parts.
static void test_fewer_tokens(void **state) {
    (void)state;
    int64_t before = 0;
    for (int64_t T = 0; T < 40000; T += T < 100 ? 1 : 617) {
        const int64_t bytes = linear_shared_bytes(T, 64, 8, false);
        check_that(bytes >= before, "%lld bytes for %lld tokens, %lld for fewer", (long long)bytes,
                   (long long)T, (long long)before);
        before = bytes;
    }
}

// The same bits from any number of threads; a device, which has none of them, is asked twice.
static void test_threads(void **state) {
    (void)state;
    const int before = omp_get_max_threads(), most = strcmp(device_backend(), "cpu") == 0 ? 4 : 2;
    const int64_t shapes[][3] = {{1, 64, 64},      {700, 256, 256}, {4200, 64, 32}, {300, 450, 700},
                                 {1000, 72, 1152}, {33, 1792, 64},  {600, 40, 1700}};
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        Layer one = {0};
        float *first = NULL;
        for (int threads = 1; threads <= most; threads++) {
            omp_set_num_threads(threads);
            Layer l = layer_random(shapes[i][0], shapes[i][1], shapes[i][2], 0);
            float *rows = floats_new(l.T * l.K), *dout = floats_of(l.dout, l.T * l.N);
            forward(&l);
            backward(&l, false);
            linear_rows_backward(rows, added(l.dw), added(l.db), dout, l.x, l.w, l.T, l.N, l.K,
                                 NULL);
            stream_wait(NULL);
            device_free(dout);
            if (threads == 1) {
                one = l;
                first = rows;
                continue;
            }
            check_equal("out", l.out, one.out, l.T * l.N);
            check_equal("dx", l.dx, one.dx, l.T * l.K);
            check_equal("dw", l.dw, one.dw, l.N * l.K);
            check_equal("db", l.db, one.db, l.N);
            check_equal("rows", rows, first, l.T * l.K);
            device_free(rows);
            layer_free(&l);
        }
        device_free(first);
        layer_free(&one);
    }
    omp_set_num_threads(before);
}

// ---- input gradients through a GELU
// Whether a shape is one call: on a device that is the library's to say, the emulator's is known.
static void check_one_call(bool one, int64_t T, int64_t N, int64_t K, bool aligned) {
    char device[256];
    device_describe(device, sizeof(device));
    const bool knows = strstr(device, "sm_90") != NULL || strstr(device, "sm_100") != NULL;
    const bool may = REAL_TYPE == TYPE_BF16 && knows && N % 8 == 0 && K % 8 == 0;
    check_that(linear_gelu_fused(N, K) == may, "N %d, K %d on %s", (int)N, (int)K, device);
    const bool emulated = strstr(device, "emulator") != NULL;
    check_that(
        emulated ? one == (may && aligned && N >= 16 && T % 16 != 3) : !one || (may && aligned),
        "in one call: %d for T %d, N %d, K %d on %s", one, (int)T, (int)N, (int)K, device);
}

// dz as the backward of a linear makes it; aligned: z starts at 16 bytes.
static void through_gelu(real *dz, const real *z, const real *dout, int64_t lddo, const real *w,
                         int64_t T, int64_t N, int64_t K, bool aligned) {
    linear_prepare(T, N, K, false);
    linear_gelu_prepare(T, N, K);
    const bool one = linear_gelu_backward_input(dz, z, dout, lddo, w, T, N, K, NULL);
    if (!one) {
        linear_backward_input(dz, K, false, dout, lddo, w, T, N, K, NULL);
        gelu_backward(dz, dz, z, T * K, NULL);
    }
    check_one_call(one, T, N, K, aligned);
    stream_wait(NULL);
}

static void test_gelu_golden(void **state) {
    (void)state;
    const char *cases[] = {"gelu_one", "gelu_odd", "gelu_narrow", "gelu_short"};
    for (int i = 0; i < 12; i++) {  // Dense; rows of dout apart; z not at 16 bytes.
        Golden g = golden_open("tests/golden/product.safetensors", cases[i / 3]);
        const int64_t T = golden_size(&g, "z", 0), K = golden_size(&g, "z", 1);
        const int64_t N = golden_size(&g, "w", 0), gap = i % 3 == 1 ? 24 : 0;
        const int64_t shift = i % 3 == 2 ? 1 : 0;
        real *z = golden_reals(&g, "z"), *w = golden_reals(&g, "w");
        real *dense = golden_reals(&g, "dout"), *dout = rows_new(T, N, N + gap, dense);
        real *moved = reals_new(T * K + shift), *dz = reals_new(T * K);
        memcpy(moved + shift, z, (size_t)(T * K) * sizeof(real));
        through_gelu(dz, moved + shift, dout, N + gap, w, T, N, K, shift == 0);
        golden_check_reals(&g, "dz", dz);
        // In the emulator the library has something for T's class, but not for 35 tokens.
        const int64_t part = min_i64(T, 35);
        memset(dz, 0, (size_t)(T * K) * sizeof(real));
        through_gelu(dz, z, dense, N, w, part, N, K, true);
        if (part < T) {
            through_gelu(dz + part * K, z + part * K, dense + part * N, N, w, T - part, N, K, true);
        }
        golden_check_reals(&g, "dz", dz);
        free_all(z, w, dense, dout, moved, dz);
        safetensors_close(&g.file);
    }
}

static void check_like(const char *name, const real *got, const real *want, int64_t count) {
    float *wide = floats_new(count);
    for (int64_t i = 0; i < count; i++) wide[i] = to_float(want[i]);
    check_close_real(name, got, wide, count, REAL_TYPE == TYPE_F32 ? 1e-5 : 0x1p-8);
    device_free(wide);
}

// What was timed multiplies as before. On the emulated device the first choice is slow, and another
// one is taken for full packs and the class below them, which shows in last bits; not for others.
static void test_timed(void **state) {
    (void)state;
    enum { ROWS = 4, T_MAX = 100, N = 56, K = 72 };
    const int64_t rows[ROWS] = {T_MAX, 97, 96, 88};
    setenv("EMULATOR_SLOW_CHOICE", "1", 1);
    setenv("EMULATOR_LENIENT", "1", 1);
    Layer before[ROWS], after[ROWS];
    for (int i = 0; i < ROWS; i++) {
        before[i] = layer_random(rows[i], N, K, 0);
        after[i] = layer_random(rows[i], N, K, 0);
        forward(&before[i]);
        backward(&before[i], false);
    }
    linear_prepare(T_MAX, N, K, false);
    linear_gelu_prepare(T_MAX, N, K);
    for (int i = 0; i < 2; i++)
        linear_time(T_MAX, N, K);  // The second time there is nothing to do.
    char device[256];
    device_describe(device, sizeof(device));
    for (int i = 0; i < ROWS; i++) {
        forward(&after[i]);
        backward(&after[i], false);
        const bool other = memcmp(before[i].dw, after[i].dw, N * K * sizeof(float)) != 0;
        check_that(strstr(device, "emulator") == NULL || other == (rows[i] > 88),
                   "%d rows of %d: %s sums", (int)rows[i], T_MAX, other ? "other" : "the same");
        check_close("dw", after[i].dw, before[i].dw, N * K, 1e-5);
        check_like("out", after[i].out, before[i].out, rows[i] * N);
        check_like("dx", after[i].dx, before[i].dx, rows[i] * K);
        layer_free(&before[i]);
        layer_free(&after[i]);
    }
    unsetenv("EMULATOR_SLOW_CHOICE");
    unsetenv("EMULATOR_LENIENT");
}

static void test_nothing(void **state) {
    (void)state;
    Layer l = layer_random(0, 16, 16, 0);
    forward(&l);
    backward(&l, true);
    linear_gelu_backward_input(l.dx, l.x, l.dout, 16, l.w, 0, 16, 16, NULL);
    linear_rows_backward(NULL, added(l.dw), added(l.db), NULL, l.x, l.w, 0, l.N, l.K, NULL);
    for (int i = 0; i < 256; i++) check_that(l.dw[i] == 0.0f, "dw[%d] = %g", i, (double)l.dw[i]);
    layer_free(&l);
}

int main(void) {
    check_device(0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),    cmocka_unit_test(test_golden_rows),
        cmocka_unit_test(test_tiles),     cmocka_unit_test(test_columns),
        cmocka_unit_test(test_slopes),    cmocka_unit_test(test_two_calls),
        cmocka_unit_test(test_gradients), cmocka_unit_test(test_fewer_tokens),
        cmocka_unit_test(test_threads),   cmocka_unit_test(test_gelu_golden),
        cmocka_unit_test(test_timed),     cmocka_unit_test(test_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
