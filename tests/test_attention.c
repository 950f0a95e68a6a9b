// Attention over packs of segments: PyTorch's numbers in float64, also where q, k, v and out are
// columns of wider rows; slopes by finite differences; plain loops for many dimensions and lengths;
// two calls; the same bits for any number of threads and in every run; odd lengths, segments of one
// token, no heads, no tokens.
// ranks: 1
// backends: all
// orders: up down
// precision: fp32 bf16
// sanitize: bf16
#include "model/ops/attention.h"
#include "tests/op_check.h"

// A call with everything it needs; rows lie `gap` elements further apart than they need be.
typedef struct {
    AttentionShape shape;
    int64_t T, X, C, gap, scratch_bytes;
    int32_t *q_start, *k_start;
    real *q, *k, *v, *out, *dout, *dq, *dk, *dv;
    float *lse;
    void *scratch;
} Attention;

static real *rows_new(int64_t T, int64_t C, int64_t gap, real *from) {
    real *rows = reals_new(T * (C + gap));
    for (int64_t t = 0; t < T; t++) {
        memcpy(rows + t * (C + gap), from + t * C, (size_t)C * sizeof(real));
    }
    device_free(from);
    return rows;
}

// Takes the arrays; q_start, k_start [S + 1].
static Attention attention_new(int64_t heads, int64_t D, int64_t S, int32_t *q_start,
                               int32_t *k_start, int64_t gap, bool deterministic, real *q, real *k,
                               real *v, real *dout) {
    Attention a = {.T = q_start[S], .X = k_start[S], .C = heads * D, .gap = gap};
    a.q_start = q_start;
    a.k_start = k_start;
    a.shape = (AttentionShape){.q_start = q_start,
                               .k_start = k_start,
                               .q_start_device = q_start,
                               .k_start_device = k_start,
                               .S = S,
                               .heads = heads,
                               .D = D,
                               .scale = 1.0f / sqrtf((float)D),
                               .deterministic = deterministic};
    a.q = rows_new(a.T, a.C, gap, q);
    a.k = rows_new(a.X, a.C, gap, k);
    a.v = rows_new(a.X, a.C, gap, v);
    a.dout = rows_new(a.T, a.C, gap, dout);
    a.out = reals_new(a.T * (a.C + gap));
    a.dq = reals_new(a.T * (a.C + gap));
    a.dk = reals_new(a.X * (a.C + gap));
    a.dv = reals_new(a.X * (a.C + gap));
    a.lse = floats_new(heads * a.T);
    const bool cross = memcmp(q_start, k_start, (size_t)(S + 1) * sizeof(*q_start)) != 0;
    const AttentionBounds bounds = {a.T, a.X, S, heads, D, cross, deterministic, NULL};
    attention_prepare(&bounds, a.C + gap, a.C + gap, a.C + gap, a.C + gap);
    // Filled with NaN: nothing may depend on what was there.
    a.scratch_bytes = max_i64(attention_scratch(&bounds, false), attention_scratch(&bounds, true));
    a.scratch = device_allocate_shared("scratch", a.scratch_bytes + 64);
    memset(a.scratch, 0xff, (size_t)a.scratch_bytes + 64);
    return a;
}

static void attention_free(Attention *a) {
    free_all(a->q, a->k, a->v, a->out, a->dout, a->dq, a->dk, a->dv, a->lse, a->scratch, a->q_start,
             a->k_start);
}

static int32_t *starts_new(const int *lengths, int64_t S) {
    int32_t *start = integers_new(S + 1);
    start[0] = 0;
    for (int64_t s = 0; s < S; s++) start[s + 1] = start[s] + lengths[s];
    return start;
}

static Attention attention_random(int64_t heads, int64_t D, int64_t S, const int *queries,
                                  const int *keys, bool deterministic) {
    int32_t *q_start = starts_new(queries, S), *k_start = starts_new(keys, S);
    const int64_t T = q_start[S] * heads * D, X = k_start[S] * heads * D;
    return attention_new(heads, D, S, q_start, k_start, 0, deterministic,
                         reals_random(T, 1, 0.0f, 1.0f), reals_random(X, 2, 0.0f, 1.0f),
                         reals_random(X, 3, 0.0f, 1.0f), reals_random(T, 4, 0.0f, 1.0f));
}

static void forward(const Attention *a) {
    const int64_t ld = a->C + a->gap;
    attention_forward(a->out, ld, a->lse, a->q, ld, a->k, ld, a->v, ld, &a->shape, a->scratch,
                      NULL);
    stream_wait(NULL);
}

static void backward(const Attention *a) {
    const int64_t ld = a->C + a->gap;
    const AttentionBackward arguments = {.dq = a->dq,
                                         .dk = a->dk,
                                         .dv = a->dv,
                                         .lddq = ld,
                                         .lddk = ld,
                                         .lddv = ld,
                                         .dout = a->dout,
                                         .out = a->out,
                                         .q = a->q,
                                         .k = a->k,
                                         .v = a->v,
                                         .lddo = ld,
                                         .ldo = ld,
                                         .ldq = ld,
                                         .ldk = ld,
                                         .ldv = ld,
                                         .lse = a->lse};
    attention_backward(&arguments, &a->shape, a->scratch, NULL);
    stream_wait(NULL);
    const unsigned char *end = (const unsigned char *)a->scratch + a->scratch_bytes;
    for (int i = 0; i < 64; i++) check_that(end[i] == 0xff, "byte %d after the scratch", i);
}

static void check_rows(const Golden *g, const Attention *a, const char *name, const real *rows,
                       int64_t T) {
    real *dense = reals_new(T * a->C);
    for (int64_t t = 0; t < T; t++) {
        memcpy(dense + t * a->C, rows + t * (a->C + a->gap), (size_t)a->C * sizeof(real));
    }
    golden_check_reals(g, name, dense);
    device_free(dense);
}

// Of dense and wider rows, deterministic or not. The sanitizers are slow, and run no cuDNN: two.
#ifdef __SANITIZE_ADDRESS__
enum { FORMS_STEP = 3 };
#else
enum { FORMS_STEP = 1 };
#endif

static void test_golden(void **state) {
    (void)state;
    const char *cases[] = {"one",   "self64", "self72", "self128",
                           "small", "long",   "cross",  "cross_wide"};
    for (int i = 0; i < 8; i++) {
        for (int form = 0; form < 4; form += FORMS_STEP) {
            const int64_t gap = form % 2 * 40;
            const bool deterministic = form / 2;
            Golden g = golden_open("tests/golden/attention.safetensors", cases[i]);
            Attention a = attention_new(
                golden_size(&g, "q", 1), golden_size(&g, "q", 2), golden_size(&g, "q_start", 0) - 1,
                golden_integers(&g, "q_start"), golden_integers(&g, "k_start"), gap, deterministic,
                golden_reals(&g, "q"), golden_reals(&g, "k"), golden_reals(&g, "v"),
                golden_reals(&g, "dout"));
            forward(&a);
            check_rows(&g, &a, "out", a.out, a.T);
            golden_check_floats(&g, "lse", a.lse);
            backward(&a);
            check_rows(&g, &a, "dq", a.dq, a.T);
            check_rows(&g, &a, "dk", a.dk, a.X);
            check_rows(&g, &a, "dv", a.dv, a.X);
            attention_free(&a);
            safetensors_close(&g.file);
        }
    }
}

static double loss(void *context) {
    const Attention *a = context;
    forward(a);
    return weighted_sum(a->out, a->dout, a->T * a->C);
}

static void test_slopes(void **state) {
    (void)state;
    if (REAL_TYPE == TYPE_BF16) skip();
    Attention a = attention_random(2, 8, 2, (int[]){5, 1}, (int[]){3, 2}, true);
    forward(&a);
    backward(&a);
    float *dq = floats_of(a.dq, a.T * a.C), *dk = floats_of(a.dk, a.X * a.C);
    float *dv = floats_of(a.dv, a.X * a.C);
    check_slopes("q", a.q, dq, a.T * a.C, loss, &a);
    check_slopes("k", a.k, dk, a.X * a.C, loss, &a);
    check_slopes("v", a.v, dv, a.X * a.C, loss, &a);
    free_all(dq, dk, dv);
    attention_free(&a);
}

// Everything is overwritten: two calls give the same; a segment without queries leaves its keys a
// gradient of zero.
static void test_two_calls(void **state) {
    (void)state;
    Attention a = attention_random(1, 64, 3, (int[]){300, 0, 5}, (int[]){20, 4, 270}, true);
    forward(&a);
    backward(&a);
    float *dq = floats_of(a.dq, a.T * a.C), *dk = floats_of(a.dk, a.X * a.C);
    for (int64_t i = 20 * a.C; i < 24 * a.C; i++) {
        check_that(dk[i] == 0.0f, "dk[%d] = %g", (int)i, (double)dk[i]);
        a.dk[i] = to_real(5.0f);
    }
    forward(&a);
    backward(&a);
    check_close_real("dq", a.dq, dq, a.T * a.C, 0.0);
    check_close_real("dk", a.dk, dk, a.X * a.C, 0.0);
    free_all(dq, dk);
    attention_free(&a);
}

// What the ops should give, by plain loops in double, dense rows: for one head of one segment.
typedef struct {
    double *out, *dq, *dk, *dv, *weight;  // weight [keys]
} Plain;

static double dot(const real *x, const real *y, int64_t D) {
    double sum = 0;
    for (int64_t d = 0; d < D; d++) sum += (double)to_float(x[d]) * (double)to_float(y[d]);
    return sum;
}

// One query's row of everything. at, k0: first element of its row, row of the segment's first key.
static void plain_query(Plain *p, const Attention *a, int64_t at, int64_t k0, int64_t keys) {
    const int64_t D = a->shape.D, column = at % a->C;
    const double scale = (double)a->shape.scale;
    double most = -1e30, total = 0, delta = 0;
    for (int64_t j = 0; j < keys; j++) {
        p->weight[j] = scale * dot(a->q + at, a->k + (k0 + j) * a->C + column, D);
        most = fmax(most, p->weight[j]);
    }
    for (int64_t j = 0; j < keys; j++) total += p->weight[j] = exp(p->weight[j] - most);
    for (int64_t j = 0; j < keys; j++) {
        const int64_t key = (k0 + j) * a->C + column;
        p->weight[j] /= total;
        delta += p->weight[j] * dot(a->dout + at, a->v + key, D);
        for (int64_t d = 0; d < D; d++) {
            p->out[at + d] += p->weight[j] * (double)to_float(a->v[key + d]);
            p->dv[key + d] += p->weight[j] * (double)to_float(a->dout[at + d]);
        }
    }
    for (int64_t j = 0; j < keys; j++) {
        const int64_t key = (k0 + j) * a->C + column;
        const double slope = p->weight[j] * (dot(a->dout + at, a->v + key, D) - delta) * scale;
        for (int64_t d = 0; d < D; d++) {
            p->dq[at + d] += slope * (double)to_float(a->k[key + d]);
            p->dk[key + d] += slope * (double)to_float(a->q[at + d]);
        }
    }
}

// A single key's gradient is a sum of what should be zeros: 3e-5.
static void check_plain(const char *name, const real *got, const double *want, int64_t n) {
    float *rounded = floats_new(n);
    for (int64_t i = 0; i < n; i++) rounded[i] = (float)want[i];
    check_close_real(name, got, rounded, n, REAL_TYPE == TYPE_BF16 ? 1.5e-2 : 3e-5);
    device_free(rounded);
}

static void plain_loops(int64_t heads, int64_t D, int64_t S, const int *queries, const int *keys,
                        bool deterministic) {
    Attention a = attention_random(heads, D, S, queries, keys, deterministic);
    forward(&a);
    backward(&a);
    Plain p = {0};
    double **const all[] = {&p.out, &p.dq, &p.dk, &p.dv, &p.weight};
    for (int i = 0; i < 5; i++) {
        *all[i] = calloc((size_t)(max_i64(a.T, a.X) * a.C), sizeof(double));
        CHECK(*all[i] != NULL, "no memory");
    }
    for (int64_t s = 0; s < S; s++) {
        for (int64_t at = a.q_start[s] * a.C; at < a.q_start[s + 1] * a.C; at += D) {
            plain_query(&p, &a, at, a.k_start[s], a.k_start[s + 1] - a.k_start[s]);
        }
    }
    check_plain("out", a.out, p.out, a.T * a.C);
    check_plain("dq", a.dq, p.dq, a.T * a.C);
    check_plain("dk", a.dk, p.dk, a.X * a.C);
    check_plain("dv", a.dv, p.dv, a.X * a.C);
    for (int i = 0; i < 5; i++) free(*all[i]);
    attention_free(&a);
}

// Every class of dimension; tiles that are full, nearly so, or hold one row; more queries than keys
// and fewer; one key; no queries.
static void test_plain_loops(void **state) {
    (void)state;
    const int64_t dims[] = {16, 20, 64, 72, 96, 104, 128, 136, 200, 256};
    const int mixed[] = {64, 1, 63, 65, 0, 128}, texts[] = {64, 1, 63, 65, 3, 128};
    const int queries[] = {300, 7, 129}, keys[] = {1, 130, 64};
    for (int i = 0; i < 10; i++) {
        const bool odd = dims[i] % 8 != 0;
        plain_loops(2, dims[i], 6, mixed, texts, odd || i % 2 == 0);
        plain_loops(1, dims[i], 3, queries, keys, odd || i % 2 == 1);
    }
}

static void test_threads(void **state) {
    (void)state;
    const int before = omp_get_max_threads();
    const struct {
        int64_t heads, D, S;
        int queries[4], keys[4];
    } cases[] = {
        {3, 64, 4, {130, 1, 257, 64}, {130, 1, 257, 64}},
        {2, 72, 2, {700, 33}, {700, 33}},
        {5, 16, 3, {300, 65, 1}, {16, 300, 1}},
        {1, 128, 2, {100, 129}, {100, 129}},
        {1, 8, 1, {2500}, {2500}},
    };
    // A device has no threads to try: two runs, and no lengths beyond all tiles.
    const bool cpu = strcmp(device_backend(), "cpu") == 0;
    for (int i = 0; i < (cpu ? 5 : 4); i++) {
        Attention one = {0};
        for (int threads = 1; threads <= (cpu ? 4 : 2); threads++) {
            omp_set_num_threads(threads);
            Attention a = attention_random(cases[i].heads, cases[i].D, cases[i].S, cases[i].queries,
                                           cases[i].keys, true);
            forward(&a);
            backward(&a);
            if (threads == 1) {
                one = a;
                continue;
            }
            check_equal("out", a.out, one.out, a.T * a.C);
            check_equal("lse", a.lse, one.lse, a.shape.heads * a.T);
            check_equal("dq", a.dq, one.dq, a.T * a.C);
            check_equal("dk", a.dk, one.dk, a.X * a.C);
            check_equal("dv", a.dv, one.dv, a.X * a.C);
            attention_free(&a);
        }
        attention_free(&one);
    }
    omp_set_num_threads(before);
}

static void check_finite(const char *name, const real *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) check_that(isfinite(to_float(x[i])), "%s[%d]", name, (int)i);
}

// Large scores: the softmax must not overflow, and its weights still sum to 1. Where all of a
// query's scores are far below zero, its weight for a key that is not there, with a score of zero,
// would be infinite.
static void test_large_scores(void **state) {
    (void)state;
    for (int form = 0; form < 4; form++) {
        const bool below = form % 2, deterministic = form / 2;
        Attention a = attention_random(1, 64, 2, (int[]){300, 3}, (int[]){300, 1}, deterministic);
        for (int64_t i = 0; i < a.T * a.C; i++) {
            a.q[i] = to_real(below ? 6.0f : 100.0f * to_float(a.q[i]));
        }
        for (int64_t i = 0; i < a.X * a.C; i++) {
            if (below) a.k[i] = to_real(-6.0f);
            a.v[i] = to_real(1.0f);
        }
        forward(&a);
        backward(&a);
        for (int64_t i = 0; i < a.T * a.C; i++) {
            check_that(fabsf(to_float(a.out[i]) - 1.0f) < 0x1p-7f, "out[%d] = %g", (int)i,
                       (double)to_float(a.out[i]));
        }
        check_finite("dq", a.dq, a.T * a.C);
        check_finite("dk", a.dk, a.X * a.C);
        check_finite("dv", a.dv, a.X * a.C);
        attention_free(&a);
    }
}

static void test_nothing(void **state) {
    (void)state;
    Attention a = attention_random(0, 64, 2, (int[]){3, 4}, (int[]){3, 4}, false);
    forward(&a);
    backward(&a);
    attention_free(&a);
    a = attention_random(2, 64, 0, NULL, NULL, false);
    forward(&a);
    backward(&a);
    attention_free(&a);
}

int main(void) {
    check_device(0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),      cmocka_unit_test(test_slopes),
        cmocka_unit_test(test_plain_loops), cmocka_unit_test(test_two_calls),
        cmocka_unit_test(test_threads),     cmocka_unit_test(test_large_scores),
        cmocka_unit_test(test_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
