// Vectors: casts and sums element by element, the exact sum in any order, the sum of squares and
// AdamW against formulas in double; the same bits for any number of threads and wherever a buffer
// is cut.
// ranks: 1
// backends: all
// orders: up down
// precision: fp32 bf16
// sanitize: bf16
#include "base/vector.h"
#include "tests/op_check.h"

enum { N = 100000, EDGES = 131 };  // N: enough for several threads.

static float *normals(uint64_t position, int64_t count) {
    float *x = floats_new(count);
    rng_normal(x, count, 5, RNG_TEST, position, 0);
    return x;
}

static float *copy_of(const float *x, int64_t count) {
    float *copy = floats_new(count);
    memcpy(copy, x, (size_t)count * sizeof(float));
    return copy;
}

static void *shared(int64_t bytes) {
    return device_allocate_shared("test", bytes);
}

static void test_round_and_widen(void **state) {
    (void)state;
    const float few[] = {1.0f, 1.00390625f, 1.01171875f, -1.0039065f, INFINITY, 0x1p-130f, -0.0f};
    // Ties go to even; subnormal numbers stay.
    const float want[] = {1.0f, 1.0f, 1.015625f, -1.0078125f, INFINITY, 0x1p-130f, -0.0f};
    float *x = floats_new(7), *wide = floats_new(7);
    uint16_t *rounded = shared(7 * 2);
    memcpy(x, few, sizeof(few));
    vector_round(rounded, TYPE_BF16, x, 7, NULL);
    vector_widen(wide, rounded, TYPE_BF16, 7, NULL);
    check_equal("rounded", wide, want, 7);
    x[0] = NAN;
    vector_round(rounded, TYPE_BF16, x, 1, NULL);
    stream_wait(NULL);
    check_that(isnan(bf16_to_float(rounded[0])), "NaN became %g",
               (double)bf16_to_float(rounded[0]));

    float *values = normals(1, N), *out = normals(2, N), *sums = copy_of(out, N);
    uint16_t *narrow = shared(N * 2);
    vector_round(narrow, TYPE_BF16, values, N, NULL);
    vector_add(sums, narrow, TYPE_BF16, N, NULL);
    stream_wait(NULL);
    int64_t wrong = 0;
    for (int64_t i = 0; i < N; i++) {
        wrong += narrow[i] != float_to_bf16(values[i]);
        wrong += sums[i] != out[i] + bf16_to_float(narrow[i]);
    }
    check_that(wrong == 0, "%lld of %d wrong", (long long)wrong, N);
    vector_round(out, TYPE_F32, values, N, NULL);
    check_equal("copy", out, values, N);
    memset(out, 0, N * sizeof(float));
    vector_widen(out, values, TYPE_F32, N, NULL);
    check_equal("copy", out, values, N);
    vector_add(out, values, TYPE_F32, N, NULL);
    stream_wait(NULL);
    for (int64_t i = 0; i < N; i++) wrong += out[i] != 2 * values[i];
    check_that(wrong == 0, "%lld sums of %d wrong", (long long)wrong, N);
    free_all(x, wide, rounded, values, out, sums, narrow);
}

static void test_copy_rows(void **state) {
    (void)state;
    enum { ROWS = 300, IN = 700, OUT = 900, ROW = 650 };
    char *in = shared(ROWS * IN), *out = shared(ROWS * OUT), *want = shared(ROWS * OUT);
    for (int i = 0; i < ROWS * IN; i++) in[i] = (char)(i * 7 + i / 1000);
    memset(out, 1, ROWS * OUT);
    memset(want, 1, ROWS * OUT);
    for (int i = 0; i < ROWS; i++) memcpy(want + i * OUT, in + i * IN, ROW);
    vector_copy_rows(out, OUT, in, IN, ROWS, ROW, NULL);
    check_equal("rows", out, want, ROWS * OUT);
    vector_copy_rows(out, OUT, in, IN, 0, ROW, NULL);
    vector_copy_rows(out, OUT, in, IN, ROWS, 0, NULL);
    check_equal("no rows, no columns", out, want, ROWS * OUT);
    vector_copy_rows(out, 0, in, 0, 1, ROWS * IN, NULL);  // One long row, shared by the threads.
    check_equal("long row", out, in, ROWS * IN);
    free_all(in, out, want);
}

static double exact_of(const double *terms, int count) {
    ExactSum sum = {{0}, 0};
    for (int i = 0; i < count; i++) exact_add(&sum, terms[i]);
    return exact_value(&sum);
}

static void test_exact_rounds_once(void **state) {
    (void)state;
    const double two53 = 0x1p53;
    const struct {
        double terms[4], want;
    } cases[] = {
        {{0, 0, 0, 0}, 0},
        {{1, 0, 0, 0}, 1},
        {{0.1, 0, 0, 0}, 0.1},
        {{two53, 1, 0, 0}, two53},             // A tie goes to even,
        {{two53, 1, 0x1p-600, 0}, two53 + 2},  // and the smallest more goes up.
        {{two53, 3, 0, 0}, two53 + 4},
        {{0x1p-640, 0, 0, 0}, 0x1p-640},
        {{0x1p-641, 0x1p-641, 0, 0}, 0},           // Below the lowest digit.
        {{0x1.8p-640, 0x1p-640, 0, 0}, 0x1p-639},  // Dropped bit by bit, term by term.
        {{0x1.fffffffffffffp599, 0x1.fffffffffffffp599, 0, 0}, 0x1.fffffffffffffp600},
        {{0x1p599, 0x1p546, 0, 0}, 0x1p599},
        {{0x1p599, 0x1p546, 0x1p-298, 0}, 0x1.0000000000001p599},
        {{0x1p-298, 0x1p-298, 0x1p-298, 0x1p-298}, 0x1p-296},  // The smallest square of a float.
        {{4294967295.0, 1, 0, 0}, 4294967296.0},               // A carry through a digit.
        {{18446744073709549568.0, 2048, 0x1p64, 0}, 0x1p65},
    };
    for (size_t k = 0; k < sizeof(cases) / sizeof(cases[0]); k++) {
        const double got = exact_of(cases[k].terms, 4);
        check_that(got == cases[k].want, "case %zu: got %a, want %a", k, got, cases[k].want);
    }
    const double bad[] = {NAN, INFINITY, -1.0, 0x1p600};
    for (int i = 0; i < 4; i++) {
        const double got = exact_of(&bad[i], 1);
        check_that(isnan(got), "sum with %g is %g", bad[i], got);
    }
}

static void test_exact_has_no_order(void **state) {
    (void)state;
    enum { COUNT = 20000 };
    static double terms[COUNT];
    ExactSum once = {{0}, 0};
    for (uint64_t i = 0; i < COUNT; i++) {
        const int exponent = (int)(rng_uniform(1, RNG_TEST, 1, i) * 1100) - 560;
        terms[i] = ldexp(1 + rng_uniform(1, RNG_TEST, 2, i), exponent);
        exact_add(&once, terms[i]);
    }
    const double want = exact_value(&once);
    check_that(isfinite(want) && want > 0, "sum is %g", want);
    for (uint64_t order = 0; order < 20; order++) {
        for (uint64_t i = COUNT - 1; i > 0; i--) {
            const int64_t j = (int64_t)(rng_uniform(2, RNG_TEST, order, i) * (double)(i + 1));
            const double t = terms[i];
            terms[i] = terms[j];
            terms[j] = t;
        }
        ExactSum parts[3] = {{{0}, 0}, {{0}, 0}, {{0}, 0}};  // As on three ranks.
        for (int i = 0; i < COUNT; i++) exact_add(&parts[i % 7 % 3], terms[i]);
        for (int i = 0; i < EXACT_LIMBS; i++) {
            parts[0].limb[i] += parts[1].limb[i] + parts[2].limb[i];
        }
        check_equal("limbs", parts[0].limb, once.limb, EXACT_LIMBS);
        check_that(exact_value(&parts[0]) == want, "order %d", (int)order);
    }
    // Terms whose sum long double (64 bits) holds exactly.
    long double exact = 0;
    ExactSum sum = {{0}, 0};
    for (uint64_t i = 0; i < 1000; i++) {
        const double term = (double)(rng_bits(3, RNG_TEST, 9, i) >> (i % 20)) * 0x1p-20;
        exact += (long double)term;
        exact_add(&sum, term * 0x1.8p0);
    }
    check_that(exact_value(&sum) == (double)(exact * 1.5L), "got %a, want %a", exact_value(&sum),
               (double)(exact * 1.5L));
}

// vector.h's order in plain words: 16 partial sums of a block, added in pairs.
static ExactSum plain_square_sum(const float *x, int64_t count) {
    ExactSum sum = {{0}, 0};
    for (int64_t b = 0; b < count; b += 1024) {
        double part[16] = {0};
        for (int64_t i = b; i < min_i64(count, b + 1024); i++) {
            part[i % 16] += (double)x[i] * (double)x[i];
        }
        for (int width = 8; width > 0; width /= 2) {
            for (int j = 0; j < width; j++) part[j] += part[j + width];
        }
        exact_add(&sum, part[0]);
    }
    return sum;
}

static void test_square_sum(void **state) {
    (void)state;
    float *x = normals(3, N);
    for (int64_t i = 0; i < N; i += 10) x[i] = ldexpf(x[i], (int)(i % 200) - 100);
    double want = 0;
    for (int64_t i = 0; i < N; i++) want += (double)x[i] * (double)x[i];
    ExactSum *whole = shared(sizeof(*whole)), *cut = shared(sizeof(*cut));
    omp_set_num_threads(1);
    vector_square_sum(whole, x, N, NULL);
    stream_wait(NULL);
    check_that(fabs(exact_value(whole) / want - 1) < 1e-13, "got %.17g, want %.17g",
               exact_value(whole), want);
    const ExactSum plain = plain_square_sum(x, N);
    check_equal("limbs in the order of words", whole->limb, plain.limb, EXACT_LIMBS);
    for (int threads = 1; threads <= 3; threads++) {
        omp_set_num_threads(threads);
        memset(cut, 0, sizeof(*cut));  // At multiples of a block, in another order.
        vector_square_sum(cut, x + 40 * 1024, N - 40 * 1024, NULL);
        vector_square_sum(cut, x, 3 * 1024, NULL);
        vector_square_sum(cut, x + 3 * 1024, 37 * 1024, NULL);
        vector_square_sum(cut, x, 0, NULL);
        check_equal("limbs", cut->limb, whole->limb, EXACT_LIMBS);
    }
    omp_set_num_threads(1);
    x[77] = NAN;
    vector_square_sum(whole, x, N, NULL);
    stream_wait(NULL);
    check_that(whole->bad == 1 && isnan(exact_value(whole)), "bad %lld", (long long)whole->bad);
    free_all(x, whole, cut);
}

static int edges_up_to(const int64_t *edges, int count, int64_t i) {
    int n = 0;
    while (n < count && edges[n] <= i) n++;
    return n;
}

// One update and its result in double.
static void test_adamw(void **state) {
    (void)state;
    const AdamW adamw = {.lr = 3e-3f,
                         .beta1 = 0.9f,
                         .beta2 = 0.95f,
                         .epsilon = 1e-8f,
                         .decay = 0.1f,
                         .correction1 = 0.19f,
                         .correction2 = 0.0975f,
                         .gradient_scale = 0.25f,
                         .ema_keep = 0.999f};
    float *w0 = normals(10, N), *m0 = normals(11, N), *v0 = normals(12, N), *ema0 = normals(13, N);
    float *g = normals(14, N);
    for (int64_t i = 0; i < N; i++) v0[i] *= v0[i];
    g[5] = m0[5] = v0[5] = 0;  // A gap.
    // More edges than a launch takes; some parts are empty, the last one decays.
    int64_t edges[EDGES];
    for (int64_t k = 0; k < EDGES; k++)
        edges[k] = k / 3 * 3 * (N / EDGES / 4 * 4) + 4 * (k % 3 == 2);
    float *want[4] = {copy_of(w0, N), copy_of(m0, N), copy_of(v0, N), copy_of(ema0, N)};
    for (int64_t i = 0; i < N; i++) {
        const double gi = (double)g[i] * 0.25, keep = (double)adamw.ema_keep;
        const double m = (double)adamw.beta1 * (double)m0[i] + (1 - (double)adamw.beta1) * gi;
        const double v = (double)adamw.beta2 * (double)v0[i] + (1 - (double)adamw.beta2) * gi * gi;
        const double direction =
            m / (double)adamw.correction1 / (sqrt(v / (double)adamw.correction2) + 1e-8);
        const double decay = edges_up_to(edges, EDGES, i) % 2 == 1 ? (double)adamw.decay : 0;
        const double w = (double)w0[i] - (double)adamw.lr * (direction + decay * (double)w0[i]);
        want[0][i] = (float)w;
        want[1][i] = (float)m;
        want[2][i] = (float)v;
        want[3][i] = (float)(keep * (double)ema0[i] + (1 - keep) * w);
    }
    float *first[4] = {NULL};
    for (int run = 0; run < 4; run++) {  // Whole with 1, 2, 3 threads; then in odd pieces.
        float *x[4] = {copy_of(w0, N), copy_of(m0, N), copy_of(v0, N), copy_of(ema0, N)};
        real *rounded = shared(N * sizeof(*rounded));
        omp_set_num_threads(run + 1);
        for (int64_t begin = 0, end = 0; begin < N; begin = end) {
            end = run < 3 ? N : min_i64(N, begin + 1 + begin / 3);
            int64_t some[EDGES];
            for (int k = 0; k < EDGES; k++) {
                some[k] = min_i64(max_i64(edges[k], begin), end) - begin;
            }
            const AdamWState state_of = {x[0] + begin, x[1] + begin, x[2] + begin, x[3] + begin,
                                         run == 2 ? NULL : rounded + begin};
            vector_adamw(&state_of, g + begin, end - begin, some, EDGES, &adamw, NULL);
        }
        stream_wait(NULL);
        for (int64_t i = 0; i < N && run != 2; i++) {
            check_that(rounded[i] == to_real(x[0][i]), "%d: w is not rounded", (int)i);
        }
        device_free(rounded);
        const char *const names[] = {"w", "m", "v", "ema"};
        for (int k = 0; k < 4; k++) {
            check_close(names[k], x[k], want[k], N, 1e-6);
            if (run == 0) {
                first[k] = x[k];
            } else {
                check_equal(names[k], x[k], first[k], N);
                device_free(x[k]);
            }
        }
    }
    omp_set_num_threads(1);
    for (int k = 0; k < 4; k++) {
        free_all(first[k], want[k]);
    }
    free_all(w0, m0, v0, ema0, g);
}

int main(void) {
    check_device(0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_and_widen),   cmocka_unit_test(test_copy_rows),
        cmocka_unit_test(test_exact_rounds_once), cmocka_unit_test(test_exact_has_no_order),
        cmocka_unit_test(test_square_sum),        cmocka_unit_test(test_adamw),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
