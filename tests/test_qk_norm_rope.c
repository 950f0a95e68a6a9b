// qk_norm_rope: PyTorch's numbers in float64, slopes by finite differences, += and = as promised,
// rows that lie apart, the order of peers, the same bits for any number of threads, no tokens and
// no heads.
// ranks: 1
// backends: all
// orders: up down
// precision: fp32 bf16
// sanitize: bf16
#include "model/ops/norm.h"
#include "tests/op_check.h"

static const char *const CASES[] = {"one", "three", "block", "blocks", "keys", "wide"};
enum { CASE_COUNT = sizeof(CASES) / sizeof(*CASES), GAP = 24 };

// A call with everything it needs. Rows of x and dx lie ldx = C + GAP apart.
typedef struct {
    int64_t T, heads, D, C, ldx;
    real *x, *weight, *out, *dout, *dx;
    float *rope, *inverse, *dweight;
} Query;

static Query query_new(int64_t T, int64_t heads, int64_t D) {
    const int64_t C = heads * D;
    return (Query){.T = T,
                   .heads = heads,
                   .D = D,
                   .C = C,
                   .ldx = C + GAP,
                   .x = reals_new(T * (C + GAP)),
                   .out = reals_new(T * C),
                   .dx = reals_new(T * (C + GAP)),
                   .inverse = floats_new(T),
                   .dweight = floats_new(C)};
}

static void query_free(Query *q) {
    free_all(q->x, q->weight, q->out, q->dout, q->dx, q->rope, q->inverse, q->dweight);
}

static void forward(const Query *q) {
    qk_norm_rope_forward(q->out, (PeerOrder){1, 1, 0}, q->inverse, q->x, q->ldx, q->weight, q->rope,
                         1e-6f, q->T, q->heads, q->D, NULL);
    stream_wait(NULL);
}

static void backward(const Query *q) {
    void *scratch = scratch_new(qk_norm_rope_scratch(q->T, q->heads, q->D));
    qk_norm_rope_backward(q->dx, q->ldx, added(q->dweight), q->dout, (PeerOrder){1, 1, 0}, q->x,
                          q->ldx, q->weight, q->rope, q->inverse, q->T, q->heads, q->D, scratch,
                          NULL);
    stream_wait(NULL);
    device_free(scratch);
}

static Query query_random(int64_t T, int64_t heads, int64_t D) {
    Query q = query_new(T, heads, D);
    device_free(q.x);
    q.x = reals_random(T * q.ldx, 1, 0.0f, 1.0f);
    q.dout = reals_random(T * q.C, 2, 0.0f, 1.0f);
    q.weight = reals_random(q.C, 3, 1.0f, 0.2f);
    q.rope = floats_new(T * D);
    for (int64_t i = 0; i < T * D / 2; i++) {
        q.rope[2 * i] = cosf((float)i);
        q.rope[2 * i + 1] = sinf((float)i);
    }
    return q;
}

// Rows of dx without the gaps.
static real *dense(const Query *q, const real *x) {
    real *rows = reals_new(q->T * q->C);
    for (int64_t t = 0; t < q->T; t++) {
        memcpy(rows + t * q->C, x + t * q->ldx, (size_t)q->C * sizeof(real));
    }
    return rows;
}

static void test_golden(void **state) {
    (void)state;
    for (int i = 0; i < CASE_COUNT; i++) {
        Golden g = golden_open("tests/golden/qk_norm_rope.safetensors", CASES[i]);
        int32_t *heads = golden_integers(&g, "heads");
        Query q = query_new(golden_size(&g, "x", 0), heads[0], golden_size(&g, "x", 1) / heads[0]);
        real *x = golden_reals(&g, "x");
        for (int64_t t = 0; t < q.T; t++) {
            memcpy(q.x + t * q.ldx, x + t * q.C, (size_t)q.C * sizeof(real));
        }
        q.dout = golden_reals(&g, "dout");
        q.weight = golden_reals(&g, "weight");
        q.rope = golden_floats(&g, "rope");
        q.dx[q.C] = to_real(7.0f);  // In the gap: must stay.
        forward(&q);
        golden_check_reals(&g, "out", q.out);
        backward(&q);
        real *dx = dense(&q, q.dx);
        golden_check_reals(&g, "dx", dx);
        golden_check_floats(&g, "dweight", q.dweight);
        check_that(to_float(q.dx[q.C]) == 7.0f, "%s wrote between the rows of dx", CASES[i]);
        free_all(dx, x, heads);
        query_free(&q);
        safetensors_close(&g.file);
    }
}

// What plain loops in double make of row t; adds to the sum for dweight [C].
static void expect_row(const Query *q, int64_t t, float *out, float *dx, double *dweight) {
    const real *x = q->x + t * q->ldx, *dout = q->dout + t * q->C;
    double square = 0.0, gn = 0.0;
    for (int64_t c = 0; c < q->C; c++) square += (double)to_float(x[c]) * (double)to_float(x[c]);
    const double inverse = 1.0 / sqrt(square / (double)q->C + 1e-6);
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t c = 0; c < q->C; c++) {  // c's pair: the first is y0 or y1.
            const int64_t other = c ^ 1, i = t * q->D + c % q->D / 2 * 2;
            const double sign = c % 2 == 0 ? -1.0 : 1.0;
            const double cosine = (double)q->rope[i], sine = (double)q->rope[i + 1];
            const double weight = (double)to_float(q->weight[c]);
            const double n = (double)to_float(x[c]) * inverse;
            const double partner =
                (double)to_float(x[other]) * inverse * (double)to_float(q->weight[other]);
            const double d =
                (double)to_float(dout[c]) * cosine - sign * (double)to_float(dout[other]) * sine;
            if (pass == 0) {
                gn += d * weight * n;
                dweight[c] += d * n;
                out[c] = (float)(n * weight * cosine + sign * partner * sine);
            } else {
                dx[c] = (float)(inverse * (d * weight - n * gn / (double)q->C));
            }
        }
    }
}

// Rows of every width, heads of any even size, more rows than one block walks.
static void test_shapes(void **state) {
    (void)state;
    const struct {
        int64_t T, heads, D;
    } cases[] = {{17, 64, 128}, {19, 40, 128}, {20, 24, 128}, {41, 28, 64},
                 {45, 7, 6},    {3, 683, 6},   {1200, 2, 8}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        Query q = query_random(cases[i].T, cases[i].heads, cases[i].D);
        float *out = floats_new(q.T * q.C), *dx = floats_new(q.T * q.C), *want = floats_new(q.C);
        double *dweight = calloc((size_t)q.C, sizeof(double));
        for (int64_t t = 0; t < q.T; t++) {
            expect_row(&q, t, out + t * q.C, dx + t * q.C, dweight);
        }
        for (int64_t c = 0; c < q.C; c++) want[c] = (float)dweight[c];
        forward(&q);
        check_close_real("out", q.out, out, q.T * q.C, REAL_TOLERANCE);
        backward(&q);
        real *got = dense(&q, q.dx);
        check_close_real("dx", got, dx, q.T * q.C, REAL_TOLERANCE);
        check_close("dweight", q.dweight, want, q.C, 1e-5);
        free_all(out, dx, want, got);
        free(dweight);
        query_free(&q);
    }
}

// In the order of peers, heads that do not divide by the ranks or are fewer among them: forward
// and backward give the bits that packing what they give otherwise does, and touch nothing else.
static void test_order(void **state) {
    (void)state;
    const struct {
        int64_t T, heads, D;
        int ranks, tensors;
    } cases[] = {{41, 28, 64, 8, 3}, {20, 5, 72, 2, 3},   {9, 3, 16, 5, 2}, {45, 7, 6, 3, 3},
                 {7, 4, 36, 4, 1},   {19, 40, 128, 4, 3}, {3, 3, 20, 1, 2}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        Query q = query_random(cases[i].T, cases[i].heads, cases[i].D);
        const int64_t count = q.T * q.C * cases[i].tensors;
        forward(&q);
        backward(&q);
        for (int tensor = 0; tensor < cases[i].tensors; tensor++) {
            const PeerOrder order = {cases[i].ranks, cases[i].tensors, tensor};
            real *sent = reals_random(count, 4, 0.0f, 1.0f);
            real *want = reals_random(count, 4, 0.0f, 1.0f), *dx = reals_new(q.T * q.ldx);
            float *inverse = floats_new(q.T), *dweight = floats_new(q.C);
            void *scratch = scratch_new(qk_norm_rope_scratch(q.T, q.heads, q.D));
            ulysses_pack(want, q.out, q.C, order, q.T, q.heads, q.D, NULL);
            qk_norm_rope_forward(sent, order, inverse, q.x, q.ldx, q.weight, q.rope, 1e-6f, q.T,
                                 q.heads, q.D, NULL);
            check_equal("out", sent, want, count);
            check_equal("inverse", inverse, q.inverse, q.T);
            ulysses_pack(sent, q.dout, q.C, order, q.T, q.heads, q.D, NULL);
            qk_norm_rope_backward(dx, q.ldx, added(dweight), sent, order, q.x, q.ldx, q.weight,
                                  q.rope, inverse, q.T, q.heads, q.D, scratch, NULL);
            check_equal("dx", dx, q.dx, q.T * q.ldx);
            check_equal("dweight", dweight, q.dweight, q.C);
            free_all(sent, want, dx, inverse, dweight);
            device_free(scratch);
        }
        query_free(&q);
    }
}

static double loss(void *context) {
    const Query *q = context;
    forward(q);
    return weighted_sum(q->out, q->dout, q->T * q->C);
}

static void test_slopes(void **state) {
    (void)state;
    if (REAL_TYPE == TYPE_BF16) skip();
    Query q = query_random(3, 2, 8);
    forward(&q);
    backward(&q);
    float *dx = floats_of(q.dx, q.T * q.ldx);
    check_slopes("x", q.x, dx, q.T * q.ldx, loss, &q);
    check_slopes("weight", q.weight, q.dweight, q.C, loss, &q);
    device_free(dx);
    query_free(&q);
}

static void test_two_calls(void **state) {
    (void)state;
    Query q = query_random(130, 2, 36);
    forward(&q);
    backward(&q);
    float *dx = floats_of(q.dx, q.T * q.ldx), *dweight = floats_new(q.C);
    for (int64_t i = 0; i < q.C; i++) dweight[i] = 2.0f * q.dweight[i];
    backward(&q);
    check_close_real("dx", q.dx, dx, q.T * q.ldx, 0.0);
    check_close("dweight", q.dweight, dweight, q.C, 1e-6);
    free_all(dx, dweight);
    query_free(&q);
}

static void give_weight(Gradient g, void *context) {
    const Query *q = context;
    void *scratch = scratch_new(qk_norm_rope_scratch(q->T, q->heads, q->D));
    qk_norm_rope_backward(q->dx, q->ldx, g, q->dout, (PeerOrder){1, 1, 0}, q->x, q->ldx, q->weight,
                          q->rope, q->inverse, q->T, q->heads, q->D, scratch, NULL);
    stream_wait(NULL);
    device_free(scratch);
}

static void test_gradients(void **state) {
    (void)state;
    for (int64_t T = 0; T <= 70; T += 35) {
        Query q = query_random(T, 3, 8);
        forward(&q);
        check_gradient("dweight", q.C, give_weight, &q);
        query_free(&q);
    }
}

static void test_threads(void **state) {
    (void)state;
    const int before = omp_get_max_threads();
    Query one = {0};
    for (int threads = 1; threads <= 4; threads++) {
        omp_set_num_threads(threads);
        Query q = query_random(1000, 3, 32);
        forward(&q);
        backward(&q);
        if (threads == 1) {
            one = q;
            continue;
        }
        check_equal("out", q.out, one.out, q.T * q.C);
        check_equal("inverse", q.inverse, one.inverse, q.T);
        check_equal("dx", q.dx, one.dx, q.T * q.ldx);
        check_equal("dweight", q.dweight, one.dweight, q.C);
        query_free(&q);
    }
    query_free(&one);
    omp_set_num_threads(before);
}

// A rank may hold no tokens, or no heads.
static void test_nothing(void **state) {
    (void)state;
    Query none = query_random(0, 2, 8);
    forward(&none);
    backward(&none);
    check_that(none.dweight[0] == 0.0f, "no tokens, but gradients changed");
    query_free(&none);
    Query headless = query_random(3, 0, 8);
    forward(&headless);
    backward(&headless);
    query_free(&headless);
}

int main(void) {
    check_device(0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),    cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_order),     cmocka_unit_test(test_slopes),
        cmocka_unit_test(test_two_calls), cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_threads),   cmocka_unit_test(test_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
